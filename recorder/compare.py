"""Compares two archives: events by payload and order, and the bars that are made of their trades."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import orjson
from rich.console import Console
from rich.table import Table

from recorder.archive.cutting import RecordedEvent
from recorder.archive.recording import RecordedRun, open_recordings
from recorder.bars import Bar, BarMaker, Trades
from recorder.bars.conditions import update_rule
from recorder.differ import Differ, Difference
from recorder.polygon.clusters import CLUSTERS
from recorder.polygon.rows import fragment_of
from recorder.progress import Progress
from recorder.words import moment_text, printable, shortened

BARS_MS: Final = (100, 1000)
"""Lengths of the bars that are compared."""
_BARS_DELAY_MS: Final = 20
_PAYLOAD_CHARS_MAX: Final = 160
NAMES: Final = ("A", "B")


@dataclass(slots=True)
class ClusterComparison:
    """What was found of one cluster."""

    events: Difference[RecordedEvent]
    bars: Difference[Bar]


@dataclass(slots=True)
class Comparison:
    """What was found of two archives."""

    clusters: dict[str, ClusterComparison] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    """What of the archives is missing or damaged; the rest was compared."""
    notes: list[str] = field(default_factory=list)

    @property
    def is_equal(self) -> bool:
        """Whether both archives have the same events in the same order, and nothing of them is missing."""
        return not self.problems and all(
            found.events.is_none and found.bars.is_none for found in self.clusters.values()
        )


class _ClusterDiffer:
    """Compares one cluster of two archives, and the bars that its trades make."""

    def __init__(self, cluster: str) -> None:
        self.events: Differ[RecordedEvent] = Differ(_type_of, _time_ms_of)
        self.bars: Differ[Bar] = Differ(_length_of, _end_ms_of)
        self._trade_channel = CLUSTERS[cluster].trade_channel if cluster in CLUSTERS else ""
        self._makers = [_maker(cluster) for _ in NAMES] if self._trade_channel else []

    def add(self, side: int, events: list[RecordedEvent]) -> None:
        """Take the next events of an archive."""
        self.events.add(side, [bytes(event.payload) for event in events], events)
        trades = [event for event in events if event.type == self._trade_channel]
        if trades and self._makers:
            maker = self._makers[side]
            columns = Trades(
                [trade.symbol for trade in trades],
                [trade.ts for trade in trades],
                [fragment_of(bytes(trade.payload)) for trade in trades],
            )
            maker.add(columns, 0)
            self._add_bars(side, maker.close_due())

    def end(self, side: int) -> None:
        """Note that an archive has no more events."""
        self.events.end(side)
        if self._makers:
            self._add_bars(side, self._makers[side].flush())
        self.bars.end(side)

    def _add_bars(self, side: int, bars: list[Bar]) -> None:
        if bars:
            self.bars.add(side, [bar.data for bar in bars], bars)


class _Side:
    """One archive as it is read."""

    def __init__(self, number: int, path: Path, found: Comparison) -> None:
        recordings = open_recordings(path)
        name = NAMES[number]
        for recording in recordings:
            found.problems += [
                f"{name}: {recording.manifest.parent / problem}" for problem in recording.problems
            ]
            found.notes += [f"{name}: {note}" for note in recording.notes]
            if recording.is_live:
                found.notes.append(
                    f"{name}: {recording.manifest.parent} is being recorded to: what was there was read"
                )
        runs = sorted((run for recording in recordings for run in recording.runs), key=_first_ingest_ms)
        self.size_bytes = sum(segment.size_bytes for run in runs for segment in run.segments)
        self.number = number
        self.read_bytes = 0
        self.blocks: Iterator[list[RecordedEvent]] = (block for run in runs for block in run.events())


def compare(one: Path, other: Path, progress: Progress | None = None) -> Comparison:
    """Compare two archives, each a folder, a manifest or an `NDJSON_DEST`.

    Raise `ArchiveError` for a path that is no archive, and for a file that cannot be read or was altered.
    """
    found = Comparison()
    sides = [_Side(number, path, found) for number, path in enumerate((one, other))]
    differs: dict[str, _ClusterDiffer] = {}
    reading = list(sides)
    while reading:
        # Who is behind is read on, so that little waits.
        side = min(
            reading, key=lambda side: sum(differ.events.waiting(side.number) for differ in differs.values())
        )
        block = next(side.blocks, None)
        if block is None:
            reading.remove(side)
            continue
        side.read_bytes += sum(len(event.payload) for event in block)
        by_cluster: dict[str, list[RecordedEvent]] = {}
        for event in block:
            by_cluster.setdefault(event.feed, []).append(event)
        for cluster, events in by_cluster.items():
            if cluster not in differs:
                differs[cluster] = _ClusterDiffer(cluster)
            differs[cluster].add(side.number, events)
        if progress is not None:
            progress(sum(side.read_bytes for side in sides), sum(side.size_bytes for side in sides))
    for cluster, differ in sorted(differs.items()):
        for side in sides:
            differ.end(side.number)
        found.clusters[cluster] = ClusterComparison(differ.events.found, differ.bars.found)
    return found


def as_json(found: Comparison) -> str:
    """Return everything that was found as one JSON object."""
    fields = {
        "equal": found.is_equal,
        "clusters": {
            cluster: {
                "events": _facts(one.events, _event_facts),
                "bars": _facts(one.bars, _bar_facts),
            }
            for cluster, one in found.clusters.items()
        },
        "problems": found.problems,
        "notes": found.notes,
    }
    return orjson.dumps(fields, option=orjson.OPT_INDENT_2).decode()


def print_comparison(found: Comparison, console: Console) -> None:
    """Print what was found for people. What the wire said is text: it styles and steers nothing."""

    def say(words: str, style: str | None = None) -> None:
        console.print(printable(words), markup=False, style=style)

    table = Table("", "equal", "only in A", "only in B", "elsewhere", box=None, header_style="bold")
    for column in table.columns[1:]:
        column.justify = "right"
    for cluster, one in found.clusters.items():
        _add_rows(table, cluster, "events", one.events)
        _add_rows(table, cluster, "bars", one.bars)
    console.print(table)
    for cluster, one in found.clusters.items():
        for side, event in one.events.examples:
            say(f"{cluster}, only or elsewhere in {NAMES[side]}: {_event_text(event)}")
        if not one.events.examples:
            for side, bar in one.bars.examples:
                say(f"{cluster}, only or elsewhere in {NAMES[side]}: {bar.data.decode()}")
    for note in found.notes:
        say(f"note: {note}")
    for problem in found.problems:
        say(f"problem: {problem}", style="red")
    events = sum(one.events.equal for one in found.clusters.values())
    if found.is_equal:
        say(f"equal: {events:,} events of each, in the same order, with the same bytes")
    elif all(one.events.is_none and one.bars.is_none for one in found.clusters.values()):
        say(f"equal as far as they could be read, {events:,} events; see the problems above", style="red")
    else:
        say("different", style="red")


def _add_rows(table: Table, cluster: str, what: str, found: Difference[Any]) -> None:
    """Add what was found of one kind of things: a row for all, and one for each type that differs."""
    only = [f"{side.total():,}" for side in found.only]
    table.add_row(f"{cluster} {what}", f"{found.equal:,}", *only, f"{found.elsewhere.total():,}")
    kinds = sorted({kind for counts in (*found.only, found.elsewhere) for kind in +counts})
    for kind in kinds:
        table.add_row(
            f"  {printable(shortened(kind, 20))}",
            "",
            *(f"{side[kind]:,}" for side in found.only),
            f"{found.elsewhere[kind]:,}",
        )


def _facts(found: Difference[Any], describe: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
    return {
        "equal": found.equal,
        "only_a": dict(+found.only[0]),
        "only_b": dict(+found.only[1]),
        "elsewhere": dict(+found.elsewhere),
        "examples": [{"in": NAMES[side], **describe(item)} for side, item in found.examples],
    }


def _event_facts(event: RecordedEvent) -> dict[str, Any]:
    payload = orjson.Fragment(bytes(event.payload))
    return {"seq": event.seq, "ingest_ts": event.ingest_ts, "type": event.type, "payload": payload}


def _bar_facts(bar: Bar) -> dict[str, Any]:
    return {"bar": orjson.Fragment(bar.data)}


def _event_text(event: RecordedEvent) -> str:
    payload = shortened(bytes(event.payload).decode(errors="replace"), _PAYLOAD_CHARS_MAX)
    return f"seq {event.seq:,}, {moment_text(event.ingest_ts)}: {payload}"


def _maker(cluster: str) -> BarMaker:
    maker = BarMaker(cluster, delay_ms=_BARS_DELAY_MS, rule=update_rule(cluster, "vendor"))
    for interval_ms in BARS_MS:
        maker.want(interval_ms)
    return maker


def _first_ingest_ms(run: RecordedRun) -> int:
    return run.first_ingest_ms


def _type_of(event: RecordedEvent) -> str:
    return event.type


def _time_ms_of(event: RecordedEvent) -> int:
    return event.ts or event.ingest_ts


def _length_of(bar: Bar) -> str:
    return f"{bar.interval_ms} ms"


def _end_ms_of(bar: Bar) -> int:
    return bar.end_ms
