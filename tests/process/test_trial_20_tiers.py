"""Trial 20: `kill -9` of a recorder that follows another one, again and again: its archive has each event once."""

from __future__ import annotations

import random
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

import pytest
from commands import Running, finished, live_settings, running, simulating
from oracle import read_manifest
from tools import tool
from trials import report, scale
from waiting import eventually_sync

pytestmark = [pytest.mark.trial, pytest.mark.timeout(scale(180, 7200))]

RATE: Final = scale(4000, 1500)
KILLS: Final = scale(("positions", None), [None, "positions", None, "polygon"] * 60)
"""At a call that writes to this file; None: at any moment."""
MARKET: Final = ("--cluster", "stocks", "--rate", str(RATE), "--market-start", "subscriber")


@contextmanager
def tier(folder: Path, port: str, prefix: tuple[str, ...] = (), **variables: str) -> Iterator[Running]:
    """Run a recorder that follows the firehose at a port, and has an archive."""
    settings = live_settings(0, folder, FIREHOSE_URL=f"ws://127.0.0.1:{port}", **variables)
    del settings["POLYGON_WS_URL"], settings["SUBSCRIPTION"]
    with running("run", cwd=folder.parent, prefix=prefix, **settings) as recorder:
        yield recorder


def killing(path: Path, number: int) -> tuple[str, ...]:
    """Return what runs a recorder that is killed as it writes to a file for the n-th time."""
    fault = ("-P", str(path), "-e", "trace=write", "-e", f"inject=write:signal=KILL:when={number}")
    return ("strace", "-D", "-f", "-qq", "-o", "/dev/null", *fault)


def last_event(folder: Path) -> bytes:
    """Return the last event that is in an archive."""
    with (folder / "polygon.ndjson").open("rb") as file:
        file.seek(max(0, file.seek(0, 2) - 100_000))
        lines = file.read().splitlines(keepends=True)
    last = next(line for line in reversed(lines) if line.endswith(b"\n"))
    return last.partition(b'"payload":')[2].partition(b',"hostname":')[0]


def test_a_tier_that_is_killed_again_and_again_has_each_event_once(tmp_path: Path) -> None:
    """Killed at any moment, while it starts, catches up or records, a tier goes on behind what is in its files."""
    tool("strace")
    dice = random.Random(20)
    folders = first_folder, second_folder = tmp_path / "first", tmp_path / "second"
    with socket.create_server(("127.0.0.1", 0)) as reserved:
        port = reserved.getsockname()[1]
    with ExitStack() as stack:
        first = stack.enter_context(running("run", cwd=tmp_path, **live_settings(port, first_folder)))
        door = first.port_of("firehose")
        market = stack.enter_context(ExitStack())
        for number, file in enumerate(KILLS):
            flush = {"NDJSON_FLUSH_EVERY": dice.choice(("100", "100000")), "NDJSON_FLUSH_INTERVAL_MS": "200"}
            written = second_folder / f"polygon.{file}.ndjson".replace("polygon.polygon", "polygon")
            prefix = killing(written, dice.randint(1, 20)) if file else ()
            with tier(second_folder, door, prefix, **flush) as second:
                if not number:
                    second.wait_for("subscribed")
                    market.enter_context(simulating(*MARKET, "--port", str(port), cwd=tmp_path))
                if not file:
                    if dice.random() < 0.7:
                        second.wait_for("started")
                        eventually_sync(lambda one=second: one.received() > 0, "events")
                    time.sleep(dice.uniform(0.0, 0.6))
                    second.process.kill()
                assert second.wait(timeout=120) == -signal.SIGKILL
        with tier(second_folder, door) as second:
            second.wait_for("resumed")
            eventually_sync(lambda: second.received() > RATE / 10, "events again")
            market.close()
            first.wait_for("disconnected")
            eventually_sync(lambda: last_event(first_folder) == last_event(second_folder), "the last event")
            assert second.metric("polygon_gaps_total") == 0
            assert [one.stop() for one in (second, first)] == [0, 0]
    compared = finished("compare", *map(str, folders), cwd=tmp_path, timeout_secs=scale(60, 900))
    assert compared.returncode == 0, compared.stdout
    verified = finished("verify", str(second_folder), cwd=tmp_path, timeout_secs=scale(60, 900))
    assert verified.returncode == 0, verified.stdout
    assert not list(read_manifest(second_folder, "gap"))
    events = (first_folder / "polygon.ndjson").read_bytes().count(b"\n")
    report(
        20,
        fault="kill -9 of a recorder behind another one",
        injected="`kill -9` up to 0.6 s after it began to record, or after its start, and by strace as it writes records or "
        "their positions, again and again on one archive; flushed after 100 records, or after 200 ms alone",
        holds="the archives of both recorders are equal by `compare`: each event once, in order; `verify` passes; no gap",
        figure=f"{len(KILLS)} kills, {events:,} events, 0 lost, 0 doubled",
    )
