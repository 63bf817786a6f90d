"""The scanner in C: it takes the exchange's usual frames, reads them as Python does, and refuses every other frame."""

from __future__ import annotations

import gc
import gzip
import json
import resource
import sys
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from shared_data import shared_file

from fuzz.claims import scanner_of, scanning
from recorder.polygon.channels import CHANNELS
from recorder.polygon.clusters import CLUSTERS

native: Any = pytest.importorskip("recorder._native", reason="native code was not built")

MS = 1_790_000_000_000
TRADE = b'{"ev":"T","sym":"A","t":%d}' % MS
STOCKS = scanner_of("stocks")


def frame(*events: bytes) -> bytes:
    """Return a frame of these events."""
    return b"[" + b",".join(events) + b"]"


def trade(members: str) -> bytes:
    """Return the frame of a trade that has these members, too."""
    return frame(b'{"ev":"T","sym":"A","t":%d,%b}' % (MS, members.encode()))


def check(cluster: str, *frames: bytes) -> Any:
    """Return the block of frames that are scanned and read as Python reads them."""
    block = scanner_of(cluster).scan(list(frames))
    assert block is not None, frames
    scanning(bytes((list(CLUSTERS).index(cluster),)) + b"\xff\x00\xff".join(frames))
    return block


@pytest.mark.parametrize("cluster", CLUSTERS)
@pytest.mark.parametrize("code", CHANNELS)
def test_every_channel_is_taken_on_every_cluster(cluster: str, code: str) -> None:
    """By the symbol field of the cluster, and by that of the channel."""
    channel = CHANNELS[code]
    for field in {CLUSTERS[cluster].main.symbol_field, channel.symbol_field}:
        for time in channel.time_fields:
            event = json.dumps({"ev": code, field: "S:1", time: MS, "x": 1.5}, separators=(",", ":"))
            block = check(cluster, frame(event.encode(), event.encode()))
            assert (block.channels, block.symbols, block.times_ms) == ([code] * 2, ["S:1"] * 2, [MS] * 2)


def test_the_frames_of_the_exchange_are_taken() -> None:
    """Every sample of every channel, but for those that are odd on purpose, so that the fast way is really used."""
    taken, refused = set(), []
    with shared_file("data/polygon_samples.ndjson").open() as lines:
        for line in map(json.loads, lines):
            cluster = line["cluster"].rpartition("/")[2]
            if cluster not in CLUSTERS:
                assert line["ev"] == "status"
                assert STOCKS.scan([line["frame"].encode()]) is None
            elif scanner_of(cluster).scan([line["frame"].encode()]) is None:
                refused.append(line)
            else:
                check(cluster, line["frame"].encode())
                taken.add((cluster, line["ev"]))
    # Escapes, other alphabets, white space, an event without its array.
    assert [line["kind"] for line in refused] == ["constructed"] * 3 + ["fixture"]
    assert {code for _, code in taken} == set(CHANNELS)
    assert {cluster for cluster, _ in taken} == set(CLUSTERS)


@pytest.mark.parametrize(
    ("cluster", "name"),
    [("stocks", "data/ticks_stocks_20131007.ndjson.gz"), ("forex", "data/ticks_forex_20140501.ndjson.gz")],
)
def test_real_ticks_are_taken(cluster: str, name: str) -> None:
    """Trades and quotes of minutes, in reads of a hundred frames, to the columns and lines of Python."""
    with gzip.open(shared_file(name)) as lines:
        ticks = [line.strip().partition(b'"m":')[2][:-1] for line in lines]
    frames = [frame(*ticks[begin : begin + 10]) for begin in range(0, len(ticks), 10)]
    blocks = [check(cluster, *frames[begin : begin + 100]) for begin in range(0, len(frames), 100)]
    assert sum(map(len, blocks)) == len(ticks) > 1000
    assert None not in [block.trades("T") for block in blocks]


keys = st.sampled_from(["ev", "t", "e", "s", "sym", "pair", "T", "p", "ds", "c", "x", "bid"])
texts = st.sampled_from(["A", "EUR/USD", "", "T", "é", "a b", '"', "\n", "status", "A" * 300])
times = st.sampled_from([MS, MS - 1, 0, -1, 5, MS * 1000, MS * 10**6, 10**19, 2**63, float(MS), str(MS)])
values = st.recursive(
    st.none() | st.booleans() | st.floats(allow_nan=False, allow_infinity=False) | texts | times,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3),
    max_leaves=5,
)


@st.composite
def events_of(draw: st.DrawFn, cluster: str) -> str:
    """An event, mostly as the cluster's are, with any members besides and any of its own replaced or doubled."""
    code = draw(st.sampled_from([*CLUSTERS[cluster].channels, *CHANNELS]))
    members = [("ev", code), (CHANNELS[code].symbol_field, "A"), ("t", MS)]
    members += draw(st.lists(st.tuples(keys, values), max_size=2))
    if draw(st.integers(0, 3)) == 0:
        members[draw(st.integers(0, 2))] = draw(st.tuples(keys, values))
    body = ",".join(
        f"{json.dumps(key)}:{json.dumps(value, separators=(',', ':'))}"
        for key, value in draw(st.permutations(members))
    )
    return f"{{{body}}}"


@pytest.mark.parametrize("cluster", CLUSTERS)
def test_what_is_taken_is_read_as_python_reads_it(cluster: str) -> None:
    """Any members in any order, of any type, twice: taken and read alike, or refused; a good part is taken."""
    taken = 0

    @settings(max_examples=settings.default.max_examples * 3 // 2, derandomize=True)
    @given(st.lists(events_of(cluster), min_size=1, max_size=2))
    def agrees(events: list[str]) -> None:
        nonlocal taken
        sent = f"[{','.join(events)}]".encode()
        taken += scanner_of(cluster).scan([sent]) is not None
        scanning(bytes((list(CLUSTERS).index(cluster),)) + sent)

    agrees()
    assert taken > settings.default.max_examples * 3 // 20


@pytest.mark.parametrize(
    "odd",
    [
        b"",
        b"[]",
        b"[{}]",
        b"{}",
        b"null",
        TRADE,
        b"[" + TRADE,
        b"[" + TRADE + b",",
        b"[" + TRADE + b",]",
        frame(TRADE) + b"]",
        frame(TRADE) + b"\n",
        frame(TRADE) + b"\x00",
        b" " + frame(TRADE),
        b"[ " + TRADE + b"]",
        frame(TRADE, b"1"),
        frame(TRADE, b"[" + TRADE + b"]"),
        frame(b'{"ev":"status","status":"success","message":"authenticated"}'),
        frame(TRADE, b'{"ev":"status","sym":"A","t":%d}' % MS),
        frame(b'{"ev":"NEW","sym":"A","t":%d}' % MS),
        frame(b'{"ev":"TRADE","sym":"A","t":%d}' % MS),
        frame(b'{"ev":"","sym":"A","t":%d}' % MS),
        frame(b'{"ev":1,"sym":"A","t":%d}' % MS),
        frame(b'{"sym":"A","t":%d}' % MS),
        frame(b'{"ev":"T","t":%d}' % MS),
        frame(b'{"ev":"T","sym":"","t":%d}' % MS),
        frame(b'{"ev":"T","sym":null,"t":%d}' % MS),
        frame(b'{"ev":"T","sym":"\\u0041","t":%d}' % MS),
        frame(b'{"ev":"T","sym":"\xc3\xa9","t":%d}' % MS),
        frame(b'{"ev":"T","sym":"A\x7f","t":%d}' % MS),
        frame(b'{"ev":"T","sym":"A\n","t":%d}' % MS),
        frame(b'{"ev":"T","sym":"%b","t":%d}' % (b"A" * 256, MS)),
        frame(b'{"ev":"T","sym":"A"}'),
        frame(b'{"ev":"A","sym":"A"}'),
        frame(b'{"ev":"T","sym":"A","e":%d}' % MS),
        *(
            frame(b'{"ev":"T","sym":"A","t":%b}' % time.encode())
            for time in (
                *("0", "-1", "01", "1.5", "1790000000000.0", "1e12", "null", '"1790000000000"', "[]"),
                str(10**19),
            )
        ),
        frame(b'{"ev":"A","sym":"A","t":0,"e":%d}' % MS),
        frame(b'{"ev":"A","sym":"A","e":"soon","s":%d}' % MS),
        *(
            trade(f'"{key}":1,"{key}":1') for key in ("e", "p", "s", "ds", "c")
        ),
        trade(f'"t":{MS}'),
        trade('"sym":"A"'),
        trade('"ev":"T"'),
        *(trade(f'"x":{value}') for value in ("", "-", "+1", ".5", "1.", "01", "1e", "1e+", "0x1", "NaN", "Infinity")),
        *(trade(f'"x":{value}') for value in ("tru", "trues", "falsy", "nul", "True", "'a'", '"a', '"\\"', "a")),
        *(trade(f'"x":{value}') for value in ("[", "[1", "[1,", "[,]", "[1 ]", "{", "{1:2}", '{"a"}', '{"a":}', '{"a":1,}')),
        *(trade(f'"x":{value}') for value in ("[}", '{"a":1]', "]", "[" * 17 + "]" * 17, "[" * 100_000)),
        trade('"x"'),
        trade('"x":1 '),
        trade("1:2"),
        trade(""),
        trade(f'"x":"{"-" * 65_536}"'),
    ],
)  # fmt: skip
def test_everything_else_is_refused(odd: bytes) -> None:
    """Alone, before and behind a plain frame: one odd frame leaves its whole read to Python."""
    plain = frame(TRADE)
    for frames in ([odd], [plain, odd], [odd, plain]):
        assert STOCKS.scan(frames) is None


@pytest.mark.parametrize(
    "members",
    [
        *(f'"x":{value}' for value in ("0", "-0", "-0.0", "10.25", "1e999", "1E-5", "0.1e+5", "1" * 400)),
        *(f'"x":{value}' for value in ("true", "false", "null", '""', '" {}[],:"', '{"ev":"Q","t":1,"t":2}')),
        *(f'"x":{value}' for value in ("[]", "{}", "[[],{}]", "[" * 16 + "]" * 16)),
        '"":1', '"longer":1,"longer":2', '"x":1,"x":2', f'"x":"{"-" * 65_000}"',
    ],
)  # fmt: skip
def test_any_other_member_may_be_there(members: str) -> None:
    """All that JSON allows, in bounds, and twice where the key does not count."""
    check("stocks", trade(members))


@pytest.mark.parametrize(
    "symbol", ["A", "A" * 255, "BRK.B", "EUR/USD", "O:SPY261218C00600000", " ", "~!#$%&'()"]
)
def test_any_symbol(symbol: str) -> None:
    """Of printable ASCII without quote and backslash, up to 255 letters."""
    assert check("stocks", frame(b'{"ev":"T","sym":"%b","t":%d}' % (symbol.encode(), MS))).symbols == [symbol]


@pytest.mark.parametrize(
    ("time", "ms"),
    [
        (1, 1000),
        (99_999_999_999, 99_999_999_999_000),
        (100_000_000_000, 100_000_000_000),
        (99_999_999_999_999, 99_999_999_999_999),
        (100_000_000_000_000, 100_000_000_000),
        (99_999_999_999_999_999, 99_999_999_999_999),
        (100_000_000_000_000_000, 100_000_000_000),
        (9_999_999_999_999_999_999, 9_999_999_999_999),
    ],
)
def test_times_of_any_unit(time: int, ms: int) -> None:
    """At the border of each."""
    assert check("stocks", frame(b'{"ev":"T","sym":"A","t":%d}' % time)).times_ms == [ms]
    assert check("forex", frame(b'{"ev":"CA","pair":"A","e":%d,"s":5}' % time)).times_ms == [ms]
    assert check("forex", frame(b'{"ev":"CA","pair":"A","s":%d}' % time)).times_ms == [ms]


def test_a_block_of_several_frames() -> None:
    """Events in the order of arrival, each channel counted; an empty read has no events."""
    quote = b'{"ev":"Q","sym":"B","t":%d,"x":{"y":"},{"}}' % (MS - 5)
    block = check("stocks", frame(TRADE, quote), frame(quote), frame(TRADE, TRADE))
    assert len(block) == 5
    assert block.channels == ["T", "Q", "Q", "T", "T"]
    assert block.symbols == ["A", "B", "B", "A", "A"]
    assert block.fragments == [event[1:] + b"," for event in (TRADE, quote, quote, TRADE, TRADE)]
    assert block.counts == {"T": 3, "Q": 2}
    assert block.span_ms == (MS - 5, MS)
    empty = STOCKS.scan([])
    assert (len(empty), empty.channels, empty.fragments, empty.counts, empty.span_ms) == (
        0,
        [],
        [],
        {},
        (0, 0),
    )
    assert empty.format(1, 1, b"", b"") == b""


def test_many_events_and_many_symbols() -> None:
    """More than any table or first guess has room for."""
    events = [b'{"ev":"T","sym":"%d","t":%d}' % (number, MS + number) for number in range(100_000)]
    block = STOCKS.scan((frame(*events),))
    assert block.symbols == [str(number) for number in range(100_000)]
    assert block.symbols == block.symbols
    assert block.span_ms == (MS, MS + 99_999)
    assert len(block.format(1, 1, b"{}", b"").splitlines()) == 100_000


def test_the_same_symbol_is_the_same_object() -> None:
    """Its hash is computed once."""
    first, again = STOCKS.scan([frame(TRADE)]), STOCKS.scan([frame(TRADE)])
    assert first.symbols[0] is again.symbols[0]
    assert first.channels[0] is again.channels[0]


@pytest.mark.parametrize("first", [0, 1, 8, 9, 98, 99, 997, 9_999_999_995, 2**64 - 11])
def test_numbers_of_lines_grow(first: int) -> None:
    """By a digit, too, and up to the largest."""
    block = STOCKS.scan([frame(*[TRADE] * 10)])
    lines = block.format(7, first, b'"stocks"', b'"seq":').splitlines()
    assert [json.loads(line)["seq"] for line in lines] == list(range(first, first + 10))
    assert lines[0] == (
        b'{"ingest_ts":7,"type":"T","symbol":"A","topic":"T:A","feed":"stocks","ts":%d,"payload":%b,"seq":%d}'
        % (MS, TRADE, first)
    )


@pytest.mark.parametrize("wanted", [set(), {"T"}, {"Q", "AM"}, {"T", "Q", "AM", "none"}])
@pytest.mark.parametrize("first", [1, 96, 2**64 - 200])
def test_the_events_of_some_channels_keep_their_numbers(wanted: set[str], first: int) -> None:
    """Their columns and lines are those of the whole block, less the others; chosen from again, too."""
    events = [
        b'{"ev":"%b","sym":"S%d","t":%d}' % ((b"T", b"Q", b"Q", b"AM")[place * place % 4], place, MS + place)
        for place in range(150)
    ]
    block = STOCKS.scan([frame(*events)])
    kept = [place for place, channel in enumerate(block.channels) if channel in wanted]
    picked = block.pick(wanted)
    assert len(picked) == len(kept)
    assert picked.numbers(first) == [first + place for place in kept]
    for column in ("channels", "symbols", "times_ms", "fragments"):
        whole = getattr(block, column)
        assert getattr(picked, column) == [whole[place] for place in kept]
    assert picked.counts == {code: count for code, count in block.counts.items() if code in wanted}
    assert picked.span_ms == ((MS + kept[0], MS + kept[-1]) if kept else (0, 0))
    lines = block.format(7, first, b'"stocks"', b'"seq":').splitlines(keepends=True)
    begin = picked.numbers(first)[0] if kept else 0
    assert picked.format(7, begin, b'"stocks"', b'"seq":') == b"".join(lines[place] for place in kept)
    assert picked.pick({"T"}).numbers(first) == block.pick(wanted & {"T"}).numbers(first)


# ---- trades ----

conditions = st.lists(st.integers(0, 99), max_size=4)
spelled = st.one_of(
    st.decimals(allow_nan=False, allow_infinity=False).map(str),
    st.decimals(min_value=-1000, max_value=1000, places=3).map(str),
    st.from_regex(r"-?(0|[1-9]\d{0,20})(\.\d{1,20})?([eE][+-]?\d{1,3})?", fullmatch=True),
    st.from_regex(r"[-+]?\d{0,3}\.?\d{0,3}(e\d?)?", fullmatch=True),
)


class Members(msgspec.Struct):
    """What bars read of a trade, as they do in Python."""

    p: Decimal
    s: msgspec.Raw = msgspec.Raw(b"0")
    ds: Decimal | None = None
    c: tuple[int, ...] | None = None

    @property
    def size(self) -> Decimal:
        """Of a size that does not count, any spelling will do."""
        return msgspec.json.decode(self.s, type=Decimal) if self.ds is None else self.ds


decode_members = msgspec.json.Decoder(Members).decode


@given(
    st.lists(
        st.tuples(spelled, spelled | st.none(), spelled | st.none(), conditions, st.integers(0, 15)),
        max_size=3,
    )
)
@example([("1.2e-1", "0.00", None, [], 0)])
@example([("-0", "1", "1", [], 0)])
@example([("0.000", "", "0.000", [], 4)])
@example([("1", "", None, [], 4)])
@example([("1e15", "1.50e1", "1e-18", [12], 15)])
def test_columns_of_trades_are_exact(
    trades: list[tuple[str, str | None, str | None, list[int], int]],
) -> None:
    """Digits and scale say the same number, spelled the same, as Decimal; None only where integers cannot."""
    events = []
    for price, size, exact_size, conditions, quoted in trades:
        members = [f'"p":{price}', f'"c":{conditions}'.replace(" ", "")]
        members += [f'"s":{size}'] if size is not None else []
        members += [f'"ds":{exact_size}'] if exact_size is not None else []
        spelled = [
            member.replace(":", ':"') + '"' if quoted >> bit & 1 and '"c"' not in member else member
            for bit, member in enumerate(members)
        ]
        events.append(b'{"ev":"T","sym":"A","t":%d,%b}' % (MS, ",".join(spelled).encode()))
    block = STOCKS.scan([frame(*events)]) if events else STOCKS.scan([])
    if block is None:
        return
    columns = block.trades("T")
    if columns is None:
        assert any(map(is_beyond_integers, events))
        return
    assert [len(column) for column in columns] == [len(events)] * 7
    for event, *cells in zip(events, *columns, strict=True):
        symbol, ms, price, price_scale, size, size_scale, conditions = cells
        known = decode_members(event)
        assert (symbol, ms) == ("A", MS)
        assert fixed(price, price_scale) == format(known.p, "f")
        assert fixed(size, size_scale) == format(known.size, "f")
        assert tuple(map(int, filter(None, conditions.split(",")))) == known.c


def fixed(mantissa: int, scale: int) -> str:
    """Return the number without an exponent."""
    return format(Decimal(mantissa).scaleb(-scale), "f")


def is_beyond_integers(event: bytes) -> bool:
    """Whether a trade is none, or has a number that 18 digits as spelled do not hold, or a negative 0."""
    try:
        known = decode_members(event)
        numbers = (known.p, known.size)
    except msgspec.ValidationError:
        return True
    for number in numbers:
        _, digits, exponent = number.as_tuple()
        assert isinstance(exponent, int)
        if len(digits) > 18 or not -18 <= exponent <= 0 or (number.is_signed() and not number):
            return True
    if b":-0" in event:
        return True  # read as a whole number, it loses its sign
    return b'"p":"' in event or b's":"' in event  # Decimal reads more texts than JSON has numbers


@pytest.mark.parametrize(
    ("members", "found"),
    [
        ('"p":1.50', (150, 2, 0, 0, "")),
        ('"p":1.50,"s":100', (150, 2, 100, 0, "")),
        ('"p":"1.50","s":"100","ds":"100.25"', (150, 2, 10025, 2, "")),
        ('"p":1,"s":{},"ds":2', (1, 0, 2, 0, "")),
        ('"p":1,"s":3,"ds":null', (1, 0, 3, 0, "")),
        ('"p":-1,"s":-3', (-1, 0, -3, 0, "")),
        ('"p":0.0,"s":0', (0, 1, 0, 0, "")),
        ('"p":1.5e1,"s":2.25E+1', (15, 0, 225, 1, "")),
        ('"p":2E+3', None),
        ('"p":12e-7,"c":[14,41]', (12, 7, 0, 0, "14,41")),
        ('"p":1,"c":null', (1, 0, 0, 0, "")),
        ('"p":1,"c":[]', (1, 0, 0, 0, "")),
        ('"p":123456789012345678', (123456789012345678, 0, 0, 0, "")),
        ('"p":0.123456789012345678', (123456789012345678, 18, 0, 0, "")),
        ('"p":1234567890123456789', None),
        ('"p":1e18', None),
        ('"p":1e-19', None),
        ('"p":1e100', None),
        ('"p":0e99', None),
        ('"p":-0', None),
        ('"p":null', None),
        ('"p":true', None),
        ('"p":[1]', None),
        ('"p":"NaN"', None),
        ('"p":" 1"', None),
        ('"p":"1 "', None),
        ('"p":"1_0"', None),
        ('"p":""', None),
        ('"p":"1e"', None),
        ('"p":"."', None),
        ('"s":1', None),
        ('"p":1,"s":null', None),
        ('"p":1,"c":7', None),
        ('"p":1,"c":["7"]', None),
        ('"p":1,"c":[1.5]', None),
        ('"p":1,"c":[-1]', None),
        ('"p":1,"c":[[1]]', None),
        ('"p":1,"c":[1234567890123456789]', None),
        (f'"p":1,"c":[{"1," * 128}1]', None),
    ],
)  # fmt: skip
def test_what_a_trade_says(members: str, found: tuple[int, int, int, int, str] | None) -> None:
    """The exact size counts before the other; None for all trades where one of them needs Decimal."""
    block = STOCKS.scan([trade('"p":7'), trade(members)])
    columns = block.trades("T")
    assert (columns and tuple(column[1] for column in columns[2:])) == found
    assert block.trades("Q") == block.trades("no channel") == ([],) * 7


def test_trades_among_other_events() -> None:
    """In their order; the same conditions are the same object."""
    quote = b'{"ev":"Q","sym":"B","t":%d,"p":"no price"}' % MS
    first, second = (b'{"ev":"T","sym":"%b","t":%d,"p":1,"c":[1,2]}' % (name, MS) for name in (b"A", b"C"))
    columns = STOCKS.scan([frame(quote, first, quote, second, quote)]).trades("T")
    assert columns[0] == ["A", "C"]
    assert columns[6] == ["1,2", "1,2"]
    assert columns[6][0] is columns[6][1]


# ---- arguments and memory ----


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda: native.Scanner(), TypeError),
        (lambda: native.Scanner([], "sym"), TypeError),
        (lambda: native.Scanner((("T", "sym"),), "sym"), TypeError),
        (lambda: native.Scanner(("T",), "sym"), TypeError),
        (lambda: native.Scanner(((1, "sym", False),), "sym"), TypeError),
        (lambda: native.Scanner((("\ud800", "sym", False),), "sym"), UnicodeEncodeError),
        (lambda: native.Scanner((), ""), ValueError),
        (lambda: native.Scanner((), "symbol"), ValueError),
        (lambda: native.Scanner((), "é"), ValueError),
        (lambda: native.Block(), TypeError),
        (lambda: STOCKS.scan(1), TypeError),
        (lambda: STOCKS.scan(b"[]"), TypeError),
        (lambda: STOCKS.scan([frame(TRADE), "[]"]), TypeError),
        (lambda: STOCKS.scan([]).format(-1, 1, b"", b""), OverflowError),
        (lambda: STOCKS.scan([]).format(1, 2**64, b"", b""), OverflowError),
        (lambda: STOCKS.scan([frame(TRADE)]).format(1, 2**64 - 1, b"", b""), OverflowError),
        (lambda: STOCKS.scan([]).format(1, 1, "", b""), TypeError),
        (lambda: STOCKS.scan([]).format(1, 1), TypeError),
    ],
)
def test_wrong_arguments_raise(call: Callable[[], object], error: type[Exception]) -> None:
    """They never pass as something else."""
    with pytest.raises(error):
        call()


def test_a_channel_without_room_is_unknown() -> None:
    """Its events are refused, and Python reads them; the others are known."""
    odd = (("LONGER", "sym"), ("", "sym"), ("é", "sym"), ("L", "longer"), ("M", ""))
    many = [(f"{number}", f"k{number % 20}") for number in range(100)]
    rows = [(code, field, False) for code, field in (("T", "sym"), *odd, *many)]
    scanner = native.Scanner(tuple(rows), "sym")
    for code in ("T", "0", "7"):
        assert scanner.scan([frame(b'{"ev":"%b","sym":"A","t":%d}' % (code.encode(), MS))]).channels == [code]
    for code in ("LONGER", "", "L", "M", "19", "99"):
        assert scanner.scan([frame(b'{"ev":"%b","sym":"A","t":%d}' % (code.encode(), MS))]) is None


def test_a_block_outlives_its_frames_and_its_scanner() -> None:
    """It holds what it points into."""
    frames = [bytes(bytearray(frame(TRADE)))]
    scanner = native.Scanner((("T", "sym", False),), "sym")
    block = scanner.scan(frames)
    del frames, scanner
    gc.collect()
    assert (block.channels, block.symbols, block.fragments) == (["T"], ["A"], [TRADE[1:] + b","])


def test_nothing_is_kept() -> None:
    """Blocks, columns, lines, refusals and errors leave no object behind."""
    channels = tuple((code, row.symbol_field, True) for code, row in CHANNELS.items())
    plain = [trade('"p":1.5,"s":10,"c":[1]'), frame(*[TRADE] * 300)]

    def calls() -> None:
        for _ in range(50):
            block = STOCKS.scan(plain)
            columns = (
                block.channels,
                block.symbols,
                block.times_ms,
                block.fragments,
                block.counts,
                block.span_ms,
            )
            assert all(columns)
            assert block.format(1, 1, b"{}", b"")
            assert block.trades("T") is None
            assert STOCKS.scan(plain[:1]).trades("T")
            assert STOCKS.scan([*plain, b"["]) is None
            for failing in (lambda: STOCKS.scan([1]), lambda: native.Scanner((*channels, 1), "sym")):
                with pytest.raises(TypeError):
                    failing()
        native.Scanner(channels, "sym").scan(plain).symbols  # noqa: B018  an attribute makes objects

    calls()
    counts = [sys.getrefcount(one) for one in (*plain, STOCKS, native.Scanner, type(STOCKS.scan([])))]
    gc.collect()
    before = sys.getallocatedblocks()
    for _ in range(20):
        calls()
    gc.collect()
    assert sys.getallocatedblocks() - before < 300
    assert [sys.getrefcount(one) for one in (*plain, STOCKS, native.Scanner, type(STOCKS.scan([])))] == counts


def test_the_events_of_a_block_are_freed() -> None:
    """They are no objects of Python, so that only the size of the process shows them."""
    large = frame(*[TRADE] * 20_000)

    def size_kib() -> int:
        """Return how large the process has been at most."""
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    STOCKS.scan([large])
    before = size_kib()
    for _ in range(200):
        assert STOCKS.scan([large]) is not None
        assert STOCKS.scan([large, b"["]) is None
    assert size_kib() - before < 32 << 10, "400 lists of 640 kB each were made"


def test_memory_that_runs_out_raises() -> None:
    """At whichever allocation: MemoryError, and the next call works."""
    hooks = pytest.importorskip("_testcapi", reason="this Python has no _testcapi")
    channels = tuple((code, row.symbol_field, True) for code, row in CHANNELS.items())
    wire = b"\x81\x02{}" * 3

    def use_all() -> None:
        block = native.Scanner(channels, "sym").scan([trade('"p":1234567.5,"s":1000,"c":[1]')] * 3)
        assert all(
            (block.channels, block.symbols, block.times_ms, block.fragments, block.counts, block.span_ms)
        )
        assert block.format(1, 1, b"{}", b"")
        assert block.trades("T")
        native.split(wire, 10, [])
        native.index(wire, 10)

    use_all()
    failures = 0
    for allocation in range(400):
        hooks.set_nomemory(allocation, allocation + 1)
        try:
            use_all()
        except MemoryError:
            failures += 1
        finally:
            hooks.remove_mem_hooks()
    assert failures > 30
    use_all()
