"""What clients of the filtered and bars ports may ask for."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recorder.polygon.rows import Status
from recorder.polygon.server import Verdict
from recorder.servers.promises import upstream_topics
from recorder.servers.topics import TOPIC_CHARS_MAX, BarTopic, TopicPolicy, parse_bar_topic


def policy(*, bars_only: bool = False, bars_ms: tuple[int, int] | None = (10, 60_000)) -> TopicPolicy:
    return TopicPolicy(
        lambda token: None,
        1000,
        bars_ms=bars_ms,
        bars_only=bars_only,
    )


GOOD = [
    "*",
    "T.*",
    "T.AAPL",
    "T.BRK.B",
    "T.A",
    "T.T",
    "AM.AM",
    "T.NULL",
    "LULD.*",
    "Q.O:SPY241220P00720000",
    "V.I:SPX",
    "XT.X:BTC-USD",
    "C.EUR-USD",
    "C.EUR/USD",
    "T.NQH7-NQM7",
    "10Ms.AAPL",
    "60000Ms.*",
    "100Ms.BRK.B",
    "100Ms.X:BTC-USD",
]
BAD = [
    "",
    ".",
    "AAPL",
    "T.",
    ".AAPL",
    "t.AAPL",
    "T.A*",
    "T.*.B",
    "*.AAPL",
    "T:AAPL",
    "O:SPY241220P00720000",
    "T.A B",
    "T.A\x07",
    "9Ms.AAPL",
    "60001Ms.AAPL",
    "0Ms.AAPL",
    "010Ms.AAPL",
    "-10Ms.AAPL",
    "100ms.AAPL",
    "100Ms",
    "100Ms.",
    "100Ms.A*",
    "100Ms.A B",
    "9999999999999Ms.AAPL",
    "T." + "A" * TOPIC_CHARS_MAX,
    "100Ms." + "A" * 10_000,
]


@pytest.mark.parametrize("topic", GOOD)
def test_good_topics_are_held_and_acknowledged(topic: str) -> None:
    """In the vendor's words, with the topic as it was sent."""
    assert policy().check(topic) == Verdict(True, Status("success", f"subscribed to: {topic}"))


@pytest.mark.parametrize("topic", BAD)
def test_bad_topics_are_refused_by_name(topic: str) -> None:
    """The error begins with the topic, shortened where it is long, and says what is wrong."""
    held, answer = policy().check(topic)
    assert not held
    assert answer is not None
    assert answer.status == "error"
    assert answer.message.startswith(topic[:60])
    assert len(topic[:60]) + 5 < len(answer.message) < 250


@given(st.text(max_size=80))
def test_any_text_gets_an_answer(topic: str) -> None:
    """Nothing raises, and what is not held is an error."""
    held, answer = policy().check(topic)
    assert answer is not None
    assert answer.status == ("success" if held else "error")


@pytest.mark.parametrize("topic", ["T.AAPL", "Q.*", "*", "LULD.*"])
def test_the_bars_port_names_what_it_refuses(topic: str) -> None:
    """Only bars and aggregates are there; the error says so and names the topic."""
    held, answer = policy(bars_only=True).check(topic)
    assert not held
    assert answer is not None
    assert answer.message.startswith(topic)
    assert "100Ms." in answer.message
    for good in ("A.*", "AM.AAPL", "XAS.*", "CA.EUR-USD", "100Ms.AAPL"):
        assert policy(bars_only=True).check(good).held


def test_a_recorder_without_bars_says_so() -> None:
    """An application that waits for bars is told that none will come."""
    held, answer = policy(bars_ms=None).check("100Ms.AAPL")
    assert not held
    assert answer == Status("error", "100Ms.AAPL: this recorder makes no bars")


@given(st.integers(1, 999_999_999), st.from_regex(r"[A-Z:./-]{1,20}", fullmatch=True))
def test_bar_topics_survive_the_wire(interval_ms: int, symbol: str) -> None:
    """The text of a bar topic is read back as the same topic."""
    topic = BarTopic(interval_ms, symbol)
    assert parse_bar_topic(str(topic)) == topic


def test_what_must_flow_for_bars() -> None:
    """Bars are made of trades, so these must come from upstream; forex and indices have none."""
    assert upstream_topics("stocks", ["Q.A", "100Ms.A", "100Ms.*"]) == ["Q.A", "T.A", "T.*"]
    assert upstream_topics("crypto", ["100Ms.BTC-USD"]) == ["XT.BTC-USD"]
    assert upstream_topics("forex", ["100Ms.EUR-USD", "C.*"]) == ["C.*"]
