"""How far time has come at the exchange: what pings ask, and what their pongs prove."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from recorder.frames import TIME_PING
from recorder.upstream.passage import PING_INTERVAL_SECS, REPEAT_SECS, Passage

MS = 1_000_000
SILENCE_MAX_MS = 5000


class Asking:
    """A passage of time, what it announced, and a clock."""

    def __init__(self) -> None:
        self.announced: list[int] = []
        self.passage = Passage(self.announced.append, SILENCE_MAX_MS)
        self.now_ns = 7 * MS

    def ask(self, after_ms: float = 0, *, connected: bool = True) -> bytes | None:
        self.now_ns += int(after_ms * MS)
        return self.passage.ask(self.now_ns, connected=connected)

    def pong(self, payload: bytes | None) -> None:
        assert payload is not None
        until_ns = self.passage.answered(payload)
        assert until_ns is not None
        self.passage.advance(until_ns)


def test_a_pong_proves_the_time_of_its_ping() -> None:
    """Not the time at which it comes; and no other payload proves anything."""
    asking = Asking()
    payload = asking.ask()
    sent_ns = asking.now_ns
    assert payload is not None
    assert payload.startswith(TIME_PING)
    asking.now_ns += 300 * MS
    assert asking.passage.answered(b"") is None
    assert asking.passage.answered(TIME_PING + b"77") is None
    asking.pong(payload)
    assert asking.announced == [sent_ns]
    assert asking.passage.answered(payload) is None


def test_pings_are_few() -> None:
    """However often the time is asked for: one on its way, one an interval, and one a second where none is answered."""
    asking = Asking()
    pings = []
    for _ in range(1000):
        if (payload := asking.ask(1)) is not None:
            pings.append(payload)
            asking.pong(payload)
    assert len(pings) == 1 / PING_INTERVAL_SECS
    unanswered = [payload for _ in range(4000) if (payload := asking.ask(1)) is not None]
    assert len(unanswered) == 4 / REPEAT_SECS


def test_an_answer_to_a_later_ping_answers_the_earlier() -> None:
    """A peer may leave out all pongs but the last; an earlier one that comes all the same is nothing then."""
    asking = Asking()
    first = asking.ask()
    second = asking.ask(1000 * REPEAT_SECS)
    assert first is not None
    asking.pong(second)
    assert asking.announced == [asking.now_ns]
    assert asking.passage.answered(first) is None


def test_a_new_connection_answers_no_ping_of_the_old_one() -> None:
    """Without a connection there is no ping; on the next one the first comes at once."""
    asking = Asking()
    old = asking.ask()
    assert old is not None
    asking.passage.connection_lost()
    assert asking.passage.answered(old) is None
    assert asking.ask(500, connected=False) is None
    asking.pong(asking.ask(10))
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


def test_a_process_that_was_held_up_has_not_waited() -> None:
    """What came meanwhile has not been read: an hour of it counts for a second."""
    asking = Asking()
    asking.ask(connected=False)
    asking.ask(3_600_000, connected=False)
    asking.ask(SILENCE_MAX_MS - 1001, connected=False)
    assert not asking.announced
