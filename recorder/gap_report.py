"""What `recorder gaps` prints: how complete each day is within market hours, and what is missing."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any, Final, NamedTuple

import orjson
from rich.console import Console
from rich.table import Table
from rich.text import Text

from recorder import loop
from recorder.archive.bucket import place_of
from recorder.archive.gaps import Completeness, Gap, completeness, whole_days
from recorder.archive.recorded import Recorded, manifests_of, read_recorded
from recorder.errors import NoArchive
from recorder.market_hours.hours import Span, bounds_of, day_of, within
from recorder.market_hours.keeper import (
    PACKAGE,
    CalendarError,
    Compute,
    Spans,
    compute_apart,
    is_installed,
)
from recorder.plugins import installing
from recorder.screen import duration_text
from recorder.words import moment_text, printable

_MS_NS: Final = 1_000_000
_RUN_CHARS: Final = 8
"""Of a run's name, in the table."""


class Days(NamedTuple):
    """The days that are asked for, both included."""

    first: date
    last: date


class Row(NamedTuple):
    """One cluster of one archive on one day."""

    archive: Path
    day: date
    cluster: str
    found: Completeness
    dropped: int
    """Records that were lost while data came."""

    @property
    def percent(self) -> float | None:
        """How complete the day is; None where the market was closed all day."""
        return None if self.found.ratio is None else 100 * self.found.ratio

    def is_under(self, budget: float | None) -> bool:
        """Return whether the day is less complete than it has to be."""
        return budget is not None and self.percent is not None and self.percent < budget


@dataclass(slots=True)
class GapReport:
    """What was found."""

    as_of_ms: int
    hours: str
    """`market`, `all` because every hour was asked for, or `unknown`: every hour counts then, too."""
    rows: list[Row] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    """What makes the figures unreliable."""

    def under(self, budget: float | None) -> list[Row]:
        """Return what is less complete than it has to be."""
        return [row for row in self.rows if row.is_under(budget)]


def read_days(text: str, now_ns: int) -> Days:
    """Read `2026-11-27`, `today`, `yesterday` or two of these as `FIRST..LAST`. Raise `ValueError`."""
    today = day_of(now_ns)
    known = {"today": today, "yesterday": today - timedelta(days=1)}
    first, dots, last = text.partition("..")
    try:
        days = Days(
            *(known.get(each) or date.fromisoformat(each) for each in (first, last if dots else first))
        )
    except ValueError as error:
        raise ValueError(
            f"{text!r} is no day, such as 2026-11-27, yesterday or 2026-11-02..2026-11-27"
        ) from error
    if days.last < days.first:
        raise ValueError(f"{days.last} is before {days.first}: put the first day first")
    if days.last > today:
        raise ValueError(f"{days.last} has not begun in New York")
    return days


def find_gaps(
    path: Path,
    days: Days | None,
    now_ns: int,
    *,
    all_hours: bool = False,
    compute: Compute = compute_apart,
) -> GapReport:
    """Read archives; `days` None: from the first day to the last of each.

    `compute` returns the hours of the markets. Raise `NoArchive` where there is none of these days, and `ArchiveError` where
    it cannot be read.
    """
    report = GapReport(now_ns // _MS_NS, "all" if all_hours else "market")
    place = place_of(path)
    archives = [read_recorded(one, report.as_of_ms, place) for one in manifests_of(path, place)]
    asked = {archive.manifest: days or _all_days(archive, now_ns) for archive in archives}
    hours = {} if all_hours else _hours_of(archives, list(asked.values()), report, compute)
    for archive in archives:
        report.problems += [f"{archive.manifest}: {problem}" for problem in archive.problems]
        if archive.is_live:
            report.notes.append(f"{archive.manifest.parent} is being recorded to: today counts until now")
        elif archive.is_copy:
            report.notes.append(
                f"{archive.manifest} says nothing of the time after {moment_text(archive.as_of_ms)}"
            )
        report.rows += _rows(archive, asked[archive.manifest], hours, archive.as_of_ms * _MS_NS)
    if not report.rows:
        begun = min(
            (times[0].since_ms for archive in archives for times in archive.history.followed.values()),
            default=None,
        )
        when = f"recording began on {day_of(begun * _MS_NS)}" if begun is not None else "no run began there"
        raise NoArchive(f"{path} has nothing of the days that were asked for: {when}")
    report.rows.sort(key=lambda row: (row.day, row.cluster))
    return report


def _all_days(archive: Recorded, now_ns: int) -> Days:
    history = archive.history
    begun_ms = min((times[0].since_ms for times in history.followed.values()), default=history.last_ms)
    last_ns = now_ns if archive.is_live else min(now_ns, history.last_ms * _MS_NS)
    last = day_of(last_ns)
    return Days(min(last, day_of(begun_ms * _MS_NS)), last)


def _hours_of(
    archives: Sequence[Recorded], asked: Sequence[Days], report: GapReport, compute: Compute
) -> Spans:
    """Return when the market of each cluster was open; none where that is not known, which is noted."""
    clusters = list(dict.fromkeys(cluster for archive in archives for cluster in archive.history.followed))
    try:
        if not is_installed():
            raise CalendarError(f"{PACKAGE} is not installed: {installing(PACKAGE)}")
        first, last = min(days.first for days in asked), max(days.last for days in asked)
        return loop.run(_computed(compute, clusters, first, last))
    except CalendarError as error:
        report.hours = "unknown"
        report.notes.append(f"the hours of the markets are not known, so every hour counts: {error}")
        return {}


async def _computed(compute: Compute, clusters: Sequence[str], first: date, last: date) -> Spans:
    return await compute(clusters, first, last)


def _rows(archive: Recorded, days: Days, hours: Mapping[str, Sequence[Span]], now_ns: int) -> Iterator[Row]:
    history = archive.history
    for cluster, times in history.followed.items():
        open_gap = archive.open_gaps.get(cluster)
        gaps = [*history.gaps.get(cluster, []), *([open_gap] if open_gap is not None else [])]
        followed = whole_days(times, bounds_of(day_of(times[0].since_ms * _MS_NS))[0] // _MS_NS)
        day = days.first
        while day <= days.last:
            begin, end = bounds_of(day)
            end = min(end, now_ns)
            spans = within(hours.get(cluster, [(begin, end)]), begin, end)
            open_ms = [(opening // _MS_NS, close // _MS_NS) for opening, close in spans]
            day_ms = begin // _MS_NS, end // _MS_NS
            if any(since < day_ms[1] and (not until or until > day_ms[0]) for since, until in followed):
                of_day = [gap for gap in gaps if gap.to_ms > day_ms[0] and gap.from_ms < day_ms[1]]
                dropped = sum(
                    each.records
                    for each in history.dropped.get(cluster, [])
                    if day_ms[0] <= each.at_ms < day_ms[1]
                )
                yield Row(archive.manifest, day, cluster, completeness(open_ms, followed, of_day), dropped)
            day += timedelta(days=1)


def as_json(report: GapReport, budget: float | None) -> str:
    """Return the whole report as one JSON object; times are Unix ms."""
    fields = {
        "as_of": report.as_of_ms,
        "zone": "America/New_York",
        "hours": report.hours,
        "budget_percent": budget,
        "under_budget": len(report.under(budget)),
        "days": [_day_fields(row) for row in report.rows],
        "gaps": [
            {
                "archive": str(row.archive),
                "day": row.day.isoformat(),
                "cluster": row.cluster,
                "from": gap.from_ms,
                "until": gap.to_ms,
                "open": gap.to_ms == report.as_of_ms,
                "secs": gap.secs,
                "reason": gap.reason,
                "run_id": gap.run_id,
            }
            for row in report.rows
            for gap in row.found.gaps
        ],
        "notes": report.notes,
        "problems": report.problems,
    }
    return orjson.dumps(fields, option=orjson.OPT_INDENT_2).decode()


def _day_fields(row: Row) -> dict[str, Any]:
    return {
        "archive": str(row.archive),
        "day": row.day.isoformat(),
        "cluster": row.cluster,
        "expected_secs": row.found.expected_ms / 1000,
        "missing_secs": row.found.missing_ms / 1000,
        "complete_percent": None if row.percent is None else _cut(row.percent),
        "gaps": len(row.found.gaps),
        "dropped": row.dropped,
    }


def days_csv(report: GapReport) -> str:
    """Return a line for each day and cluster."""
    return _csv([_day_fields(row) for row in report.rows])


def gaps_csv(report: GapReport) -> str:
    """Return a line for each gap."""
    header = ("archive", "day", "cluster", "from", "until", "secs", "reason", "run_id")
    return _csv(
        [
            dict(
                zip(
                    header,
                    (
                        *(str(row.archive), row.day.isoformat(), row.cluster),
                        *(moment_text(gap.from_ms), moment_text(gap.to_ms), gap.secs, gap.reason, gap.run_id),
                    ),
                    strict=True,
                )
            )
            for row in report.rows
            for gap in row.found.gaps
        ],
        header,
    )


def _csv(rows: Sequence[Mapping[str, Any]], header: Sequence[str] = ()) -> str:
    out = io.StringIO()
    writer = csv.DictWriter(out, header or list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def print_report(report: GapReport, budget: float | None, console: Console) -> None:
    """Print the report for people. Names from the manifest are text: they style and steer nothing."""
    console.print(_days_table(report, budget))
    if any(row.found.gaps for row in report.rows):
        console.print()
        console.print(_gaps_table(report))
    counted = {"market": "within market hours", "all": "over all hours", "unknown": "over all hours"}[
        report.hours
    ]
    console.print(
        f"\nDays are those of New York, {counted}; times of gaps are UTC.", markup=False, highlight=False
    )
    dropped = sum(row.dropped for row in report.rows)
    if dropped:
        console.print(
            f"{dropped:,} records were dropped while data came; `recorder verify` lists them.",
            markup=False,
            highlight=False,
        )
    if budget is not None:
        under = report.under(budget)
        style = "red" if under else "green"
        words = f"{len(under)} of {len(report.rows)}" if under else "none"
        console.print(f"Budget {budget:g} %: {words} below it.", style=style, markup=False, highlight=False)


def _days_table(report: GapReport, budget: float | None) -> Table:
    several = len({row.archive for row in report.rows}) > 1
    table = _table("day", "cluster", ">open", ">without data", ">complete", ">gaps", ">dropped")
    if several:
        table.add_column("archive", overflow="fold")
    for row in report.rows:
        expected, missing = (ms / 1000 for ms in (row.found.expected_ms, row.found.missing_ms))
        complete = (
            Text("closed", "dim")
            if row.percent is None
            else Text(f"{_cut(row.percent):.3f} %", "red" if row.is_under(budget) else "")
        )
        table.add_row(
            row.day.isoformat(),
            Text(printable(row.cluster)),
            duration_text(expected) if expected else "",
            _secs_text(missing) if missing else "",
            complete,
            f"{len(row.found.gaps):,}" if expected else "",
            Text(f"{row.dropped:,}", "red") if row.dropped else "",
            *([Text(printable(str(row.archive)))] if several else []),
        )
    return table


def _gaps_table(report: GapReport) -> Table:
    table = _table("cluster", "from", "until", ">seconds", "reason", "run")
    for row in report.rows:
        for gap in row.found.gaps:
            table.add_row(*_gap_cells(gap, is_open=gap.to_ms == report.as_of_ms))
    return table


def _gap_cells(gap: Gap, *, is_open: bool) -> Iterator[str | Text]:
    begin, end = (datetime.fromtimestamp(ms / 1000, UTC) for ms in (gap.from_ms, gap.to_ms))
    yield Text(printable(gap.cluster))
    yield f"{begin:%Y-%m-%d %H:%M:%S}"
    if is_open:
        yield "now"
    else:
        yield f"{end:%H:%M:%S}" if begin.date() == end.date() else f"{end:%Y-%m-%d %H:%M:%S}"
    yield f"{gap.secs:,.3f}"
    yield Text(printable(gap.reason))
    yield Text(printable(gap.run_id[:_RUN_CHARS]))


def _table(*heads: str) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
    for head in heads:
        table.add_column(head.lstrip(">"), justify="right" if head.startswith(">") else "left", no_wrap=True)
    return table


def _secs_text(secs: float) -> str:
    return f"{secs:.3f} s" if secs < 60 else duration_text(secs)


def _cut(percent: float) -> float:
    """Return a percentage to three places, never more than it is: 100 means that nothing is missing."""
    return math.floor(percent * 1000) / 1000
