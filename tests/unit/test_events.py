"""Frames to events."""

from __future__ import annotations

import json
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from shared_data import shared_file

from recorder.polygon import events as events_module
from recorder.polygon.careful import is_status_only, names_status, split_elements, statuses_in, to_ms
from recorder.polygon.channels import AGGREGATE_CHANNELS
from recorder.polygon.clusters import CLUSTERS
from recorder.polygon.events import Decoder
from recorder.polygon.rows import Status


def decoded(frame: bytes, cluster: str = "stocks") -> list[tuple[str, str, int, bytes]]:
    """Return what a frame was read as: channel, symbol, time, bytes."""
    events = Decoder(cluster).decode([frame])
    assert len(events.symbols) == len(events.times_ms) == len(events.fragments) == len(events.channels)
    return [
        (header.channel, header.symbol, header.ts_ms, bytes(raw))
        for header, raw in zip(events.headers(), events.objects, strict=True)
    ]


@given(st.lists(st.sampled_from([b"status", b"statu", b"u", b"s", b"tus", b"\xff", b'"'])).map(b"".join))
def test_the_word_is_found_by_its_rarest_letter(data: bytes) -> None:
    """Wherever it stands, and however many times its letters stand elsewhere."""
    assert names_status(data) == (b"status" in data)


def test_every_sample_of_the_vendor_is_read() -> None:
    """Symbol and time come from the right field, for each cluster and channel of the samples, bytes untouched."""
    seen = 0
    for line in shared_file("data/polygon_samples.ndjson").read_text().splitlines():
        sample = json.loads(line)
        frame = sample["frame"].encode()
        if sample["ev"] == "status":
            assert statuses_in(frame)
            assert is_status_only(frame)
            continue
        if not frame.lstrip().startswith(b"["):
            continue
        seen += 1
        events = decoded(frame, sample["cluster"].rpartition("/")[2])
        channel, symbol, ts_ms, _ = events[0]
        first = json.loads(sample["frame"])[0]
        expected = sample["ts_ms"]
        if channel in AGGREGATE_CHANNELS and "e" in first:
            expected = to_ms(first["e"])
        assert (channel, symbol, ts_ms) == (sample["ev"], sample["symbol"], expected)
        for event in events:
            assert event[3] in frame
    assert seen > 50


@pytest.mark.parametrize(
    ("cluster", "event", "symbol", "ts_ms"),
    [
        ("stocks", '{"ev":"T","sym":"BRK.B","t":1536036818784}', "BRK.B", 1536036818784),
        ("stocks", '{"ev":"LULD","T":"MSFT","t":1764086430905642800}', "MSFT", 1764086430905),
        ("stocks", '{"ev":"NOI","T":"NTEST.Q","p":440,"t":1601318039223013600}', "NTEST.Q", 1601318039223),
        ("stocks", '{"ev":"AM","sym":"GTE","s":1610144640000,"e":1610144700000}', "GTE", 1610144700000),
        ("stocks", '{"ev":"T","sym":"X","s":100}', "X", 0),
        ("stocks", '{"ev":"T"}', "", 0),
        ("stocks", '{"ev":"T","sym":null,"t":null}', "", 0),
        ("stocks", '{"ev":"T","sym":7,"t":"1536036818784"}', "", 1536036818784),
        ("stocks", '{"ev":"T","sym":"A","t":-5}', "A", 0),
        ("stocks", '{"ev":"T","sym":"A","t":1e400}', "A", 0),
        ("stocks", '{"ev":"ZZ","sym":"NEW","e":1610144700000}', "NEW", 1610144700000),
        (
            "options",
            '{"ev":"Q","sym":"O:SPY241220P00720000","t":1644506128351}',
            "O:SPY241220P00720000",
            1644506128351,
        ),
        ("forex", '{"ev":"C","p":"USD/CNH","t":1536036818784}', "USD/CNH", 1536036818784),
        ("forex", '{"ev":"CA","pair":"USD/EUR","s":1539145740000}', "USD/EUR", 1539145740000),
        (
            "crypto",
            '{"ev":"XT","pair":"BTC-USD","p":1.5,"s":4.522e-05,"t":1610462007425}',
            "BTC-USD",
            1610462007425,
        ),
        ("crypto", '{"ev":"FMV","sym":"X:BTC-USD","t":1610462007425}', "X:BTC-USD", 1610462007425),
        ("indices", '{"ev":"V","T":"I:SPX","t":1678220098130}', "I:SPX", 1678220098130),
        (
            "futures",
            '{"ev":"A","sym":"NQZ6","o":"24444.75","s":1790000000000,"e":1790000001000}',
            "NQZ6",
            1790000001000,
        ),
    ],
)
def test_symbol_and_time(cluster: str, event: str, symbol: str, ts_ms: int) -> None:
    """Each channel keeps symbol and time in its own place; odd or absent values never cost the event."""
    [(_, found_symbol, found_ms, raw)] = decoded(f"[{event}]".encode(), cluster)
    assert (found_symbol, found_ms) == (symbol, ts_ms)
    assert raw == event.encode()


@pytest.mark.parametrize(
    ("time", "ts_ms"),
    [
        (1, 1000),
        (99_999_999_999, 99_999_999_999_000),
        (100_000_000_000, 100_000_000_000),
        (1_764_086_430_905, 1_764_086_430_905),
        (1_764_086_430_905_642, 1_764_086_430_905),
        (1_764_086_430_905_642_800, 1_764_086_430_905),
        (0, 0),
        (-1, 0),
        (float("inf"), 0),
        (float("nan"), 0),
        (1536036818784.9, 1536036818784),
    ],
)
def test_time_unit_is_told_by_magnitude(time: float, ts_ms: int) -> None:
    """Seconds, milliseconds, microseconds and nanoseconds all become milliseconds."""
    assert to_ms(time) == ts_ms


GOOD = b'{"ev":"T","sym":"A","t":1536036818784}'
OTHER = b'{"sym":"B","ev":"T","p":152.9000,"big":123456789012345678901234567890}'


@pytest.mark.parametrize(
    "bad",
    [
        b'{"ev":"T","p":NaN}',
        b'{"ev":"T","sym":"\xff"}',
        b'{"ev":"T","sym":"\\ud800"}',
        b'{"ev":"T" "sym":"A"}',
        b'{"ev":T}',
        b'{"ev":"T","x":{"y":[1,}}',
        b'{"ev":"T","x":[1,2}',
        b'{"ev":"T","sym":"A}',
        b'{"ev":"T","sym":"A"',
        b'{"ev":"T","x":[{"a":1},{"b":2}],bad}',
        b'{"deep":' + b"[" * 5000 + b"]" * 5000 + b"}",
        b"7",
        b'"text"',
        b"null",
        b"[]",
        b"{}",
        b'{"sym":"no channel"}',
        b'{"ev":5}',
        b'{"ev":""}',
    ],
)
def test_one_bad_element_never_costs_its_neighbours(bad: bytes) -> None:
    """The good ones around it are read, byte for byte, and the bad one is kept with a reason."""
    for frame in (
        b"[" + b",".join([GOOD, bad, OTHER]) + b"]",
        b" [ " + b" , ".join([GOOD, OTHER, bad]) + b" ] ",
        b"[" + b",".join([bad, GOOD, OTHER]) + b"]",
    ):
        events = Decoder("stocks").decode([frame])
        assert [bytes(raw) for raw in events.objects] == [GOOD, OTHER]
        assert events.symbols == ["A", "B"]
        assert [reject.raw for reject in events.rejects] == [bad]
        assert events.rejects[0].reason


@pytest.mark.parametrize(
    "frame",
    [
        b"",
        b"nope",
        b"[",
        b"[,]",
        GOOD,
        b'"text"',
        b"[" + GOOD,
        b"[" + GOOD[:-3],
        b"\xff\xfe",
        b"[" + GOOD + b"]]",
    ],
)
def test_what_is_no_array_is_kept(frame: bytes) -> None:
    """Whatever else a frame is, its bytes are in the events or in the rejects, and the next frame is read."""
    events = Decoder("stocks").decode([frame, b"[" + OTHER + b"]"])
    kept = [bytes(raw) for raw in events.objects[:-1]] + [reject.raw for reject in events.rejects]
    left = frame
    assert events.rejects or left == b"[" + GOOD
    for part in sorted(kept, key=len, reverse=True):
        left = left.replace(part, b"", 1)
    assert left.strip(b"[], ") == b""
    assert bytes(events.objects[-1]) == OTHER


def test_a_good_element_behind_a_broken_one_keeps_its_bytes() -> None:
    """White space between what a broken element had swallowed and the next one is no part of either."""
    good = b'{"ev":"T","sym":"A"}'
    events = Decoder("stocks").decode([b'[{"ev":"Q,' + good + b" , \n" + good + b' ,{"ev":"status"} ,]'])
    assert events.objects == [good, good]
    assert len(events.statuses) == 1


def test_statuses_are_no_events() -> None:
    """A status among events is set apart; the events keep their order."""
    frame = b"[" + GOOD + b',{"ev":"status","status":"error","message":"not authorized"},' + OTHER + b"]"
    events = Decoder("stocks").decode([frame])
    assert [bytes(raw) for raw in events.objects] == [GOOD, OTHER]
    assert events.statuses == [Status("error", "not authorized")] == statuses_in(frame)
    assert not is_status_only(frame)


@pytest.mark.parametrize("cluster", CLUSTERS)
def test_ordinary_frames_take_the_fast_way(cluster: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Well-formed events of the cluster's own shape are read without looking at them one by one."""

    def fail(*_: object) -> None:
        pytest.fail("the careful way was taken")

    monkeypatch.setattr(events_module, "read_carefully", fail)
    monkeypatch.setattr(Decoder, "_complete", fail)
    field = {"crypto": "pair", "forex": "p", "indices": "T"}.get(cluster, "sym")
    frame = b'[{"ev":"X","%b":"ABC","t":1536036818784},{"t":1536036818785,"%b":"DEF","ev":"Y"}]' % (
        field.encode(),
        field.encode(),
    )
    assert [event[:3] for event in decoded(frame, cluster)] == [
        ("X", "ABC", 1536036818784),
        ("Y", "DEF", 1536036818785),
    ]


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=5,
)
event_objects = st.fixed_dictionaries(
    {"ev": st.sampled_from(["T", "Q", "A", "AM", "LULD", "XT", "C", "V", "ZZ"])},
    optional={
        "sym": st.text(max_size=6) | json_values,
        "pair": st.text(max_size=6),
        "T": st.text(max_size=6),
        "p": st.text(max_size=6) | st.floats(allow_nan=False, allow_infinity=False),
        "t": st.integers(-10, 2**62) | json_values,
        "s": json_values,
        "e": st.integers(0, 2**62),
        "x": json_values,
    },
)


def _encodable(value: Any) -> bool:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


@settings(max_examples=300, deadline=None)
@given(
    st.lists(event_objects.filter(_encodable), max_size=5), st.sampled_from(tuple(CLUSTERS)), st.booleans()
)
def test_every_event_comes_out_with_its_bytes(
    objects: list[dict[str, Any]], cluster: str, ascii_only: bool
) -> None:
    """Whatever objects a frame holds, each is one event with exactly its bytes, in order; nothing is rejected."""
    texts = [json.dumps(value, ensure_ascii=ascii_only).encode() for value in objects]
    events = Decoder(cluster).decode([b"[" + b" ,".join(texts) + b"]"])
    assert [bytes(raw) for raw in events.objects] == texts
    assert not events.rejects
    assert events.channels == [value["ev"] for value in objects]


@settings(max_examples=300, deadline=None)
@given(st.lists(event_objects.filter(_encodable), min_size=1, max_size=3), st.sampled_from(tuple(CLUSTERS)))
def test_the_fast_and_the_careful_way_agree(objects: list[dict[str, Any]], cluster: str) -> None:
    """A frame is read the same, whether it goes the fast way or, for a bad neighbour's sake, the careful one."""
    texts = [json.dumps(value).encode() for value in objects]
    fast = decoded(b"[" + b",".join(texts) + b"]", cluster)
    careful = decoded(b"[" + b",".join([*texts, b"NaN"]) + b"]", cluster)
    assert fast == careful


@settings(max_examples=500, deadline=None)
@given(st.binary(max_size=60) | st.text(alphabet='[]{},:"\\ evT1', max_size=40).map(str.encode))
def test_nothing_makes_it_raise(frame: bytes) -> None:
    """No bytes whatever make the decoder raise, and no byte but brackets, commas and space is lost."""
    events = Decoder("stocks").decode([frame])
    kept = sum(len(bytes(raw)) for raw in events.objects) + sum(len(reject.raw) for reject in events.rejects)
    statuses = sum(len(status.message) for status in events.statuses)
    assert kept or statuses or not frame.strip(b"[], \t\r\n")


@settings(max_examples=200, deadline=None)
@given(st.lists(json_values.filter(_encodable), max_size=6))
def test_split_elements_follows_the_brackets(values: list[Any]) -> None:
    """The elements of a well-formed array are found without parsing them."""
    texts = [json.dumps(value, ensure_ascii=False).encode() for value in values]
    assert list(split_elements(b"[" + b", ".join(texts) + b"]")) == texts


@pytest.mark.parametrize(
    "frame",
    [
        b'[{"ev":"T","sym":"A","x":[{},{}]} , {"ev":"Q","sym":"B"}]',
        b'[{"ev":"T","sym":"A","x":"},{"} ,{"ev":"Q","sym":"B"}]',
        b'[{"ev":"T","sym":"A","x":"},{"},\n{"ev":"Q","sym":"B"}]',
        b'[{"ev":"T","sym":"A","x":[{},{}]},{"ev":"Q","sym":"B"}]',
        b'[\t{"ev":"T","sym":"A","x":"},{"}\r,{"ev":"Q","sym":"B"}]',
        b'[{"ev":"T","sym":"A"},{"ev":"Q","sym":"B"}]',
        b'[{"ev":"T","sym":"A"},{"ev":"Q","sym":"B"} ]',
    ],
)
def test_borders_are_found_whatever_looks_like_one(frame: bytes) -> None:
    """What looks like a border inside of a string or of something nested never moves one."""
    found = decoded(frame)
    assert [event[:2] for event in found] == [("T", "A"), ("Q", "B")]
    assert [json.loads(event[3]) for event in found] == json.loads(frame)
    for event in found:
        assert event[3] in frame


def test_the_bytes_stay_json() -> None:
    """Numbers keep their spelling: nothing is decoded and encoded again."""
    event = b'{"ev":"AM","sym":"AAPL","o":150.2500,"c":152.90,"v":4.522e-05,"n":18446744073709551616,"e":1611082860000}'
    [(_, _, _, raw)] = decoded(b"[" + event + b"]")
    assert raw == event
    assert orjson.loads(raw.replace(b"18446744073709551616", b"1"))["c"] == 152.9
