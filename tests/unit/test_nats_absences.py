"""What the recorders of a stream missed themselves: it stands in the stream, unless another one shows that it was there."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from recorder.bus import Missed, SessionClosed, SessionOpened
from recorder.ledger import PairStats
from recorder.sinks.nats.absences import NOT_RUNNING, Absences
from recorder.sinks.nats.appender import Appender
from recorder.sinks.nats.message import Frames, Message
from recorder.stream_message import AWAY_MAX, HANDED_OVER, Away, End, Heading, encode_frames

MS = 1_000_000
TAKEOVER_NS = 1000 * MS
PATIENCE_NS = 2 * TAKEOVER_NS
BEGAN_MS = 10**12


def opened(at_ms: int, resumed: int | None = None, missed: Sequence[Missed] = ()) -> SessionOpened:
    """Return that a session begins."""
    return SessionOpened("stocks", at_ms * MS, resumed, tuple(missed))


def closed(at_ms: int, last_ms: int = 0, reason: str = "disconnected") -> SessionClosed:
    """Return that a session ends."""
    return SessionClosed("stocks", at_ms * MS, reason, last_ms * MS)


def said(received_ms: int, writer: str = "other", **facts: object) -> Heading:
    """Return what a message says."""
    return Heading(1, 1, received_ms * MS, writer, **facts)  # type: ignore[arg-type]


def begun(last: Heading | None = None) -> Absences:
    """Return the absences of a run whose first session begins at 1000."""
    made = Absences(PATIENCE_NS)
    made.begin(last)
    made.session_changed(opened(1000))
    return made


def test_the_time_that_no_recorder_ran() -> None:
    """It begins where the stream ends, whichever is known first; a stream without messages knows of none."""
    away = [Away(400, 1000, NOT_RUNNING)]
    assert begun(said(400)).due == away
    assert begun(said(300, covers=(100, 400))).due == away
    assert begun(said(400, covers=(600, 700))).due == away, "its writer had no connection between 400 and 600"
    late = Absences(PATIENCE_NS)
    late.session_changed(opened(1000))
    late.begin(said(400))
    late.begin(said(500))
    assert late.due == away
    assert begun().due == []
    assert begun(said(1500)).due == [], "what the other one missed before is for that one to say"


def test_a_cut() -> None:
    """It lasts from the last event to the next session; nothing is missing where all was sent again."""
    one = begun()
    one.session_changed(closed(3000, 2500))
    one.session_changed(closed(3100, 2500, "later"))
    assert not one.due
    one.session_changed(opened(4000))
    assert one.due == [Away(2500, 4000, "disconnected")]
    assert one.before(3999 * MS) == ()
    assert one.before(4000 * MS) == (Away(2500, 4000, "disconnected"),)
    one.told(one.before(4000 * MS))
    one.session_changed(closed(5000))
    one.session_changed(opened(6000, 17, [Missed(5100, 5200, "Slow client!")]))
    assert one.due == [Away(5100, 5200, "slow_client_")]


def test_what_another_one_covers() -> None:
    """What it shows to have, before the cut is over or behind, is no gap; what it has told of is told."""
    one = begun()
    one.read(said(1200, covers=(900, 1200)), is_ours=False)
    one.session_changed(closed(2000))
    one.read(said(2500, covers=(900, 2600)), is_ours=False)
    one.session_changed(opened(4000))
    assert one.due == [Away(2600, 4000, "disconnected")]
    one.read(said(3900, covers=(3000, 3900)), is_ours=False)
    assert one.due == [Away(2600, 3000, "disconnected"), Away(3900, 4000, "disconnected")]
    one.read(said(4100, missed=(Away(2600, 3000, "other"),)), is_ours=False)
    one.read(said(4100, covers=(1, 9000)), is_ours=True)
    assert one.due == [Away(3900, 4000, "disconnected")]


def test_what_is_lost_is_not_covered() -> None:
    """A recorder that had to drop events says nothing of the time before."""
    one = begun()
    one.take(2000 * MS, lost=False)
    assert one.covers(0) == (1000, 2000)
    assert one.covers(1800 * MS) == (1000, 1800)
    one.take(3000 * MS, lost=True)
    assert one.covers(0) == (0, 0)
    one.take(3500 * MS, lost=False)
    assert one.covers(0) == (3001, 3500)


def test_no_message_tells_of_too_many() -> None:
    """The oldest become one, which has them all."""
    one = begun()
    for number in range(30):
        one.session_changed(closed(2000 + 100 * number))
        one.session_changed(opened(2010 + 100 * number))
    assert len(one.due) == AWAY_MAX
    assert one.due[0] == Away(2000, 2010 + 100 * 22, "disconnected")
    assert one.due[-1] == Away(2000 + 2900, 2010 + 2900, "disconnected")


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["open", "open", "close", "event", "event", "write", "write", "time", "kill"]),
        st.integers(0, 1),
    ),
    max_size=60,
)


@given(STEPS)
def test_no_time_without_a_recorder_is_left_out(steps: list[tuple[str, int]]) -> None:
    """Whenever neither of two was connected, a message says so in the end, in whichever order all happens."""
    now_ms = BEGAN_MS
    both = [Absences(PATIENCE_NS), Absences(PATIENCE_NS)]
    stream = [said(now_ms - 5, "run before")]
    read, held, is_open, last_ms = [1, 1], [[], []], [False, False], [0, 0]  # type: ignore[var-annotated]
    blind: set[int] = set(range(now_ms - 5, now_ms))
    for one in both:
        one.begin(stream[0])

    def write(which: int) -> None:
        one = both[which]
        while read[which] < len(stream):
            heading = stream[read[which]]
            read[which] += 1
            one.read(heading, is_ours=heading.writer == str(which))
        if held[which]:
            received_ns = held[which].pop(0)
            waits_ns = held[which][0] if held[which] else 0
            missed = one.before(received_ns)
            stream.append(Heading(1, 1, received_ns, str(which), missed=missed, covers=one.covers(waits_ns)))
            one.told(missed)

    def turn(which: int, *, to_open: bool) -> None:
        if is_open[which] != to_open:
            is_open[which] = to_open
            both[which].session_changed(opened(now_ms) if to_open else closed(now_ms, last_ms[which]))

    def bring() -> None:
        for which in (0, 1):
            if is_open[which]:
                last_ms[which] = now_ms
                held[which].append(now_ms * MS)
                both[which].take(now_ms * MS, lost=False)

    for what, which in [*steps, ("open", 0), ("open", 1), ("time", 0), ("event", 0)]:
        match what:
            case "open" | "close":
                turn(which, to_open=what == "open")
            case "event":
                bring()
            case "write":
                write(which)
            case "kill":
                both[which], held[which], is_open[which], last_ms[which] = Absences(0), [], False, 0
                both[which].begin(stream[-1])
                read[which] = len(stream)
        if not any(is_open):
            blind |= {now_ms, now_ms + 1}
        now_ms += 2
    for which in (0, 1):
        while held[which]:
            write(which)
    told = {ms for each in stream for away in each.missed for ms in range(away.from_ms, away.to_ms)}
    assert blind <= told


class Writing:
    """An appender, its absences and its time."""

    def __init__(self, last: Heading, patience_ns: int = PATIENCE_NS) -> None:
        self.absences = Absences(patience_ns)
        self.appender = Appender(
            "stocks", "MD", "me", PairStats("stocks", "MD_STOCKS"), "active", TAKEOVER_NS, self.absences
        )
        self.appender.resume(End("made", 1, last, 1), 0, is_idle=True)

    def gather(self, number: int, received_ms: int) -> None:
        """Take an event; the monotonic clock is that of the test's day."""
        frame = b'[{"ev":"T","sym":"A","t":1,"q":%d}]' % number
        self.appender.gather(
            Frames("stocks", received_ms * MS, [frame], {"T": 1}, len(frame)), received_ms * MS
        )

    def sent(self, now_ms: int) -> Message | None:
        """Return what is sent by then."""
        self.appender.seal()
        return self.appender.next_message(now_ms * MS)


def test_the_message_that_tells_waits_for_another_recorder() -> None:
    """It waits for the time of two takeovers; what came before the cut does not, and the next one says nothing."""
    one = Writing(said(990, "me"))
    one.absences.session_changed(opened(991))
    one.absences.told((Away(990, 991, NOT_RUNNING),))
    one.gather(1, 1500)
    one.absences.session_changed(closed(1600, 1500))
    one.absences.session_changed(opened(2000))
    one.gather(2, 2100)
    before = one.sent(2100)
    assert before is not None
    assert (before.events, before.missed) == (1, ())
    one.appender.acknowledged()
    assert one.sent(2100) is None
    assert one.appender.due_ns(2100 * MS) == PATIENCE_NS
    behind = one.sent(4100)
    assert behind is not None
    headers = one.appender.heading(behind).headers()
    assert headers["Missed"] == "1500-2000 disconnected"
    one.appender.refused(2)
    one.appender.absorb(3, Heading(2, 1, 1400 * MS, "me"), encode_frames([b'[{"q":1}]']), 4100 * MS)
    again = one.sent(4100)
    assert again is not None
    assert one.appender.heading(again).headers()["Missed"] == headers["Missed"], "it was not stored"
    one.appender.acknowledged()
    one.gather(3, 4200)
    third = one.sent(4200)
    assert third is not None
    assert third.missed == ()
    assert third.covers == (2000, 4200)


def test_a_standby_that_was_there_leaves_no_gap() -> None:
    """It takes over while the message waits; what it covers is told by nobody."""
    one = Writing(said(990, "me"))
    one.absences.session_changed(opened(991))
    one.absences.told((Away(990, 991, NOT_RUNNING),))
    one.absences.session_changed(closed(1600, 1500))
    one.absences.session_changed(opened(2000))
    one.gather(2, 2100)
    first = one.sent(4100)
    assert first is not None
    assert first.missed
    one.appender.refused(2)
    frames = encode_frames([b'[{"q":1}]'])
    one.appender.absorb(2, Heading(2, 1, 2100 * MS, "other", covers=(500, 2100)), frames, 4100 * MS)
    second = one.sent(4100)
    assert second is not None
    assert second.missed == ()


def test_a_handover_does_not_wait() -> None:
    """Who takes the one connection of two says so at once; with one connection, nobody else could have anything."""
    one = Writing(said(990, "other"))
    one.appender.follow()
    one.appender.claim()
    one.absences.session_changed(opened(2000))
    one.gather(1, 2100)
    message = one.sent(2100)
    assert message is not None
    assert message.gap == HANDED_OVER
    alone = Writing(said(990, "other"), 0)
    alone.absences.session_changed(opened(2000))
    alone.gather(1, 2100)
    told = alone.sent(2100)
    assert told is not None
    assert told.missed == (Away(990, 2000, NOT_RUNNING),)
