"""How far time has come at the exchange: what pings ask, what their pongs prove, what is assumed without them."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from recorder.frames import TIME_PING
from recorder.sources.exchange.passage import PING_INTERVAL_NS, REPEAT_NS, Passage

MS = 1_000_000
SILENCE_MAX_MS = 5000


class Asking:
    """A passage of time, what it announced, and a clock."""

    def __init__(self, silence_max_ms: int = SILENCE_MAX_MS) -> None:
        self.announced: list[int] = []
        self.passage = Passage(self.announced.append, silence_max_ms)
        self.now_ns = 7 * MS

    def ask(self, after_ms: float = 0, *, connected: bool = True) -> bytes | None:
        """Let time pass and ask; return the ping."""
        self.now_ns += int(after_ms * MS)
        self.passage.ask(self.now_ns)
        return self.passage.look(self.now_ns, connected=connected)

    def look(self, *, connected: bool = True) -> bytes | None:
        """Look when it is time to; return the ping."""
        assert self.passage.is_asked
        assert self.passage.look_ns > self.now_ns
        self.now_ns = self.passage.look_ns
        return self.passage.look(self.now_ns, connected=connected)

    def pong(self, payload: bytes | None) -> None:
        """Let a ping be answered."""
        assert payload is not None
        self.passage.answered(payload)


def test_a_pong_proves_the_time_of_its_ping() -> None:
    """Not the time at which it comes; and no other payload proves anything."""
    asking = Asking()
    payload = asking.ask()
    sent_ns = asking.now_ns
    assert payload is not None
    assert payload.startswith(TIME_PING)
    asking.now_ns += 300 * MS
    asking.pong(b"")
    asking.pong(TIME_PING + b"77")
    assert asking.announced == []
    for _ in range(2):
        asking.pong(payload)
        assert asking.announced == [sent_ns]
    assert not asking.passage.is_asked


def test_while_nobody_listens_silence_means_nothing() -> None:
    """A question counts as answered only after the silence of a connection that somebody reads."""
    asking = Asking()
    asking.ask()
    for _ in range(3 * SILENCE_MAX_MS // 1000):
        asking.now_ns += 1000 * MS
        asking.passage.look(asking.now_ns, connected=True, listening=False)
    assert not asking.announced
    while asking.passage.is_asked:
        asking.look()
    assert len(asking.announced) == 1


def test_pings_are_few() -> None:
    """However often the time is asked for: one on its way, one an interval, and one a second where none is answered."""
    asking = Asking()
    pings = []
    for _ in range(1000):
        if (payload := asking.ask(1)) is not None:
            pings.append(payload)
            asking.pong(payload)
    assert len(pings) == 1_000 * MS / PING_INTERVAL_NS
    unanswered = [payload for _ in range(4000) if (payload := asking.ask(1)) is not None]
    assert len(unanswered) == 4_000 * MS / REPEAT_NS


def test_nobody_who_asks_has_no_ping_sent() -> None:
    """Looking alone asks nothing."""
    asking = Asking()
    assert asking.passage.look(asking.now_ns, connected=True) is None
    asking.pong(asking.ask())
    assert asking.passage.look(asking.now_ns + 10_000 * MS, connected=True) is None


def test_one_question_is_enough() -> None:
    """Where no ping may be sent yet, or one of before is on its way, the next look sends it: until all is answered."""
    asking = Asking()
    first = asking.ask()
    assert asking.ask(30) is None
    asking.pong(first)
    assert asking.passage.is_asked
    asking.pong(asking.look())
    assert asking.announced == [7 * MS, 7 * MS + PING_INTERVAL_NS]
    assert not asking.passage.is_asked


def test_an_answer_to_a_later_ping_answers_the_earlier() -> None:
    """A peer may leave out all pongs but the last; an earlier one that comes all the same is nothing then."""
    asking = Asking()
    first = asking.ask()
    second = asking.look()
    assert first is not None
    assert asking.now_ns == 7 * MS + REPEAT_NS
    asking.pong(second)
    asking.pong(first)
    assert asking.announced == [asking.now_ns]


def test_a_new_connection_answers_no_ping_of_the_old_one() -> None:
    """Without a connection there is no ping; on the next one the first comes at once."""
    asking = Asking()
    old = asking.ask()
    asking.passage.connection_lost()
    asking.pong(old)
    assert asking.announced == []
    assert asking.look(connected=False) is None
    asking.pong(asking.passage.look(asking.now_ns, connected=True))
    assert asking.announced == [asking.now_ns]


@given(st.lists(st.integers(1, 900), min_size=1))
def test_what_nobody_answers_is_assumed_in_the_end(steps_ms: list[int]) -> None:
    """The question counts as answered once it has waited for the bound, and not before."""
    asking = Asking()
    asking.ask(connected=False)
    asked_ns = asking.now_ns
    for step_ms in steps_ms:
        asking.ask(step_ms, connected=False)
        if asking.announced:
            break
    waited_ms = (asking.now_ns - asked_ns) / MS
    assert bool(asking.announced) == (waited_ms >= SILENCE_MAX_MS)
    assert asking.announced in ([], [asked_ns])


def test_looking_when_it_is_time_is_enough_to_assume() -> None:
    """With a connection that answers nothing, and without one: a look a second."""
    for connected in (True, False):
        asking = Asking()
        asking.ask(connected=connected)
        looks = 0
        while asking.passage.is_asked:
            asking.look(connected=connected)
            looks += 1
        assert asking.announced == [7 * MS]
        assert looks == SILENCE_MAX_MS * MS / REPEAT_NS


def test_without_patience_time_passes_as_it_is_asked_for() -> None:
    """With a bound of nothing, every question is its own answer."""
    asking = Asking(0)
    assert asking.ask(500) is None
    assert asking.announced == [507 * MS]


def test_a_process_that_was_held_up_has_not_waited() -> None:
    """What came meanwhile has not been read: an hour of it counts for a second."""
    asking = Asking()
    asking.ask(connected=False)
    asking.ask(3_600_000, connected=False)
    asking.ask(SILENCE_MAX_MS - 1001, connected=False)
    assert not asking.announced
