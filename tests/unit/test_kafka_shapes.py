"""What becomes of items on their way into Kafka: bounds of messages, numbers, keys, without any broker."""

from __future__ import annotations

import json
import os

import pytest

from recorder.sinks.kafka import shapes
from recorder.sinks.kafka.shapes import FramesItem, FramesShape, Parcel, RecordsItem, RecordsShape
from recorder.stream_message import decode_frames, heading_of

LINGER_NS = 20_000_000


def read(first: int, *frames: bytes, events: int = 1, size: int = 0, cluster: str = "stocks") -> FramesItem:
    """Return the frames of one read."""
    return FramesItem(cluster, 5, list(frames), {"T": events}, size or sum(map(len, frames)), first, events)


def event(number: int, text: bytes = b"") -> bytes:
    """Return a trade that carries its number."""
    return b'{"ev":"T","sym":"A","t":1760375617662,"q":%d,"x":"%b"}' % (number, text)


def told(parcel: Parcel) -> list[tuple[int, int, list[bytes]]]:
    """Return the number of the first event, the events, and the frames of each message."""
    found = []
    for draft in parcel.drafts:
        assert draft.key is None
        heading = heading_of({name: str(value) for name, value in (draft.headers or {}).items()})
        assert (heading.writer, heading.events) == ("me", sum(draft.counts.values()))
        found.append((heading.first, heading.events, decode_frames(draft.value)))
    return found


@pytest.fixture
def frames() -> FramesShape:
    """Return the shape with frames."""
    return FramesShape(20, "me")


def test_frames_linger_and_are_one_message(frames: FramesShape) -> None:
    """Several reads, byte for byte; each cluster by itself."""
    assert [*frames.take(read(1, b"[1]", events=2), 0)] == []
    assert [*frames.take(read(3, b"[ 2]", b"[3]"), 1)] == []
    assert [*frames.take(read(1, b"[4]", cluster="crypto"), 2)] == []
    assert frames.due_secs(0) == 0.02
    assert [*frames.due(LINGER_NS - 1)] == []
    [parcel] = frames.due(LINGER_NS)
    assert told(parcel) == [(1, 3, [b"[1]", b"[ 2]", b"[3]"])]
    assert (parcel.cluster, parcel.counts, parcel.size) == ("stocks", {"T": 3}, 10)
    [other] = frames.rest()
    assert other.cluster == "crypto"
    assert frames.due_secs(0) is None


def test_a_message_ends_at_its_size_and_before_a_hole(frames: FramesShape) -> None:
    """A message never spans events that were dropped, so that its numbers say which they are."""
    assert [*frames.take(read(1, b"[1]", size=300_000), 0)] == []
    [full] = frames.take(read(2, b"[2]", size=300_000), 0)
    assert told(full) == [(1, 1, [b"[1]"])]
    [before] = frames.take(read(9, b"[9]"), 0)
    assert told(before) == [(2, 1, [b"[2]"])]
    [large, larger] = frames.take(read(10, b"[10]", size=600_000), 0)
    assert [told(large), told(larger)] == [[(9, 1, [b"[9]"])], [(10, 1, [b"[10]"])]]


def test_what_is_too_large_is_split(frames: FramesShape, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the bounds of frames, then of events, with the numbers going on; a single event is left as it is."""
    monkeypatch.setattr(shapes, "CONTENT_BYTES_MAX", 5000)
    noise = [os.urandom(1500).hex().encode() for _ in range(6)]
    events = [event(number, text) for number, text in enumerate(noise)]
    whole = b"[" + b",".join(events[2:]) + b"]"
    [*_] = frames.take(read(1, b"[%b]" % events[0], b"[%b]" % events[1], whole, events=6), 0)
    [parcel] = frames.rest()
    messages = told(parcel)
    assert len(messages) > 1
    expected, found = 1, []
    for first, count, pieces in messages:
        assert first == expected
        expected += count
        found += [one for frame in pieces for one in json.loads(frame)]
    assert found == [json.loads(one) for one in events]
    [*_] = frames.take(read(7, b"[%b]" % event(7, os.urandom(9000).hex().encode())), 0)
    [parcel] = frames.rest()
    assert [(first, count) for first, count, _ in told(parcel)] == [(7, 1)]


def test_a_record_is_a_message_with_its_symbol_as_the_key() -> None:
    """The line without its end; no key where there is no symbol."""
    item = RecordsItem("stocks", b'{"seq":1}\n{"seq":2}\n', ["T", "XX"], ["BRK.A", ""], {"T": 1, "XX": 1})
    [parcel] = RecordsShape().take(item, 0)
    assert [(draft.key, draft.value, draft.counts, draft.headers) for draft in parcel.drafts] == [
        (b"BRK.A", b'{"seq":1}', {"T": 1}, None),
        (None, b'{"seq":2}', {"XX": 1}, None),
    ]
    assert (parcel.counts, parcel.size) == (item.counts, 20)
