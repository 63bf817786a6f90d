"""The firehose: what it read is written on as it came where that is what it would send, and is made where not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from fakes import FakeClock

from recorder.bus import Batch, Mark
from recorder.frames import PAYLOAD_BYTES_MAX, frame
from recorder.polygon.control import encode_position
from recorder.polygon.events import Decoder
from recorder.servers.firehose import Firehose
from recorder.servers.stats import ServerStats

TRADES = b'[{"ev":"T","sym":"A","t":1760375617662},{"ev":"T","sym":"U","t":1760375617663}]'
QUOTE = b'[ {"ev":"Q", "sym":"Bu","t":1760375617664} ]'
STATUS = b'[{"ev":"status","status":"success","message":"subscribed to: T.A"}]'
LARGE = b'[{"ev":"T","sym":"A","x":"%b"},{"ev":"T","sym":"B"}]' % (b"x" * PAYLOAD_BYTES_MAX)


class Taker:
    """What the firehose knows of a client."""

    def __init__(self, cluster: str = "", window_bits: int = 0, *, wants_marks: bool = False) -> None:
        self.cluster = cluster
        self.window_bits = window_bits
        self.wants_marks = wants_marks
        self.written: list[bytes] = []

    def write(self, data: bytes, events_count: int) -> bool:
        self.written.append(data)
        return True

    def say(self, *payloads: bytes) -> None:
        self.written += map(frame, payloads)


def batch(payloads: Sequence[bytes], wire: Sequence[bytes] = (), marks: Sequence[Mark] = ()) -> Batch:
    return Batch("stocks", 1, payloads, Decoder("stocks"), read_ns=1, wire=wire, marks=marks)


def sent(given: Batch, *clients: Any) -> ServerStats:
    """Return what is counted once these clients have got a batch."""
    stats = ServerStats("firehose")
    firehose = Firehose(stats, 10, {}, FakeClock())
    for client in clients:
        firehose.subscribe(client, ("*",), None)
    firehose.accept(given)
    return stats


def counts(stats: ServerStats) -> tuple[int, int, int]:
    return stats.frames_delivered, stats.events_delivered, stats.bytes_delivered


def test_what_was_read_is_written_on() -> None:
    """The very bytes that came, in one write, to every client that takes them plain and wants this cluster."""
    wire = frame(TRADES) + frame(QUOTE)
    everywhere, here, elsewhere = Taker(), Taker("stocks"), Taker("crypto")
    sent(batch([TRADES, QUOTE], [wire]), everywhere, here, elsewhere)
    assert everywhere.written[0] is here.written[0] is wire
    assert len(everywhere.written) == len(here.written) == 1
    assert elsewhere.written == []


@pytest.mark.parametrize("is_decoded", [False, True])
@pytest.mark.parametrize(
    "payloads",
    [
        [TRADES],
        [TRADES, QUOTE],
        [TRADES, STATUS, QUOTE],
        [STATUS],
        [QUOTE, TRADES[:-1] + b"," + STATUS[1:]],
        [QUOTE, LARGE],
        [b"[]", b"", b"not json"],
    ],
)
def test_the_bytes_are_the_same_with_and_without_what_was_read(
    payloads: list[bytes], is_decoded: bool
) -> None:
    """So are the counts, deflated and plain, in one piece or in several; a status that is ours to hear goes nowhere."""
    pieces = [frame(payload) for payload in payloads]
    results = []
    for wire in ([], pieces, [b"".join(pieces)]):
        given = batch(payloads, wire)
        assert not is_decoded or given.rows is not None
        clients = [Taker(), Taker("stocks"), Taker("stocks", 15)]
        stats = sent(given, *clients)
        results.append((counts(stats), [client.written for client in clients], given.statuses))
    assert results[0] == results[1] == results[2]


def test_a_batch_without_what_was_read_has_none() -> None:
    """A source that gives payloads alone is as good as any other."""
    assert batch([TRADES]).wire == b""
    assert batch([TRADES], [b"a", b"b"]).wire == b"ab"


def position(after: str) -> bytes:
    """Return the frame that stands behind a read."""
    return frame(encode_position(after, each=True))


def test_a_recorder_gets_the_position_behind_each_read() -> None:
    """Of a read as it came, of several reads in one batch, and of what has no position yet; others get none."""
    wire = frame(TRADES) + frame(QUOTE)
    client, recorder = Taker("stocks"), Taker("stocks", wants_marks=True)
    sent(batch([TRADES, QUOTE], [wire], [Mark(2, "run:2")]), client, recorder)
    assert client.written[0] is recorder.written[0] is wire
    assert recorder.written[1:] == [position("run:2")]
    client, recorder = Taker("stocks"), Taker("stocks", wants_marks=True)
    reads = [STATUS, TRADES, QUOTE, STATUS, TRADES, QUOTE]
    sent(
        batch(reads, [b""], [Mark(2, "run:2"), Mark(3, "run:8"), Mark(4, "run:9"), Mark(5, "run:10")]),
        client,
        recorder,
    )
    assert client.written == [frame(TRADES) + frame(QUOTE) + frame(TRADES) + frame(QUOTE)]
    assert recorder.written == [
        frame(TRADES),
        position("run:2"),
        frame(QUOTE),
        position("run:8"),
        position("run:9"),
        frame(TRADES),
        position("run:10"),
        frame(QUOTE),
    ]
