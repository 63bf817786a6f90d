"""What /status says of itself is what it sends."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any, get_type_hints

import msgspec
import pytest
from click.testing import CliRunner
from ops_parts import Counting, feed_of, make_ready, maker_of, observe
from status_reference import render_markdown

from recorder.archive.stats import ActiveSegment, ArchiveStats, ClosedSegment
from recorder.cli.schema import command
from recorder.ledger import CHANNEL_CHARS_MAX, CHANNELS_MAX, DROPS_PAUSE_MS, Ledger, PairStats, SinkStats
from recorder.ops import status_schema as shown
from recorder.ops.snapshot_builder import take_snapshot
from recorder.part import PartStats
from recorder.servers.stats import ClientStats, ServerStats
from recorder.sources.replay.stats import PlayStats
from recorder.sources.stats import FeedStats, Gap
from recorder.stats import RECENT_MAX
from recorder.workers.stats import WorkerStats

STRUCTS = [
    kind
    for kind in vars(shown).values()
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct) and kind is not msgspec.Struct
]


def full() -> shown.Snapshot:
    """Return a snapshot with something of every kind in it."""
    archive = ArchiveStats(
        active={"a": ActiveSegment("a", 1, 2, 3)}, recent=(ClosedSegment("b", 1, 2, 3, "size"),)
    )
    ledger = Ledger()
    ledger.channel("stocks", "T").received = 5
    sink = ledger.sink("ndjson")
    sink.recorded["stocks", "T"] = 5
    sink.streams = [PairStats("stocks", "MD_STOCKS")]
    sink.note_drops(1, "stocks", {"T": 1}, "why")
    observed = observe(
        "stocks",
        ledger=ledger,
        archive=archive,
        servers=[ServerStats("filtered", clients=1)],
        makers=[maker_of("stocks")],
        parts=[PartStats("archive", True)],
        workers=[WorkerStats(1)],
        player=Counting(PlayStats("burst", 1, 2)),
    )
    observed.feeds[0].recent_gaps = (Gap(1, 2, "why"),)
    return take_snapshot(observed)


def test_docs_name_every_field() -> None:
    """Each field of each structure has one row under the structure's heading, with a meaning."""
    sections = dict(re.findall(r"^## (\w+)\n(.*?)(?=^## |\Z)", render_markdown(), re.MULTILINE | re.DOTALL))
    assert set(sections) == {kind.__name__ for kind in STRUCTS} - {"Balance"}
    for kind in STRUCTS:
        if kind is shown.Balance:  # the two kinds of books have its fields
            continue
        rows = re.findall(
            r"^\| `(\w+)` \| [^|]+ \| [^|]* \| [^|]{3,} \|$", sections[kind.__name__], re.MULTILINE
        )
        assert rows == list(kind.__struct_fields__)


def test_units_are_in_the_names_or_told() -> None:
    """What ends in `_secs` is in seconds, in `_bytes` in bytes; the schema says so of each number that has a unit."""
    for definition in shown.json_schema()["$defs"].values():
        for name, about in definition["properties"].items():
            unit = next((part["unit"] for part in (about, *about.get("anyOf", [])) if "unit" in part), None)
            if name.endswith("_secs") and name != "rotate_secs":
                assert unit == "s", name
            if name.endswith("bytes"):
                assert unit == "bytes" or about["type"] == "array", name


def test_the_command_prints_the_schema() -> None:
    """`recorder schema status` is the JSON Schema of what is sent; `recorder schema` still is that of a record."""
    result = CliRunner().invoke(command, ["status"])
    assert json.loads(result.output) == shown.json_schema()
    assert "ingest_ts" in json.loads(CliRunner().invoke(command, []).output)["properties"]


def _fits(value: Any, about: dict[str, Any], definitions: dict[str, Any]) -> bool:
    """Return whether a value is what this part of a schema allows, with no field besides."""
    if "anyOf" in about:
        return any(_fits(value, part, definitions) for part in about["anyOf"])
    if "$ref" in about:
        about = definitions[about["$ref"].rpartition("/")[2]]
        return (
            isinstance(value, dict)
            and value.keys() == about["properties"].keys()
            and all(_fits(value[name], part, definitions) for name, part in about["properties"].items())
        )
    match about["type"]:
        case "array":
            return isinstance(value, list) and all(_fits(each, about["items"], definitions) for each in value)
        case "object":
            return all(_fits(each, about["additionalProperties"], definitions) for each in value.values())
    kinds = {"string": str, "boolean": bool, "integer": int, "number": (int, float), "null": type(None)}
    return isinstance(value, kinds[about["type"]])


def test_what_is_sent_fits_the_schema() -> None:
    """A snapshot with something of every kind has exactly the fields of the schema, and reads back as it was."""
    snapshot = full()
    content = msgspec.json.encode(snapshot)
    schema = shown.json_schema()
    assert _fits(json.loads(content), schema, schema["$defs"])
    assert msgspec.json.decode(content, type=shown.Snapshot) == snapshot
    wrong = {**json.loads(content), "at": "now"}
    assert not _fits(wrong, schema, schema["$defs"])


def test_every_description_is_a_sentence() -> None:
    """Each field says what it is in words that end."""
    for kind in STRUCTS:
        for name, hint in get_type_hints(kind, include_extras=True).items():
            words = [meta.description for meta in hint.__metadata__ if meta.description]
            assert words, f"{kind.__name__}.{name}"
            assert words[-1].endswith("."), f"{kind.__name__}.{name}"


def test_lists_have_bounds() -> None:
    """Channels that the wire names, and clients, are listed up to a bound, and how many there are is said."""
    ledger = Ledger()
    for place in range(1000):
        ledger.channel("stocks", f"X{place}").received = 1
    ledger.channel("stocks", "x" * 10_000).received = 1
    ledger.sink("ndjson")
    clients = [ClientStats("bars", n, 0, "", 0, "", "", "", (), 0, n, 0.0, 0, 0, 0.0) for n in range(1000)]
    observed = observe("stocks", ledger=ledger, servers=[ServerStats("bars", clients=1000)])
    snapshot = take_snapshot(replace(observed, clients=lambda _: clients))
    [sink] = snapshot.sinks
    assert (len(sink.channels), sink.channels_count) == (shown.CHANNELS_LISTED_MAX, CHANNELS_MAX + 1)
    assert max(len(channel.channel) for channel in sink.channels) <= CHANNEL_CHARS_MAX
    assert (len(snapshot.clients), snapshot.clients_count) == (shown.CLIENTS_LISTED_MAX, 1000)
    # Those that leave most unread, in an order that stays.
    assert [client.number for client in snapshot.clients] == list(range(900, 1000))


def test_since_is_when_it_began_or_ceased() -> None:
    """Before a first session it is the start."""
    observed = observe("stocks")
    assert take_snapshot(observed).feeds[0].since == observed.started_ns // 1_000_000
    observed.feeds[0].since_ns = observed.started_ns + 5_000_000_000
    assert take_snapshot(observed).feeds[0].since == observed.started_ns // 1_000_000 + 5_000


def test_drops_of_one_reason_are_one_entry() -> None:
    """Drops that follow each other add up; after a pause, or for another reason or channel, they are new ones."""
    sink = SinkStats("ndjson")
    sink.note_drops(1_000, "stocks", {"T": 5, "Q": 1}, "slow")
    sink.note_drops(1_000 + DROPS_PAUSE_MS, "stocks", {"T": 7}, "slow")
    sink.note_drops(1_001 + DROPS_PAUSE_MS, "stocks", {"T": 1}, "full")
    sink.note_drops(2_000 + 2 * DROPS_PAUSE_MS, "stocks", {"T": 2}, "slow")
    assert [(run.channel, run.reason, run.count) for run in sink.recent_drops] == [
        ("T", "slow", 12),
        ("Q", "slow", 1),
        ("T", "full", 1),
        ("T", "slow", 2),
    ]
    for place in range(100):
        sink.note_drops(1, "stocks", {"T": 1}, f"reason {place}")
    assert len(sink.recent_drops) == RECENT_MAX


@pytest.mark.parametrize("events", [None, 7])
def test_rates(events: int | None) -> None:
    """A rate is what came between two looks by the time between them; events are null where nobody counts them."""
    ledger = Ledger()
    observed = observe("stocks", ledger=ledger)
    feed: FeedStats = observed.feeds[0]
    make_ready(feed, observed.clock)
    observed.clock.advance(2)  # type: ignore[attr-defined]
    feed.frames_received, feed.bytes_received = 100, 5000
    if events is not None:
        ledger.channel("stocks", "T").received = events
        ledger.channel("crypto", "XT").received = 99
    observed.rates.look()
    [shown_feed] = take_snapshot(observed).feeds
    assert (shown_feed.frames_per_sec, shown_feed.bytes_per_sec) == (50.0, 2500.0)
    assert (shown_feed.events_received, shown_feed.events_per_sec) == (events, (events or 0) / 2)
    assert observed.rates.of(feed_of("stocks")).frames == 0.0
