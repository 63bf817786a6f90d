"""How complete a day is, by the manifest: gaps cut to market hours, runs that were stopped, killed, or never began."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest
from archives import Archive, archive_settings
from fakes import FakeClock
from manifests import WrittenManifest, ms
from ops_parts import make_ready, observe

from recorder.archive.gaps import Followed, Gap, Silence, completeness
from recorder.archive.recorded import read_recorded
from recorder.archive.stats import ArchiveStats
from recorder.errors import NoArchive
from recorder.gap_report import Days, GapReport, Row, as_json, days_csv, find_gaps, gaps_csv, read_days
from recorder.market_hours.hours import ClusterHours, bounds_of
from recorder.market_hours.keeper import CalendarError, Spans
from recorder.ops.metrics import Exposition
from recorder.ops.snapshot_builder import take_snapshot

MONDAY, TUESDAY, WEDNESDAY = (date(2026, 11, day) for day in (23, 24, 25))
HOUR_MS = 3_600_000


async def hours(clusters: Sequence[str], first: date, last: date) -> Spans:
    """Return ten hours a day, 14:00 to 24:00 UTC, of stocks, and every hour of crypto."""
    days = [first + timedelta(days=place) for place in range((last - first).days + 1)]
    opens = [int(datetime.combine(day, datetime.min.time(), UTC).timestamp()) for day in days]
    spans = [((at + 14 * 3600) * 10**9, (at + 24 * 3600) * 10**9) for at in opens]
    always = [(bounds_of(first)[0], bounds_of(last)[1])]
    return {cluster: always if cluster == "crypto" else spans for cluster in clusters}


async def no_hours(clusters: Sequence[str], first: date, last: date) -> Spans:
    """Fail."""
    raise CalendarError("no calendar")


@pytest.fixture
def ledger(tmp_path: Path) -> WrittenManifest:
    """Return the manifest of a run that began on Monday before the opening."""
    ledger = WrittenManifest(tmp_path)
    ledger.start("2026-11-23 13:00:00", "stocks")
    ledger.open("2026-11-23 13:00:01")
    return ledger


def found(
    ledger: WrittenManifest, now: str, first: date | None = None, last: date | None = None
) -> GapReport:
    """Return the report of some days, or of all."""
    days = Days(first, last or first) if first is not None else None
    return find_gaps(ledger.path.parent, days, ms(now) * 1_000_000, compute=hours)


def figures(report: GapReport) -> list[tuple[str, str, float, float | None]]:
    """Return day, cluster, missing seconds and percentage of each row."""
    return [
        (row.day.isoformat(), row.cluster, row.found.missing_ms / 1000, row.percent) for row in report.rows
    ]


def gaps_of(row: Row) -> list[tuple[str, str, str]]:
    """Return the gaps of a row: from, until, why."""
    return [
        (
            *(f"{datetime.fromtimestamp(at / 1000, UTC):%H:%M:%S}" for at in (gap.from_ms, gap.to_ms)),
            gap.reason,
        )
        for gap in row.found.gaps
    ]


def test_gaps_count_within_market_hours_only(ledger: WrittenManifest) -> None:
    """One at night counts nothing, one over the opening from there on; each moment counts once."""
    ledger.gap("2026-11-23 13:10:00", "2026-11-23 13:20:00", "disconnected")
    ledger.gap("2026-11-23 13:50:00", "2026-11-23 14:06:00", "connect_failed")
    # The session from 14:06 brought nothing, so that the next gap begins where the one before it did.
    ledger.gap("2026-11-23 13:50:00", "2026-11-23 14:30:00", "data_timeout")
    ledger.gap("2026-11-23 16:00:00", "2026-11-23 16:06:00", "disconnected")
    ledger.stop("2026-11-24 03:00:00", "stocks")
    report = found(ledger, "2026-11-28 12:00:00")
    # In New York, Monday lasts until 05:00 UTC.
    [row] = report.rows
    assert (row.day, row.cluster, row.found.expected_ms) == (MONDAY, "stocks", 10 * HOUR_MS)
    assert gaps_of(row) == [
        ("14:00:00", "14:06:00", "connect_failed"),
        ("14:06:00", "14:30:00", "data_timeout"),
        ("16:00:00", "16:06:00", "disconnected"),
    ]
    assert row.percent == pytest.approx(94)
    assert {gap.run_id for gap in row.found.gaps} == {"run-1"}
    assert not report.under(94)
    assert report.under(94.1) == [row]


def test_an_archive_without_gaps_is_complete(ledger: WrittenManifest) -> None:
    """100 %, no line in the list, and what was dropped stands beside it."""
    ledger.add("drop", "2026-11-23 20:00:00", cluster="stocks", channel="Q", count=7, reason="x")
    ledger.stop("2026-11-24 02:00:00", "stocks")
    report = found(ledger, "2026-11-28 12:00:00")
    assert figures(report) == [("2026-11-23", "stocks", 0, 100)]
    assert [row.dropped for row in report.rows] == [7]
    assert not report.under(100)
    assert gaps_csv(report) == "archive,day,cluster,from,until,secs,reason,run_id\n"
    assert days_csv(report).splitlines()[1].endswith(",2026-11-23,stocks,36000.0,0.0,100.0,0,7")
    assert json.loads(as_json(report, 100))["under_budget"] == 0


def test_time_without_a_run_is_a_gap(ledger: WrittenManifest) -> None:
    """Between two runs, and behind the last one until now; a day that is not over counts until now."""
    ledger.stop("2026-11-23 22:00:00", "stocks")
    ledger.start("2026-11-24 14:59:00", "stocks", run="run-2")
    ledger.gap("2026-11-23 22:00:00", "2026-11-24 15:00:00", "not_running", run="run-2")
    ledger.stop("2026-11-24 16:00:00", "stocks", run="run-2")
    report = found(ledger, "2026-11-24 18:00:00", MONDAY, TUESDAY)
    assert figures(report) == [("2026-11-23", "stocks", 7200, 80), ("2026-11-24", "stocks", 3 * 3600, 25)]
    monday, tuesday = report.rows
    assert gaps_of(monday) == [("22:00:00", "00:00:00", "not_running")]
    assert gaps_of(tuesday) == [
        ("14:00:00", "15:00:00", "not_running"),
        ("16:00:00", "18:00:00", "not_running"),
    ]
    assert [gap["open"] for gap in json.loads(as_json(report, None))["gaps"]] == [False, False, True]
    # Nobody started it again: the day after is asked for, and is empty.
    assert figures(found(ledger, "2026-11-26 12:00:00", WEDNESDAY)) == [("2026-11-25", "stocks", 36000, 0)]


def test_the_first_day_counts_from_its_beginning(tmp_path: Path) -> None:
    """A recorder that was installed at noon has half of that day; no day before it is reported."""
    ledger = WrittenManifest(tmp_path)
    ledger.start("2026-11-23 19:00:00", "stocks", "crypto")
    ledger.open("2026-11-23 19:00:00")
    ledger.stop("2026-11-24 02:00:00", "stocks")
    report = found(ledger, "2026-11-24 04:00:00")
    assert figures(report) == [
        # Followed, and never connected.
        ("2026-11-23", "crypto", 23 * 3600, 0),
        ("2026-11-23", "stocks", 5 * 3600, 50),
    ]
    with pytest.raises(NoArchive, match="recording began on 2026-11-23"):
        found(ledger, "2026-11-24 04:00:00", date(2026, 11, 20))


def test_a_cluster_counts_while_it_is_followed(ledger: WrittenManifest) -> None:
    """One that was added later has no row before; one that was given up is no gap from then on."""
    ledger.stop("2026-11-23 23:00:00", "stocks")
    ledger.start("2026-11-23 23:00:00", "crypto", run="run-2")
    ledger.open("2026-11-23 23:00:00", "crypto", run="run-2")
    ledger.stop("2026-11-25 05:00:00", "crypto", run="run-2")
    report = found(ledger, "2026-11-28 12:00:00", MONDAY, TUESDAY)
    assert figures(report) == [
        ("2026-11-23", "crypto", 18 * 3600, 25),
        ("2026-11-23", "stocks", 0, 100),
        ("2026-11-24", "crypto", 0, 100),
    ]


def test_unknown_hours_and_all_hours_count_every_hour(ledger: WrittenManifest) -> None:
    """Without calendars a note says so, and which package has them; on request there is nothing to say."""
    ledger.stop("2026-11-24 03:00:00", "stocks")
    now_ns = ms("2026-11-28 12:00:00") * 1_000_000
    unknown = find_gaps(ledger.path, None, now_ns, compute=no_hours)
    asked = find_gaps(ledger.path, None, now_ns, all_hours=True, compute=no_hours)
    for report in (unknown, asked):
        [row] = report.rows
        assert (row.found.expected_ms, row.found.missing_ms) == (
            24 * HOUR_MS,
            8 * HOUR_MS + 2 * HOUR_MS + 1000,
        )
    assert (unknown.hours, asked.hours) == ("unknown", "all")
    assert "no calendar" in unknown.notes[0]
    assert not asked.notes


def test_a_closed_day_is_not_incomplete(ledger: WrittenManifest) -> None:
    """Where the market does not open there is no figure, and no budget is missed."""
    ledger.stop("2026-11-23 13:30:00", "stocks")

    async def closed(clusters: Sequence[str], first: date, last: date) -> Spans:
        return {cluster: [] for cluster in clusters}

    report = find_gaps(ledger.path, None, ms("2026-11-24 01:00:00") * 1_000_000, compute=closed)
    assert figures(report) == [("2026-11-23", "stocks", 0, None)]
    assert not report.under(100)


def test_a_damaged_manifest_is_said_to_be_one(ledger: WrittenManifest) -> None:
    """Gaps may be missing where a line was taken out."""
    ledger.gap("2026-11-23 15:00:00", "2026-11-23 16:00:00", "disconnected")
    ledger.stop("2026-11-24 03:00:00", "stocks")
    lines = ledger.path.read_bytes().splitlines(keepends=True)
    ledger.path.write_bytes(b"".join(line for line in lines if b'"gap"' not in line))
    [problem] = found(ledger, "2026-11-28 12:00:00").problems
    assert "a line before it was removed or altered" in problem


def test_a_killed_run_has_data_until_its_last_record(tmp_path: Path) -> None:
    """Before the next start and after it, the gap begins at the same record: no day is thrown away with the process."""
    archive = Archive(archive_settings(tmp_path / "polygon.ndjson")).open()
    archive.writer.append("session_opened", cluster="stocks", at=archive.clock.wall_ns() // 1_000_000)
    archive.clock.advance(600)
    archive.write("T")
    last_ms = archive.clock.wall_ns() // 1_000_000
    archive.flush()

    def report() -> GapReport:
        return find_gaps(archive.folder, None, archive.clock.wall_ns(), all_hours=True)

    archive.clock.advance(100)
    live = report()
    assert [gap.reason for gap in live.rows[0].found.gaps] == ["not_running"]  # before the first run
    assert any("is being recorded to" in note for note in live.notes)
    archive.kill()
    archive.clock.advance(100)
    [_, gap] = report().rows[0].found.gaps
    assert (gap.from_ms, gap.reason) == (last_ms, "killed")
    assert gap.to_ms == archive.clock.wall_ns() // 1_000_000
    archive.restart()
    assert report().rows[0].found.gaps[1] == replace(gap, run_id="run-2")
    archive.close()


@pytest.mark.parametrize(
    ("text", "days"),
    [
        ("2026-11-23", (MONDAY, MONDAY)),
        ("2026-11-23..2026-11-24", (MONDAY, TUESDAY)),
        ("yesterday", (TUESDAY, TUESDAY)),
        ("2026-11-23..today", (MONDAY, WEDNESDAY)),
    ],
)
def test_days_are_read(text: str, days: tuple[date, date]) -> None:
    """A day, a word, or the first and the last of several; today is New York's."""
    assert read_days(text, ms("2026-11-26 04:59:00") * 1_000_000) == days


@pytest.mark.parametrize(
    "text", ["", "monday", "2026-11-24..2026-11-23", "2026-11-26", "2026-11-23..", "1..2..3"]
)
def test_what_is_no_day_is_refused(text: str) -> None:
    """No guess: not the reverse of a range, nor a day that has not begun."""
    with pytest.raises(ValueError, match=r"no day|before|not begun"):
        read_days(text, ms("2026-11-26 04:59:00") * 1_000_000)


def test_a_percentage_is_never_rounded_up(ledger: WrittenManifest) -> None:
    """A millisecond that is missing shows."""
    ledger.stop("2026-11-24 03:00:00", "stocks")
    [row] = found(ledger, "2026-11-28 12:00:00").rows
    gap = Gap("stocks", ms("2026-11-23 15:00:00"), ms("2026-11-23 15:00:00") + 1, "x", "run-1")
    spans = [(ms("2026-11-23 14:00:00"), ms("2026-11-24 00:00:00"))]
    row = row._replace(found=completeness(spans, [Followed(0)], [gap]))
    assert row.is_under(100)
    report = GapReport(0, "market", [row])
    assert json.loads(as_json(report, 100))["days"][0]["complete_percent"] == 99.999


def test_the_hours_of_a_day_are_cut_to_it() -> None:
    """A market that is open over both ends of a time is open in all of it; where hours end to be known, none are."""
    hours = ClusterHours()
    hours.learn([(10, 20), (30, 40)], 0, 50)
    assert hours.open_within(0, 50) == [(10, 20), (30, 40)]
    assert hours.open_within(12, 35) == [(12, 20), (30, 35)]
    assert hours.open_within(12, 14) == [(12, 14)]
    assert hours.open_within(20, 30) == []
    assert hours.open_within(40, 50) == []
    assert hours.open_within(40, 51) is None


def test_a_gap_is_open_from_the_first_moment() -> None:
    """Before the first session, too, since the start or since what a run before had last; not once data may come."""
    archive = ArchiveStats()
    clock = FakeClock()
    observed = observe("stocks", archive=archive, clock=clock)
    [feed] = observed.feeds
    clock.advance(5)
    assert observed.open_gap(feed) == (observed.started_ns // 1_000_000, "not_connected")
    assert observed.open_gap_secs(feed) == pytest.approx(5, abs=0.01)
    since_ms = observed.started_ns // 1_000_000 - 60_000
    archive.silences["stocks"] = Silence(since_ms, "killed")
    assert observed.open_gap(feed) == (since_ms, "killed")
    [shown] = take_snapshot(observed).feeds
    assert (shown.gap_since, shown.gap_reason) == (since_ms, "killed")
    text = Exposition(observed).render("")[0].decode()
    assert re.search(r'^polygon_gap_open_seconds\{feed="stocks"\} 65\.\d', text, re.MULTILINE)
    make_ready(feed, clock)
    feed.sessions = 1
    archive.silences.clear()
    assert observed.open_gap(feed) is None
    assert take_snapshot(observed).feeds[0].gap_since == 0
    # Another recorder whose exchange sends nothing while the market is open.
    feed.last_received_ns = clock.wall_ns()
    clock.advance(130)
    feed.stale_secs = 130.0
    assert observed.open_gap(feed) == (feed.last_received_ns // 1_000_000, "silence")


def test_a_recorder_without_files_knows_its_own_gaps() -> None:
    """What the last session left open; there is no figure of the day where nothing is kept."""
    observed = observe("stocks")
    [feed] = observed.feeds
    feed.sessions = 1
    feed.gap_since, feed.gap_reason = 5_000, "disconnected"
    assert observed.open_gap(feed) == (5_000, "disconnected")
    assert observed.today(feed) is None
    assert "polygon_today_complete_ratio{" not in Exposition(observed).render("")[0].decode()


def test_today_is_what_the_report_says(ledger: WrittenManifest) -> None:
    """The figure in `/status` and in the metrics is that of `recorder gaps --day today`, an open gap included."""
    ledger.gap("2026-11-24 01:00:00", "2026-11-24 13:30:00", "not_running")
    ledger.gap("2026-11-24 15:00:00", "2026-11-24 15:30:00", "disconnected")
    at_ms = ms("2026-11-24 17:00:00")
    closed = {"cluster": "stocks", "at": at_ms, "reason": "read_timeout", "last_received": at_ms}
    ledger.add("session_closed", "2026-11-24 17:00:00", **closed)
    clock = FakeClock(ms("2026-11-24 18:00:00") * 1_000_000)
    report = find_gaps(ledger.path, Days(TUESDAY, TUESDAY), clock.wall_ns(), compute=hours)
    recorded = read_recorded(ledger.path, clock.wall_ns() // 1_000_000)
    archive = ArchiveStats(history=recorded.history, silences={"stocks": Silence(at_ms, "read_timeout")})
    known = ClusterHours()
    spans = asyncio.run(hours(["stocks"], MONDAY, WEDNESDAY))["stocks"]
    known.learn(spans, ms("2026-11-23 00:00:00") * 1_000_000, ms("2026-11-26 00:00:00") * 1_000_000)
    observed = observe("stocks", archive=archive, clock=clock, hours={"stocks": known})
    [row] = report.rows
    [feed] = take_snapshot(observed).feeds
    assert row.found.expected_ms == 4 * HOUR_MS
    assert (feed.today_complete, feed.today_missing_secs) == (1 - 1.5 / 4, 1.5 * 3600)
    assert row.found.ratio == feed.today_complete
    text = Exposition(observed).render("")[0].decode()
    assert 'polygon_today_complete_ratio{feed="stocks"} 0.625' in text
    assert 'polygon_today_missing_seconds{feed="stocks"} 5400.0' in text


def test_unknown_hours_make_no_figure_of_today(ledger: WrittenManifest) -> None:
    """Just after a start, and without calendars, a night would count as missing; crypto is open at any hour."""
    ledger.start("2026-11-23 14:00:00", "stocks", "crypto", run="run-2")
    ledger.open("2026-11-23 14:00:00", "crypto", run="run-2")
    clock = FakeClock(ms("2026-11-23 15:00:00") * 1_000_000)
    history = read_recorded(ledger.path, clock.wall_ns() // 1_000_000).history
    for hours in ({}, {"stocks": ClusterHours(), "crypto": ClusterHours()}):
        observed = observe(
            "stocks", "crypto", archive=ArchiveStats(history=history), clock=clock, hours=hours
        )
        stocks, crypto = observed.feeds
        stocks.sessions = crypto.sessions = 1
        assert observed.today(stocks) is None
        today = observed.today(crypto)
        assert today is not None
        # Nothing was to be had before the first run that follows it.
        assert (today.expected_ms, today.missing_ms) == (HOUR_MS, 0)


def test_before_the_opening_there_is_no_figure_of_today(ledger: WrittenManifest) -> None:
    """Nothing is expected yet: neither 0 nor 100 %."""
    clock = FakeClock(ms("2026-11-23 13:30:00") * 1_000_000)
    history = read_recorded(ledger.path, clock.wall_ns() // 1_000_000).history
    known = ClusterHours()
    known.learn([], ms("2026-11-23 00:00:00") * 1_000_000, ms("2026-11-26 00:00:00") * 1_000_000)
    observed = observe("stocks", archive=ArchiveStats(history=history), clock=clock, hours={"stocks": known})
    [feed] = take_snapshot(observed).feeds
    assert (feed.today_complete, feed.today_missing_secs) == (None, 0)
    assert "polygon_today_complete_ratio{" not in Exposition(observed).render("")[0].decode()
