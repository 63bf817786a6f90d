"""Trial 23: `kill -9` of recorders that follow a stream, again and again: archives and clients have each event once."""

from __future__ import annotations

import json
import random
import signal
import threading
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Final

import pytest
from commands import KEY, Running, finished, free_port, get, live_settings, running, simulating
from cutting import CutClient, events_of
from nats_servers import nats_variables, recorded, serving, stored
from nats_tiers import reached, tier_settings
from oracle import read_manifest
from trials import report, scale
from waiting import eventually_sync
from websockets.exceptions import WebSocketException

pytestmark = [pytest.mark.trial, pytest.mark.timeout(scale(120, 3600))]

RATE: Final = 2000
KILLS: Final = scale(3, 100)


class Tier:
    """A recorder that follows the stream; it is killed, and starts again at the same ports and with the same archive."""

    def __init__(self, folder: Path, settings: dict[str, str]) -> None:
        self._door, self._ops = f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"
        self.url = f"ws://{self._door}/stocks"
        self._folder = folder
        self._settings = {
            **settings,
            "FIREHOSE_PORT": self._door.rpartition(":")[2],
            "METRICS_ADDR": self._ops,
            "AUTH_TOKENS": f"app:{KEY}",
        }
        self._life = ExitStack()
        self.recorder: Running

    def start(self, **changes: str) -> None:
        """Start it."""
        settings = {**self._settings, **changes}
        self.recorder = self._life.enter_context(running("run", cwd=self._folder.parent, **settings))

    def is_ready(self) -> bool:
        """Return whether a balancer would send clients to it."""
        try:
            return get(self._ops, "/ready")[0] == 200
        except OSError:
            return False

    def kill(self) -> None:
        """Kill it."""
        self.recorder.process.kill()
        assert self.recorder.wait() == -signal.SIGKILL
        self._life.close()

    def close(self) -> None:
        """End it, whatever it does."""
        self._life.close()


class Moving:
    """A client that is cut at random, and goes on at one of two recorders: one that a balancer would choose."""

    def __init__(self, tiers: list[Tier]) -> None:
        self.client = CutClient([tier.url for tier in tiers], "*", 23)
        self._tiers = tiers
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._move)

    def __enter__(self) -> Moving:
        self.client.listen(None)
        self._thread.start()
        return self

    def __exit__(self, *failure: object) -> None:
        self._is_over.set()
        self._thread.join()

    def _move(self) -> None:
        dice = random.Random(7)
        while not self._is_over.is_set():
            self.client.urls = [tier.url for tier in self._tiers if tier.is_ready()]
            if not self.client.urls:
                time.sleep(0.05)
                continue
            with suppress(OSError, WebSocketException, EOFError):  # its recorder may be killed
                self.client.listen(dice.uniform(0.2, 0.6))
            self.client.cuts += 1


def test_recorders_that_are_killed_again_and_again_have_each_event_once(tmp_path: Path) -> None:
    """Two follow one stream and are killed at any moment: both archives are what the writer's is, and what a client has."""
    dice = random.Random(23)
    folders = [tmp_path / name for name in ("writer", "one", "two")]
    with ExitStack() as stack:
        server = stack.enter_context(serving(tmp_path / "nats"))
        market = stack.enter_context(ExitStack())
        port = market.enter_context(simulating("--cluster", "stocks", "--rate", str(RATE), cwd=tmp_path))
        settings = live_settings(port, folders[0], **nats_variables(server))
        writer = stack.enter_context(running("run", cwd=tmp_path, **settings))
        eventually_sync(lambda: stored(writer) > 0, "events in the stream")
        tiers = [Tier(folder, tier_settings(server, folder, NATS_START="all")) for folder in folders[1:]]
        for tier in tiers:
            stack.callback(tier.close)
            tier.start()
            reached(tier.recorder, 1)
        moving = Moving(tiers)
        with moving:
            for number in range(KILLS):
                tier = tiers[number % 2]
                if dice.random() < 0.7:
                    reached(tier.recorder, 1)
                time.sleep(dice.uniform(0.0, 0.5))
                tier.kill()
                flush_every = dice.choice(("100", "100000"))
                tier.start(NDJSON_FLUSH_EVERY=flush_every, NDJSON_FLUSH_INTERVAL_MS="200")
            for tier in tiers:
                tier.recorder.wait_for("resumed")
        market.close()
        writer.wait_for("disconnected")
        assert writer.stop() == 0
        everything = recorded(folders[0])
        for tier in tiers:
            reached(tier.recorder, len(everything))
        moving.client.listen(1.5)  # to the last position
        for tier in tiers:
            assert tier.recorder.metric("polygon_stream_holes_total") == 0
            assert tier.recorder.stop() == 0
    for folder in folders[1:]:
        compared = finished("compare", str(folders[0]), str(folder), cwd=tmp_path)
        assert compared.returncode == 0, compared.stdout
        verified = finished("verify", str(folder), cwd=tmp_path)
        assert verified.returncode == 0, verified.stdout
        assert not list(read_manifest(folder, "gap"))
    client = moving.client
    refusals = [answer for answer in client.answers if not answer["recovered"]]
    assert not refusals
    had = [json.dumps(json.loads(event)).encode() for event in events_of(client.frames)]
    assert had == everything[-len(had) :]
    report(
        23,
        fault="kill -9 of two recorders that follow one stream",
        injected="`kill -9` of one or the other, up to 0.5 s after it began to pass on events, or after its start, again "
        "and again on one archive each; flushed after 100 records, or after 200 ms alone; a client is cut at random "
        "meanwhile, and goes on at either",
        holds="the archives of both and of the recorder that writes the stream are equal by `compare`; `verify` passes; no "
        "gap; the client has each event once, in order",
        figure=f"{KILLS} kills, {len(everything):,} events, {client.cuts:,} cuts, 0 lost, 0 doubled",
    )
