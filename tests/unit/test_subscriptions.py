"""The index from topics to audiences."""

from __future__ import annotations

import gc
import weakref

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recorder.servers import subscriptions
from recorder.servers.subscriptions import Subscriptions, spellings

CHANNELS = ["T", "Q", "AM"]
SYMBOLS = ["AAPL", "BRK.B", "T", "AM", "A"]
PAIRS = ["EUR/USD", "EUR-USD", "C:EUR-USD", "USD/JPY"]

Event = tuple[str, str]


def topics_of(symbols: list[str]) -> st.SearchStrategy[str]:
    return st.one_of(
        st.just("*"),
        st.builds("{}.{}".format, st.sampled_from(CHANNELS), st.sampled_from([*symbols, "*"])),
    )


def steps_of(symbols: list[str]) -> st.SearchStrategy[list[tuple[str, int, list[str]]]]:
    return st.lists(
        st.tuples(
            st.sampled_from(["subscribe", "unsubscribe", "forget", "pass"]),
            st.integers(0, 3),
            st.lists(topics_of(symbols), max_size=4),
        ),
        max_size=25,
    )


def matches(cluster: str, topics: set[str], event: Event) -> bool:
    """Decide for one client and one event, topic by topic."""
    channel, symbol = event
    for topic in topics:
        wanted_channel, _, wanted = topic.partition(".")
        if topic == "*" or (wanted_channel == channel and wanted in ("*", symbol)):
            return True
        if cluster == "forex" and wanted_channel == channel:
            forms = {name.removeprefix("C:").replace("/", "-") for name in (wanted, symbol)}
            if len(forms) == 1:
                return True
    return False


def served(index: Subscriptions[int], events: list[Event]) -> dict[int, list[int]]:
    """Run one pass; return the places of the events that each client gets."""
    got = {client: list(range(len(events))) for client in index.everybody()}
    for clients, places in index.match(
        [channel for channel, _ in events], [symbol for _, symbol in events], range(len(events))
    ):
        for client in clients:
            got.setdefault(client, []).extend(places)
    return got


@pytest.mark.parametrize(("cluster", "symbols"), [("stocks", SYMBOLS), ("forex", PAIRS)])
@given(data=st.data())
@settings(deadline=None, max_examples=150)
def test_each_client_gets_what_its_topics_match(
    cluster: str, symbols: list[str], data: st.DataObject
) -> None:
    """Exactly these events, each once and in order, whatever overlaps, changes, leaves and comes back in between."""
    index: Subscriptions[int] = Subscriptions(cluster)
    held: dict[int, set[str]] = {}
    events = [(channel, symbol) for channel in CHANNELS for symbol in [*symbols, "ELSE"]]
    for step, client, topics in [*data.draw(steps_of(symbols)), ("pass", 0, [])]:
        if step == "subscribe":
            index.subscribe(client, topics)
            held.setdefault(client, set()).update(topics)
        elif step == "unsubscribe":
            index.unsubscribe(client, topics)
            held.setdefault(client, set()).difference_update(topics)
        elif step == "forget":
            index.forget(client)
            held.pop(client, None)
        else:
            expected = {
                client: places
                for client, topics in held.items()
                if (
                    places := [place for place, event in enumerate(events) if matches(cluster, topics, event)]
                )
            }
            assert served(index, events) == expected
            different = {frozenset(topics) for topics in held.values() if topics}
            assert index.audiences_count == len(different)
            assert index.topics.keys() == {client for client, topics in held.items() if topics}


def test_equal_topics_share_an_audience() -> None:
    """Clients that hold the same, in whatever order they asked, are served the same bytes."""
    index: Subscriptions[int] = Subscriptions("stocks")
    index.subscribe(1, ["T.A", "Q.*"])
    index.subscribe(2, ["Q.*"])
    index.subscribe(2, ["T.A"])
    [(clients, places)] = index.match(["T"], ["A"], [0])
    assert sorted(clients) == [1, 2]
    assert places == [0]
    assert repr(index) == "Subscriptions(stocks, 2 clients, 1 audiences)"


class Somebody:
    """A client that can be asked whether it is still there."""


@pytest.mark.parametrize("passes", [0, 1])
@pytest.mark.parametrize("goodbye", ["forget", "unsubscribe"])
def test_nothing_is_kept_of_who_left(passes: int, goodbye: str) -> None:
    """Also when no pass comes afterwards: clients that come and go in a quiet night cost nothing."""
    index: Subscriptions[Somebody] = Subscriptions("stocks")
    client = Somebody()
    gone = weakref.ref(client)
    index.subscribe(client, ["T.A", "Q.*", "*"])
    for _ in range(passes):
        index.match(["T"], ["A"], [0])
    if goodbye == "forget":
        index.forget(client)
    else:
        index.unsubscribe(client, ["T.A", "Q.*", "*"])
    del client
    gc.collect()
    assert gone() is None
    assert index.match(["T"], ["A"], [0]) == []
    assert index.everybody() == []
    assert index.audiences_count == 0
    # Channels are whatever clients ask for: nothing of a name may stay behind.
    assert not index._symbols
    assert not index._everything


def test_one_topic_more_costs_one_topic() -> None:
    """A client that holds very many topics and changes one does not cause all of them to be indexed again."""
    index: Subscriptions[int] = Subscriptions("options")
    index.subscribe(1, [f"T.O:{number}" for number in range(10_000)])
    index.match([], [], [])
    [(before, _)] = index.match(["T"], ["O:1"], [0])
    index.subscribe(1, ["T.O:SPY"])
    index.unsubscribe(1, ["T.O:1"])
    [(after, places)] = index.match(["T", "T"], ["O:SPY", "O:1"], [0, 1])
    assert after is before
    assert places == [0]


def test_a_pass_that_was_not_delivered_takes_nothing_from_the_next_one() -> None:
    """What one pass found is kept by its caller alone, so that a delivery that raises starves nobody."""
    index: Subscriptions[int] = Subscriptions("stocks")
    index.subscribe(1, ["T.*"])
    index.subscribe(2, ["T.A"])
    events = [("T", "A"), ("T", "B")]
    index.match(["T", "T"], ["A", "B"], [0, 1])
    assert served(index, events) == {1: [0, 1], 2: [0]}
    with pytest.raises(ValueError, match="zip"):
        index.match(["T", "T"], ["A"], [0, 1])
    with pytest.raises(TypeError):
        index.match(["T", []], ["A", "B"], [0, 1])  # type: ignore[list-item]
    assert served(index, events) == {1: [0, 1], 2: [0]}


@pytest.mark.parametrize(
    ("cluster", "asked", "delivered"),
    [
        ("forex", "EUR-USD", "EUR/USD"),
        ("forex", "EUR/USD", "EUR/USD"),
        ("forex", "C:EUR-USD", "EUR/USD"),
        ("forex", "EUR-USD", "C:EUR-USD"),
        ("crypto", "X:BTC-USD", "BTC-USD"),
        ("crypto", "BTC-USD", "X:BTC-USD"),
        ("options", "O:SPY241220P00720000", "O:SPY241220P00720000"),
        ("indices", "I:SPX", "I:SPX"),
        ("stocks", "BRK/A", "BRK/A"),
    ],
)
def test_spellings(cluster: str, asked: str, delivered: str) -> None:
    """A pair is found under every form in which it is asked for and delivered; other symbols have one form."""
    assert delivered in spellings(cluster, asked)
    if cluster not in ("forex", "crypto"):
        assert spellings(cluster, asked) == {asked}


def test_giving_back_one_spelling_keeps_the_other() -> None:
    """A client that asked for a pair in two ways, and then for it in one, still gets it."""
    index: Subscriptions[int] = Subscriptions("forex")
    index.subscribe(1, ["C.EUR-USD", "C.EUR/USD"])
    assert served(index, [("C", "EUR/USD")]) == {1: [0]}
    index.unsubscribe(1, ["C.EUR/USD"])
    assert served(index, [("C", "EUR/USD")]) == {1: [0]}
    index.unsubscribe(1, ["C.EUR-USD"])
    assert served(index, [("C", "EUR/USD")]) == {}


def test_a_bounded_number_of_answers_is_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many symbols come, the number of answers kept is bounded, and each answer is right."""
    monkeypatch.setattr(subscriptions, "_MATCHES_MAX", 10)
    index: Subscriptions[int] = Subscriptions("options")
    index.subscribe(1, ["T.O:7"])
    for number in range(100):
        assert served(index, [("T", f"O:{number}"), ("T", "O:7")]) == {1: [0, 1] if number == 7 else [1]}
        assert sum(map(len, index._matches.values())) <= 10
