"""`recorder gaps`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

import click

from recorder.cli import ArchivePath
from recorder.errors import EXIT_DAMAGE, EXIT_FAILURE, EXIT_OK

_PIPE_COLUMNS: Final = 200
"""How wide the tables are where no terminal says how wide it is."""


@click.command("gaps")
@click.argument("path", type=ArchivePath())
@click.option(
    "--day",
    "text",
    metavar="DAY",
    default=None,
    help="A day as 2026-11-27, today or yesterday, or FIRST..LAST. Default: from the archive's first day to its last.",
)
@click.option(
    "--budget",
    type=click.FloatRange(0, 100),
    metavar="PERCENT",
    default=None,
    help="Exit with status 1 where a cluster is less complete than this on a day, such as 99.9.",
)
@click.option(
    "--all-hours", is_flag=True, help="Count every hour, not only those in which the market is open."
)
@click.option("--csv", "as_csv", is_flag=True, help="Print a CSV line for each day and cluster.")
@click.option("--gaps-csv", "as_gaps_csv", is_flag=True, help="Print a CSV line for each gap.")
@click.option("--json", "as_json", is_flag=True, help="Print the whole report as JSON.")
def command(
    path: Path,
    text: str | None,
    budget: float | None,
    all_hours: bool,
    as_csv: bool,
    as_gaps_csv: bool,
    as_json: bool,
) -> None:
    """Show how complete each day of an archive is within market hours, and list the gaps.

    PATH is a folder, a manifest, an active file, or a URL as s3://bucket/prefix; its recorder may be running. Only the
    manifest is read, and of a killed run the last records, so it takes a moment for years of data. Time in which
    none ran counts as a gap. Exit status 0: every day is within the budget, or there is none; 1: a day is not, or
    something could not be read; 2: the path has no archive, or nothing of the days; 3: the manifest is damaged, so that the
    figures may be wrong.
    """
    from rich.console import Console

    from recorder import gap_report
    from recorder.clock import SystemClock
    from recorder.words import printable

    if as_csv + as_gaps_csv + as_json > 1:
        raise click.UsageError("only one of --csv, --gaps-csv and --json can be printed")
    now_ns = SystemClock().wall_ns()
    try:
        days = gap_report.read_days(text, now_ns) if text is not None else None
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--day") from error
    found = gap_report.find_gaps(path, days, now_ns, all_hours=all_hours)
    if as_json:
        click.echo(gap_report.as_json(found, budget))
    elif as_csv or as_gaps_csv:
        click.echo((gap_report.days_csv if as_csv else gap_report.gaps_csv)(found), nl=False)
    else:
        gap_report.print_report(found, budget, Console(width=None if sys.stdout.isatty() else _PIPE_COLUMNS))
    for note in found.notes:
        click.echo(f"note: {printable(note)}", err=True)
    for problem in found.problems:
        click.echo(f"problem: {printable(problem)}; `recorder verify` checks the whole archive", err=True)
    if found.problems:
        sys.exit(EXIT_DAMAGE)
    sys.exit(EXIT_FAILURE if found.under(budget) else EXIT_OK)
