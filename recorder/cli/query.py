"""`recorder query`."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import click

from recorder.cli import Command
from recorder.errors import EXIT_DAMAGE, EXIT_OK

if TYPE_CHECKING:
    from recorder.query.session import Answer, Query


@click.command("query", cls=Command)
@click.argument("path", type=click.Path(path_type=Path))
@click.argument("sql", required=False)
@click.option("--csv", "as_csv", is_flag=True, help="Print CSV, as into a pipe.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object for each row.")
@click.option(
    "--parquet",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    default=None,
    help="Write the answer to a new Parquet file.",
)
@click.option(
    "--partial", is_flag=True, help="Answer also where something of the archive is missing or damaged."
)
def command(
    path: Path, sql: str | None, as_csv: bool, as_json: bool, parquet: Path | None, partial: bool
) -> None:
    """Ask an archive in SQL: a view for each kind of file, with typed columns and the exact payload.

    PATH is a folder, a manifest, or an active file; its recorder may be running. SQL is one SELECT of DuckDB's dialect;
    without it the views are listed. On a terminal the first rows come as a table, and into a pipe all of them as CSV.
    Sealed segments are read, once their checksums are proven, and DuckDB has no other file. Exit status 0: all is well;
    1: it failed; 2: there is no archive, the SQL is wrong, or FILE exists; 3: the archive is damaged, or lacks files.
    """
    from rich.console import Console

    from recorder.query import output
    from recorder.query.session import Query
    from recorder.tables.sealed import open_sealed
    from recorder.words import printable

    if as_csv + as_json + (parquet is not None) > 1:
        raise click.UsageError("only one of --csv, --json and --parquet can be had")
    sealed = open_sealed(path)
    for note in sealed.notes:
        click.echo(f"note: {printable(note)}", err=True)
    if sql is None:
        output.print_views(sealed, Console(width=None if sys.stdout.isatty() else 200))
        problems = sealed.problems
    else:
        query = Query(sealed, sql)
        _answer(query, "csv" if as_csv else "json" if as_json else "", parquet, is_partial=partial)
        problems = query.problems
    for problem in problems:
        click.echo(f"problem: {printable(problem)}; `recorder verify` checks the whole archive", err=True)
    sys.exit(EXIT_DAMAGE if problems else EXIT_OK)


def _answer(query: Query, form: str, parquet: Path | None, *, is_partial: bool) -> None:
    from rich.console import Console

    from recorder import progress

    counted = query.counted() if parquet is None and (is_partial or not query.problems) else None
    if counted is not None:
        _print(counted, form)
        return
    with ExitStack() as stack:
        with progress.bar("checking", Console(stderr=True)) as report:
            if parquet is not None:
                query.write_parquet(parquet, report, is_partial=is_partial)
                return
            answer = stack.enter_context(query.answered(report, is_partial=is_partial))
        _print(answer, form)  # behind the bar, which takes its line back


def _print(answer: Answer, form: str) -> None:
    from rich.console import Console

    from recorder.query import output

    if form == "json":
        output.write_json(answer, sys.stdout)
    elif form == "csv" or not sys.stdout.isatty():
        output.write_csv(answer, sys.stdout)
    else:
        output.print_table(answer, Console())
