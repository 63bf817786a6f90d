"""The table of typed columns: one meaning a name, and every channel that the vendor has."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from shared_data import shared_file

from recorder.polygon.channels import CHANNELS
from recorder.polygon.typed_columns import (
    PAYLOAD,
    PAYLOAD_COLUMNS,
    RECORD_COLUMNS,
    columns_of,
)
from recorder.records import Record

_SAID_BY_THE_RECORD = {"ev", "sym", "pair", "T", "t"}


def test_every_channel_has_columns_and_none_beside() -> None:
    assert set(PAYLOAD_COLUMNS) == set(CHANNELS)


def test_a_name_has_one_shape_in_all_channels_and_stands_once_in_each() -> None:
    shapes = {column.name: column.shape for column in (*RECORD_COLUMNS, PAYLOAD)}
    for code, columns in PAYLOAD_COLUMNS.items():
        assert len({column.name for column in columns}) == len({column.field for column in columns})
        assert len({column.name for column in columns}) == len(columns), code
        for column in columns:
            assert shapes.setdefault(column.name, column.shape) == column.shape, (code, column)
            assert column.name not in {one.name for one in (*RECORD_COLUMNS, PAYLOAD)}, (code, column)


def test_the_columns_of_every_record_are_fields_of_the_record() -> None:
    fields = {column.field for column in (*RECORD_COLUMNS, PAYLOAD) if column.field}
    assert fields <= set(Record.model_fields)


def test_a_table_of_several_channels_has_each_name_once() -> None:
    names = [column.name for column in columns_of(["T", "XT", "Q"])]
    assert len(names) == len(set(names))
    assert {"price", "decimal_size", "received_ts", "bid_ts"} <= set(names)
    assert columns_of(["FMV", "NEW"]) == PAYLOAD_COLUMNS["FMV"]


def test_every_field_of_the_sample_frames_has_a_column() -> None:
    missing = {
        (event["ev"], field)
        for event in _sample_events()
        for field in event
        if field not in _SAID_BY_THE_RECORD
        and field not in {column.field for column in PAYLOAD_COLUMNS[event["ev"]]}
    }
    assert missing == {("C", "p")}, "the pair of a forex quote is the record's symbol"


def _sample_events() -> Iterator[dict[str, Any]]:
    for line in shared_file("data/polygon_samples.ndjson").read_text().splitlines():
        frame = json.loads(line)["frame"]
        try:
            events = json.loads(frame) if isinstance(frame, str) else frame
        except ValueError:
            continue
        for event in events if isinstance(events, list) else [events]:
            if isinstance(event, dict) and event.get("ev") in CHANNELS:
                yield event
