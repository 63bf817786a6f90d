"""The log as an operator and a collector of logs read it."""

from __future__ import annotations

import json
from contextlib import ExitStack, closing
from pathlib import Path

from commands import KEY, live_settings, running, simulating
from rawclient import RawClient
from waiting import eventually_sync

from recorder.log_events import EVENTS

OTHER_KEY = "a-key-of-something-else"


def test_debug_shows_who_asks_for_what(tmp_path: Path) -> None:
    """Connecting, statuses, requests and refusals with their reasons, addresses; never a key, known or not."""
    settings = live_settings(0, tmp_path / "a", LOG_LEVEL="debug", SUBSCRIPTION="T.*")
    with simulating("--cluster", "stocks", "--rate", "200", cwd=tmp_path) as port:
        settings["POLYGON_WS_URL"] = f"ws://127.0.0.1:{port}"
        with running("run", cwd=tmp_path, **settings) as recorder, ExitStack() as clients:
            address = recorder.address_of("filtered")
            stranger, guest, client = (clients.enter_context(closing(RawClient(address))) for _ in range(3))
            assert stranger.upgrade("/bonds") == 404
            guest.upgrade()
            guest.say(action="auth", params=OTHER_KEY)
            recorder.wait_for("client_refused")
            client.subscribe("T.AAPL")
            client.say(action="sing", params="T.AAPL")
            recorder.wait_for("client_request_refused")
            eventually_sync(lambda: recorder.received() > 10, "data")
            clients.close()  # nobody there would answer the close of a recorder that stops
            assert recorder.stop() == 0

    upstream = f"ws://127.0.0.1:{port}/stocks"
    [started], [connecting], [subscribed] = map(recorder.logged, ("started", "connecting", "subscribed"))
    assert (started["filtered"], started["upstream"]) == (address, {"stocks": upstream})
    assert connecting["address"] == subscribed["address"] == upstream
    assert [entry["status"] for entry in recorder.logged("exchange_status")][:2] == [
        "connected",
        "auth_success",
    ]
    assert recorder.logged("authenticated")[0]["asks_for"] == "T.*"
    assert (
        recorder.logged("handshake_refused")[0]["reason"]
        == "no such path; this recorder has / and the clusters stocks"
    )
    assert recorder.logged("client_refused")[0]["reason"] == "authentication failed"
    asked = [(entry["action"], entry["topics"]) for entry in recorder.logged("client_request")]
    assert asked == [("auth", []), ("auth", []), ("subscribe", ["T.AAPL"])]
    assert "unknown action 'sing'" in recorder.logged("client_request_refused")[0]["reason"]
    assert {entry["event"] for entry in recorder.events} <= set(EVENTS)
    assert all(entry["message"] for entry in recorder.events)
    assert KEY not in "".join(recorder.lines)
    assert OTHER_KEY not in "".join(recorder.lines)
    # What is written per message of a client, or per status, is below INFO.
    for entry in recorder.events:
        assert entry["level"] == "DEBUG" or entry["event"] not in ("client_request", "exchange_status")


def test_a_refused_key_is_one_fatal_line(tmp_path: Path) -> None:
    """Exit status 78; the line says why, with which status, and what to do; the plain words follow it."""
    with simulating("--cluster", "stocks", "--key", "another-key", cwd=tmp_path) as port:
        settings = live_settings(port, tmp_path / "a")
        with running("run", cwd=tmp_path, **settings) as recorder:
            assert recorder.wait() == 78
    *_, last, plain = recorder.lines
    fatal = json.loads(last)
    assert (fatal["event"], fatal["level"], fatal["exit_status"]) == ("fatal", "CRITICAL", 78)
    assert "key" in fatal["message"]
    assert plain == f"recorder: {fatal['message']}"
    assert "recorder check" in fatal["advice"]
