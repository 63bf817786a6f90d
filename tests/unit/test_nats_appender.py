"""What is under way into a stream: bounds of messages, numbers, and where an epoch goes on, without any server."""

from __future__ import annotations

import os

import pytest

from recorder.ledger import PairStats
from recorder.settings.nats import NatsRole
from recorder.sinks.nats.absences import Absences
from recorder.sinks.nats.appender import GATHERED_BYTES_MAX, Appender
from recorder.sinks.nats.message import Frames, Message
from recorder.stream_message import BODY_BYTES_MAX, End, Heading, Names, Role, decode_frames

CREATED = "2026-11-29T00:00:00Z"
START_NS = 10**15
TAKEOVER_NS = 10**9


def frames(*contents: bytes, events: int = 1, size: int = 0, dropped: int = 0) -> Frames:
    """Return the frames of one read."""
    return Frames("stocks", 5, list(contents), {"T": events}, size or sum(map(len, contents)), dropped)


def event(number: int, text: bytes = b"") -> bytes:
    """Return a trade that carries its number."""
    return b'{"ev":"T","sym":"A","t":1760375617662,"q":%d,"x":"%b"}' % (number, text)


def ended(seq: int, heading: Heading | None = None, *, created: str = CREATED, at: int | None = None) -> End:
    """Return the end of a stream."""
    return End(created, seq, heading, 0 if heading is None else seq if at is None else at)


def appending(
    role: NatsRole = "active", last: Heading | None = None, seq: int = 10, *, idle: bool = True
) -> Appender:
    """Return one that goes on behind the end of a stream."""
    made = Appender("stocks", "MD", "me", PairStats("stocks", "MD_STOCKS"), role, TAKEOVER_NS, Absences(0))
    made.resume(ended(seq, last), START_NS, is_idle=idle)
    return made


def put(appender: Appender, *items: Frames, now_ns: int = START_NS) -> None:
    """Have each item be a message of its own."""
    for item in items:
        appender.gather(item, now_ns)
        appender.seal()


def sent(appender: Appender, now_ns: int = START_NS) -> list[Message]:
    """Send all that may be sent; each is stored."""
    found = []
    while message := appender.next_message(now_ns):
        found.append(message)
        appender.acknowledged()
    return found


def read(
    appender: Appender,
    *messages: Message,
    writer: str = "other",
    role: Role = "active",
    now_ns: int = START_NS,
) -> None:
    """Have an appender read messages of another writer, one after another behind those that it knows."""
    for message in messages:
        heading = Heading(appender.next_first, message.events, 0, "other", role=role)
        appender.absorb(appender.last_seq + 1, heading, message.content, now_ns)


@pytest.fixture
def appender() -> Appender:
    """Return one that leads behind message 10, which ends with event 100."""
    return appending(last=Heading(91, 10, 0, "another run"))


def test_names() -> None:
    """Streams in capitals, subjects in small letters."""
    assert Names.of("md", "stocks") == ("MD_STOCKS", "md.stocks.frames")
    assert Names.of("Feed-1", "crypto") == ("FEED-1_CRYPTO", "feed-1.crypto.frames")


def contents(messages: list[Message]) -> list[list[bytes]]:
    """Return the frames of messages."""
    return [decode_frames(message.content) for message in messages]


def test_messages_are_numbered_one_after_the_other(appender: Appender) -> None:
    """`First` goes on from the stream; each names the place behind the one before it, and goes once that is stored."""
    put(appender, frames(b"[1]", events=3), frames(b"[2]", events=4))
    one = appender.next_message(START_NS)
    assert appender.next_message(START_NS) is None
    appender.acknowledged()
    [two] = sent(appender)
    assert one is not None
    assert [(m.seq, m.first, m.events, m.role) for m in (one, two)] == [
        (11, 101, 3, "active"),
        (12, 104, 4, "active"),
    ]
    assert [(each.events, each.size) for each in appender.take_stored()] == [(3, 3), (4, 3)]
    assert (appender.last_seq, appender.next_first, appender.bytes_under_way) == (12, 108, 0)


def test_a_message_ends_at_its_size_and_before_a_loss(appender: Appender) -> None:
    """What follows a loss begins a message, whose header says how much is missing just before it."""
    half = GATHERED_BYTES_MAX // 2
    for item in (frames(b"[1]", size=half), frames(b"[2]", size=half + 1), frames(b"[3]", dropped=9)):
        appender.gather(item, 1)
    appender.seal()
    assert [(decode_frames(m.content), m.dropped) for m in sent(appender)] == [
        ([b"[1]"], 0),
        ([b"[2]"], 0),
        ([b"[3]"], 9),
    ]


@pytest.mark.parametrize("has_arrived", [False, True])
def test_a_message_whose_outcome_nobody_knows_is_stored_once(appender: Appender, has_arrived: bool) -> None:
    """What the stream has behind the last known message is read before anything is sent; what is there is not sent again."""
    events = [b"[%b]" % event(number) for number in range(3)]
    put(appender, *(frames(each) for each in events))
    first = appender.next_message(START_NS)
    assert first is not None
    appender.resume(ended(10 + has_arrived, appender.heading(first)), START_NS, is_idle=False)
    if has_arrived:
        assert appender.next_message(START_NS) is None
        appender.absorb(11, appender.heading(first), first.content, START_NS)
    again = sent(appender)
    assert contents(again) == [[each] for each in events[has_arrived:]]
    assert [(m.seq, m.first) for m in again] == [(seq, 90 + seq) for seq in range(11 + has_arrived, 14)]
    assert sum(each.events for each in appender.take_stored()) == 3
    assert appender.gap == ""


def test_a_stream_that_was_deleted(appender: Appender) -> None:
    """The new one begins with its first message, the events keep their numbers, and the message says so."""
    put(appender, frames(b"[1]", events=2))
    appender.next_message(START_NS)
    appender.resume(ended(0, created="later"), START_NS, is_idle=False)
    assert appender.gap == "deleted"
    again = appender.next_message(START_NS)
    assert again is not None
    assert (again.seq, again.first, again.gap) == (1, 101, "deleted")
    # It is said again with the same message, and not with another one.
    appender.resume(ended(0, created="later"), START_NS, is_idle=False)
    put(appender, frames(b"[2]"))
    assert [m.gap for m in sent(appender)] == ["deleted", ""]


def test_a_gap_that_another_recorder_has_told_of_is_not_told_twice(appender: Appender) -> None:
    """Of two recorders, the one that appends first tells of it."""
    appender.resume(ended(0, created="later"), START_NS, is_idle=False)
    appender.absorb(1, Heading(101, 1, 0, "other", gap="deleted"), message_of(event(1)).content, START_NS)
    put(appender, frames(b"[2]"))
    [message] = sent(appender, START_NS + TAKEOVER_NS)
    assert (message.gap, message.role) == ("", "active")


def test_a_stream_that_was_purged(appender: Appender) -> None:
    """The places go on. What had arrived before the purge has arrived; the purge is told of once."""
    put(appender, frames(b"[1]", events=2))
    appender.next_message(START_NS)
    appender.resume(ended(11), START_NS, is_idle=False)
    assert [each.events for each in appender.take_stored()] == [2]
    assert appender.gap == "purged"
    put(appender, frames(b"[2]"))
    two = appender.next_message(START_NS)
    assert two is not None
    assert (two.seq, two.first, two.gap) == (12, 103, "purged")
    appender.resume(ended(11), START_NS, is_idle=False)
    [two] = sent(appender)
    assert two.gap == "purged"


def test_a_stream_that_lost_what_it_had_acknowledged(appender: Appender) -> None:
    """After a power failure, say: the hole stays visible in the numbers of the events."""
    put(appender, frames(b"[1]", events=2), frames(b"[2]", events=2))
    sent(appender)
    appender.resume(ended(10, Heading(91, 10, 0, "another run")), START_NS, is_idle=False)
    put(appender, frames(b"[3]"))
    [next_] = sent(appender)
    assert (next_.seq, next_.first, next_.gap) == (11, 105, "rolled back")


def test_a_stream_that_was_emptied_before_the_start() -> None:
    """Nobody knows the number of the last event any more, so the next one is higher than any that there was."""
    appender = appending()
    put(appender, frames(b"[1]"))
    [one] = sent(appender)
    assert (one.seq, one.first, one.gap) == (11, 10 * BODY_BYTES_MAX + 1, "emptied")


def test_messages_beyond_the_limit_are_split(appender: Appender) -> None:
    """First between frames, which stay as they are; then between events, whose bytes stay."""
    noise = [os.urandom(400).hex().encode() for _ in range(6)]
    events = [event(n, text) for n, text in enumerate(noise)]
    whole = [b"[" + b",".join(events[:4]) + b"]", b"[ " + events[4] + b" ]", b"[" + events[5] + b"]"]
    appender.content_bytes_max = 1200
    item = Frames("stocks", 5, whole, {"T": 6}, sum(map(len, whole)), 3)
    put(appender, item)
    messages = sent(appender)
    assert all(len(m.content) <= 1200 for m in messages)
    assert sum(m.events for m in messages) == 6
    assert [m.dropped for m in messages] == [3] + [0] * (len(messages) - 1)
    assert sum(m.size for m in messages) == item.size
    out = [frame for m in messages for frame in decode_frames(m.content)]
    assert out[-2:] == whole[-2:]
    assert b"".join(out[:-2]).replace(b"][", b",") == whole[0]
    assert appender.bytes_under_way == 0


def test_an_event_that_no_message_can_hold(appender: Appender) -> None:
    """It is taken away, and the next message tells that it is missing."""
    appender.content_bytes_max = 300
    huge = b"[" + event(1, os.urandom(2000).hex().encode()) + b"]"
    put(appender, frames(huge), frames(b"[" + event(2) + b"]"))
    [two] = sent(appender)
    assert (two.first, two.dropped) == (101, 1)
    assert [lost.events for lost in appender.take_lost()] == [1]
    assert appender.bytes_under_way == 0


def test_what_is_abandoned(appender: Appender) -> None:
    """Sent, waiting and gathered messages, in order; nothing is left."""
    put(appender, frames(b"[1]"), frames(b"[2]"))
    appender.next_message(START_NS)
    appender.gather(frames(b"[3]"), 1)
    assert contents(appender.abandon()) == [[b"[1]"], [b"[2]"], [b"[3]"]]
    assert appender.bytes_under_way == 0
    assert not appender.has_events


def message_of(*events: bytes) -> Message:
    """Return a message of another recorder, with a frame for each event."""
    other = appending()
    for each in events:
        other.gather(frames(b"[%b]" % each), 1)
    other.seal()
    [message] = sent(other)
    return message


LAST = Heading(91, 10, 0, "other")


def standby() -> Appender:
    """Return one that follows another recorder, of which it has just heard."""
    made = appending("standby", LAST)
    read(made, message_of(event(0)))
    return made


def test_a_standby_appends_nothing_that_the_other_one_appends() -> None:
    """Whoever receives an event first, and whatever frames it comes in; it counts as recorded."""
    one = standby()
    read(one, message_of(event(1), event(2)))
    put(one, frames(b"[%b,%b,%b]" % (event(1), event(2), event(3)), events=3))
    read(one, message_of(event(3)))
    assert sent(one, START_NS + TAKEOVER_NS) == []
    assert [(each.events, each.size) for each in one.take_stored()] == [(3, len(event(1)) * 3 + 4)]
    assert not one.leads
    assert (one.stats.covered_events, one.bytes_under_way) == (3, 0)


def test_a_standby_fills_what_the_other_one_has_not_got() -> None:
    """After the time for a takeover, while the other one is there: bytes and order stay, and the other one leads on."""
    one = standby()
    put(one, frames(b"[%b,%b,%b]" % (event(1), event(2), event(3)), events=3))
    assert sent(one, START_NS + TAKEOVER_NS - 1) == []
    read(one, message_of(event(2)), now_ns=START_NS + TAKEOVER_NS)
    [fill] = sent(one, START_NS + TAKEOVER_NS)
    assert contents([fill]) == [[b"[%b,%b]" % (event(1), event(3))]]
    assert (fill.role, fill.seq, fill.first, fill.events) == ("fill", 13, 103, 2)
    assert one.heading(fill).headers()["Role"] == "fill"
    assert (one.leads, one.stats.fills, one.stats.filled_events, one.stats.covered_events) == (False, 1, 2, 1)


def test_a_standby_takes_over_from_one_that_is_silent() -> None:
    """Then it appends at once."""
    one = standby()
    put(one, frames(b"[%b]" % event(1)))
    [taken] = sent(one, START_NS + TAKEOVER_NS)
    assert (taken.role, one.leads, one.stats.takeovers) == ("active", True, 1)
    put(one, frames(b"[%b]" % event(2)), now_ns=START_NS + TAKEOVER_NS)
    assert len(sent(one, START_NS + TAKEOVER_NS)) == 1


def test_one_that_leads_goes_on_after_a_fill(appender: Appender) -> None:
    """A fill is no claim; what it has brought is not appended again when it comes late."""
    put(appender, frames(b"[%b]" % event(2)))
    appender.next_message(START_NS)
    appender.refused(11)
    assert appender.next_message(START_NS) is None, "the stream is read first"
    read(appender, message_of(event(1)), role="fill")
    assert contents(sent(appender)) == [[b"[%b]" % event(2)]]
    put(appender, frames(b"[%b,%b]" % (event(1), event(3)), events=2))
    assert contents(sent(appender)) == [[b"[%b]" % event(3)]]
    assert (appender.leads, appender.stats.step_backs, appender.stats.conflicts) == (True, 0, 1)


def test_one_that_leads_steps_back_before_another_that_does(appender: Appender) -> None:
    """What it had under way is kept as a standby keeps it: nothing of it is lost, and nothing appended twice."""
    put(appender, frames(b"[%b]" % event(1)), frames(b"[%b]" % event(2)))
    appender.next_message(START_NS)
    appender.refused(11)
    read(appender, message_of(event(1)))
    assert (appender.leads, appender.stats.step_backs, appender.stats.other) == (False, 1, "other")
    assert sent(appender, START_NS + TAKEOVER_NS - 1) == []
    [rest] = sent(appender, START_NS + TAKEOVER_NS)
    assert contents([rest]) == [[b"[%b]" % event(2)]]


def test_one_that_was_cut_off_for_more_events_than_are_kept(
    appender: Appender, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the other one has appended meanwhile is taken out while it is read, so that none of it is appended twice."""
    monkeypatch.setattr("recorder.sinks.nats.ahead.EVENTS_MAX", 10)
    times = range(START_NS, START_NS + 100 * TAKEOVER_NS, TAKEOVER_NS)
    made = [event(number) for number in range(100)]
    for at_ns, each in zip(times, made, strict=True):
        put(appender, Frames("stocks", at_ns, [b"[%b]" % each], {"T": 1}, len(each)))
    appender.resume(ended(110, Heading(200, 1, 0, "other")), START_NS, is_idle=False)
    for at_ns, each in zip(times, made, strict=True):
        if each != made[7]:
            heading = Heading(appender.next_first, 1, at_ns, "other")
            appender.absorb(appender.last_seq + 1, heading, message_of(each).content, START_NS)
    appender.know_all(110)
    assert contents(sent(appender, START_NS + TAKEOVER_NS)) == [[b"[%b]" % made[7]]]
    assert (appender.stats.covered_events, appender.bytes_under_way) == (99, 0)


def test_equal_events_stay_as_many_as_the_exchange_has_sent(appender: Appender) -> None:
    """Two payloads with the same bytes in one millisecond are two; only as many are covered as the other has appended."""
    one = standby()
    put(one, frames(b"[%b,%b]" % (event(1), event(1)), events=2))
    read(one, message_of(event(1)), now_ns=START_NS + TAKEOVER_NS)
    assert contents(sent(one, START_NS + TAKEOVER_NS)) == [[b"[%b]" % event(1)]]
    put(appender, frames(b"[%b,%b]" % (event(1), event(1)), events=2))
    assert contents(sent(appender)) == [[b"[%b,%b]" % (event(1), event(1))]]


def test_a_refusal_that_comes_behind_the_message_itself() -> None:
    """What is read may overtake acknowledgements and refusals."""
    one = standby()
    put(one, frames(b"[%b]" % event(1)))
    message = one.next_message(START_NS + TAKEOVER_NS)
    assert message is not None
    read(one, message_of(event(5)), now_ns=START_NS + TAKEOVER_NS)
    one.refused(12)
    assert not one.is_behind
    [again] = sent(one, START_NS + TAKEOVER_NS)
    assert (again.seq, again.role) == (13, "fill")
    put(one, frames(b"[%b]" % event(6)))
    message = one.next_message(START_NS + TAKEOVER_NS)
    assert message is not None
    one.absorb(message.seq, one.heading(message), message.content, START_NS + TAKEOVER_NS)
    assert one.sent is None
    assert not one.has_events


@pytest.mark.parametrize(
    ("role", "idle", "leads"),
    [("auto", True, True), ("auto", False, False), ("active", False, True), ("standby", True, False)],
)
def test_how_a_recorder_begins(role: NatsRole, idle: bool, leads: bool) -> None:
    """Where somebody has appended a moment ago, it reads what, first; that decides nothing else."""
    one = appending(role, LAST, idle=idle)
    assert one.leads is leads
    assert one.is_behind is not idle
    assert bool(one.looks_back_to_ns) is not idle
    if not idle:
        one.absorb(9, Heading(81, 10, 0, "other"), message_of(event(1)).content, START_NS)
        one.know_all(10)
        assert one.leads is leads
        put(one, frames(b"[%b]" % event(1)))
        assert sent(one, START_NS + TAKEOVER_NS) == []


def test_a_loss_of_a_standby_is_not_noted_in_a_fill() -> None:
    """The other one may well have what this one has lost."""
    one = standby()
    put(one, frames(b"[%b]" % event(1), dropped=5))
    read(one, message_of(event(7)), now_ns=START_NS + TAKEOVER_NS)
    [fill] = sent(one, START_NS + TAKEOVER_NS)
    assert "Dropped" not in one.heading(fill).headers()
