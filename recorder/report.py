"""What `recorder verify` prints: a table of files, gaps, drops and problems, or all of it as JSON."""

from __future__ import annotations

import orjson
from rich.console import Console
from rich.table import Table
from rich.text import Text

from recorder import progress
from recorder.archive.findings import FileReport, Report
from recorder.archive.verify import verify
from recorder.words import moment_text, printable


def verify_with_progress(paths: list[str], console: Console, jobs: int | None = None) -> Report:
    """Verify in `jobs` processes, with a progress bar where `console` is a terminal. Raise ArchiveError."""
    with progress.bar("verifying", console) as shown:
        return verify(paths, shown, jobs=jobs)


def as_json(report: Report) -> str:
    """Return the whole report as one JSON object."""
    fields = {
        "ok": report.ok,
        "records": report.records,
        "bytes": report.bytes,
        "files": report.files,
        "rejects": report.rejects,
        "positions": report.positions,
        "gaps": report.gaps,
        "records_lost": report.records_lost,
        "drops": report.drops,
        "losses": report.losses,
        "problems": report.problems,
        "notes": report.notes,
    }
    return orjson.dumps(fields, option=orjson.OPT_INDENT_2).decode()


def print_report(report: Report, console: Console) -> None:
    """Print the report for people. File names and what the wire said are text: they style and steer nothing."""

    def say(words: str, style: str | None = None) -> None:
        console.print(printable(words), markup=False, style=style)

    table = Table("file", "records", "bytes", "", box=None, header_style="bold")
    for column in (1, 2):
        table.columns[column].justify = "right"
    table.columns[0].overflow = "fold"
    files = report.every_file
    for file in files:
        table.add_row(Text(printable(file.path)), f"{file.records:,}", f"{file.bytes:,}", _mark(file))
    console.print(table)
    for gap in report.gaps:
        seconds = (gap.to_ms - gap.from_ms) / 1000
        say(f"gap: {gap.cluster}, {seconds:,.3f} s from {moment_text(gap.from_ms)} ({gap.reason})")
    for drop in report.drops:
        say(
            f"dropped: {drop.count:,} {drop.cluster} {drop.channel or 'rejects'}, "
            f"seq {drop.first_seq:,} to {drop.last_seq:,} ({drop.reason})"
        )
    for loss in report.losses:
        say(
            f"lost in a crash: seq {loss.first_seq:,} to {loss.last_seq:,} of run {loss.run_id}, not flushed yet"
        )
    for note in [*report.notes, *(f"{file.path}: {note}" for file in files for note in file.notes)]:
        say(f"note: {note}")
    for file in files:
        for problem in file.problems:
            say(f"problem: {file.path}: {problem}", style="red")
        if file.problems_count > len(file.problems):
            more = file.problems_count - len(file.problems)
            say(f"problem: {file.path}: and {more:,} more", style="red")
    for problem in report.problems:
        say(f"problem: {problem}", style="red")
    rejects = sum(file.records for file in report.rejects)
    also = f" and {rejects:,} rejects" if rejects else ""
    say(f"{len(files)} files, {report.records:,} records{also}, {report.bytes:,} bytes: {verdict(report)}")


def _mark(file: FileReport) -> Text:
    if file.is_damaged:
        return Text("damaged", "red")
    return Text("not read", "red") if file.is_unread else Text("ok", "green")


def verdict(report: Report) -> str:
    """Return what was found in a few words: whether the archive is intact, and what it says that it lacks."""
    found = []
    if report.is_damaged:
        found.append("damage was found")
    if report.unread:
        found.append(f"{_counted(len(report.unread), 'file')} could not be read")
    lost = [
        words
        for count, words in (
            (report.dropped, f"{_counted(report.dropped, 'record')} dropped"),
            (report.lost_in_crashes, f"{_counted(report.lost_in_crashes, 'record')} lost in crashes"),
        )
        if count
    ]
    found.append("intact" if report.ok else "")
    found.append(f"known losses: {', '.join(lost)}" if lost else "no record lost")
    if report.gaps:
        seconds = sum(gap.to_ms - gap.from_ms for gap in report.gaps) / 1000
        found.append(f"{_counted(len(report.gaps), 'gap')} without data, {seconds:,.3f} s in all")
    return "; ".join(filter(None, found))


def _counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
