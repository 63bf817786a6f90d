"""Bars over integers are those over decimals, byte for byte: `decimal_bars` is the oracle."""

from __future__ import annotations

import gzip
from collections.abc import Iterable, Iterator, Sequence
from decimal import Decimal, localcontext
from typing import Any

import pytest
from bar_feeds import SYMBOLS, T0, Feed, Sent, unhurried
from decimal_bars.maker import BarMaker as DecimalBarMaker
from decimal_bars.trades import EXACT
from decimal_bars.window import _ROUNDED, _plain
from hypothesis import given
from hypothesis import strategies as st
from shared_data import shared_file

from recorder.bars import LEAP_MS, trades_of
from recorder.bars.conditions import STOCK_UPDATES, StockRule
from recorder.bars.kinds import PYTHON, compiled
from recorder.bars.windows import SCALE_MAX, quotient
from recorder.polygon.events import Decoder
from recorder.polygon.rows import ScannedRows
from recorder.simulator.tape import Board, Tape
from recorder.simulator.wire import FIRST_NUMBER, MARKS, stamps

LENGTHS_MS = (1, 7, 100, 1000)

DIGITS = st.integers(0, 10**17).map(str)
PLAIN = st.builds(
    lambda sign, whole, zeros, fraction: f"{sign}{whole}" + (f".{'0' * zeros}{fraction}" if fraction else ""),
    st.sampled_from(["", "", "-"]),
    st.one_of(st.sampled_from(["0", "1", "999999999999999"]), st.integers(0, 999_999).map(str)),
    st.integers(0, 12),
    st.one_of(st.just(""), st.sampled_from(["0", "00", "5", "2500"]), DIGITS),
)
EXPONENTS = st.builds(lambda digits, exponent: f"{digits}{exponent}", PLAIN, st.sampled_from(
    ["e0", "E1", "e3", "E+3", "e-1", "E-7", "e-9", "e12"]
))  # fmt: skip
CENTS = st.integers(1, 40_000).map(lambda cents: f"{cents // 100}.{cents % 100:02d}".rstrip("0").rstrip("."))
NUMBERS = st.one_of(CENTS, CENTS, PLAIN, EXPONENTS)
ODD = st.sampled_from(["null", "true", '"x"', '"NaN"', '"-Infinity"', "[1,\n2]", '"1\\n2"', "1e15", "1e18", '" 7 "', '"1_0"',
                       '".5"', '"5."', '"007"', "1E+999999999", '"sNaN"', "{}", '""', "-1", '"1,5"'])  # fmt: skip
VALUES = st.one_of(NUMBERS, NUMBERS, NUMBERS, NUMBERS.map(lambda number: f'"{number}"'), ODD)
CONDITIONS = st.one_of(
    st.lists(st.sampled_from(sorted(STOCK_UPDATES)), max_size=3).map(lambda codes: f"{codes}"),
    st.sampled_from(["null", '["37"]', "12", "[14,41]", "[12]", "[10]", "[22]", "[38]"]),
)


@st.composite
def trades(draw: st.DrawFn, times: st.SearchStrategy[int]) -> str:
    """Return a trade as the wire has it, most of them readable."""
    fields = {"p": draw(VALUES), "s": draw(VALUES), "ds": draw(VALUES), "c": draw(CONDITIONS)}
    held = draw(
        st.sampled_from(
            [("p", "s"), ("p", "s"), ("p", "ds"), ("p", "s", "ds", "c"), ("p", "s", "c"), ("s",), ("p",)]
        )
    )
    symbol, time_ms = draw(SYMBOLS), draw(times)
    texts = ",".join(f'"{name}":{fields[name]}' for name in held)
    return f'{{"ev":"T","sym":"{symbol}",{texts},"t":{time_ms}}}'


KINDS = ((PYTHON, False), (compiled() or PYTHON, True))
"""Windows in Python, of trades that Python reads; compiled ones of what native code reads, where both were built."""


def every_kind(**options: Any) -> list[Feed]:
    """Return feeds into bars over decimals, and into every kind over integers."""
    feeds = [Feed(make=DecimalBarMaker, is_scanned=False, **options)]
    for kinds, is_scanned in KINDS:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("recorder.bars.maker.kinds_here", lambda kinds=kinds: kinds)
            feeds.append(Feed(is_scanned=is_scanned, **options))
    return feeds


def assert_same(feeds: Sequence[Feed]) -> None:
    """Compare the bars until now, and what became of the trades."""
    expected, *others = feeds
    for got in others:
        assert_equal(got, expected)


def assert_equal(got: Feed, expected: Feed) -> None:
    assert [bar.data for bar in got.bars] == [bar.data for bar in expected.bars]
    assert got.bars == expected.bars
    assert got.stats == expected.stats
    assert (got.maker.newest_ms, got.maker.event_ms, got.maker.closed_ms) == (
        expected.maker.newest_ms,
        expected.maker.event_ms,
        expected.maker.closed_ms,
    )
    assert got.maker.due_ns() == expected.maker.due_ns()


@unhurried
@given(st.lists(trades(st.integers(T0 + 100, T0 + 160)), min_size=1, max_size=8), st.booleans())
def test_whatever_numbers_trades_have(texts: list[str], has_rule: bool) -> None:
    """Spelling, sums, rounding and what is unreadable are those of the decimals, in windows of few trades and of many."""
    feeds = every_kind(rule=StockRule() if has_rule else None)
    for feed in feeds:
        for length_ms in LENGTHS_MS:
            feed.maker.want(length_ms)
        feed.send(*texts)
        feed.end()
    assert_same(feeds)


@given(
    st.integers(-(10**40), 10**40),
    st.integers(0, 40),
    st.integers(1, 10**20),
    st.integers(0, 20),
    st.booleans(),
)
def test_the_weighted_price_is_rounded_as_decimals_are(
    value: int, value_scale: int, volume: int, volume_scale: int, is_tie: bool
) -> None:
    """Ten significant digits, half to even."""
    if is_tie:
        # One digit more than there is room for, and that digit is 5.
        value, volume = value % 10**10 * 10 + 5, 10 ** (volume % 20)
    with localcontext(EXACT):
        exact = Decimal(value).scaleb(-value_scale), Decimal(volume).scaleb(-volume_scale)
    assert quotient(value, value_scale - volume_scale, volume) == _plain(_ROUNDED.divide(*exact))


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["send", "send", "send", "send", "wait", "want", "unwant", "amend", "unamend"]),
        st.integers(0, 400),
        st.lists(st.integers(-600, 30), min_size=1, max_size=4),
        st.sampled_from([*LENGTHS_MS, 100, 100]),
        st.one_of(st.none(), SYMBOLS),
        st.sampled_from([0, 0, 0, 0, 0, 0, LEAP_MS, 40 * LEAP_MS]),
    ),
    min_size=1,
    max_size=30,
)


@unhurried
@given(STEPS, st.data())
def test_whatever_happens_to_a_feed(steps: list[Any], data: st.DataObject) -> None:
    """Leaps, silence, late trades, amendments, and wishes that come and go: the same bars after each step."""
    feeds = every_kind(rule=StockRule(), amend_ms=2000, amend_windows_max=50)
    now_ms = T0 + 2000
    wanted: list[tuple[int, str | None]] = []
    amended: list[tuple[int, str | None]] = []
    for what, pause_ms, offs_ms, length_ms, symbol, leap_ms in [("want", 0, [], 100, None, 0), *steps]:
        held = wanted if what == "unwant" else amended
        if what.startswith("un") and not held:
            continue
        key = held.pop() if what.startswith("un") else (length_ms, symbol)
        if what == "send":
            now_ms += pause_ms + leap_ms
            texts = [data.draw(trades(st.just(now_ms + off_ms))) for off_ms in offs_ms]
        for feed in feeds:
            if what == "send":
                feed.now_ns += pause_ms * 1_000_000
                feed.send(*texts)
            elif what == "wait":
                feed.wait(pause_ms)
            else:
                getattr(feed.maker, what)(*key)
        if what == "want":
            wanted.append(key)
        elif what == "amend":
            amended.append(key)
        assert_same(feeds)
    for feed in feeds:
        feed.end()
    assert_same(feeds)


def real_trades() -> Iterator[bytes]:
    """Yield the frames of the recorded ticks, fifty events each."""
    with gzip.open(shared_file("data/ticks_stocks_20131007.ndjson.gz")) as lines:
        yield from in_frames(line.split(b'"m":', 1)[1].rstrip()[:-1] for line in lines)


def seeded_trades(cluster: str) -> Iterator[bytes]:
    """Yield the frames of a made-up market, fifty events each; a millisecond passes with every tenth event."""
    tape = Tape(Board(cluster, 5, 300), events=20_000)
    texts = []
    for index in range(len(tape)):
        text = tape.text(index)
        for mark, stamp in zip(MARKS, stamps(T0 + 200 + index // 10, FIRST_NUMBER), strict=True):
            text = text.replace(mark.encode(), stamp)
        texts.append(text)
    return in_frames(texts)


def in_frames(events: Iterable[bytes]) -> Iterator[bytes]:
    frame: list[bytes] = []
    for event in events:
        frame.append(event)
        if len(frame) == 50:
            yield b",".join(frame)
            frame = []
    yield b",".join(frame)


@pytest.mark.parametrize("market", ["ticks", "stocks", "options", "futures", "crypto"])
def test_whole_markets_give_the_same_bars(market: str) -> None:
    """Recorded ticks, and the seeded market of each cluster with trades, under the vendor's conditions."""
    cluster = "stocks" if market == "ticks" else market
    frames = list(real_trades() if market == "ticks" else seeded_trades(market))
    feeds = every_kind(cluster=cluster, rule=StockRule() if cluster == "stocks" else None, started=False)
    for feed in feeds:
        for length_ms in (10, 100, 1000):
            feed.maker.want(length_ms)
        for frame in frames:
            feed.send(frame.decode())
        feed.end()
    assert len(feeds[0].bars) > 1000
    assert_same(feeds)


@pytest.mark.parametrize(
    "price", [f"0.{'0' * SCALE_MAX}1", '"1E-900000"', '"0E-41"', '"0E+41"', '"0E+999999"']
)
def test_a_bar_is_short_whatever_a_trade_says(price: str) -> None:
    """A number with more digits behind the point than any market has is unreadable, as price and as size."""
    feed = Feed((100, "AAPL"))
    feed.send(Sent(T0 + 150, price=price), Sent(T0 + 150, size=price), Sent(T0 + 150, more=f',"ds":{price}'))
    assert feed.end() == []
    assert feed.stats.unreadable == 3


def test_numbers_are_forgotten_before_they_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many prices and sizes come, a bounded number is kept, and the bars stay right."""
    monkeypatch.setattr("recorder.bars.trades._KNOWN_MAX", 10)
    feeds = every_kind()
    for feed in feeds:
        feed.maker.want(100)
        for number in range(100):
            feed.send(Sent(T0 + 100 + number, price=f"{number}.5", size=f"{number % 7}.25"))
        feed.end()
    assert_same(feeds)


@pytest.mark.parametrize(
    ("fields", "is_read"),
    [
        ('"p":150.2500,"s":1,"ds":"0.5","c":[14,41]', True),
        ('"p":"-0.5","s":0', True),
        ('"p":1,"s":3,"c":[]', True),
        ('"p":1E-7,"s":4.522e-05', True),
        ('"p":99999999999999.5,"s":999999999999999999', True),
        ('"p":1000000000000000,"s":1', False),
        ('"p":-1000000000000000,"s":1', False),
        ('"p":1,"s":-1', False),
        ('"p":-0.0,"s":1', False),
        ('"p":1E+3,"s":1', False),
        ('"p":1,"s":1e18', False),
        ('"p":1,"c":["37"]', False),
    ],
)
def test_what_native_code_reads_is_what_python_reads(fields: str, is_read: bool) -> None:
    """Numbers within all bounds come as columns; one that needs a closer look leaves its batch to Python."""
    decoder = Decoder("stocks")
    if not isinstance(decoder.decode([b'[{"ev":"Q","sym":"A","t":1}]']), ScannedRows):
        pytest.skip("native code was not built, or is not in use")
    frame = (
        b'[{"ev":"T","sym":"A","p":2.5,"s":7,"t":1},{"ev":"Q","sym":"A","t":1},{"ev":"T","sym":"B",%b,"t":2}]'
    )
    trades = trades_of(decoder.decode([frame % fields.encode()]), "T")
    assert trades is not None
    assert (trades.read is not None) is is_read
    by_python = trades_of(decoder.decode_any([frame % fields.encode()]), "T")
    assert by_python is not None
    for wanted in ([True, True], [False, True], [True, False]):
        got, expected = trades.numbers(wanted), by_python.numbers(wanted)
        assert got[:2] == expected[:2]
        assert [codes or () for codes in got[2]] == [codes or () for codes in expected[2]]
