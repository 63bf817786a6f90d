"""Who is connected to the exchange, of two recorders with one key: nobody connects while the other one lives."""

from __future__ import annotations

import pytest

from recorder.bus import SessionClosed, SessionOpened
from recorder.ledger import PairStats
from recorder.settings.nats import NatsRole
from recorder.sinks.nats.absences import Absences
from recorder.sinks.nats.appender import Appender
from recorder.sinks.nats.claim import Claim
from recorder.sources.turn import Turn
from recorder.stream_message import End, Heading

TAKEOVER_NS = 10**9
OPENED = SessionOpened("stocks", 0)
CLOSED = SessionClosed("stocks", 0, "disconnected", 0)


class Fixture:
    """A claim that listens since the moment 0."""

    def __init__(self, role: NatsRole = "standby") -> None:
        self.appender = Appender(
            "stocks", "MD", "me", PairStats("stocks", "MD_STOCKS"), role, TAKEOVER_NS, Absences(0)
        )
        self.appender.resume(End("made", 10, Heading(91, 10, 0, "other"), 10), 0, is_idle=True)
        self.turn = Turn(is_given=role == "active")
        self.claim = Claim(self.appender, self.turn, TAKEOVER_NS)
        self.claim.listen(0)

    def connect(self, now_ns: int) -> None:
        """Take the turn, and have data."""
        self.claim.look(now_ns)
        assert self.turn.is_given
        self.claim.session_changed(OPENED, now_ns)


@pytest.fixture
def one() -> Fixture:
    """Return a standby."""
    return Fixture()


def test_it_waits_while_the_other_one_lives(one: Fixture) -> None:
    """Each sign of life counts; silence for the time of a takeover gives it the turn, and the next message says so."""
    for at_ns in range(0, 10 * TAKEOVER_NS, TAKEOVER_NS // 2):
        one.claim.hear("other", at_ns)
        assert not one.claim.look(at_ns)
    assert not one.turn.is_given
    one.claim.look(at_ns + TAKEOVER_NS - 1)
    assert not one.turn.is_given
    one.claim.look(at_ns + TAKEOVER_NS)
    assert one.turn.is_given
    assert (one.appender.leads, one.appender.gap) == (True, "handed over")


def test_it_gives_signs_of_life_while_it_has_data(one: Fixture) -> None:
    """Four in the time of a takeover; its own are none of another."""
    one.connect(TAKEOVER_NS)
    signs = [
        at_ns for at_ns in range(TAKEOVER_NS, 3 * TAKEOVER_NS, TAKEOVER_NS // 100) if one.claim.look(at_ns)
    ]
    assert len(signs) == 8
    one.claim.hear("me", 3 * TAKEOVER_NS)
    assert one.turn.is_given


def test_after_a_loss_it_listens_first(one: Fixture) -> None:
    """The other one may have been the reason; where it was not, this one goes on, and nothing was handed over."""
    one.connect(TAKEOVER_NS)
    one.appender.note_purge()
    one.claim.session_changed(CLOSED, 5 * TAKEOVER_NS)
    assert not one.turn.is_given
    assert not one.claim.look(6 * TAKEOVER_NS - 1)
    assert not one.turn.is_given
    one.claim.look(6 * TAKEOVER_NS)
    assert one.turn.is_given
    assert one.appender.stats.takeovers == 1


def test_it_gives_up_before_one_that_has_data(one: Fixture) -> None:
    """While it tries to connect, and when the other one has appended."""
    one.claim.look(TAKEOVER_NS)
    one.claim.hear("other", TAKEOVER_NS + 1)
    assert not one.turn.is_given
    assert not one.appender.leads
    other = Fixture("active")
    other.connect(0)
    other.appender.follow()
    assert not other.claim.look(1)
    assert not other.turn.is_given


def test_a_feed_is_told_of_the_end_of_its_turn(one: Fixture) -> None:
    """Once, however often it is said."""
    told: list[str] = []
    one.turn.on_end = lambda: told.append("end")
    one.claim.look(TAKEOVER_NS)
    one.turn.end()
    one.turn.end()
    assert told == ["end"]
