"""Records: what the formatter writes is what the schema says, what the caller counted, and the event byte for byte."""

from __future__ import annotations

import base64
from collections import Counter

import msgspec
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from recorder import records as record_module
from recorder.archive import segment_checker
from recorder.archive.record import RecordHeader, Summary, summarise
from recorder.polygon.rows import Header, Rows
from recorder.records import Formatter, Record, reject_line

EXAMPLE = (
    b'{"ingest_ts":1795237802335,"type":"T","symbol":"AAPL","topic":"T:AAPL","feed":"stocks","ts":1760375617662,'
    b'"payload":{"ev":"T","sym":"AAPL","p":427.5288,"s":1,"t":1760375617662},"hostname":"h","app_version":"0.1.0",'
    b'"schema_version":1,"seq":1}\n'
)
VALUE = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
EVENT = st.tuples(
    st.sampled_from(["T", "Q", "AM", "ü%d", '"']),
    st.text(max_size=6),
    st.integers(0, 2**50),
    st.dictionaries(st.text(max_size=5), VALUE, max_size=4).map(orjson.dumps),
)


def rows_of(events: list[tuple[str, str, int, bytes]], first_seq: int, *, line_breaks: bool = False) -> Rows:
    rows = Rows.of("stocks", [(Header(*header), payload) for *header, payload in events])
    rows.seqs = range(first_seq, first_seq + len(events))
    rows.has_line_breaks = line_breaks
    return rows


def test_the_example_of_the_contract() -> None:
    """The record that the contract shows comes out to the byte."""
    payload = b'{"ev":"T","sym":"AAPL","p":427.5288,"s":1,"t":1760375617662}'
    rows = rows_of([("T", "AAPL", 1_760_375_617_662, payload)], 1)
    assert Formatter("stocks", "h", "0.1.0").format(1_795_237_802_335, rows) == EXAMPLE


def test_keys_stand_in_the_order_of_the_schema() -> None:
    """The model, which is the schema's source, and a line have the same keys in the same order."""
    assert list(orjson.loads(EXAMPLE)) == list(Record.model_fields)


@given(
    events=st.lists(EVENT, max_size=12),
    ingest_ms=st.integers(0, 2**45),
    first_seq=st.integers(1, 2**40),
    cluster=st.sampled_from(["stocks", "futures/cme", "50%"]),
    hostname=st.text(max_size=10),
)
def test_a_line_is_a_record_and_its_payload_the_event(
    events: list[tuple[str, str, int, bytes]], ingest_ms: int, first_seq: int, cluster: str, hostname: str
) -> None:
    """Every line is valid by the model, says what went in, and has the payload byte for byte."""
    data = Formatter(cluster, hostname, "0.1.0").format(ingest_ms, rows_of(events, first_seq))
    lines = data.splitlines(keepends=True) if events else []
    assert data.count(b"\n") == len(events) == len(lines)
    for number, (line, (channel, symbol, ms, payload)) in enumerate(zip(lines, events, strict=True)):
        record = Record.model_validate_json(line)
        assert record == Record(
            ingest_ts=ingest_ms,
            type=channel,
            symbol=symbol,
            topic=f"{channel}:{symbol}",
            feed=cluster,
            ts=ms,
            payload=orjson.loads(payload),
            hostname=hostname,
            app_version="0.1.0",
            schema_version=1,
            seq=first_seq + number,
        )
        assert b'"payload":' + payload + b',"hostname"' in line


@pytest.mark.parametrize("first_seq", [1, 995, 1000, 1999, 10**6 - 3, 2**40])
def test_seq_counts_on_over_every_thousand(first_seq: int) -> None:
    """Its last digits come from a table: what begins below 1000, or goes on beyond a thousand, is spelled like the rest."""
    count = 2100
    rows = rows_of([("T", "A", 1, b'{"ev":"T"}')] * count, first_seq)
    expected = list(range(first_seq, first_seq + count))
    data = Formatter("stocks", "h", "0.1.0").format(1000, rows)
    assert [orjson.loads(line)["seq"] for line in data.splitlines()] == expected
    rows.seqs = expected
    assert Formatter("stocks", "h", "0.1.0").format(1000, rows) == data


@given(st.lists(EVENT, max_size=12), st.integers(1, 2**40))
def test_a_summary_is_what_the_caller_counted(
    events: list[tuple[str, str, int, bytes]], first_seq: int
) -> None:
    """Reading lines back gives the counts and bounds of the events that were formatted."""
    data = Formatter("stocks", "h", "0.1.0").format(1000, rows_of(events, first_seq))
    times = [ms for _, _, ms, _ in events if ms]
    expected = Summary()
    if events:
        expected = Summary(
            records=len(events),
            bytes=len(data),
            first_seq=first_seq,
            last_seq=first_seq + len(events) - 1,
            min_ts=min(times, default=0),
            max_ts=max(times, default=0),
            first_ingest_ts=1000,
            last_ingest_ts=1000,
            counts=Counter(channel for channel, _, _, _ in events),
        )
    assert summarise(data) == expected


@given(st.lists(EVENT, min_size=1, max_size=12), st.data())
def test_summaries_add_up(events: list[tuple[str, str, int, bytes]], data: st.DataObject) -> None:
    """The summary of a stretch is the sum of its parts, wherever it is cut."""
    lines = Formatter("stocks", "h", "0.1.0").format(1000, rows_of(events, 1)).splitlines(keepends=True)
    cut = data.draw(st.integers(0, len(lines)))
    total = summarise(b"".join(lines[:cut]))
    total.add(summarise(b"".join(lines[cut:])))
    assert total == summarise(b"".join(lines))


def test_line_breaks_between_tokens_do_not_break_a_line() -> None:
    """An event with line breaks between its tokens, which is legal JSON, still makes one line."""
    payload = b'{"ev":"T",\r\n "sym":"A"\n}'
    data = Formatter("stocks", "h", "0.1.0").format(1, rows_of([("T", "A", 1, payload)], 1, line_breaks=True))
    assert data.count(b"\n") == 1
    assert b"\r" not in data
    assert Record.model_validate_json(data).payload == {"ev": "T", "sym": "A"}


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"seq":1', b'"seq":0'),
        (b'"seq":1', b'"seq":"1x"'),
        (b'"type":"T"', b'"type":""'),
        (b'"ts":1760375617662,"payload"', b'"ts":-1,"payload"'),
        (b'"feed":"stocks",', b""),
        (b'"seq":1', b'"seq":1,"more":1'),
        (b'"payload":{', b'"payload":1,"x":{'),
    ],
)
def test_the_model_refuses_what_is_no_record(old: bytes, new: bytes) -> None:
    """A missing, additional or impossible field makes the line no record: for the model, and for what is derived of it."""
    assert EXAMPLE.count(old) == 1
    with pytest.raises(ValidationError):
        Record.model_validate_json(EXAMPLE.replace(old, new))
    with pytest.raises(msgspec.ValidationError):
        segment_checker._decode_line(EXAMPLE.replace(old, new))


def test_summing_up_refuses_what_is_no_record() -> None:
    """A line that lacks a field is an error."""
    with pytest.raises(msgspec.MsgspecError):
        summarise(EXAMPLE + b'{"seq":2}\n')
    assert set(RecordHeader.__struct_fields__) <= set(Record.model_fields)


@given(st.binary(max_size=50), st.text(max_size=20))
def test_rejects_keep_every_byte(raw: bytes, reason: str) -> None:
    """A reject line is one line of JSON from which the bytes can be had back, UTF-8 or not."""
    line = reject_line(1, "stocks", reason, raw)
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    fields = orjson.loads(line)
    assert (fields["ingest_ts"], fields["feed"], fields["reason"]) == (1, "stocks", reason)
    kept = fields["raw"].encode() if "raw" in fields else base64.b64decode(fields["raw_base64"])
    assert kept == raw


def test_a_bounded_number_of_symbols_is_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many symbols come, the number of constant line parts kept is bounded, and each line is right."""
    monkeypatch.setattr(record_module, "_PREFIXES_MAX", 10)
    formatter = Formatter("options", "h", "0.1.0")
    for number in range(100):
        data = formatter.format(1, rows_of([("Q", f"S{number}", 1, b'{"ev":"Q"}')], 1))
        assert orjson.loads(data)["topic"] == f"Q:S{number}"
        assert sum(map(len, formatter._prefixes.values())) <= 10
