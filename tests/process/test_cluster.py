"""`make cluster`: all of it starts, survives the loss of the recorder that leads, and ends with one signal."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import urllib.request
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from checkouts import PROJECT
from commands import Running, clean_environment, is_alive, running
from tools import tool
from waiting import eventually_sync

START_SECS = 90.0
"""Three NATS servers have to elect a leader, twice."""


def lines_of(page: str) -> dict[str, dict[str, Any]]:
    """Return what the page says of each recorder, by its port; nothing while no recorder answers."""
    with suppress(OSError), urllib.request.urlopen(f"{page}recorders", timeout=10) as answer:
        return {line["address"].rpartition(":")[2]: line for line in json.load(answer)}
    return {}


def leader_of(page: str) -> str:
    """Return the port of the recorder that leads; empty while there is none."""
    return next((port for port, line in lines_of(page).items() if "leads" in line["does"]), "")


def trades_in(folder: Path) -> list[int]:
    """Return the numbers of the trades in an archive, in order."""
    lines = (folder / "data" / "polygon.ndjson").read_bytes().splitlines()
    records = [json.loads(line) for line in lines if b'"type":"T"' in line]
    return [record["payload"]["q"] for record in records]


@pytest.mark.timeout(240)
def test_a_cluster_loses_the_recorder_that_leads(tmp_path: Path) -> None:
    """The page shows all four; the other recorder leads a second later, the one that was killed comes back, a client
    has missed nothing; Ctrl-C ends every process."""
    tool("nats-server"), tool("haproxy")
    command = [
        sys.executable,
        str(PROJECT / "examples" / "cluster.py"),
        "--dir",
        str(tmp_path / "c"),
        "--again",
        "0.5",
    ]
    cluster = Running(command, clean_environment(), tmp_path)
    try:
        said = lambda words: [line for line in list(cluster.out) if words in line]  # noqa: E731
        eventually_sync(lambda: said(" tier-2 "), "all of it", deadline_secs=START_SECS)
        found = re.findall(r"kill -9 (\d+) +(\S+) ", "\n".join(cluster.out))
        pids = {name: int(pid) for pid, name in found}
        assert list(pids) == [
            *(f"nats-{n}" for n in (1, 2, 3)),
            "recorder-1",
            "recorder-2",
            "tier-1",
            "tier-2",
        ]
        page = said(" look ")[0].split()[-1]
        ports = [url.rpartition(":")[2] for url in said(" top ")[0].split()[2:]]
        assert sorted(lines_of(page)) == sorted(ports)
        assert {line["state"] for line in lines_of(page).values()} == {"recording", "serving"}
        url = said(" tail ")[0].split(" tail ")[1].split()[0]
        with running("tail", url, "T.*", "--raw", "--token", "demo", cwd=tmp_path) as client:
            eventually_sync(lambda: len(client.out) > 100, "trades")
            leader = eventually_sync(lambda: leader_of(page), "a leader")
            name, other = ("recorder-1", "recorder-2") if leader == ports[0] else ("recorder-2", "recorder-1")
            os.kill(pids[name], signal.SIGKILL)
            eventually_sync(lambda: leader_of(page) not in ("", leader), "another leader")
            seen = len(client.out)
            eventually_sync(lambda: len(client.out) > seen + 200, "more trades")
            eventually_sync(
                lambda: said("all 4 recorders are ready"), "the one that was killed", deadline_secs=60
            )
            assert said(f"{name} has ended (SIGKILL)")
            assert client.stop(signal.SIGINT) == 0
            got = [json.loads(line)["q"] for line in client.out]
        assert cluster.stop(signal.SIGINT) == 0
    finally:
        cluster.stop(signal.SIGTERM)
        cluster.kill()
    assert cluster.lines == []
    again = re.findall(r"started again: kill -9 (\d+)", "\n".join(cluster.out))
    assert len(again) == 1
    assert not any(is_alive(pid) for pid in (*pids.values(), *map(int, again)))
    assert len(set(got)) == len(got)
    # What came last may still have been on its way.
    due = [number for number in trades_in(tmp_path / "c" / other) if min(got) <= number < sorted(got)[-50]]
    assert set(due) <= set(got)
    assert len(due) > 200
