"""Topics and patterns: the grammar, and what is matched."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recorder.polygon.topics import Pattern, Topic, parse_pattern, parse_topic

CHANNELS = st.from_regex(r"[A-Z][A-Za-z0-9]{0,5}", fullmatch=True).filter(
    lambda code: code not in {"O", "I", "X"}
)
SYMBOLS = st.text(
    st.characters(codec="utf-8", exclude_categories=("C", "Z"), exclude_characters=",*/"),
    min_size=1,
    max_size=30,
).filter(str.isprintable)


@pytest.mark.parametrize(
    ("text", "topic"),
    [
        ("T.AAPL", ("T", "AAPL")),
        ("T:AAPL", ("T", "AAPL")),
        (" T.MSFT ", ("T", "MSFT")),
        ("T.*", ("T", "*")),
        ("T:*", ("T", "*")),
        ("T.BRK.B", ("T", "BRK.B")),
        ("T:BRK.B", ("T", "BRK.B")),
        ("Q.O:SPY241220P00720000", ("Q", "O:SPY241220P00720000")),
        ("V.I:SPX", ("V", "I:SPX")),
        ("V:I:SPX", ("V", "I:SPX")),
        ("XT.X:BTC-USD", ("XT", "X:BTC-USD")),
        ("C.EUR/USD", ("C", "EUR-USD")),
        ("T.T", ("T", "T")),
        ("AM.NULL", ("AM", "NULL")),
        ("T.NQH7-NQM7", ("T", "NQH7-NQM7")),
        ("T.JPMpC", ("T", "JPMpC")),
    ],
)
def test_a_topic_is_split_at_its_first_separator(text: str, topic: tuple[str, str]) -> None:
    """Symbols with dots and colons of their own, and those that look like channels, stay whole."""
    assert parse_topic(text) == Topic(*topic)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("AAPL", "such as T.AAPL"),
        ("", "such as T.AAPL"),
        ("*", "such as T.AAPL"),
        ("T.", "no symbol"),
        (".AAPL", "a channel is"),
        ("t.AAPL", "a channel is"),
        ("*.AAPL", "a channel is"),
        ("T X.AAPL", "a channel is"),
        ("T.AA*", "whole symbol"),
        ("T.**", "whole symbol"),
        ("T.A,B", "no comma"),
        ("T.A B", "no comma"),
        ("T.A\x00", "no comma"),
        ("T.A\u2028B", "no comma"),
        ("O:SPY241220P00720000", "symbol without a channel"),
        ("I:SPX", "symbol without a channel"),
    ],
)
def test_what_is_no_topic_is_refused_in_words(text: str, words: str) -> None:
    """The error says what was written and what is expected."""
    with pytest.raises(ValueError, match=words) as caught:
        parse_topic(text)
    assert repr(text) in str(caught.value)


def test_both_separators_mean_one_topic() -> None:
    """`T:AAPL` and `T.AAPL` are one topic."""
    assert parse_topic("T:AAPL") == parse_topic("T.AAPL") == Topic("T", "AAPL")


@pytest.mark.parametrize(
    ("text", "pattern"),
    [
        ("*", ("*", "*")),
        ("T:ES*", ("T", "ES*")),
        ("T.ES*", ("T", "ES*")),
        ("T:*", ("T", "*")),
        ("*:AAPL", ("*", "AAPL")),
        ("*:ES*", ("*", "ES*")),
        ("Q:BRK.B", ("Q", "BRK.B")),
        ("T.O:SPY*", ("T", "O:SPY*")),
        ("V:I:SPX", ("V", "I:SPX")),
    ],
)
def test_patterns_are_read(text: str, pattern: tuple[str, str]) -> None:
    """Both separators, a wildcard for the channel, and a wildcard at the end of the symbol."""
    assert parse_pattern(text) == Pattern(*pattern)


@pytest.mark.parametrize(
    "text", ["", "T", "ES*", "T:", "T*:AAPL", "T:*S", "T:E*S", "T:**", "t:ES*", "T:A B", "O:SPY*"]
)
def test_what_is_no_pattern_is_refused_in_words(text: str) -> None:
    """The error repeats what was written."""
    with pytest.raises(ValueError, match=r"channel|symbol") as caught:
        parse_pattern(text)
    assert repr(text) in str(caught.value)


@pytest.mark.parametrize(
    ("pattern", "channel", "symbol", "matches"),
    [
        ("T:ES*", "T", "ESZ4", True),
        ("T:ES*", "T", "ES", True),
        ("T:ES*", "T", "NQ", False),
        ("T:ES*", "Q", "ESZ4", False),
        ("A:*", "AM", "AAPL", False),
        ("AM:*", "A", "AAPL", False),
        ("*:AAPL", "LULD", "AAPL", True),
        ("*:AAPL", "T", "AAPLW", False),
        ("*", "NOI", "", True),
        ("T:AAPL", "T", "aapl", False),
        ("C:EUR-USD", "C", "EUR/USD", True),
        ("C:EUR/USD", "C", "EUR/USD", True),
        ("C:EUR/*", "C", "EUR/USD", True),
    ],
)
def test_patterns_match(pattern: str, channel: str, symbol: str, matches: bool) -> None:
    """The channel is compared whole, the symbol whole or by its beginning, case included."""
    assert parse_pattern(pattern).matches(channel, symbol) is matches


@given(CHANNELS, SYMBOLS)
def test_topics_and_patterns_survive_their_text(channel: str, symbol: str) -> None:
    """`parse(str(x)) == x`, and what is asked for is what its pattern matches."""
    topic = Topic(channel, symbol)
    assert parse_topic(str(topic)) == topic
    pattern = Pattern(channel, symbol)
    assert parse_pattern(str(pattern)) == pattern
    assert pattern.matches(channel, symbol)


@given(st.text(max_size=20))
def test_any_text_is_read_or_refused(text: str) -> None:
    """Nothing but ValueError leaves the parsers, and nothing that cannot be sent leaves `parse_topic`."""
    try:
        topic = parse_topic(text)
    except ValueError:
        pass
    else:
        assert not set(", \n\t") & set(str(topic))
    try:
        pattern = parse_pattern(text)
    except ValueError:
        return
    assert parse_pattern(str(pattern)) == pattern
