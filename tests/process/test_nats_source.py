"""SOURCE=nats with the real command: what it records is what the stream holds, each event once, through stops and losses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from commands import finished, live_settings, running, simulating
from nats_servers import Asking, NatsServer, messages_of, nats_variables, proven, recorded, serving, stored
from nats_tiers import reached, tier_settings
from oracle import read_manifest
from waiting import eventually_sync

STOCKS = "MD_STOCKS"


def ask(server: NatsServer, what: str, request: object = None) -> dict[str, Any]:
    """Return what the API of JetStream answers."""
    with Asking(server) as asking:
        return asking.ask(f"$JS.API.{what}", request)


def gaps_of(folder: Path) -> list[str]:
    """Return why there are gaps in an archive, in order."""
    return [entry["reason"] for entry in read_manifest(folder, "gap")]


def test_what_a_tier_records(tmp_path: Path) -> None:
    """It begins with all there is, is stopped and started: what is purged while it is away is a gap, and nothing else is."""
    tier, folder = tmp_path / "tier", tmp_path / "a"
    with (
        serving(tmp_path / "nats") as server,
        simulating("--cluster", "stocks", "--rate", "3000", cwd=tmp_path) as port,
        running("run", cwd=tmp_path, **live_settings(port, folder, **nats_variables(server))) as writer,
    ):
        eventually_sync(lambda: stored(writer) > 1000, "events in the stream")
        settings = tier_settings(server, tier, NATS_START="all")
        with running("run", cwd=tmp_path, **settings) as first:
            reached(first, 2000)
            stream = json.loads(first.get("/status")[1])["streams"][0]
            assert stream["position"].endswith(f":{stream['event']}:{stream['sequence']}")
            assert first.stop() == 0, first.lines
        before = int(stored(writer))
        eventually_sync(lambda: stored(writer) > before + 1000, "events that the tier does not see")
        ask(server, f"STREAM.PURGE.{STOCKS}")
        with running("run", cwd=tmp_path, **settings) as second:
            hole = second.wait_for("stream_hole")
            assert hole["events"] > 0
            eventually_sync(lambda: second.get("/ready")[0] == 200, "the tier is ready")
            assert second.stop() == 0
        assert writer.stop() == 0
        messages = messages_of(server)
    assert finished("verify", str(tier), cwd=tmp_path).returncode == 0
    # The recorder that writes may have noticed the purge by then, or not.
    assert gaps_of(tier)
    assert {*gaps_of(tier)} <= {"stream_missing", "stream_purged"}
    everything, mine = recorded(folder), recorded(tier)
    missing = hole["events"]
    place = next(n for n, pair in enumerate(zip(mine, everything, strict=False)) if pair[0] != pair[1])
    assert mine == everything[:place] + everything[place + missing : missing + len(mine)]
    assert proven(messages, int(messages[0].headers["First"]))


def test_what_ends_the_start(tmp_path: Path) -> None:
    """Without nats-py, and with a sink that would append what is read, nothing begins."""
    settings = tier_settings(NatsServer(tmp_path / "nats"), tmp_path / "a")
    both = finished("run", cwd=tmp_path, **{**settings, "SINK": "nats", "NATS_MAX_BYTES": "1GiB"})
    assert both.returncode == 78
    assert "must not name nats while SOURCE is nats" in both.stderr
    (tmp_path / "nats.py").write_text("raise ModuleNotFoundError('no module', name='nats')")
    missing = finished("run", cwd=tmp_path, PYTHONPATH=str(tmp_path), **settings)
    assert missing.returncode == 78
    assert "SOURCE=nats needs nats-py" in missing.stderr
