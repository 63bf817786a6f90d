"""`recorder compare`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

import click

from recorder.cli import ArchivePath, Command
from recorder.errors import EXIT_FAILURE, EXIT_OK, EXIT_USAGE, ArchiveError

_PIPE_COLUMNS: Final = 200
"""How wide the report is where no terminal says how wide it is."""


@click.command("compare", cls=Command)
@click.argument("one", metavar="A", type=ArchivePath())
@click.argument("other", metavar="B", type=ArchivePath())
@click.option("--json", "as_json", is_flag=True, help="Print everything that was found as JSON.")
def command(one: Path, other: Path, as_json: bool) -> None:
    """Compare two archives: the same events, in the same order, with the same bytes; and the bars of their trades.

    A and B are each a folder, a manifest, the NDJSON_DEST of an archive, or a URL as s3://bucket/prefix. When an event
    came, its number and who wrote it make no difference. Each cluster is compared by itself. Exit status 0: equal; 1:
    different, or something of them is missing; 2: one of them could not be read.
    """
    from rich.console import Console

    from recorder import compare, progress

    try:
        with progress.bar("comparing", Console(stderr=True)) as report:
            found = compare.compare(one, other, report)
    except ArchiveError as error:
        click.echo(f"recorder: {error}", err=True)
        sys.exit(EXIT_USAGE)  # nothing can be said of whether they are equal
    if as_json:
        click.echo(compare.as_json(found))
    else:
        compare.print_comparison(found, Console(width=None if sys.stdout.isatty() else _PIPE_COLUMNS))
    sys.exit(EXIT_OK if found.is_equal else EXIT_FAILURE)
