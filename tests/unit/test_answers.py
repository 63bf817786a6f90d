"""What the exchange says of topics, from its statuses to the changes that clients are told."""

from __future__ import annotations

from collections.abc import Iterable

from recorder.polygon import control
from recorder.polygon.client import ClientSession
from recorder.polygon.rows import Status
from recorder.sources.exchange.answers import NOT_AUTHORIZED, Answers, Change

WAIT_SECS = 10.0


class Bench:
    """A feed whose connections follow each other, and what was told."""

    def __init__(self, *topics: str) -> None:
        self.told: dict[str, str] = {}
        self.now_secs = 100.0
        self.connect(topics)

    def connect(self, topics: Iterable[str]) -> None:
        """Begin another connection."""
        self.session = ClientSession("KEY", topics)
        self.session.receive(control.CONNECTED)
        self.session.receive(control.AUTH_SUCCESS)
        self.answers = Answers(self.session, self.told)

    def acknowledge(self, topic: str) -> None:
        """Have the exchange acknowledge a topic."""
        self.session.receive(control.acknowledgement("subscribed", topic))

    def look(self, secs: float = 0.0, *, acknowledges: bool = True) -> list[Change]:
        """Let time pass, and look."""
        self.now_secs += secs
        return list(self.answers.look(int(self.now_secs * 1e9), WAIT_SECS, acknowledges=acknowledges))


def test_a_refusal_is_told_once() -> None:
    """Topics that share a reason are told together."""
    bench = Bench("T.A", "T.B", "T.C")
    assert bench.look() == []
    bench.acknowledge("T.B")
    for _ in range(2):
        bench.session.receive(control.NOT_AUTHORIZED)
    assert bench.look(1) == [Change(("T.A", "T.C"), NOT_AUTHORIZED)]
    assert bench.look(100) == []


def test_silence_is_told_once_it_has_lasted() -> None:
    """Each topic has its own time, from when it was asked for."""
    bench = Bench("T.A")
    bench.acknowledge("T.A")
    bench.session.subscribe(["ODD.A"])
    assert bench.look() == []
    bench.session.subscribe(["ODD.B"])
    assert bench.look(5) == []
    [first] = bench.look(5)
    assert first.topics == ("ODD.A",)
    assert "not acknowledged it within 10 s" in first.refusal
    [second] = bench.look(5)
    assert second.topics == ("ODD.B",)


def test_silence_of_an_exchange_that_acknowledges_nothing_means_nothing() -> None:
    """Its data comes all the same."""
    bench = Bench("T.A")
    bench.look()
    assert bench.look(60, acknowledges=False) == []


def test_a_reconnect_leaves_refused_topics_refused() -> None:
    """They are asked for again, and what is told anew is what has changed."""
    bench = Bench("T.A", "T.B")
    for _ in range(2):
        bench.session.receive(control.NOT_AUTHORIZED)
    assert bench.look() == [Change(("T.A", "T.B"), NOT_AUTHORIZED)]
    bench.connect(["T.A", "T.B"])
    assert bench.look() == []
    bench.acknowledge("T.A")
    bench.session.receive(control.NOT_AUTHORIZED)
    assert bench.look(1) == [Change(("T.A",), "")]
    assert bench.look(1) == []


def test_what_is_given_back_is_no_longer_refused() -> None:
    """Whoever asks for it then is told what the exchange says then."""
    bench = Bench("T.A")
    bench.session.receive(control.NOT_AUTHORIZED)
    bench.look()
    bench.session.unsubscribe(["T.A"])
    assert bench.look(1) == [Change(("T.A",), "")]
    bench.session.subscribe(["T.A"])
    bench.session.receive(control.NOT_AUTHORIZED)
    assert bench.look(1) == [Change(("T.A",), NOT_AUTHORIZED)]


def test_the_words_of_another_recorder_are_passed_on() -> None:
    """It has said already that nothing will come."""
    bench = Bench("T.A")
    bench.acknowledge("T.A")
    bench.session.receive(Status("error", f"T.A: {control.NOTHING_COMES}its plan"))
    assert bench.look(1) == [Change(("T.A",), "its plan")]
