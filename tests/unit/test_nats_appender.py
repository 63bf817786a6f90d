"""What is under way into a stream: bounds of messages, numbers, and where an epoch goes on, without any server."""

from __future__ import annotations

import os

import pytest

from recorder.sinks.nats.appender import GATHERED_BYTES_MAX, Appender, Frames, Message
from recorder.stream_message import BODY_BYTES_MAX, End, Heading, Names, decode_frames

CREATED = "2026-11-29T00:00:00Z"


def frames(*contents: bytes, events: int = 1, size: int = 0, dropped: int = 0) -> Frames:
    """Return the frames of one read."""
    return Frames("stocks", 5, list(contents), {"T": events}, size or sum(map(len, contents)), dropped)


def event(number: int, text: bytes = b"") -> bytes:
    """Return a trade that carries its number."""
    return b'{"ev":"T","sym":"A","t":1760375617662,"q":%d,"x":"%b"}' % (number, text)


def ended(seq: int, heading: Heading | None = None, *, created: str = CREATED, at: int | None = None) -> End:
    """Return the end of a stream."""
    return End(created, seq, heading, 0 if heading is None else seq if at is None else at)


def sent(appender: Appender, *items: Frames) -> list[Message]:
    """Have each item be a message of its own, and send all."""
    for item in items:
        appender.gather(item, 1)
        appender.seal()
    return list(appender.unsent())


@pytest.fixture
def appender() -> Appender:
    """Return one that goes on behind message 10, which ends with event 100."""
    made = Appender("stocks", "MD", "me")
    made.resume(ended(10, Heading(91, 10, 0, "another run")))
    return made


def test_names() -> None:
    """Streams in capitals, subjects in small letters."""
    assert Names.of("md", "stocks") == ("MD_STOCKS", "md.stocks.frames")
    assert Names.of("Feed-1", "crypto") == ("FEED-1_CRYPTO", "feed-1.crypto.frames")


def test_messages_are_numbered_one_after_the_other(appender: Appender) -> None:
    """`First` goes on from the stream; each names the place behind the one before it."""
    one, two = sent(appender, frames(b"[1]", events=3), frames(b"[2]", events=4))
    assert [(m.seq, m.first, m.events) for m in (one, two)] == [(11, 101, 3), (12, 104, 4)]
    assert appender.acknowledged(12) == [one, two]
    assert (appender.last_seq, appender.next_first, appender.bytes_under_way) == (12, 108, 0)


def test_a_message_ends_at_its_size_and_before_a_loss(appender: Appender) -> None:
    """What follows a loss begins a message, whose header says how much is missing just before it."""
    half = GATHERED_BYTES_MAX // 2
    for item in (frames(b"[1]", size=half), frames(b"[2]", size=half + 1), frames(b"[3]", dropped=9)):
        appender.gather(item, 1)
    appender.seal()
    assert [(decode_frames(m.content), m.dropped) for m in appender.unsent()] == [
        ([b"[1]"], 0),
        ([b"[2]"], 0),
        ([b"[3]"], 9),
    ]


@pytest.mark.parametrize("arrived", [0, 1, 2, 3])
def test_what_had_arrived_is_not_sent_again(appender: Appender, arrived: int) -> None:
    """The end of the stream says it; the others keep their bounds and numbers."""
    messages = sent(appender, *(frames(b"[%d]" % n, events=2) for n in range(3)))
    last = messages[arrived - 1] if arrived else None
    heading = appender.heading(last) if last else Heading(91, 10, 0, "another run")
    assert appender.resume(ended(10 + arrived, heading)) == messages[:arrived]
    assert list(appender.unsent()) == messages[arrived:]
    assert [m.seq for m in messages[arrived:]] == [*range(11 + arrived, 14)]
    assert [m.first for m in messages[arrived:]] == [*range(101 + 2 * arrived, 107, 2)]
    assert appender.gap == ""


def test_a_stream_that_was_deleted(appender: Appender) -> None:
    """The new one begins with its first message, the events keep their numbers, and the message says so."""
    sent(appender, frames(b"[1]", events=2))
    assert appender.resume(ended(0, created="later")) == []
    assert appender.gap == "deleted"
    [again] = appender.unsent()
    assert (again.seq, again.first, again.gap) == (1, 101, "deleted")
    # It is said again with the same message, and not with another one.
    appender.resume(ended(0, created="later"))
    [again] = appender.unsent()
    assert again.gap == "deleted"
    assert sent(appender, frames(b"[2]"))[0].gap == ""


def test_a_stream_that_was_purged(appender: Appender) -> None:
    """The places go on. What had arrived before the purge has arrived; the purge is told of once."""
    [one] = sent(appender, frames(b"[1]", events=2))
    assert appender.resume(ended(11)) == [one]
    assert appender.gap == "purged"
    [two] = sent(appender, frames(b"[2]"))
    assert (two.seq, two.first, two.gap) == (12, 103, "purged")
    appender.resume(ended(11))
    [two] = appender.unsent()
    assert two.gap == "purged"


def test_a_stream_that_lost_what_it_had_acknowledged(appender: Appender) -> None:
    """After a power failure, say: the hole stays visible in the numbers of the events."""
    sent(appender, frames(b"[1]", events=2), frames(b"[2]", events=2))
    appender.acknowledged(12)
    appender.resume(ended(10, Heading(91, 10, 0, "another run")))
    [next_] = sent(appender, frames(b"[3]"))
    assert (next_.seq, next_.first, next_.gap) == (11, 105, "rolled back")


def test_a_stream_that_was_emptied_before_the_start() -> None:
    """Nobody knows the number of the last event any more, so the next one is higher than any that there was."""
    appender = Appender("stocks", "MD", "me")
    appender.resume(ended(10))
    [one] = sent(appender, frames(b"[1]"))
    assert (one.seq, one.first, one.gap) == (11, 10 * BODY_BYTES_MAX + 1, "emptied")


def test_another_writer_is_seen_behind_our_last_message_alone(appender: Appender) -> None:
    """A former run is none; one that appends while we do is."""
    assert not appender.is_foreign(ended(10, Heading(91, 10, 0, "another run")))
    sent(appender, frames(b"[1]"))
    theirs = ended(11, Heading(101, 5, 0, "another run"))
    assert appender.is_foreign(theirs)
    appender.resume(theirs)
    [again] = appender.unsent()
    assert (again.seq, again.first) == (12, 106)
    assert not appender.is_foreign(ended(11, Heading(101, 5, 0, "another run")))


def test_messages_beyond_the_limit_are_split(appender: Appender) -> None:
    """First between frames, which stay as they are; then between events, whose bytes stay."""
    noise = [os.urandom(400).hex().encode() for _ in range(6)]
    events = [event(n, text) for n, text in enumerate(noise)]
    whole = [b"[" + b",".join(events[:4]) + b"]", b"[ " + events[4] + b" ]", b"[" + events[5] + b"]"]
    appender.content_bytes_max = 1200
    item = Frames("stocks", 5, whole, {"T": 6}, sum(map(len, whole)), 3)
    messages = sent(appender, item)
    assert all(len(m.content) <= 1200 for m in messages)
    assert sum(m.events for m in messages) == 6
    assert [m.dropped for m in messages] == [3] + [0] * (len(messages) - 1)
    assert sum(m.size for m in messages) == item.size
    out = [frame for m in messages for frame in decode_frames(m.content)]
    assert out[-2:] == whole[-2:]
    assert b"".join(out[:-2]).replace(b"][", b",") == whole[0]
    assert appender.bytes_under_way == sum(len(m.content) for m in messages)


def test_an_event_that_no_message_can_hold(appender: Appender) -> None:
    """It is taken away, and the next message tells that it is missing."""
    appender.content_bytes_max = 300
    huge = b"[" + event(1, os.urandom(2000).hex().encode()) + b"]"
    assert sent(appender, frames(huge), frames(b"[" + event(2) + b"]")) == []
    lost = appender.too_large()
    assert lost is not None
    assert lost.events == 1
    [two] = appender.unsent()
    assert (two.first, two.dropped) == (101, 1)
    assert appender.too_large() is None


def test_what_is_abandoned(appender: Appender) -> None:
    """Sent, waiting and gathered messages, in order; nothing is left."""
    [one] = sent(appender, frames(b"[1]"))
    appender.gather(frames(b"[2]"), 1)
    left = appender.abandon()
    assert left[0] is one
    assert [decode_frames(m.content) for m in left] == [[b"[1]"], [b"[2]"]]
    assert appender.bytes_under_way == 0
    assert appender.gathered_since_ns == 0
