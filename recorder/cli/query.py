"""`recorder query`."""

from __future__ import annotations

import signal
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from recorder.cli import ArchivePath, Command, Moment
from recorder.errors import EXIT_DAMAGE, EXIT_OK, ArchiveError

if TYPE_CHECKING:
    from recorder.query.session import Answer, Query


_PIPE_COLUMNS: Final = 200
_PLOT_COLUMNS: Final = 100
"""How wide lists and plots are where no terminal says how wide it is."""


@click.command("query", cls=Command)
@click.argument("path", type=ArchivePath())
@click.argument("sql", required=False)
@click.option(
    "--from",
    "start_ms",
    type=Moment(),
    default=None,
    help="Only records from this time on: 2026-11-21T14:30:00Z.",
)
@click.option("--to", "end_ms", type=Moment(), default=None, help="Only records from before this time.")
@click.option("--csv", "as_csv", is_flag=True, help="Print CSV, the default into a pipe.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object for each row.")
@click.option(
    "--parquet",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    default=None,
    help="Write the answer to a new Parquet file.",
)
@click.option(
    "--plot",
    is_flag=False,
    flag_value="",
    metavar="[FILE]",
    default=None,
    help="Plot the answer on the terminal, or into a new .png, .svg or .pdf.",
)
@click.option("--sealed", is_flag=True, help="Leave out data that is not sealed yet.")
@click.option("--partial", is_flag=True, help="Answer from the rest if files are missing or damaged.")
def command(
    path: Path,
    sql: str | None,
    start_ms: int | None,
    end_ms: int | None,
    as_csv: bool,
    as_json: bool,
    parquet: Path | None,
    plot: str | None,
    sealed: bool,
    partial: bool,
) -> None:
    """Query an archive in SQL: a view for each kind of file, with typed columns and the exact payload.

    PATH is a folder, a manifest, an active file, or a URL such as s3://bucket/prefix; its recorder may be running. SQL is
    one SELECT of DuckDB's dialect; without it the views are listed. A terminal shows the first rows as a table; a pipe
    gets all of them as CSV. Sealed segments are checked against their checksums first; data that is not sealed yet is read
    as far as it was written. DuckDB has no other file. Exit status 0: all is well; 1: it failed; 2: there is no archive, the
    SQL is wrong, or FILE exists; 3: the archive is damaged, or lacks files; 130: it was interrupted.
    """
    from rich.console import Console

    from recorder.archive.manifest_index import NEVER_MS
    from recorder.query import output
    from recorder.query.session import Query
    from recorder.tables.sealed import open_sealed
    from recorder.words import printable

    if as_csv + as_json + (parquet is not None) + (plot is not None) > 1:
        raise click.UsageError("use only one of --csv, --json, --parquet and --plot")
    if plot and sql is None:
        sql, plot = plot, ""  # the SQL stood behind --plot
    if sql is None and (start_ms is not None or end_ms is not None):
        raise click.UsageError("--from and --to choose the records of an SQL statement; there is none")
    if start_ms is not None and end_ms is not None and start_ms >= end_ms:
        raise click.UsageError("--to must be later than --from")
    picture = _picture(plot) if plot else None
    found = open_sealed(
        path,
        with_tails=not sealed,
        start_ms=start_ms or 0,
        end_ms=NEVER_MS if end_ms is None else end_ms,
    )
    for note in found.notes:
        click.echo(f"note: {printable(note)}", err=True)
    if sql is None:
        output.print_views(found, Console(width=None if sys.stdout.isatty() else _PIPE_COLUMNS))
        problems = found.problems
    else:
        query = Query(found, sql)
        form = "csv" if as_csv else "json" if as_json else "" if plot is None else "plot"
        _answer(query, form, parquet, picture, is_partial=partial)
        problems = query.problems
    for problem in problems:
        hint = "" if "recorder verify" in problem else "; `recorder verify` checks the whole archive"
        click.echo(f"problem: {printable(problem)}{hint}", err=True)
    sys.exit(EXIT_DAMAGE if problems else EXIT_OK)


def _picture(name: str) -> Path:
    from recorder.query.plot_picture import SUFFIXES

    path = Path(name)
    if path.suffix not in SUFFIXES:
        raise click.UsageError(f"--plot {name}: the file's name must end with {', '.join(SUFFIXES)}")
    return path


def _answer(query: Query, form: str, parquet: Path | None, picture: Path | None, *, is_partial: bool) -> None:
    from rich.console import Console

    from recorder import progress
    from recorder.query.new_file import new_file

    counted = query.counted() if parquet is None and (is_partial or not query.problems) else None
    screen = Console(stderr=True)
    with ExitStack() as stack:
        # SIGTERM leaves nothing behind, either.
        stack.callback(
            signal.signal, signal.SIGTERM, signal.signal(signal.SIGTERM, signal.default_int_handler)
        )
        target = parquet or picture
        unfinished = stack.enter_context(new_file(target)) if target is not None else None
        answer = counted
        if answer is None:
            with progress.bar("checking", screen) as report:
                opened = stack.enter_context(
                    query.opened(report, unfinished if parquet else None, is_partial=is_partial)
                )
            with progress.share_bar("answering", screen) as share:
                if parquet is not None and unfinished is not None:
                    opened.write_parquet(unfinished, share)
                    return
                answer = opened.answer(share)
        if form == "plot":
            _plot(answer, unfinished, picture)
        else:
            _print(answer, form)


def _plot(answer: Answer, unfinished: Path | None, picture: Path | None) -> None:
    from rich.console import Console

    from recorder.query import plot_picture, plot_text
    from recorder.query.plot import plot_of

    plot = plot_of(answer)
    if unfinished is not None and picture is not None:
        plot_picture.draw(plot, unfinished, picture.suffix.removeprefix("."))
    else:
        plot_text.print_plot(plot, Console(width=None if sys.stdout.isatty() else _PLOT_COLUMNS))
    for note in plot.notes:
        click.echo(f"note: {note}", err=True)


def _print(answer: Answer, form: str) -> None:
    from rich.console import Console

    from recorder.query import output

    try:
        if form == "json":
            output.write_json(answer, sys.stdout)
        elif form == "csv" or not sys.stdout.isatty():
            output.write_csv(answer, sys.stdout)
        else:
            output.print_table(answer, Console())
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        sys.stdout = None  # what waits in it cannot be written at the end, either
        raise ArchiveError(
            f"cannot print the whole answer: {error.strerror or error}; the output so far is incomplete"
        ) from error
