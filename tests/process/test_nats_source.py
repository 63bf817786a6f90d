"""SOURCE=nats with the real command: what it records is what the stream holds, each event once, through stops and losses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from commands import Running, finished, live_settings, running, simulating
from nats_servers import Asking, NatsServer, messages_of, nats_variables, proven, recorded, serving, stored
from oracle import read_manifest
from waiting import eventually_sync

STOCKS = "MD_STOCKS"


def tier_settings(server: NatsServer, folder: Path, **variables: str) -> dict[str, str]:
    """Return the settings of a recorder that follows the streams of a server."""
    settings = live_settings(
        0, folder, SOURCE="nats", NATS_URL=server.url, AUTH_TOKENS="app:token-of-the-app"
    )
    for variable in ("POLYGON_API_KEY", "POLYGON_WS_URL", "SUBSCRIPTION"):
        del settings[variable]
    return {**settings, **variables}


def passed_on(tier: Running) -> int:
    """Return the number of the last event that a tier has passed on."""
    return int(tier.metric("polygon_stream_event"))


def reached(tier: Running, event: int) -> None:
    """Wait until a tier has come to an event of the stream."""
    eventually_sync(lambda: passed_on(tier) >= event, f"event {event} at the tier")


def ask(server: NatsServer, what: str, request: object = None) -> dict[str, Any]:
    """Return what the API of JetStream answers."""
    with Asking(server) as asking:
        return asking.ask(f"$JS.API.{what}", request)


def gaps_of(folder: Path) -> list[str]:
    """Return why there are gaps in an archive, in order."""
    return [entry["reason"] for entry in read_manifest(folder, "gap")]


def test_what_a_tier_records(tmp_path: Path) -> None:
    """It begins with all there is, is stopped and started, and has what the stream has: no event is missing or doubled.

    A purge behind what it has read takes nothing from it. What is purged and deleted while it is away is a gap each.
    """
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
        with running("run", cwd=tmp_path, **settings) as second:
            reached(second, int(stored(writer)) + 1000)
            assert second.logged("resumed")
            before = passed_on(second)
            ask(server, f"STREAM.PURGE.{STOCKS}")
            reached(second, before + 1000)
            assert second.stop() == 0
        assert not gaps_of(tier)
        before = int(stored(writer))
        eventually_sync(lambda: stored(writer) > before + 1000, "events that the tier does not see")
        ask(server, f"STREAM.PURGE.{STOCKS}")
        with running("run", cwd=tmp_path, **settings) as third:
            hole = third.wait_for("stream_hole")
            assert hole["events"] > 0
            eventually_sync(lambda: third.get("/ready")[0] == 200, "the tier is ready")
            before = passed_on(third)
            ask(server, f"STREAM.DELETE.{STOCKS}")
            reached(third, before + 1000)
            assert third.stop() == 0
        assert writer.stop() == 0
        messages = messages_of(server)
    assert finished("verify", str(tier), cwd=tmp_path).returncode == 0
    everything, mine = recorded(folder), recorded(tier)
    missing = hole["events"]
    place = next(n for n, pair in enumerate(zip(mine, everything, strict=False)) if pair[0] != pair[1])
    assert mine == everything[:place] + everything[place + missing : missing + len(mine)]
    assert proven(messages, int(messages[0].headers["First"]))
