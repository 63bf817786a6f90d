"""The seeded market: what is listed, what is played, what aggregates amount to."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from contextlib import suppress
from decimal import Decimal
from random import Random
from typing import Any

import pytest
from fakes import FakeClock
from hypothesis import given
from hypothesis import strategies as st

from recorder.frames import frame, header
from recorder.polygon.clusters import CLUSTERS
from recorder.polygon.events import Decoder
from recorder.simulator.audience import Audiences, Selection, compile_slice
from recorder.simulator.faults import Burst, of_kind, parse_fault
from recorder.simulator.framing import Frames, frames_of
from recorder.simulator.listings import SYMBOLS_DEFAULT, listed
from recorder.simulator.schedule import Schedule
from recorder.simulator.seeded import SeededMarket
from recorder.simulator.settings import SimulatorSettings
from recorder.simulator.tape import Board, Tape, slice_events, tape_events
from recorder.simulator.windows import Windows
from recorder.simulator.wire import FIRST_NUMBER, MARKS, STAMP_SIZES, WORDS, decimal, stamps

MINUTE_BORDER_MS = 1_790_000_040_000


class Collector:
    """A subscriber that keeps what it gets, and says when it has enough."""

    def __init__(self, enough: Callable[[list[bytes]], bool]) -> None:
        self.payloads: list[bytes] = []
        self.satisfied = asyncio.Event()
        self.pending_bytes = 0
        self._enough = enough

    def deliver(self, frames: Frames) -> None:
        if not self.satisfied.is_set():
            self.payloads += frames.payloads()
            if self._enough(self.payloads):
                self.satisfied.set()

    def events(self) -> list[dict[str, Any]]:
        return [event for payload in self.payloads for event in json.loads(payload, parse_float=Decimal)]


async def play(
    cluster: str,
    topics: Sequence[str],
    enough: Callable[[list[bytes]], bool],
    *faults: str,
    **options: Any,
) -> Collector:
    """Run a market on fast time until the collector is satisfied."""
    settings = SimulatorSettings(market_start="subscriber", **options)
    bursts = of_kind([parse_fault(text) for text in faults], Burst)
    market = SeededMarket(cluster, settings, FakeClock(), bursts)
    collector = Collector(enough)
    market.place(collector, topics, "")
    task = asyncio.create_task(market.run())
    try:
        await asyncio.wait_for(collector.satisfied.wait(), 300)
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
    return collector


def after_frames(count: int) -> Callable[[list[bytes]], bool]:
    return lambda payloads: len(payloads) >= count


# --- what is listed ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("cluster", CLUSTERS)
def test_listings_are_unique_and_repeatable(cluster: str) -> None:
    """Each cluster lists as many different symbols as it should, the same ones for the same seed."""
    entries = listed(cluster, 7)
    assert len({entry.symbol for entry in entries}) == len(entries) == SYMBOLS_DEFAULT[cluster]
    assert entries == listed(cluster, 7)
    assert all(entry.price >= entry.tick > 0 for entry in entries)
    assert len(listed(cluster, 7, 5)) == 5


def test_odd_symbols_are_listed() -> None:
    """Symbols that equal channels or words, with dots, spreads and contracts are there to trip up careless code."""
    assert {"A", "T", "AM", "NA", "TRUE", "NULL", "BRK.A", "BRK.B"} <= {e.symbol for e in listed("stocks", 1)}
    assert "NQH7-NQM7" in {entry.symbol for entry in listed("futures", 1)}
    assert any(entry.symbol.startswith("O:SPY261218C00") for entry in listed("options", 1))


def test_volume_is_spread_as_in_the_stock_market() -> None:
    """The top 10, 100, 500 and 1,000 of 8,000 symbols have 9, 33, 62 and 77 % of the trades, within 3 points."""
    tape = Tape(Board("stocks", 1), events=100_000)
    trades = Counter(
        place for place, channel in zip(tape.places, tape.channel_numbers, strict=True) if channel == 0
    )
    for top, percent in ((10, 9), (100, 33), (500, 62), (1_000, 77)):
        share = 100 * sum(trades[place] for place in range(top)) / trades.total()
        assert abs(share - percent) <= 3, top


# --- what is played ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("cluster", CLUSTERS)
def test_every_text_is_an_event_of_the_vendor(cluster: str) -> None:
    """Each event of a tape is valid JSON that the recorder's own decoder finds channel, symbol and time in."""
    tape = Tape(Board(cluster, 3), events=5_000)
    filled = []
    for index in range(len(tape)):
        text = tape.text(index)
        for mark, stamp in zip(MARKS, stamps(1_790_000_000_123, FIRST_NUMBER), strict=True):
            text = text.replace(mark.encode(), stamp)
        filled.append(text)
    events = Decoder(cluster).decode([b"[" + b",".join(filled) + b"]"])
    assert not events.rejects
    assert events.channels == [tape.channels[number] for number in tape.channel_numbers]
    assert events.symbols == [tape.listing[place].symbol for place in tape.places]
    assert set(events.times_ms) == {1_790_000_000_123}
    for text in filled:
        json.loads(text)


def test_a_stretch_ends_where_the_next_one_begins() -> None:
    """Prices walk on from stretch to stretch without a jump; a stretch that is played again ends where it began."""
    board = Board("stocks", 1)
    for number, following in ((0, 1), (1, 2), (0, 0)):
        tape = Tape(board, events=20_000, number=number, following=following)
        last = dict(zip(tape.places, tape.prices, strict=True))
        levels = board.levels(list(last), following)
        for place, price in last.items():
            assert price == max(
                board.listing[place].tick, board.listing[place].price + levels[place] * board.units[place]
            )
        assert len(set(tape.prices)) > len(last)


def test_prices_stay_plausible_for_ever() -> None:
    """After a second or after a year, no price is further from where it was listed than 5.2 %, or a tick."""
    board = Board("stocks", 1, 500)
    everything = range(len(board.listing))
    seen = set()
    for number in (0, 1, 60, 86_400, 31_536_000):
        for place, level in board.levels(everything, number).items():
            entry = board.listing[place]
            assert abs(level * board.units[place]) <= max(entry.price * 0.052, entry.tick)
        seen.add(tuple(board.levels(everything, number).values()))
    assert len(seen) == 5


async def test_no_minute_is_like_another() -> None:
    """Each minute of the most traded symbols has prices that no other minute has."""
    minute = "AM"
    played = await play(
        "stocks",
        [f"{minute}.*"],
        lambda payloads: len({json.loads(payload)[0]["s"] for payload in payloads}) >= 3,
        rate=1_000,
        symbols=20,
        start_ms=MINUTE_BORDER_MS,
    )
    minutes = defaultdict(list)
    for event in played.events():
        minutes[event["sym"]].append([event[name] for name in ("o", "h", "l", "c", "vw", "v")])
    for symbol in ("SPY", "AAPL", "NVDA"):
        assert len(minutes[symbol]) >= 3
        assert len({tuple(each) for each in minutes[symbol]}) == len(minutes[symbol]), symbol


def test_a_tape_depends_on_its_seed_alone() -> None:
    """Equal seeds give equal texts, different ones do not."""
    first, second, other = (Tape(Board("crypto", seed), events=2_000) for seed in (1, 1, 2))
    texts = [first.text(index) for index in range(2_000)]
    assert texts == [second.text(index) for index in range(2_000)]
    assert texts != [other.text(index) for index in range(2_000)]


@given(st.integers(1, 3_000), st.sampled_from((1_000, 3_000)))
def test_slices_cover_the_tape(step: int, events: int) -> None:
    """Slices follow each other without a hole; no run crosses a thousand."""
    tape = Tape(Board("indices", 1, 5), events=events)
    slices = tape.slices(step)
    assert [part.begin for part in slices[1:]] + [events] == [part.end for part in slices]
    for part in slices:
        for begin, end in itertools.pairwise((*part.runs, part.end)):
            assert begin // 1_000 == (end - 1) // 1_000


@pytest.mark.parametrize("topics", [("T.*", "Q.*"), ("T.NVDA",), ("Q.*", "LULD.*", "T.BRK.B"), ("AM.*",)])
def test_compiled_frames_hold_the_chosen_events(topics: tuple[str, ...]) -> None:
    """Filled templates equal the chosen texts with their marks replaced one by one, in order."""
    tape = Tape(Board("stocks", 1), events=3_000)
    selection = Selection(topics)
    for part in tape.slices(500):
        expected = []
        filling = []
        for run, begin in enumerate(part.runs):
            marks = stamps(1_790_000_000_000 + run, FIRST_NUMBER + begin)
            filling += marks
            for index in range(begin, (*part.runs, part.end)[run + 1]):
                symbol = tape.listing[tape.places[index]].symbol
                if selection.wants(tape.channels[tape.channel_numbers[index]], symbol):
                    text = tape.text(index)
                    for mark, stamp in zip(MARKS, marks, strict=True):
                        text = text.replace(mark.encode(), stamp)
                    expected.append(text)
        frames = [template.fill(filling) for template in compile_slice(tape, part, selection, 7)]
        assert b"".join(each.data for each in frames) == frames_of(expected, 7).data
        assert sum(each.events_count for each in frames) == len(expected)
        assert all(max(each.events) <= 7 for each in frames)


@given(st.integers(10**12, 9 * 10**12), st.integers(0, 899_999_999))
def test_stamps_never_change_their_size(time_ms: int, block: int) -> None:
    """Frame headers stay true whatever the time and the number."""
    assert tuple(map(len, stamps(time_ms, FIRST_NUMBER + block * 1_000))) == STAMP_SIZES


@pytest.mark.parametrize("length", [0, 1, 125, 126, 127, 65_535, 65_536, 200_000])
def test_frames_split_into_their_payloads(length: int) -> None:
    """A header says how long its payload is, whichever of the three forms it takes."""
    payload = b"x" * length
    frames = Frames(frame(payload) + frame(b"[]"), [length, 2], [1, 0])
    assert list(frames.payloads()) == [payload, b"[]"]
    assert len(header(length)) == (2 if length < 126 else 4 if length < 65_536 else 10)


@given(st.integers(0, 10**15), st.integers(2, 9))
def test_prices_are_written_exactly(units: int, decimals: int) -> None:
    """No digit of a price is lost or made up, and there are at least two decimals."""
    text = decimal(units, decimals)
    assert Decimal(text) == Decimal(units).scaleb(-decimals)
    assert len(text.partition(".")[2]) >= 2


async def test_numbers_count_every_event_of_the_market() -> None:
    """With all channels, `q` of trades and quotes rises by the events in between, across the ends of stretches."""
    count = 3 * tape_events(500) + 500
    played = await play(
        "options",
        ["T.*", "Q.*", "FMV.*"],
        after_frames(count // 5 + 1),
        rate=500,
        frame_events=5,
    )
    numbers = [event.get("q") for event in played.events()]
    assert len(numbers) >= count
    assert all(number in (None, FIRST_NUMBER + place) for place, number in enumerate(numbers))
    assert numbers.count(None) < len(numbers) // 100


async def test_the_same_seed_start_and_rate_give_the_same_bytes() -> None:
    """Two markets with equal settings send equal frames; another seed sends others."""
    options = {"rate": 20_000, "start_ms": MINUTE_BORDER_MS}
    first = await play("stocks", ["T.*", "A.*"], after_frames(300), seed=5, **options)
    second = await play("stocks", ["T.*", "A.*"], after_frames(300), seed=5, **options)
    other = await play("stocks", ["T.*", "A.*"], after_frames(300), seed=6, **options)
    assert first.payloads[:300] == second.payloads[:300]
    assert first.payloads[:300] != other.payloads[:300]


async def test_a_flood_with_a_start_gives_the_same_bytes() -> None:
    """Without a pace, time is counted in events, so the same bytes come again."""
    first, second = [
        await play("stocks", ["T.*", "A.*"], after_frames(2_500), rate=0, start_ms=MINUTE_BORDER_MS)
        for _ in range(2)
    ]
    assert first.payloads[:2_500] == second.payloads[:2_500]
    assert any(event["ev"] == "A" for event in first.events())


async def test_who_comes_late_gets_the_present() -> None:
    """A market that opened with the process has moved on when somebody subscribes."""
    clock = FakeClock()
    market = SeededMarket("forex", SimulatorSettings(rate=1_000, start_ms=MINUTE_BORDER_MS), clock)
    task = asyncio.create_task(market.run())
    await asyncio.sleep(0)
    await clock.sleep(100.0)
    late = Collector(after_frames(1))
    market.place(late, ["C.*"], "")
    await asyncio.wait_for(late.satisfied.wait(), 30)
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
    assert 100_000 <= late.events()[0]["t"] - MINUTE_BORDER_MS < 100_100


# --- aggregates --------------------------------------------------------------------------------------------

FIELDS = {
    "stocks": ("T", "sym", "p", lambda e: Decimal(e.get("ds", e["s"]))),
    "options": ("T", "sym", "p", lambda e: Decimal(e["s"])),
    "futures": ("T", "sym", "p", lambda e: Decimal(e["s"])),
    "crypto": ("XT", "pair", "p", lambda e: Decimal(e["s"])),
    "forex": ("C", "p", "b", lambda _: Decimal(1)),
    "indices": ("V", "T", "val", lambda _: Decimal(1)),
}
"""The channel that aggregates are made of: symbol, price and size of its events."""


@pytest.mark.parametrize("cluster", CLUSTERS)
async def test_aggregates_are_what_the_trades_amount_to(cluster: str) -> None:
    """Every second and minute aggregate equals the trades sent in its window; every window with trades has one."""
    words = WORDS[cluster]
    channel, symbol_field, price_field, size_of = FIELDS[cluster]
    played = await play(
        cluster,
        [f"{channel}.*", f"{words.second}.*", f"{words.minute}.*"],
        lambda payloads: f'"ev":"{words.minute}"'.encode() in payloads[-1],
        rate=400,
        start_ms=MINUTE_BORDER_MS,
    )
    trades: dict[tuple[int, str], list[tuple[Decimal, Decimal]]] = defaultdict(list)
    aggregates: dict[tuple[int, str, int], dict[str, Any]] = {}
    for event in played.events():
        if event["ev"] == channel:
            trade = Decimal(event[price_field]), size_of(event)
            for span in (1_000, 60_000):
                trades[span, event[symbol_field], event["t"] // span * span].append(trade)
        else:
            span = 1_000 if event["ev"] == words.second else 60_000
            assert event["e"] - event["s"] == span
            key = span, event.get("sym") or event["pair"], event["s"]
            assert key not in aggregates
            aggregates[key] = event
    ended = MINUTE_BORDER_MS + 60_000
    minute_events = [key for key in aggregates if key[0] == 60_000]
    assert minute_events
    finished = {key for key in trades if key[2] + key[0] <= ended and key[0] == 1_000}
    assert {key for key in aggregates if key[0] == 1_000} == finished
    for key, event in aggregates.items():
        prices = [price for price, _ in trades[key]]
        volume = sum(size for _, size in trades[key])
        value = sum(price * size for price, size in trades[key])
        assert [Decimal(event[name]) for name in "ohlc"] == [prices[0], max(prices), min(prices), prices[-1]]
        if cluster != "indices":
            told = event["v"] if cluster != "stocks" else event.get("dv", event["v"])
            assert abs(Decimal(told) - volume) < Decimal("1e-9")
        if "vw" in event:
            half_a_unit = Decimal(5).scaleb({"stocks": -5, "options": -3, "crypto": -9}[cluster])
            assert abs(Decimal(event["vw"]) - value / volume) <= half_a_unit
        if cluster == "futures":
            assert Decimal(event["dv"]) == value
            assert event["n"] == len(prices)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 10**6), st.integers(1, 10**6)), min_size=1))
def test_windows_add_up(trades: list[tuple[int, int, int]]) -> None:
    """A minute is the sum of its seconds, whatever the trades."""
    windows = Windows()
    seconds, minutes = [], []
    for number, trade in enumerate(trades):
        ended = windows.advance(min(MINUTE_BORDER_MS + number * 700, MINUTE_BORDER_MS + 59_999))
        seconds += ended[0]
        windows.add([trade])
    ended = windows.advance(MINUTE_BORDER_MS + 60_000)
    seconds += ended[0]
    minutes += ended[1]
    [minute] = minutes
    for place, window in minute.windows.items():
        mine = [(price, size) for where, price, size in trades if where == place]
        assert window.count == len(mine) == sum(s.windows[place].count for s in seconds if place in s.windows)
        assert window.value == sum(price * size for price, size in mine)
        assert (window.open, window.close) == (mine[0][0], mine[-1][0])
        assert (window.high, window.low) == (max(mine)[0], min(mine)[0])


def test_a_window_seen_in_part_is_not_given() -> None:
    """After an interruption in the middle of a second, that second's sums would be wrong and are kept back."""
    windows = Windows()
    windows.advance(MINUTE_BORDER_MS + 500)
    windows.add([(0, 1, 1)])
    assert windows.advance(MINUTE_BORDER_MS + 1_000) == ([], [])
    windows.add([(0, 1, 1)])
    [second], [] = windows.advance(MINUTE_BORDER_MS + 2_000)
    assert second.start_ms == MINUTE_BORDER_MS + 1_000
    windows.add([(0, 1, 1)])
    windows.interrupt()
    assert windows.advance(MINUTE_BORDER_MS + 3_000) == ([], [])


# --- when it is played -------------------------------------------------------------------------------------


@given(st.floats(10, 1e6), st.booleans(), st.booleans(), st.integers(0, 99))
def test_the_rate_is_exact_on_average(rate: float, bursts: bool, opening: bool, seed: int) -> None:
    """Times rise, and after whole minutes as many events have happened as the rate says, bursts or not."""
    schedule = Schedule(rate, 1000.0, bursts=Random(seed) if bursts else None, session_open=opening)
    times = [schedule.time_ms(int(rate * secs / 7)) for secs in range(7 * 120)]
    assert times == sorted(times)
    for minutes in (1, 2, 10):
        assert schedule.index_at(1000.0 + minutes * 60_000) == pytest.approx(
            rate * 60 * minutes, abs=2, rel=1e-9
        )


def test_bursts_are_ten_times_the_rate() -> None:
    """Within a period there is a moment with ten times the events, and none with more."""
    schedule = Schedule(1_000, 0.0, bursts=Random(1), session_open=False)
    counts = Counter(int(schedule.time_ms(index) // 20) for index in range(10_000))
    assert 190 <= max(counts.values()) <= 210


def test_a_heavy_opening_is_evened_out() -> None:
    """The first seconds have three times the events."""
    schedule = Schedule(1_000, 0.0, bursts=None, session_open=True)
    assert schedule.index_at(5_000) == pytest.approx(15_000, abs=2)


async def test_the_burst_fault_multiplies_the_rate_for_its_time() -> None:
    """After two seconds the market is four times as fast, for one second, and then as before."""
    played = await play(
        "indices",
        ["V.*"],
        lambda payloads: b'"t":17900000460' in payloads[-1],
        "burst:factor=4,for=1s,after=2s",
        rate=1_000,
        start_ms=MINUTE_BORDER_MS,
        bursts=False,
    )
    seconds = Counter((event["t"] - MINUTE_BORDER_MS) // 1_000 for event in played.events())
    for second, count in enumerate((1_000, 1_000, 4_000, 1_000, 1_000)):
        assert seconds[second] == pytest.approx(count, abs=60), second


@given(st.floats(0.1, 2e6), st.integers(1, 1_000))
def test_slices_are_whole_frames_where_they_can_be(rate: float, frame_events: int) -> None:
    """A slice of more than a frame has no partly filled one; a slow market is not held back to fill frames."""
    events = slice_events(rate, frame_events)
    assert events >= 1
    assert events % frame_events == 0 or events < frame_events
    assert events <= max(1, rate * 0.01 + 0.5)


# --- who gets it -------------------------------------------------------------------------------------------


def test_topics_choose_events() -> None:
    """A channel as a whole, one symbol, a currency pair in its other spelling; a venue narrows all."""
    selection = Selection(["T.*", "Q.BRK.B", "C.EUR-USD"])
    assert selection.wants("T", "ANY")
    assert selection.wants("Q", "BRK.B")
    assert not selection.wants("Q", "BRK")
    assert selection.wants("C", "EUR/USD")
    assert not Selection(["T.*"], "cme").wants("T", "GCZ6", "comex")


async def test_equal_topics_make_one_audience() -> None:
    """Subscribers of the same topics share an audience; it changes with the topics; a client that leaves is gone."""
    audiences: Audiences[object] = Audiences()
    first, second = Collector(after_frames(1)), Collector(after_frames(1))
    audiences.place(first, ["T.*", "Q.*"])
    audiences.place(second, ["Q.*", "T.*"])
    assert [len(audience.members) for audience in audiences] == [2]
    audiences.place(second, ["Q.*"])
    assert [len(audience.members) for audience in audiences] == [1, 1]
    audiences.place(first, [])
    audiences.place(second, [])
    assert len(audiences) == 0
    assert list(audiences) == []
