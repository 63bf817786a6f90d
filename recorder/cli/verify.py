"""`recorder verify`."""

from __future__ import annotations

import sys
from typing import Final

import click

from recorder.cli import Command
from recorder.errors import EXIT_DAMAGE, EXIT_FAILURE, EXIT_LOSSES, EXIT_OK

_PIPE_COLUMNS: Final = 200
"""How wide the report is where no terminal says how wide it is."""


@click.command("verify", cls=Command)
@click.argument("paths", nargs=-1, required=True, type=click.Path())
@click.option("--json", "as_json", is_flag=True, help="Print the whole report as JSON.")
@click.option("--jobs", type=click.IntRange(1), default=None, help="Processes. Default: one for each core.")
@click.option(
    "--fail-on-loss",
    is_flag=True,
    help="End with 4 where the archive is intact and records were lost: dropped, or not on disk yet at a crash.",
)
def command(paths: tuple[str, ...], as_json: bool, jobs: int | None, fail_on_loss: bool) -> None:
    """Read archives back: every line, count and checksum, the manifest's chain, the sequence numbers.

    A PATH is a folder, a manifest, a file, or a URL as s3://bucket/prefix; its recorder may be running. An archive is intact
    if it is what its manifest says. Losses that the manifest explains are no damage; the last line names them. Exit status
    0: intact; 1: something could not be read; 2: a path does not exist or has no archive; 3: damage was found; 4: intact,
    with losses, and --fail-on-loss is given; 78: the bucket refuses.
    """
    from rich.console import Console

    from recorder import report

    found = report.verify_with_progress(list(paths), Console(stderr=True), jobs)
    if as_json:
        click.echo(report.as_json(found))
    else:
        report.print_report(found, Console(width=None if sys.stdout.isatty() else _PIPE_COLUMNS))
    if found.is_damaged:
        sys.exit(EXIT_DAMAGE)
    if not found.ok:
        sys.exit(EXIT_FAILURE)
    sys.exit(EXIT_LOSSES if fail_on_loss and found.records_lost else EXIT_OK)
