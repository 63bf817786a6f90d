"""`recorder verify`."""

from __future__ import annotations

import sys
from typing import Final

import click

from recorder.cli import Command
from recorder.errors import EXIT_FAILURE, EXIT_OK

_PIPE_COLUMNS: Final = 200
"""How wide the report is where no terminal says how wide it is."""


@click.command("verify", cls=Command)
@click.argument("paths", nargs=-1, required=True, type=click.Path())
@click.option("--json", "as_json", is_flag=True, help="Print the whole report as JSON.")
@click.option("--jobs", type=click.IntRange(1), default=None, help="Processes. Default: one for each core.")
def command(paths: tuple[str, ...], as_json: bool, jobs: int | None) -> None:
    """Read archives back: every line, count and checksum, the manifest's chain, the sequence numbers.

    A PATH is a folder, a manifest, or a file; its recorder may be running. Exit status 0: all is well; 1: damage was
    found, or something could not be read.
    """
    from rich.console import Console

    from recorder import report

    found = report.verify_with_progress(list(paths), Console(stderr=True), jobs)
    if as_json:
        click.echo(report.as_json(found))
    else:
        report.print_report(found, Console(width=None if sys.stdout.isatty() else _PIPE_COLUMNS))
    sys.exit(EXIT_OK if found.ok else EXIT_FAILURE)
