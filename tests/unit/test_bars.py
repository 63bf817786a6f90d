"""Millisecond bars."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from itertools import permutations
from pathlib import Path
from typing import Any

import duckdb
import orjson
import pytest
from bar_feeds import (
    CENTS,
    DELAY_MS,
    MS,
    SIZES,
    SYMBOLS,
    T0,
    TICK_MS,
    Feed,
    Sent,
    arrivals,
    assert_equal,
    balance,
    expected_bars,
    unhurried,
)
from hypothesis import given
from hypothesis import strategies as st
from shared_data import shared_file

from recorder.bars import LEAP_MS, LEAP_TRADES, BarMaker, BarStats, trades_of
from recorder.bars.conditions import StockRule
from recorder.bars.series import WantedSeries
from recorder.bars.windows import BarSeries
from recorder.polygon.events import Decoder


def test_a_bar_is_one_compact_object_with_keys_in_the_documented_order() -> None:
    """Key order, spelling of prices and numbers, and the times are byte for byte as the protocol has them."""
    feed = Feed((100, "AAPL"))
    feed.send(Sent(T0 + 105, price="150.2500", size="5"), Sent(T0 + 150, price="150.1", size="10"))
    feed.send(Sent(T0 + 220, "CLOCK"))
    assert [bar.data for bar in feed.bars] == [
        b'{"ev":"MB","T":"b","sym":"AAPL","S":"AAPL","interval":100,"o":150.2500,"h":150.2500,"l":150.1,"c":150.1,'
        b'"v":15,"vw":150.15,"n":2,"s":1790000000100,"e":1790000000200,"t":1790000000100}'
    ]


@unhurried
@given(arrivals(), st.sampled_from([1, 7, 100, 1000]))
def test_bars_equal_an_independent_computation(trades: list[Sent], interval_ms: int) -> None:
    """Whatever arrives early or late, each bar equals the one made of the sorted trades, and the late ones are counted."""
    feed = Feed((interval_ms, None))
    for trade in trades:
        feed.send(trade)
    feed.end()
    expected, late = expected_bars(trades, interval_ms)
    assert_equal(feed.bars, expected)
    assert feed.stats.late == late
    assert feed.stats.in_bars == len(trades) - late
    assert feed.stats.entries == balance(feed.stats) == len(trades)


@unhurried
@given(arrivals(), st.data())
def test_how_trades_are_cut_into_batches_does_not_matter(trades: list[Sent], data: st.DataObject) -> None:
    """One batch, one each, or any cut: the same bytes in the same order, the same trades late."""
    whole = Feed((100, None), (1000, None), (40, "AAPL"))
    whole.send(*trades).end()
    cut = Feed((100, None), (1000, None), (40, "AAPL"))
    rest = trades
    while rest:
        count = data.draw(st.integers(1, len(rest)))
        cut.send(*rest[:count])
        rest = rest[count:]
    cut.end()
    assert sorted(cut.bars, key=lambda b: (b.end_ms, b.symbol, b.interval_ms)) == whole.bars
    assert cut.bars == whole.bars
    assert cut.stats == whole.stats


@unhurried
@given(st.lists(st.tuples(SYMBOLS, CENTS, SIZES), min_size=2, max_size=20), st.randoms(use_true_random=False))
def test_order_does_not_matter_within_the_delay(rows: list[tuple[str, str, str]], random: Any) -> None:
    """Trades that come at most the delay late give the same bytes in whatever order they come."""
    trades = [Sent(T0 + 500 + 3 * number, *row) for number, row in enumerate(rows)]
    shuffled = sorted(trades, key=lambda trade: trade.time_ms + random.uniform(0, DELAY_MS))
    feeds = []
    for order in (trades, shuffled):
        feed = Feed((10, None), (100, None))
        for trade in order:
            feed.send(trade)
        feed.end()
        assert feed.stats.late == 0
        feeds.append(feed)
    assert feeds[0].bars == feeds[1].bars


def test_open_and_close_are_by_trade_time_and_arrival_breaks_ties() -> None:
    """The first to arrive of the earliest time opens, the last to arrive of the latest closes."""
    for order in permutations([(30, "1"), (10, "2"), (20, "3"), (30, "4"), (10, "5")]):
        feed = Feed((100, "AAPL"))
        feed.send(*(Sent(T0 + 100 + at, price=price) for at, price in order))
        bar = feed.end()[0]
        earliest = [price for at, price in order if at == 10]
        latest = [price for at, price in order if at == 30]
        assert (bar["o"], bar["c"]) == (int(earliest[0]), int(latest[-1]))


def test_a_window_closes_once_event_time_has_passed_its_end_by_the_delay() -> None:
    """One millisecond before nothing is closed; then it is, and one more trade for it is late."""
    feed = Feed((100, "AAPL"))
    feed.send(Sent(T0 + 150), Sent(T0 + 200 + DELAY_MS - 1, "CLOCK"), Sent(T0 + 199))
    assert not feed.bars
    feed.send(Sent(T0 + 200 + DELAY_MS, "CLOCK"))
    assert [bar["n"] for bar in feed.values] == [2]
    feed.send(Sent(T0 + 199))
    assert (feed.stats.late, len(feed.end())) == (1, 1)


def test_several_windows_of_a_symbol_are_open_at_once() -> None:
    """Early and late trades find their own windows, back and forth."""
    feed = Feed((10, "AAPL"))
    feed.send(*(Sent(T0 + at, price=str(at)) for at in (15, 25, 31, 19, 28, 12)))
    assert [(bar["s"] - T0, bar["o"], bar["c"], bar["n"]) for bar in feed.end()] == [
        (10, 12, 19, 3),
        (20, 25, 28, 2),
        (30, 31, 31, 1),
    ]


def test_bars_come_by_window_end_then_symbol_then_length() -> None:
    """The order of what closes together is defined, whatever order opened it."""
    feed = Feed((200, None), (100, None))
    feed.send(*(Sent(T0 + 200 + at, symbol) for at, symbol in [(50, "B"), (50, "A"), (150, "B"), (150, "A")]))
    feed.end()
    assert [(bar.end_ms - T0, bar.symbol, bar.interval_ms) for bar in feed.bars] == [
        (300, "A", 100),
        (300, "B", 100),
        (400, "A", 100),
        (400, "A", 200),
        (400, "B", 100),
        (400, "B", 200),
    ]


def real_ticks() -> Iterator[dict[str, Any]]:
    with gzip.open(shared_file("data/ticks_stocks_20131007.ndjson.gz")) as lines:
        for line in lines:
            yield orjson.loads(line)["m"]


def test_real_trades_give_the_bars_that_duckdb_gives(tmp_path: Path) -> None:
    """On five minutes of four stocks every bar of 100 and 1000 ms equals SQL over the same trades."""
    events = [event for event in real_ticks() if event["ev"] in "TQ"]
    maker = BarMaker("stocks", delay_ms=DELAY_MS)
    maker.want(100)
    maker.want(1000)
    decoder = Decoder("stocks")
    bars = []
    for begin in range(0, len(events), 50):
        trades = trades_of(decoder.decode([orjson.dumps(events[begin : begin + 50])]), "T")
        if trades is not None:
            maker.add(trades, 0)
        bars += maker.close_due()
    bars += maker.flush()
    path = tmp_path / "trades.ndjson"
    path.write_bytes(b"\n".join(orjson.dumps(event) for event in events if event["ev"] == "T"))
    rows = duckdb.sql(
        f"""
        with trades as (
            select row_number() over () as arrival, sym, t, p, s
            from read_json('{path}', format='newline_delimited',
                           columns={{sym: 'varchar', t: 'bigint', p: 'decimal(18,4)', s: 'bigint'}}))
        select sym, n, t // n * n as start, arg_min(p, (t, arrival)), max(p), min(p), arg_max(p, (t, arrival)),
               sum(s)::bigint, (sum(p * s) / sum(s))::double, count(*)
        from trades, (values (100), (1000)) lengths(n)
        group by 1, 2, 3 order by start + n, sym, n
        """
    ).fetchall()
    got = [orjson.loads(bar.data) for bar in bars]
    assert len(got) == len(rows) > 1000
    for bar, row in zip(got, rows, strict=True):
        assert [bar[key] for key in ("sym", "interval", "s", "o", "h", "l", "c", "v", "n")] == [
            *row[:3],
            *map(float, row[3:7]),
            row[7],
            row[9],
        ]
        assert bar["vw"] == pytest.approx(row[8], rel=1e-9)
    assert maker.stats.late == 0
    assert maker.stats.trades == sum(event["ev"] == "T" for event in events)


@pytest.mark.parametrize(
    ("sizes", "volume"),
    [
        (['"ds":"0.1"', '"ds":"0.2"'], b'"v":0.3,'),
        (['"ds":"4.000000"', '"ds":"1.500000"'], b'"v":5.5,'),
        (['"ds":"4.000000"', '"ds":"6.000000"'], b'"v":10,'),
        (['"s":3', '"s":4'], b'"v":7,'),
        (['"s":4.522e-05', '"s":0.1'], b'"v":0.10004522,'),
        (['"s":1e3', '"s":0'], b'"v":1000,'),
        (['"s":1,"ds":"0.740474"', '"s":0,"ds":"0.5"'], b'"v":1.240474,'),
        (['"s":0', '"x":4'], b'"v":0,'),
    ],
)
def test_volumes_are_exact_decimals(sizes: list[str], volume: bytes) -> None:
    """`ds` is believed before `s`; sums have no float noise and no trailing zeros; whole numbers are integers."""
    feed = Feed((100, "A"))
    feed.send(*(f'{{"ev":"T","sym":"A","p":10,"t":{T0 + 150},{size}}}' for size in sizes))
    feed.end()
    assert volume in feed.bars[0].data


def test_the_weighted_price_has_ten_digits_and_is_the_close_where_nothing_was_traded() -> None:
    """`vw` is rounded in the tenth significant digit, large or small; without volume it is the close."""
    feed = Feed((100, None))
    at = T0 + 150
    feed.send(Sent(at, "A", "100", "1"), Sent(at, "A", "101", "2"))
    feed.send(Sent(at, "B", "0.00001", "1"), Sent(at, "B", "0.00002", "2"))
    feed.send(Sent(at, "C", "7.50", "0"), Sent(at, "D", "-37.63", "2"))
    feed.end()
    found = [bar.data.split(b'"vw":')[1].split(b",")[0] for bar in feed.bars]
    assert found == [b"100.6666667", b"0.00001666666667", b"7.5", b"-37.63"]


@pytest.mark.parametrize(
    ("cluster", "event", "symbol"),
    [
        ("crypto", '{"ev":"XT","pair":"BTC-USD","p":33021.9,"s":0.01616617,"c":[2],"t":%d}', "BTC-USD"),
        ("futures", '{"ev":"T","sym":"NQH7-NQM7","p":-250.5,"s":1,"t":%d}', "NQH7-NQM7"),
        ("futures", '{"ev":"T","sym":"ESZ4","p":"606450","s":"1","t":%d}', "ESZ4"),
        ("options", '{"ev":"T","sym":"O:SPY241220P00720000","p":1.54,"s":1,"c":[233],"t":%d}', None),
    ],
)
def test_every_cluster_with_trades_has_bars(cluster: str, event: str, symbol: str | None) -> None:
    """Crypto, futures (negative prices, numbers in strings) and options trades make bars."""
    feed = Feed((100, symbol), cluster=cluster, started=False)
    feed.send(*[event % (T0 + 50)] * LEAP_TRADES)
    assert [bar["n"] for bar in feed.end()] == [LEAP_TRADES]


def test_a_cluster_without_trades_has_no_bars() -> None:
    """Forex quotes make none, even where all symbols are wanted."""
    feed = Feed((100, None), cluster="forex", started=False)
    feed.send(*[f'{{"ev":"C","p":"EUR/USD","a":1.1,"b":1.0,"t":{T0}}}'] * 5)
    assert feed.end() == []
    assert feed.stats == BarStats("forex")


def test_conditions_decide_what_a_trade_updates() -> None:
    """An odd lot adds volume alone, a derived price may not open or close, an official price counts for nothing."""
    feed = Feed((100, "AAPL"), rule=StockRule())
    feed.send(
        Sent(T0 + 110, price="90", size="1", more=',"c":[37]'),
        Sent(T0 + 120, price="105", size="1", more=',"c":[10]'),
        Sent(T0 + 130, price="100", size="1"),
        Sent(T0 + 140, price="102", size="1", more=',"c":[14,41]'),
        Sent(T0 + 150, price="101", size="1", more=',"c":[10]'),
        Sent(T0 + 155, price="98", size="1", more=',"c":[10]'),
        Sent(T0 + 160, price="999", size="1", more=',"c":[15]'),
    )
    bar = feed.end()[0]
    assert [bar[key] for key in ("o", "h", "l", "c", "v", "n", "vw")] == [
        100,
        105,
        98,
        102,
        6,
        6,
        99.33333333,
    ]
    assert (feed.stats.in_bars, feed.stats.not_counted) == (6, 1)


def test_prices_that_may_not_open_do_where_there_is_no_other() -> None:
    """A window of such trades alone has a bar, its open and close by their times."""
    feed = Feed((100, "AAPL"), rule=StockRule())
    prices = [(130, "7"), (110, "5"), (140, "8"), (110, "3"), (120, "9"), (140, "6")]
    feed.send(*(Sent(T0 + at, price=price, more=',"c":[22]') for at, price in prices))
    bar = feed.end()[0]
    assert [bar[key] for key in "ohlc"] == [5, 9, 3, 6]


def test_a_window_without_a_price_gives_no_bar_and_its_trades_are_counted() -> None:
    """Odd lots alone make no bar."""
    feed = Feed((100, "AAPL"), rule=StockRule())
    feed.send(Sent(T0 + 110, more=',"c":[37]'), Sent(T0 + 120, more=',"c":[2]'))
    assert feed.end() == []
    assert feed.stats.unpriced == feed.stats.entries == balance(feed.stats) == 2


def test_what_has_no_volume_sets_prices_and_is_in_the_bar() -> None:
    """A corrected close updates prices alone: it counts neither in `v` nor in `n`, and is not lost from the books."""
    feed = Feed((100, "AAPL"), rule=StockRule())
    feed.send(Sent(T0 + 110, price="8", size="3", more=',"c":[38]'))
    bar = feed.end()[0]
    assert (bar["c"], bar["v"], bar["n"], bar["vw"]) == (8, 0, 0, 8)
    assert feed.stats.in_bars == 1


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5)
    | st.sampled_from(["NaN", "-Infinity", "1E+999999999", "1e99999999999999999999", "-5", "sNaN", "0x1"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner, max_size=2),
    max_leaves=4,
)  # fmt: skip


@unhurried
@given(st.lists(st.dictionaries(st.sampled_from(["p", "s", "ds", "c", "t"]), JSON), max_size=4))
def test_nothing_that_a_trade_may_hold_makes_it_raise(odd: list[dict[str, Any]]) -> None:
    """Whatever is in its fields, a trade is in a bar or counted, bars stay JSON, and its neighbours are unharmed."""
    feed = Feed((100, "A"), (100, "B"), rule=StockRule())
    texts = [json.dumps({"t": T0 + 150, **fields, "ev": "T", "sym": "A"}) for fields in odd]
    feed.send(f'{{"ev":"T","sym":"B","p":7,"s":2,"t":{T0 + 150}}}', *texts)
    feed.wait(1000)
    assert [(bar["o"], bar["v"], bar["n"]) for bar in feed.end() if bar["sym"] == "B"] == [(7, 2, 1)]
    assert feed.stats.trades == len(odd) + 1
    assert feed.stats.entries == balance(feed.stats)
    assert feed.stats.trades == feed.stats.entries + feed.stats.unreadable + feed.stats.misdated


@pytest.mark.parametrize(
    "fields",
    [
        '"s":1',
        '"p":null',
        '"p":true',
        '"p":"NaN"',
        '"p":1e15',
        '"p":1E+999999999,"s":0',
        '"p":0,"s":1E+999999999',
        '"p":1,"s":null',
        '"p":1,"s":-1',
        '"p":1,"ds":"x"',
        '"p":1,"c":["37"]',
    ],
)
def test_what_is_no_trade_is_counted_as_unreadable(fields: str) -> None:
    """No price, no number, a number of no market, a negative size: unreadable, and no bar."""
    feed = Feed((100, "A"))
    feed.send(f'{{"ev":"T","sym":"A","t":{T0 + 150},{fields}}}', '{"ev":"T","sym":"A","p":1,"s":1}')
    assert feed.end() == []
    assert (feed.stats.trades, feed.stats.unreadable, feed.stats.entries) == (2, 2, 0)


def test_silence_moves_event_time_on() -> None:
    """The last window closes without another trade, once the feed was silent for the delay and the delay has passed."""
    feed = Feed((100, "AAPL"))
    feed.send(Sent(T0 + 150))
    feed.wait(50 + 2 * DELAY_MS - TICK_MS)
    assert not feed.bars
    feed.wait(TICK_MS)
    assert [bar["n"] for bar in feed.values] == [1]
    assert feed.maker.event_ms == T0 + 200 + DELAY_MS


def test_silence_alone_moves_no_time() -> None:
    """However long nothing comes, without a watermark it may still be on its way, and finds its window."""
    for held_ms in (500, 3_600_000):
        feed = Feed((100, "AAPL"))
        feed.send(Sent(T0 + 150))
        read_ns = feed.now_ns
        feed.now_ns += held_ms * MS
        feed.maker.advance(read_ns + 60 * MS)
        assert not feed.maker.close_due()
        feed.send(Sent(T0 + 160), Sent(T0 + 600))
        assert [bar["n"] for bar in feed.values] == [2]
        assert feed.stats.late == 0


def test_a_watermark_of_before_the_newest_trade_moves_nothing() -> None:
    """It says of the silence behind that trade nothing; neither does one that is older than another."""
    feed = Feed((100, "AAPL"))
    early_ns = feed.now_ns
    feed.now_ns += 1000 * MS
    feed.send(Sent(T0 + 150))
    feed.maker.advance(early_ns)
    assert feed.maker.event_ms == feed.stats.event_time == T0 + 150
    feed.wait(500)
    event_ms = feed.maker.event_ms
    feed.maker.advance(feed.now_ns - 300 * MS)
    assert feed.maker.close_due() == []
    assert feed.maker.event_ms <= event_ms
    feed.send(Sent(T0 + 199))
    assert feed.stats.late == 1


@unhurried
@given(st.lists(st.integers(0, 400), min_size=1, max_size=20), st.booleans(), st.booleans())
def test_due_is_when_a_watermark_makes_a_difference(
    steps_ms: list[int], is_wild: bool, is_started: bool
) -> None:
    """A watermark before changes nothing; one at that time closes a window, or takes a trade that waits."""
    feed = Feed((100, None), started=is_started)
    for number, step_ms in enumerate(steps_ms):
        feed.now_ns += step_ms * MS
        wild_ms = LEAP_MS if is_wild and number == len(steps_ms) - 1 else 0
        feed.send(Sent(T0 + 500 + sum(steps_ms[: number + 1]) + wild_ms))
        due_ns = feed.maker.due_ns()
        if due_ns is None:
            assert not feed.stats.open_windows
            continue
        before = feed.maker.stats.open_windows, len(feed.bars), feed.maker.newest_ms
        feed.maker.advance(due_ns - 1)
        feed.bars += feed.maker.close_due()
        assert (feed.stats.open_windows, len(feed.bars), feed.maker.newest_ms) == before
        if step_ms % 2:
            feed.maker.advance(due_ns)
            feed.bars += feed.maker.close_due()
            assert (feed.stats.open_windows, len(feed.bars), feed.maker.newest_ms) != before


def test_a_trade_that_moves_no_time_does_not_put_off_the_close() -> None:
    """Old trades that keep coming do not keep a window open: it is due when it was."""
    feed = Feed((100, "AAPL"))
    feed.send(Sent(T0 + 150))
    due_ns = feed.maker.due_ns()
    feed.now_ns += 40 * MS
    feed.send(Sent(T0 + 120))
    assert feed.maker.due_ns() == due_ns
    feed.maker.advance(due_ns)
    assert [json.loads(bar.data)["n"] for bar in feed.maker.close_due()] == [2]


def test_where_nobody_wants_bars_no_time_is_due() -> None:
    """Nobody has to be asked for the time: not before the first wish, and not after the last."""
    feed = Feed()
    assert feed.maker.due_ns() is None
    feed.send(Sent(T0 + 150), Sent(T0 + 2 * LEAP_MS))
    assert feed.maker.due_ns() is None
    feed.maker.want(100)
    feed.send(Sent(T0 + 250))
    assert feed.maker.due_ns() == feed.maker.closes_ns(T0 + 300)
    feed.maker.unwant(100)
    assert feed.maker.due_ns() is None


def test_a_trade_sets_event_time_again_after_silence() -> None:
    """A feed that falls behind the wall clock is not late for ever; yet what has closed stays closed."""
    feed = Feed((10, "AAPL"))
    feed.send(Sent(T0 + 15))
    feed.wait(500)
    feed.send(Sent(T0 + 300))
    assert feed.maker.event_ms == T0 + 300
    feed.wait(40)
    feed.send(Sent(T0 + 400))
    assert feed.stats.late == 2
    feed.send(Sent(T0 + 505), Sent(T0 + 521), Sent(T0 + 508))
    assert [(bar["s"] - T0, bar["n"]) for bar in feed.end()] == [(10, 1), (500, 2), (520, 1)]


def test_live_or_replayed_faster_the_bars_are_the_same() -> None:
    """The pace at which trades come changes no byte: at once, quicker than they were made, or live."""
    trades = [Sent(T0 + 100 + 40 * number, price=str(number)) for number in range(50)]
    feeds = []
    for pause_ms in (0, 10, 40):
        feed = Feed((100, None), (30, None))
        for trade in trades:
            feed.send(trade)
            feed.wait(pause_ms)
        feed.end()
        feeds.append(feed.bars)
    assert feeds[0] == feeds[1] == feeds[2]
    assert sum(orjson.loads(bar.data)["n"] for bar in feeds[0]) == 2 * len(trades)


def test_one_trade_far_ahead_moves_nothing() -> None:
    """A trade of next year closes no window, makes nobody late, and is counted; its neighbours have their bars."""
    feed = Feed((100, "AAPL"))
    feed.send(Sent(T0 + 150), Sent(T0 + 31_536_000_000), Sent(T0 + 160), Sent(T0 + 170))
    assert feed.maker.event_ms == T0 + 170
    assert [bar["n"] for bar in feed.end()] == [3]
    assert (feed.stats.misdated, feed.stats.late) == (1, 0)


def test_a_misdated_trade_of_a_symbol_that_nobody_wants_is_not_counted() -> None:
    """The counters speak of the trades that bars were asked for."""
    feed = Feed((100, "AAPL"))
    feed.send(Sent(T0 + 150), Sent(T0 + 31_536_000_000, "MSFT"), Sent(T0 + 160))
    assert [bar["n"] for bar in feed.end()] == [2]
    assert (feed.stats.misdated, feed.stats.trades) == (0, 2)


def test_event_time_follows_when_all_trades_are_ahead() -> None:
    """After a night left out by a replay the first trades of the morning are in their bars, and so are the evening's."""
    morning = T0 + 8 * 3_600_000
    feed = Feed((100, "AAPL"))
    feed.send(Sent(T0 + 150))
    for at in (10, 20, 30, 40):
        feed.send(Sent(morning + at))
    assert [(bar["s"], bar["n"]) for bar in feed.end()] == [(T0 + 100, 1), (morning, 4)]
    assert feed.stats.misdated == 0


def test_a_wild_trade_among_those_that_wait_does_not_lead_them() -> None:
    """Event time leaps to the earliest of the trades that are ahead; one far ahead of that is misdated."""
    morning = T0 + 8 * 3_600_000
    feed = Feed((100, "AAPL"))
    feed.send(Sent(morning + 10), Sent(morning + 31_536_000_000), Sent(morning + 20), Sent(morning + 30))
    assert feed.maker.event_ms == morning + 30
    assert [bar["n"] for bar in feed.end()] == [3]
    assert feed.stats.misdated == 1


def test_what_waits_is_taken_when_time_comes_to_it() -> None:
    """After a stop the first trade of a quiet feed waits, and is in its bar once silence has brought event time near."""
    feed = Feed((100, "AAPL"))
    feed.send(Sent(T0 + LEAP_MS + 150))
    feed.wait(100)
    assert feed.maker.event_ms < T0 + LEAP_MS
    feed.wait(300)
    assert [bar["n"] for bar in feed.values] == [1]
    assert feed.stats.misdated == 0


def test_a_trade_of_long_ago_says_nothing_about_those_that_wait() -> None:
    """A straggler from before a gap does not make the first trades after it misdated."""
    morning = T0 + 8 * 3_600_000
    feed = Feed((100, "AAPL"))
    feed.send(Sent(T0 + LEAP_MS), Sent(morning + 10), Sent(T0 - 1), Sent(morning + 20), Sent(morning + 30))
    assert [bar["n"] for bar in feed.end()] == [1, 3]
    assert (feed.stats.misdated, feed.stats.late) == (0, 1)


def test_silence_passes_over_none_of_those_that_wait() -> None:
    """However far a watermark reaches, event time comes to a trade that waits before its window closes."""
    maker = BarMaker("stocks", delay_ms=DELAY_MS)
    decoder = Decoder("stocks")
    maker.want(100)
    for time_ms in (T0, T0, T0, T0 + LEAP_MS + 1, T0 + 40_000):
        trades = trades_of(decoder.decode([f"[{Sent(time_ms).text}]".encode()]), "T")
        assert trades is not None
        maker.add(trades, 0)
    bars = []
    for minute in range(1, 6):
        maker.advance(minute * 60_000 * MS)
        bars += maker.close_due()
    assert [bar.start_ms - T0 for bar in bars] == [0, LEAP_MS, 40_000]
    assert maker.stats.in_bars == maker.stats.trades == 5


def test_the_first_trades_begin_event_time() -> None:
    """A wild first trade does not: the earliest of the first few does, or of fewer when no more come."""
    feed = Feed((100, "AAPL"), started=False)
    feed.send(Sent(T0 + 31_536_000_000), Sent(T0 + 50), Sent(T0 + 60))
    assert feed.maker.event_ms == T0 + 60
    assert [bar["n"] for bar in feed.end()] == [2]
    assert feed.stats.misdated == 1
    alone = Feed((100, "AAPL"), started=False)
    alone.wait(1000)
    alone.send(Sent(T0 + 50))
    assert alone.maker.event_ms == 0
    alone.wait(DELAY_MS + TICK_MS)
    assert alone.maker.event_ms == T0 + 50
    alone.wait(50 + 2 * DELAY_MS - TICK_MS)
    assert not alone.bars
    alone.wait(TICK_MS)
    assert [bar["n"] for bar in alone.values] == [1]


def test_trades_of_symbols_that_nobody_wants_move_event_time_and_cost_no_bar() -> None:
    """Only what is wanted is made; the others are the clock."""
    feed = Feed((100, "AAPL"))
    feed.send(Sent(T0 + 150), Sent(T0 + 160, "MSFT", price="null"), Sent(T0 + 220, "MSFT"))
    assert [bar.symbol for bar in feed.bars] == ["AAPL"]
    assert feed.stats.trades == 1


def test_the_first_bar_is_whole() -> None:
    """Wanted in the middle of a window, bars begin with the next; what came too soon is counted."""
    feed = Feed()
    feed.send(Sent(T0 + 110))
    feed.maker.want(100, "AAPL")
    feed.send(Sent(T0 + 120), Sent(T0 + 210), Sent(T0 + 220))
    assert [(bar["s"] - T0, bar["n"]) for bar in feed.end()] == [(200, 2)]
    assert feed.stats.partial == 1
    assert feed.stats.entries == balance(feed.stats)


def test_wanted_twice_a_bar_is_made_once_and_as_long_as_somebody_wants_it() -> None:
    """For one symbol, for all, or both, there is one bar; it ends with the last client that wants it, and not before."""
    feed = Feed((100, None), (100, "AAPL"), (100, "AAPL"))
    feed.send(Sent(T0 + 110), Sent(T0 + 110, "MSFT"))
    feed.maker.unwant(100, None)
    feed.maker.unwant(100, "AAPL")
    feed.send(Sent(T0 + 120), Sent(T0 + 120, "MSFT"), Sent(T0 + 220, "CLOCK"))
    assert [(bar.symbol, bar.data.count(b'"n":2')) for bar in feed.bars] == [("AAPL", 1)]
    feed.maker.unwant(100, "AAPL")
    feed.maker.unwant(100, "AAPL")
    feed.send(Sent(T0 + 230), Sent(T0 + 400, "CLOCK"))
    assert len(feed.end()) == 1
    assert (feed.stats.abandoned, feed.stats.open_windows) == (1, 0)
    assert feed.stats.entries == balance(feed.stats)


def test_wanted_again_in_the_same_window_it_is_not_whole() -> None:
    """Who leaves and comes back gets no bar of the window in between, and no bar twice."""
    feed = Feed((100, "AAPL"))
    feed.send(Sent(T0 + 110))
    feed.maker.unwant(100, "AAPL")
    feed.send(Sent(T0 + 120))
    feed.maker.want(100, "AAPL")
    feed.send(Sent(T0 + 130), Sent(T0 + 230))
    assert [bar["s"] - T0 for bar in feed.end()] == [200]
    assert feed.stats.entries == balance(feed.stats)


@unhurried
@given(arrivals(), st.data())
def test_coming_and_going_leaves_the_other_bars_as_they_are(trades: list[Sent], data: st.DataObject) -> None:
    """While others come and go, a client that stays gets the same bars, and the books balance for all."""
    alone = Feed((100, "AAPL"))
    crowd = Feed((100, "AAPL"))
    topics = st.tuples(st.sampled_from([100, 30]), st.sampled_from([None, "AAPL", "T"]))
    held = []
    for trade in trades:
        if data.draw(st.booleans()):
            topic = data.draw(topics)
            crowd.maker.want(*topic)
            held.append(topic)
        elif held and data.draw(st.booleans()):
            crowd.maker.unwant(*held.pop(data.draw(st.integers(0, len(held) - 1))))
        alone.send(trade)
        crowd.send(trade)
    alone.end()
    crowd.end()
    assert [bar for bar in crowd.bars if (bar.interval_ms, bar.symbol) == (100, "AAPL")] == alone.bars
    assert crowd.stats.entries == balance(crowd.stats)
    keys = [(bar.end_ms, bar.symbol, bar.interval_ms) for bar in crowd.bars]
    assert len(keys) == len(set(keys))


@unhurried
@given(arrivals())
def test_symbols_that_are_forgotten_between_their_bars_lose_none(trades: list[Sent]) -> None:
    """With memory for a single symbol the bars are those of a maker with memory for all."""
    roomy = Feed((100, None), (30, "T"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("recorder.bars.series.SYMBOLS_MAX", 1)
        tight = Feed((100, None), (30, "T"))
        for trade in trades:
            roomy.send(trade)
            tight.send(trade)
    roomy.end()
    tight.end()
    assert tight.bars == roomy.bars
    assert tight.stats == roomy.stats


def test_symbols_without_open_windows_are_forgotten_in_time() -> None:
    """Of ever new symbols no more are remembered than there is room for, and those that are busy."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("recorder.bars.series.SYMBOLS_MAX", 10)
        lines = WantedSeries(BarSeries)
        lines.want(100, None, 0)
        for number in range(1000):
            if lines.crowded:
                lines.forget({"BUSY", "S5"})
            busy = lines["BUSY"]
            assert lines[f"S{number}"][0].symbol == f"S{number}"
            assert lines["BUSY"] == busy
            assert len(lines) <= 12
        assert lines["BUSY"] == busy


def test_a_maker_forgets_when_it_is_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """It keeps the symbols of its open windows then, and no others."""
    forget, kept = WantedSeries.forget, []
    monkeypatch.setattr("recorder.bars.series.SYMBOLS_MAX", 10)
    monkeypatch.setattr(WantedSeries, "forget", lambda lines, busy: (kept.append(busy), forget(lines, busy)))
    feed = Feed((100, None))
    for number in range(30):
        feed.send(Sent(T0 + 500 + 100 * number, f"S{number}"))
    assert kept == [{"S9", "S10"}, {"S20", "S21"}]


def test_a_source_may_start_over() -> None:
    """After `flush` the same trades again give the same bars again, though event time was past them."""
    feed = Feed((100, None))
    for trades in ([Sent(T0 + 110), Sent(T0 + 150)], [Sent(T0 + 110), Sent(T0 + 350)]):
        feed.bars = []
        feed.send(*trades)
        feed.end()
        first = feed.bars
        feed.bars = []
        feed.send(*trades)
        feed.end()
        assert feed.bars == first
    feed.send(*[Sent(T0 + 900, "CLOCK")] * LEAP_TRADES)
    feed.maker.want(1000)
    feed.end()
    feed.bars = []
    feed.send(*[Sent(T0 + 110)] * LEAP_TRADES)
    assert [(bar["interval"], bar["n"]) for bar in feed.end()] == [(100, 3), (1000, 3)]
    assert feed.stats.late == 0
    assert feed.maker.flush() == []
    assert repr(feed.maker) == "BarMaker(stocks, 2 wanted, event_ms=0, open_windows=0, bars=9, late=0)"
