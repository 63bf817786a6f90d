"""SUBSCRIBE_ON_DEMAND with an exchange that refuses: the vendor's own client is told of it, and goes on."""

from __future__ import annotations

import os
import signal
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import pytest
from commands import KEY, RECORDER, Running, clean_environment, live_settings, running, simulating
from waiting import eventually_sync

from recorder.sources.exchange.answers import NOT_AUTHORIZED

CLIENT: Final = """
import sys
from massive import WebSocketClient

def show(models):
    for model in models:
        print("event", model.event_type, flush=True)

client = WebSocketClient(sys.argv[2], feed=sys.argv[1], market="stocks", secure=False)
client.subscribe("T.*", "Q.NVDA", "A.*")
client.run(show)
"""
"""The vendor's client as its documentation has it. Statuses that it does not like, it logs among what it prints."""
REFUSAL: Final = f"nothing will come of it: {NOT_AUTHORIZED}"


@pytest.mark.parametrize("workers", ["0", "1"])
def test_the_vendors_client_is_told_what_the_exchange_refuses(tmp_path: Path, workers: str) -> None:
    """Its log names the topic and the reason; the others flow; who comes later, also to a new worker, knows by the ack."""
    market = ("--symbols", "5", "--rate", "200", "--fault", "not-authorized:topics=Q")
    with ExitStack() as stack:
        port = stack.enter_context(simulating("--cluster", "stocks", *market, cwd=tmp_path))
        settings = live_settings(
            port,
            tmp_path / "a",
            ROLES="filtered,ops",
            SUBSCRIPTION="T.NONE",
            SUBSCRIBE_ON_DEMAND="true",
            SERVE_WORKERS=workers,
        )
        recorder = stack.enter_context(running("run", cwd=tmp_path, **settings))
        recorder.wait_for("subscribed")
        address = recorder.address_of("filtered")
        client = Running([sys.executable, "-c", CLIENT, address, KEY], clean_environment(), tmp_path)
        stack.callback(client.kill)

        def warning() -> str:
            return next((line for line in list(client.out) if "Q.NVDA" in line), "")

        told = eventually_sync(warning, "the warning")
        assert told.endswith(f"WARNING: server error: Q.NVDA: {REFUSAL}")
        seen = len(client.out)
        eventually_sync(lambda: len(client.out) > seen + 50, "trades after that")
        assert set(client.out) <= {told, "event T", "event A"}
        assert client.process.poll() is None
        assert recorder.logged("topics_unacknowledged")[0]["topics"] == "Q.NVDA"

        if workers == "1":
            os.kill(recorder.logged("worker_started")[0]["pid"], signal.SIGKILL)
            recorder.wait_for("worker_started", 2)
        tail = Running(
            [*RECORDER, "tail", f"ws://{address}/stocks", "Q.NVDA", "T.*", "--raw"],
            clean_environment(POLYGON_API_KEY=KEY),
            tmp_path,
        )
        stack.callback(tail.kill)
        eventually_sync(lambda: tail.out, "a trade")
        # Its notes come on another pipe than the events.
        eventually_sync(lambda: f"subscribed to: Q.NVDA ({REFUSAL})" in tail.lines, "the acknowledgement")
        assert tail.stop(signal.SIGINT) == 0
        assert recorder.stop() == 0
