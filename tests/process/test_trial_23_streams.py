"""Trial 23: `kill -9` of recorders that follow a stream, again and again: their archives have each event once."""

from __future__ import annotations

import random
import signal
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import pytest
from commands import Running, finished, live_settings, running, simulating
from nats_servers import nats_variables, recorded, serving, stored
from nats_tiers import reached, tier_settings
from oracle import read_manifest
from trials import report, scale
from waiting import eventually_sync

pytestmark = [pytest.mark.trial, pytest.mark.timeout(scale(120, 3600))]

RATE: Final = 2000
KILLS: Final = scale(3, 100)


class Tier:
    """A recorder that follows the stream; it is killed, and starts again with the same archive."""

    def __init__(self, folder: Path, settings: dict[str, str]) -> None:
        self._folder = folder
        self._settings = settings
        self._life = ExitStack()
        self.recorder: Running

    def start(self, **changes: str) -> None:
        """Start it."""
        settings = {**self._settings, **changes}
        self.recorder = self._life.enter_context(running("run", cwd=self._folder.parent, **settings))

    def kill(self) -> None:
        """Kill it."""
        self.recorder.process.kill()
        assert self.recorder.wait() == -signal.SIGKILL
        self._life.close()

    def close(self) -> None:
        """End it, whatever it does."""
        self._life.close()


def test_recorders_that_are_killed_again_and_again_have_each_event_once(tmp_path: Path) -> None:
    """Two follow one stream and are killed at any moment: both archives are what the writer's is."""
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
        for tier in tiers:
            assert tier.recorder.metric("polygon_stream_holes_total") == 0
            assert tier.recorder.stop() == 0
    for folder in folders[1:]:
        compared = finished("compare", str(folders[0]), str(folder), cwd=tmp_path)
        assert compared.returncode == 0, compared.stdout
        verified = finished("verify", str(folder), cwd=tmp_path)
        assert verified.returncode == 0, verified.stdout
        assert not list(read_manifest(folder, "gap"))
    report(
        23,
        fault="kill -9 of two recorders that follow one stream",
        injected="`kill -9` of one or the other, up to 0.5 s after it began to pass on events, or after its start, again "
        "and again on one archive each; flushed after 100 records, or after 200 ms alone",
        holds="the archives of both and of the recorder that writes the stream are equal by `compare`; `verify` passes; no "
        "gap",
        figure=f"{KILLS} kills, {len(everything):,} events, 0 lost, 0 doubled",
    )
