"""Two recorders of one feed and one stream, in a world without servers: whatever happens, each event is there once."""

from __future__ import annotations

from collections import Counter
from typing import Final, NamedTuple

from hypothesis import given, settings
from hypothesis import strategies as st

from recorder.ledger import PairStats
from recorder.sinks.nats.absences import Absences
from recorder.sinks.nats.answers import answer_of
from recorder.sinks.nats.appender import Appender
from recorder.sinks.nats.message import Frames
from recorder.stream_message import End, Heading, decode_frames, heading_of

TAKEOVER_NS: Final = 10**9
TICK_NS: Final = 10**7
MADE: Final = "2026-11-29T00:00:00Z"


def payload(number: int) -> bytes:
    """Return the event of a place in the feed: each third one has the same bytes as the one before it."""
    return b'{"ev":"T","sym":"A","t":1760375617662,"q":%d}' % (number - (number % 3 == 2))


def events_in(content: bytes) -> list[bytes]:
    """Return the events of a message."""
    return [b"{" + each + b"}" for frame in decode_frames(content) for each in frame[2:-2].split(b"},{")]


class Stored(NamedTuple):
    """A message of the stream."""

    headers: dict[str, str]
    content: bytes
    stored_ns: int

    @property
    def heading(self) -> Heading:
        return heading_of(self.headers)

    @property
    def events(self) -> list[bytes]:
        return events_in(self.content)


class Request(NamedTuple):
    """A message on its way to the servers."""

    seq: int
    headers: dict[str, str]
    content: bytes


class World:
    """The time, the feed and the stream."""

    def __init__(self) -> None:
        self.now_ns = 10**15
        self.fed = 0
        """How far any of the recorders has come in the feed."""
        self.stream: list[Stored] = []
        self.runs = 0

    def append(self, request: Request) -> bytes:
        """Append by compare-and-set; return the answer."""
        if request.seq != len(self.stream) + 1:
            words = f"wrong last sequence: {len(self.stream)}"
            return b'{"error":{"code":400,"err_code":10071,"description":"%b"}}' % words.encode()
        self.stream.append(Stored(request.headers, request.content, self.now_ns))
        return b'{"stream":"MD_STOCKS","seq":%d}' % request.seq

    @property
    def end(self) -> End:
        if not self.stream:
            return End(MADE, 0, None)
        last = self.stream[-1]
        return End(MADE, len(self.stream), last.heading, len(self.stream), last.stored_ns)


class Recorder:
    """One recorder: what `NatsPublisher` does with an appender, in steps that may fail or be late."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.received: list[bytes] = []
        """By this and by earlier runs."""
        self.lost: Counter[bytes] = Counter()
        """What runs that were killed had received and not seen in the stream."""
        self.place = 0
        """In the feed."""
        self.begin()

    def begin(self) -> None:
        """Begin a run."""
        self.world.runs += 1
        self.writer = f"run {self.world.runs}"
        self.absences = Absences(2 * TAKEOVER_NS)
        self.appender = Appender(
            "stocks", "MD", self.writer, PairStats("stocks", "MD_STOCKS"), "auto", TAKEOVER_NS, self.absences
        )
        self.connect()

    def connect(self) -> None:
        """Begin an epoch."""
        self.request: Request | None = None
        self.reply: bytes | None = None
        self.following: int | None = None
        end = self.world.end
        self.appender.resume(end, self.world.now_ns, is_idle=self.world.now_ns - end.stored_ns > 10**10)

    def feed(self, count: int, *, misses: bool = False) -> None:
        """Receive what comes next, or miss it."""
        events = [payload(number) for number in range(self.place, self.place + count)]
        self.place += count
        self.world.fed = max(self.world.fed, self.place)
        if misses or not count:
            return
        self.received += events
        frame = b"[" + b",".join(events) + b"]"
        self.appender.gather(
            Frames("stocks", self.world.now_ns, [frame], {"T": count}, len(frame)), self.world.now_ns
        )

    def turn(self) -> None:
        """Send and follow, as far as it may."""
        world, appender = self.world, self.appender
        if self.following is None and (appender.is_behind or not appender.leads):
            since_ns = appender.looks_back_to_ns
            first = next((n for n, each in enumerate(world.stream) if each.stored_ns >= since_ns), 0)
            self.following = first if since_ns else appender.last_seq
            if self.following >= len(world.stream):
                appender.know_all(len(world.stream))
        if appender.is_alone(world.now_ns):
            self.following = None
        appender.linger(world.now_ns, 0)
        message = appender.next_message(world.now_ns)
        if message is not None:
            self.request = Request(message.seq, appender.heading(message).headers(), message.content)
            self.reply = None

    def arrive(self) -> None:
        """Let the servers have what was sent."""
        if self.request is not None:
            self.reply, self.request = self.world.append(self.request), None

    def hear(self) -> None:
        """Have the answer of the servers."""
        reply, self.reply, sent = self.reply, None, self.appender.sent
        if reply is None or sent is None:
            return
        answer = answer_of(reply, {}, sent.seq)
        if answer.end_seq:
            self.appender.refused(answer.end_seq)
        else:
            assert answer.seq == sent.seq, answer
            self.appender.acknowledged()

    def read(self, count: int) -> None:
        """Read on in the stream."""
        for _ in range(count):
            if self.following is not None and self.following < len(self.world.stream):
                message = self.world.stream[self.following]
                self.following += 1
                heading = message.heading
                self.appender.absorb(self.following, heading, message.content, self.world.now_ns)

    def kill(self) -> None:
        """End as with kill -9, and begin again; what comes meanwhile is missed."""
        self.arrive()
        for message in self.appender.abandon():
            self.lost.update(events_in(message.content))
        # Nobody can tell an event that comes again from an equal one: the next run begins with neither of such two.
        self.place = -(-max(self.place, self.world.fed) // 3) * 3
        self.begin()


STEPS = st.lists(
    st.tuples(
        st.sampled_from(
            ["feed"] * 4
            + ["both"] * 4
            + ["turn"] * 6
            + ["arrive"] * 3
            + ["hear"] * 3
            + ["read"] * 4
            + ["miss", "kill", "disconnect", "disconnect late", "wait"]
        ),
        st.integers(0, 1),
        st.integers(1, 9),
    ),
    max_size=150,
)


def take(world: World, both: list[Recorder], step: tuple[str, int, int]) -> None:
    """Let one thing happen."""
    what, which, count = step
    one = both[which]
    match what:
        case "feed":
            one.feed(count)
        case "both":
            for each in both:
                each.feed(max(0, world.fed - each.place) + (count if each is one else 0))
        case "miss":
            one.feed(3 * count, misses=True)
        case "turn":
            one.turn()
        case "arrive":
            one.arrive()
        case "hear":
            one.hear()
        case "read":
            one.read(count)
        case "kill":
            one.kill()
        case "disconnect":
            one.connect()
        case "disconnect late":
            one.arrive()
            one.connect()
        case "wait":
            world.now_ns += count * TAKEOVER_NS // 5
    world.now_ns += TICK_NS


def settle(world: World, both: list[Recorder]) -> None:
    """Let both have all that comes, and let time pass until nothing waits."""
    for each in both:
        each.feed(max(0, world.fed - each.place))
    for _ in range(400):
        for each in both:
            each.turn()
            each.arrive()
            each.hear()
            each.read(1000)
        world.now_ns += TAKEOVER_NS // 10
        if not any(each.appender.has_events for each in both):
            return
    raise AssertionError(f"something waits for ever: {both[0].appender} {both[1].appender}")


@given(STEPS)
@settings(max_examples=300, deadline=None)
def test_the_stream_is_the_union_of_both(steps: list[tuple[str, int, int]]) -> None:
    """Each event as often as the recorder that received it most often; the numbers have no hole; each view's order is kept.

    Only what a recorder had received and not appended when it was killed may be missing.
    """
    world = World()
    both = [Recorder(world), Recorder(world)]
    for step in steps:
        take(world, both, step)
    settle(world, both)
    next_first = 1
    for message in world.stream:
        assert message.heading.first == next_first
        assert message.heading.events == len(message.events)
        next_first = message.heading.next_first
    stored = Counter(event for message in world.stream for event in message.events)
    one, other = (Counter(each.received) for each in both)
    assert not stored - (one | other), "something is there too often"
    assert not ((one - both[0].lost) | (other - both[1].lost)) - stored, "something is missing"
    for each in both:
        own = [e for m in world.stream if m.heading.writer == each.writer for e in m.events]
        rest = iter(each.received)
        assert all(event in rest for event in own), "the order is not that of the feed"
