"""Amended bars: late trades change bars that were sent, within bounds, and clients that did not ask see nothing."""

from __future__ import annotations

import json
from typing import Any

import pytest
from bar_feeds import CENTS, SIZES, SYMBOLS, T0, Feed, Sent, assert_equal, expected_bars, unhurried
from hypothesis import given
from hypothesis import strategies as st

from recorder.bars import LEAP_TRADES, Bar
from recorder.bars.conditions import StockRule

AMEND_MS = 60_000
INTERVALS_MS = (10, 100, 1000)


def newest(bars: list[Bar]) -> dict[tuple[int, str, int], Bar]:
    """Return the last bar of each window, as a client does that replaces what it has."""
    return {(bar.end_ms, bar.symbol, bar.interval_ms): bar for bar in bars}


def first(bars: list[Bar]) -> list[Bar]:
    """Return the bars that were sent the first time."""
    return [bar for bar in bars if not bar.rev]


@st.composite
def late_arrivals(draw: st.DrawFn) -> list[Sent]:
    """Return trades of which some come seconds late."""
    time_ms = T0 + 5000
    trades = []
    for step_ms in draw(st.lists(st.integers(0, 200), min_size=1, max_size=40)):
        time_ms += step_ms
        age_ms = draw(st.sampled_from([0, 0, 5, 90, 700, 4000]))
        trades.append(Sent(time_ms - age_ms, draw(SYMBOLS), draw(CENTS), draw(SIZES)))
    return trades


@unhurried
@given(late_arrivals(), st.sampled_from(INTERVALS_MS))
def test_amended_bars_equal_those_of_all_trades(trades: list[Sent], interval_ms: int) -> None:
    """Open, high, low, close, volume, weighted price and count are those of the sorted trades, none left out."""
    feed = Feed((interval_ms, None), amend_ms=AMEND_MS)
    for trade in trades:
        feed.send(trade)
    feed.end()
    expected, late = expected_bars(trades, interval_ms, delay_ms=10**6)
    assert late == 0
    amended = newest(feed.bars)
    assert_equal([amended[key] for key in sorted(amended)], expected)
    assert feed.stats.too_late == 0


@unhurried
@given(late_arrivals(), st.data())
def test_who_did_not_ask_sees_no_change(trades: list[Sent], data: st.DataObject) -> None:
    """The first bar of each window is what it is without amendments: same bytes, same order, whatever the batches."""
    wanted = [(10, None), (100, "AAPL"), (1000, None)]
    plain, amending = Feed(*wanted), Feed(*wanted, amend_ms=AMEND_MS)
    rest = trades
    while rest:
        count = data.draw(st.integers(1, len(rest)))
        for feed in (plain, amending):
            feed.send(*rest[:count])
        rest = rest[count:]
    plain.end()
    amending.end()
    in_time = {(bar.end_ms, bar.symbol, bar.interval_ms) for bar in plain.bars}
    assert first(amending.bars) == plain.bars
    assert {*newest(amending.bars)} >= in_time
    counts = [(feed.stats.late, feed.stats.in_bars, feed.stats.bars) for feed in (plain, amending)]
    assert counts[0] == counts[1]


@unhurried
@given(late_arrivals())
def test_revisions_count_up_and_change_something(trades: list[Sent]) -> None:
    """Each time a bar is sent again its number is the next, it says so, and it is not what was sent before."""
    feed = Feed((100, None), amend_ms=AMEND_MS)
    for trade in trades:
        feed.send(trade)
    feed.end()
    seen: dict[tuple[int, str], dict[str, Any]] = {}
    for bar in feed.bars:
        value = json.loads(bar.data)
        key = (bar.end_ms, bar.symbol)
        assert value.pop("amended", False) == bool(bar.rev)
        assert value.pop("rev", 0) == bar.rev
        if key in seen:
            assert bar.rev == seen[key]["rev"] + 1
            assert seen[key]["value"] != value
        else:
            assert bar.rev in (0, 1)
        seen[key] = {"rev": bar.rev, "value": value}
    assert feed.stats.amended == sum(bar.rev > 0 for bar in feed.bars)


def test_an_amended_bar_is_the_bar_with_two_keys_more() -> None:
    """Byte for byte as the protocol has it."""
    feed = Feed((100, "AAPL"), amend_ms=AMEND_MS)
    feed.send(Sent(T0 + 150, price="2", size="3"), Sent(T0 + 300, "CLOCK"))
    feed.send(Sent(T0 + 120, price="5", size="1"))
    assert [bar.data for bar in feed.bars] == [
        b'{"ev":"MB","T":"b","sym":"AAPL","S":"AAPL","interval":100,"o":2,"h":2,"l":2,"c":2,"v":3,"vw":2,"n":1,'
        b'"s":1790000000100,"e":1790000000200,"t":1790000000100}',
        b'{"ev":"MB","T":"b","sym":"AAPL","S":"AAPL","interval":100,"o":5,"h":5,"l":2,"c":2,"v":4,"vw":2.75,"n":2,'
        b'"s":1790000000100,"e":1790000000200,"t":1790000000100,"amended":true,"rev":1}',
    ]


def test_the_late_trades_of_a_batch_make_one_amendment() -> None:
    """Also those of the batch that closed the window: the bar comes first as it was, then as it is."""
    feed = Feed((100, "AAPL"), amend_ms=AMEND_MS)
    feed.send(Sent(T0 + 150), Sent(T0 + 300, "CLOCK"), Sent(T0 + 160), Sent(T0 + 170))
    feed.send(Sent(T0 + 110), Sent(T0 + 120))
    assert [(bar["n"], bar.get("rev")) for bar in feed.values] == [(1, None), (3, 1), (5, 2)]


def test_a_window_whose_trades_all_came_late_gets_a_bar() -> None:
    """There was none; whoever asked for amendments has all windows with trades in the end."""
    feed = Feed((100, "AAPL"), amend_ms=AMEND_MS)
    feed.send(Sent(T0 + 500), Sent(T0 + 250))
    assert [(bar["s"] - T0, bar["rev"]) for bar in feed.values] == [(200, 1)]


def test_what_changes_no_bar_sends_none() -> None:
    """A late trade whose conditions let it update nothing, or no price, leaves the bar as it was sent."""
    feed = Feed((100, "AAPL"), rule=StockRule(), amend_ms=AMEND_MS)
    feed.send(Sent(T0 + 150), Sent(T0 + 110, more=',"c":[37]'), Sent(T0 + 500, "CLOCK"))
    feed.send(Sent(T0 + 160, more=',"c":[15]'), Sent(T0 + 120, more=',"c":[38]'))
    assert [bar.get("rev") for bar in feed.values] == [None]
    feed.send(Sent(T0 + 170, more=',"c":[22]'))
    assert [(bar["n"], bar.get("rev")) for bar in feed.values] == [(2, None), (3, 1)]


def test_a_late_trade_may_be_the_first_that_sets_a_price() -> None:
    """Odd lots alone make no bar; with a late round lot they do, and count in its volume."""
    feed = Feed((100, "AAPL"), rule=StockRule(), amend_ms=AMEND_MS)
    feed.send(Sent(T0 + 150, size="3", more=',"c":[37]'), Sent(T0 + 500, "CLOCK"))
    assert feed.values == []
    feed.send(Sent(T0 + 160, price="7", size="100"))
    assert [(bar["o"], bar["v"], bar["rev"]) for bar in feed.values] == [(7, 103, 1)]


def test_time_ends_it() -> None:
    """Up to the bound, in event time, a bar is amended; from then on its late trades are too late, and counted."""
    feed = Feed((100, "AAPL"), amend_ms=1000)
    feed.send(Sent(T0 + 150), Sent(T0 + 200 + 1000 + 19, "CLOCK"), Sent(T0 + 160))
    assert [bar.get("rev") for bar in feed.values] == [None, 1]
    feed.send(Sent(T0 + 200 + 1000 + 20, "CLOCK"), Sent(T0 + 170))
    assert (len(feed.bars), feed.stats.too_late, feed.stats.late) == (2, 1, 2)


def test_memory_ends_it() -> None:
    """The oldest windows go first; what is gone is not taken for a window that had no trade."""
    feed = Feed((100, "AAPL"), amend_ms=AMEND_MS, amend_windows_max=3)
    feed.send(*(Sent(T0 + 150 + 100 * number) for number in range(6)), Sent(T0 + 2000, "CLOCK"))
    feed.send(*(Sent(T0 + 160 + 100 * number) for number in range(6)))
    amended = [bar["s"] - T0 for bar in feed.values if "rev" in bar]
    assert amended == [400, 500, 600]
    assert feed.stats.too_late == 3
    assert len(feed.maker._amendments) <= 3


def test_what_closed_before_it_was_asked_for_is_not_amended() -> None:
    """Late trades of older windows are too late; those of windows that close from then on are not."""
    feed = Feed((100, "AAPL"), amend_ms=AMEND_MS)
    feed.maker.unamend(100, "AAPL")
    feed.maker.unwant(100, "AAPL")
    feed.maker.want(100, "AAPL")
    feed.send(Sent(T0 + 150), Sent(T0 + 210), Sent(T0 + 220))
    feed.maker.want(100, None)
    feed.maker.amend(100, None)
    feed.send(Sent(T0 + 500, "CLOCK"), Sent(T0 + 160), Sent(T0 + 230))
    assert [(bar["s"] - T0, bar["n"], bar.get("rev")) for bar in feed.values] == [
        (100, 1, None),
        (200, 2, None),
        (200, 3, 1),
    ]
    assert feed.stats.too_late == 1


def test_the_last_who_asked_for_it_ends_it() -> None:
    """Bars go on without amendments, and nothing is kept for them."""
    feed = Feed((100, "AAPL"), (100, None), amend_ms=AMEND_MS)
    feed.send(Sent(T0 + 150), Sent(T0 + 300, "CLOCK"))
    feed.maker.unamend(100, None)
    feed.maker.unwant(100, None)
    feed.send(Sent(T0 + 160))
    assert [bar.get("rev") for bar in feed.values] == [None, 1]
    feed.maker.want(100, "AAPL")
    feed.maker.unamend(100, "AAPL")
    feed.maker.unwant(100, "AAPL")
    feed.send(Sent(T0 + 170), Sent(T0 + 350), Sent(T0 + 500, "CLOCK"), Sent(T0 + 360))
    assert [(bar["s"] - T0, bar.get("rev")) for bar in feed.values] == [(100, None), (100, 1), (300, None)]


@unhurried
@given(late_arrivals(), st.data())
def test_a_maker_that_takes_over_amends_as_the_other_would(trades: list[Sent], data: st.DataObject) -> None:
    """From the hand-over on, its amended bars are those of one that saw everything and continues."""
    everything, past = (Feed((100, None), amend_ms=AMEND_MS) for _ in range(2))
    newcomer = Feed(amend_ms=AMEND_MS)
    split = data.draw(st.integers(0, len(trades)))
    for feed in (everything, past, newcomer):
        feed.send(*trades[:split])
    newcomer.maker.want(100, None)
    newcomer.maker.amend(100, None)
    over_ms = newcomer.maker.newest_ms + 100
    closing = Sent(max(trade.time_ms for trade in trades) + 5000, "CLOCK")
    feeds = [everything, past, newcomer]
    for trade in [*trades[split:], closing, Sent(T0 + 5050, "LATE"), Sent(T0 + 5050, "AAPL")]:
        for feed in feeds:
            feed.send(trade)
        if past in feeds and newcomer.maker.closed_ms >= over_ms:
            newcomer.maker.adopt(past.maker, 100, None, 0)
            feeds = [everything, newcomer]
            newcomer.bars, everything.bars = [], []
    assert past not in feeds
    assert newcomer.bars == everything.bars


@pytest.mark.parametrize("amend_ms", [0, AMEND_MS])
def test_symbols_with_kept_windows_are_not_forgotten(amend_ms: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many symbols come, a bar that is kept can be amended."""
    monkeypatch.setattr("recorder.bars.series.SYMBOLS_MAX", 5)
    feed = Feed((100, None), amend_ms=amend_ms)
    feed.send(Sent(T0 + 150))
    for number in range(30):
        feed.send(Sent(T0 + 500 + number, f"S{number}"))
    feed.send(Sent(T0 + 160))
    assert [bar["n"] for bar in feed.values if bar["sym"] == "AAPL"] == ([1, 2] if amend_ms else [1])


@unhurried
@given(late_arrivals(), st.data(), st.sampled_from([0, AMEND_MS]), st.integers(1, 4))
def test_slices_change_no_bar(
    trades: list[Sent], data: st.DataObject, amend_ms: int, slice_windows: int
) -> None:
    """However few windows are closed at a time, and whatever comes in between: the same bars in the same order.

    A late trade that amends a bar whose first form is still to be made is not in that first form.
    """
    wanted = [(10, None), (100, "AAPL"), (1000, None)]
    whole, sliced = (
        Feed(*wanted, rule=StockRule(), amend_ms=amend_ms, slice_windows=count)
        for count in (0, slice_windows)
    )
    rest = trades
    while rest:
        count = data.draw(st.integers(1, len(rest)))
        for feed in (whole, sliced):
            feed.send(*rest[:count])
        rest = rest[count:]
        assert whole.bars[: len(sliced.bars)] == sliced.bars
        assert len(whole.bars) - len(sliced.bars) <= sliced.maker.closing_count
    closing = Sent(T0 + 100_000, "CLOCK")
    for feed in (whole, sliced):
        feed.send(*[closing] * LEAP_TRADES)
    while sliced.maker.closing_count:
        before = len(sliced.bars)
        sliced.bars += sliced.maker.close_due(slice_windows)
        assert len(sliced.bars) <= before + slice_windows + sum(bar.rev > 0 for bar in sliced.bars[before:])
    assert sliced.bars == whole.bars
    assert sliced.stats == whole.stats
