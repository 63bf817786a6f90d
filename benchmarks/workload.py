"""A fixed piece of the recorder's own work, without sockets and disks: `python -m benchmarks.workload PART ROUNDS`.

Every part is warmed up, then PART does ROUNDS; so two runs differ by those alone. Prints what they took as JSON.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from random import Random
from typing import Any, Final

from serving import bar_settings

from recorder.archive.policy import Selection
from recorder.bus import Batch, Bus
from recorder.clock import SystemClock
from recorder.ledger import Ledger
from recorder.polygon.events import Decoder
from recorder.servers.bars import BarSource
from recorder.servers.filtered import TopicPort
from recorder.servers.firehose import Firehose
from recorder.servers.past.hotlog import HotLog
from recorder.servers.stats import ServerStats
from recorder.servers.topics import BarTopic
from recorder.sinks.stage import Stage

CLUSTER: Final = "stocks"
BATCHES: Final = 20
FRAMES: Final = 10
FRAME_EVENTS: Final = 10
EVENTS: Final = BATCHES * FRAMES * FRAME_EVENTS
"""Events in a round."""
_SYMBOLS: Final = 500
CLIENTS: Final = 100
_TOPICS_EACH: Final = 20
_BEGIN_MS: Final = 1_790_000_000_000
_RECEIVED_NS: Final = 1_790_000_000_000_000_000

Part = Callable[[Batch], None]


class Taker:
    """What servers know of a client; takes everything."""

    cluster = CLUSTER
    window_bits = 0
    wants_marks = False

    def write(self, data: bytes, events_count: int) -> bool:
        """Take it."""
        return True


class Formatting:
    """A sink that has the lines made, and lets them go."""

    def accept(self, batch: Batch) -> None:
        """Make the lines."""
        _ = batch.lines

    def session_changed(self, change: object) -> None:
        """Nothing to do."""


def market(count: int = BATCHES) -> list[list[bytes]]:
    """Return the frames of so many batches: trades and quotes as the exchange writes them, the same ones always."""
    dice = Random(1)
    batches = []
    for batch in range(count):
        at = _BEGIN_MS + 5 * batch
        frames = []
        for _ in range(FRAMES):
            events = [_event(dice, at) for _ in range(FRAME_EVENTS)]
            frames.append(b"[" + b",".join(events) + b"]")
        batches.append(frames)
    return batches


def _event(dice: Random, at_ms: int) -> bytes:
    symbol, price = f"S{int(_SYMBOLS * dice.random() ** 3)}", 10 + dice.randrange(10_000) / 100
    if dice.random() < 0.2:
        text = (
            f'{{"ev":"T","sym":"{symbol}","x":4,"i":"{dice.randrange(10**6)}","z":3,"p":{price:.2f},'
            f'"s":{dice.randrange(1, 500)},"c":[12,37],"t":{at_ms},"q":{dice.randrange(10**8)}}}'
        )
    else:
        text = (
            f'{{"ev":"Q","sym":"{symbol}","bx":11,"bp":{price:.2f},"bs":3,"ax":12,"ap":{price + 0.01:.2f},"as":2,'
            f'"c":1,"i":[604],"t":{at_ms},"q":{dice.randrange(10**8)},"z":3}}'
        )
    return text.encode()


def parts() -> dict[str, Part]:
    """Return what is measured, ready to work."""
    recording = Bus()
    recording.stage = Stage(Selection([], 1), Ledger(), "host", "0")
    recording.attach(Formatting())
    firehose = Firehose(ServerStats("firehose"), 10, {}, SystemClock())
    filtered = TopicPort(
        "filtered", {CLUSTER: frozenset()}, ServerStats("filtered"), 100, None, None, bars_only=False
    )
    for client in range(CLIENTS):
        symbols = [f"S{(client * _TOPICS_EACH // 2 + turn // 2) % _SYMBOLS}" for turn in range(_TOPICS_EACH)]
        topics = tuple(f"{'TQ'[turn % 2]}.{symbol}" for turn, symbol in enumerate(symbols))
        firehose.subscribe(_taker(), ("*",), None)
        filtered.subscribe(_taker(), topics, None)
    bars = BarSource(
        [CLUSTER], bar_settings(conditions="vendor"), SystemClock(), HotLog("run", 0, [CLUSTER], 0)
    )
    for interval_ms in (100, 1000):
        bars.want(CLUSTER, BarTopic(interval_ms, "*"))
    return {
        "record": recording.publish,
        "firehose": firehose.accept,
        "filtered": filtered.accept,
        "bars": bars.accept,
    }


def _taker() -> Any:
    return Taker()


def work(part: Part, batches: list[list[bytes]], decoder: Decoder, rounds: int) -> None:
    """Let a part take every batch, as if just read, so often."""
    for _ in range(rounds):
        for frames in batches:
            part(Batch(CLUSTER, _RECEIVED_NS, frames, decoder, read_ns=0))


def main() -> None:
    """Warm up, work, tell."""
    name, rounds = sys.argv[1], int(sys.argv[2])
    made, batches, decoder = parts(), market(), Decoder(CLUSTER)
    for part in made.values():
        work(part, batches, decoder, 2)
    began_ns = time.thread_time_ns()
    work(made[name], batches, decoder, rounds)
    print(json.dumps({"ns": time.thread_time_ns() - began_ns, "events": rounds * EVENTS}))


if __name__ == "__main__":
    main()
