"""Typed columns: both engines say of any event what the standard library reads in it, and the payload is what came."""

from __future__ import annotations

import gzip
import json
import math
from collections.abc import Sequence
from itertools import islice
from typing import Any

import pyarrow as pa
import pytest
from cell_oracle import cells_of
from hypothesis import example, given, settings
from hypothesis import strategies as st
from shared_data import shared_file

from recorder import native
from recorder.archive.cutting import DecodedRecords, Records, cut, decoded
from recorder.errors import ArchiveError
from recorder.library.arrow import batches, schema_of
from recorder.library.buffers import columns_of
from recorder.polygon.careful import split_elements
from recorder.polygon.channels import CHANNELS
from recorder.polygon.typed_columns import PAYLOAD_COLUMNS, RECORD_COLUMNS, timestamp_name

MS = 1_790_000_000_000
CODES = (*sorted(CHANNELS), "NEW")
FIELDS = sorted({column.field for columns in PAYLOAD_COLUMNS.values() for column in columns})

_numbers = st.one_of(
    st.integers(-(10**20), 10**20).map(str),
    st.integers(MS, MS + 10**6).map(str),
    st.floats(allow_nan=False, allow_infinity=False).map(repr),
    st.from_regex(r"\A-?(0|[1-9][0-9]{0,18})(\.[0-9]{1,21})?([eE][-+]?[0-9]{1,3})?\Z"),
    st.from_regex(r"\A[1-9][0-9]{0,4}\.[0-9]{2}\Z"),
    st.sampled_from(
        [
            *(
                "152.90",
                "4.522e-05",
                "1e400",
                "-1e400",
                "1e-400",
                "-0.0",
                "-0",
                "0e5",
                "-0e-0",
                "1E5",
                "3.0",
                "-3.0e0",
            ),
            *("9223372036854775807", "9223372036854775808", "-9223372036854775808", "-9223372036854775809"),
            *(
                "1764086430905642800",
                "99999999999999999999",
                "1734103628",
                "1734103628.5",
                "1e12",
                "1.5e18",
                "1e24",
            ),
            *(
                "9007199254740993",
                "9007199254740993.0",
                "1.0834500000000001",
                "0.1000000000000000055511151231257827",
            ),
            *(
                "1.7976931348623157e308",
                "1.7976931348623159e308",
                "5e-324",
                "2.4703282292062327e-324",
                "1e22",
                "1e23",
            ),
            *(
                "0.000012345678901234567",
                "1152921504606846977.5",
                "8.5e-1",
                "123456789012345678e2",
                "1e99999999999",
            ),
        ]
    ),
)
_texts = st.one_of(
    st.text(max_size=6).map(json.dumps),
    st.text(max_size=6).map(lambda text: json.dumps(text, ensure_ascii=False)),
    _numbers.map(json.dumps),
    st.sampled_from(
        [
            *('""', r'"\u0054"', r'"\u0031\u0032"', r'"\ud83d\ude00"', '"😀"', '"é"', r'"\/"'),
            *(
                '" 1"',
                '"1 "',
                '"+1"',
                '"01"',
                '"1_0"',
                '".5"',
                '"5."',
                '"nan"',
                '"inf"',
                '"Infinity"',
                '"0x1"',
                '"١"',
            ),
            *(r'"x,\"hostname\":\"y"', '"},{"', '"[1]"', '"true"', '"' + "long" * 2_000 + '"'),
        ]
    ),
)
_plain = _numbers | _texts | st.sampled_from(["null", "true", "false", "{}", "[]", "[[]]"])
_arrays = st.recursive(
    _plain, lambda inner: st.lists(inner, max_size=4).map(lambda items: f"[{','.join(items)}]"), max_leaves=6
)
_levels = st.lists(st.lists(_numbers, max_size=3).map(lambda items: f"[{','.join(items)}]"), max_size=3).map(
    lambda levels: f"[{','.join(levels)}]"
)
_nested = st.dictionaries(st.sampled_from(FIELDS), _plain, max_size=2).map(
    lambda inner: "{" + ",".join(f'"{key}":{value}' for key, value in inner.items()) + "}"
)
_values = st.one_of(_plain, _plain, _arrays, _levels, _nested)
_keys = st.one_of(
    st.sampled_from(FIELDS).map(lambda field: f'"{field}"'),
    st.sampled_from([r'"\u0070"', r'"\u0063"', '"n9"', '"longer"', '""', '"é"', '"payload"', '"hostname"']),
)


@st.composite
def _events(draw: st.DrawFn) -> tuple[str, bytes]:
    """An event of a channel with fields of any channel, also twice; now and then with white space."""
    code = draw(st.sampled_from(CODES))
    fields = draw(st.lists(st.tuples(_keys, _values), max_size=6))
    space = draw(st.sampled_from(["", "", "", " ", "\t "]))
    members = [f'"ev":{space}"{code}"', *(f"{key}{space}:{space}{value}" for key, value in fields)]
    return code, f"{{{space}{f'{space},'.join(members)}{space}}}".encode()


def line_of(seq: int, code: str, payload: bytes) -> bytes:
    """Return the line of a record."""
    return (
        b'{"ingest_ts":%d,"type":"%b","symbol":"S%d","topic":"%b:S","feed":"stocks","ts":%d,"payload":%b,'
        b'"hostname":"h","app_version":"1","schema_version":1,"seq":%d}\n'
        % (MS, code.encode(), seq, code.encode(), (seq % 2) * MS, payload, seq)
    )


def _loads(payload: bytes) -> dict[str, Any]:
    """Return an object; an empty one for what is none."""
    try:
        found = json.loads(payload)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def rows_of(parts: Sequence[Records], codes: Sequence[str] = CODES, **choice: Any) -> list[dict[str, Any]]:
    """Return the rows of a table of these records, as objects of Python."""
    made = batches([("run-1", part) for part in parts], codes, **choice)
    table = pa.Table.from_batches(made, schema_of(codes, **choice))
    table.validate(full=True)
    found: list[dict[str, Any]] = table.to_pylist()
    return found


def expected_rows(events: Sequence[tuple[str, bytes]]) -> list[dict[str, Any]]:
    """Return what they have to be."""
    nothing = dict.fromkeys(schema_of(CODES).names)
    return [
        {
            **nothing,
            "run_id": "run-1",
            "seq": seq,
            "ingest_ts": MS,
            "type": code,
            "symbol": f"S{seq}",
            "feed": "stocks",
            "ts": (seq % 2) * MS,
            **cells_of(code, payload),
            "payload": payload.decode(),
        }
        for seq, (code, payload) in enumerate(events, 1)
    ]


def same(rows: list[dict[str, Any]]) -> str:
    """Return rows so that -0.0 is not 0.0."""
    return repr(rows)


@settings(deadline=None)
@given(st.lists(_events(), min_size=1, max_size=6))
@example([("T", b'{"ev":"T","x":{"p":1,"c":[2]},"p":2.50,"p":"3.50","i":-0,"c":7}'), ("Q", b"{}")])
@example([("C", b'{"ev":"C","i":""}'), ("C", b'{"ev":"C","i":"7"}')])
@example([("T", b'{"ev":"T","i":"' + b"x" * 2_500_000 + b'","p":1}')])
def test_both_engines_say_what_the_standard_library_reads(events: list[tuple[str, bytes]]) -> None:
    """Also of records that are cut alone, so that an odd one does not have its plain neighbours decoded."""
    lines = [line_of(seq, code, payload) for seq, (code, payload) in enumerate(events, 1)]
    block = b"".join(lines)
    expected = same(expected_rows(events))
    assert same(rows_of([decoded(block, "file")])) == expected
    assert same(rows_of([cut(block, "file")])) == expected
    assert same(rows_of([cut(line, "file") for line in lines])) == expected


@pytest.mark.skipif(not native.in_use(), reason="native code was not built")
@settings(deadline=None)
@given(st.lists(_numbers, min_size=1, max_size=20))
def test_native_code_reads_numbers_of_prices_itself_and_rounds_as_python_does(numbers: list[str]) -> None:
    """What it leaves to others has more than 19 digits, or an exponent beyond the powers of ten that are exact."""
    block = b"".join(line_of(seq, "V", b'{"val":%b}' % one.encode()) for seq, one in enumerate(numbers, 1))
    records = cut(block, "file")
    assert not isinstance(records, DecodedRecords)
    [found], odd = columns_of([records], ("real",), (("V", (("val", 0),)),), [pa.float64()])
    for place, (number, value) in enumerate(zip(numbers, found.to_pylist(), strict=True)):
        if place in odd:
            digits = number.lstrip("-").partition("e")[0].replace(".", "").lstrip("0")
            assert len(digits) > 15 or "e" in number.lower() or len(number) > 20
        else:
            assert repr(value) == repr(float(json.loads(number)))
            assert math.isfinite(value)


@pytest.mark.parametrize(
    ("name", "code"),
    [("data/ticks_stocks_20131007.ndjson.gz", ""), ("data/ticks_forex_20140501.ndjson.gz", "C")],
)
def test_real_ticks_are_read_by_native_code_alone(name: str, code: str) -> None:
    """So that the fast way is really used, and what it says of them is what the standard library reads."""
    with gzip.open(shared_file(name)) as lines:
        payloads = [line.strip().partition(b'"m":')[2][:-1] for line in islice(lines, 0, None, 7)]
    events = [(code or payload[7:8].decode(), payload) for payload in payloads]
    records = cut(b"".join(line_of(seq, *event) for seq, event in enumerate(events, 1)), "file")
    assert {kind for kind, _ in events} <= {"T", "Q", "C"}
    assert same(rows_of([records])) == same(expected_rows(events))
    if native.in_use():
        kinds = tuple(column.shape for column in PAYLOAD_COLUMNS[events[0][0]])
        keys = tuple((column.field, place) for place, column in enumerate(PAYLOAD_COLUMNS[events[0][0]]))
        _, odd = native.module().tabulate((records,), kinds, ((events[0][0], keys),))
        assert odd == []


def test_samples_of_every_channel_say_what_the_standard_library_reads() -> None:
    """Each event that the vendor documents, with its white space."""
    frames = [
        json.loads(line)["frame"]
        for line in shared_file("data/polygon_samples.ndjson").read_text().splitlines()
    ]
    payloads = [
        element for frame in frames for element in split_elements(frame.encode()) if b"\n" not in element
    ]
    codes = [str(_loads(payload).get("ev")) for payload in payloads]
    events = [event for event in zip(codes, payloads, strict=True) if event[0] in CHANNELS]
    assert {code for code, _ in events} >= {
        "T",
        "Q",
        "A",
        "AM",
        "LULD",
        "FMV",
        "V",
        "XT",
        "XQ",
        "XL2",
        "C",
        "CA",
    }
    lines = [line_of(seq, code, payload) for seq, (code, payload) in enumerate(events, 1)]
    expected = same(expected_rows(events))
    assert same(rows_of([cut(line, "file") for line in lines])) == expected
    assert same(rows_of([decoded(b"".join(lines), "file")])) == expected


def test_batches_are_bounded_and_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """By rows and by bytes; of several runs, decoded or not, and though little of each block is chosen."""
    monkeypatch.setattr("recorder.library.arrow._ROWS_MAX", 10)
    monkeypatch.setattr("recorder.library.arrow._PARTS_MAX", 3)
    events = [("T", b'{"ev":"T","p":%d}' % number) for number in range(100)]
    lines = [line_of(seq, code, payload) for seq, (code, payload) in enumerate(events, 1)]
    parts: list[tuple[str, Records]] = [
        ("run-1", cut(b"".join(lines[:25]), "file")),
        *(("run-1", cut(line, "file")) for line in lines[25:50]),
        ("run-1", decoded(b"".join(lines[50:60]), "file")),
        ("run-2", cut(b"".join(lines[60:]), "file").pick([])),
        ("run-2", cut(b"".join(lines[60:]), "file")),
    ]
    found = list(batches(parts, ["T"]))
    assert [batch.num_rows for batch in found] == [10] * 10
    assert [price for batch in found for price in batch["price"].to_pylist()] == list(range(100))
    assert [run for batch in found for run in batch["run_id"].to_pylist()] == ["run-1"] * 60 + ["run-2"] * 40
    monkeypatch.setattr("recorder.library.arrow._ROWS_MAX", 1000)
    monkeypatch.setattr("recorder.library.arrow._BYTES_MAX", 400)
    assert [batch.num_rows for batch in batches(parts, ["T"])] == [25, 24, 51]
    assert list(batches([], ["T"])) == list(batches([parts[-2]], ["T"])) == []


@pytest.mark.parametrize("way", [cut, decoded])
def test_times_are_timestamps_too_and_some_columns_can_be_had(way: Any) -> None:
    """An event without a time has no timestamp."""
    payloads = [b'{"ev":"T","p":1.5,"pt":%d000000}' % MS, b'{"ev":"T","p":1e1,"pt":"x"}']
    records = way(b"".join(line_of(seq, "T", payload) for seq, payload in enumerate(payloads, 1)), "file")
    choice: Any = {"timestamps": True, "names": {"price", "time", "ts", "participant_time", "seq"}}
    schema = schema_of(["T"], **choice)
    assert schema.names == ["seq", "ts", "time", "price", "participant_time"]
    assert schema.field("time").type == pa.timestamp("ms", tz="UTC")
    first, second = rows_of([records], ["T"], **choice)
    assert (first["ts"], first["price"], first["seq"]) == (MS, 1.5, 1)
    assert first["time"].timestamp() * 1000 == first["participant_time"].timestamp() * 1000 == MS
    assert second == {"seq": 2, "ts": 0, "time": None, "price": 10.0, "participant_time": None}


def test_what_is_not_utf_8_is_no_text() -> None:
    """The recorder never writes it."""
    block = line_of(1, "T", b'{"ev":"T"}') + line_of(2, "T", b'{"ev":"T","zz":"\xff"}')
    with pytest.raises(ArchiveError, match="a record is not UTF-8, 1 or one that follows it"):
        rows_of([cut(block, "file")])


def test_no_timestamp_has_the_name_of_a_column() -> None:
    columns = [*RECORD_COLUMNS, *(column for columns in PAYLOAD_COLUMNS.values() for column in columns)]
    names = {timestamp_name(column) for column in columns if column.shape == "time"}
    assert names.isdisjoint(column.name for column in columns)
    assert {"time", "ingest_time", "participant_time", "end_time"} <= names


@pytest.mark.skipif(not native.in_use(), reason="native code was not built")
def test_what_is_no_column_is_refused() -> None:
    records = cut(line_of(1, "T", b"{}"), "file")
    tabulate = native.module().tabulate
    for parts, kinds, keys, error in [
        ([records], (), (), TypeError),
        ((decoded(line_of(1, "T", b"{}"), "file"),), (), (), TypeError),
        ((records,), ("number",), (), ValueError),
        ((records,), ("real",) * 65, (), ValueError),
        ((records,), (1,), (), TypeError),
        ((records,), ("real",), (("T", (("p", 1),)),), ValueError),
        ((records,), ("seq",), (("T", (("p", 0),)),), ValueError),
        ((records,), ("real",), (("T", (("price", 0),)),), ValueError),
        ((records,), ("real",), (("LONGER", ()),), ValueError),
        ((records,), ("real",), (("T", (("pp", 0),) * 25),), ValueError),
        ((records,), ("real",), (["T", ()],), TypeError),
        ((records,), ("real",), (("T", (["p", 0],)),), TypeError),
        ((records,), ("real",), (("T", ()),) * 65, ValueError),
    ]:
        with pytest.raises(error):
            tabulate(parts, kinds, keys)
    [(nulls, valid, numbers), (_, _, ends, texts)], odd = tabulate((), ("seq", "text"), ())
    assert (nulls, valid, bytes(numbers), bytes(ends), bytes(texts), odd) == (0, None, b"", bytes(4), b"", [])
    assert memoryview(ends).readonly
