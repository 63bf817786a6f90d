"""`recorder merge`, and the options that `recorder compact` shares with it."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import click

from recorder.cli import ArchivePath, Command, Size
from recorder.errors import EXIT_LOSSES, EXIT_OK

_PIPE_COLUMNS: Final = 200
"""How wide the report is where no terminal says how wide it is."""
_SEGMENT_BYTES_MIN: Final = 1 << 20
_OPTIONS: Final = (
    click.option(
        "--to",
        "folder",
        metavar="C",
        required=True,
        type=click.Path(path_type=Path),
        help="The new archive's folder.",
    ),
    click.option(
        "--max-bytes",
        "segment_bytes",
        type=Size(_SEGMENT_BYTES_MIN),
        default="1GiB",
        show_default=True,
        help="Begin another file at about this size.",
    ),
    click.option(
        "--compression",
        "codec",
        type=click.Choice(["none", "gzip", "zstd"]),
        default="zstd",
        show_default=True,
        help="How the files are compressed.",
    ),
    click.option("--json", "as_json", is_flag=True, help="Print everything that was found as JSON."),
)


def new_archive_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of a command that makes a new archive."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


@click.command("merge", cls=Command)
@click.argument("one", metavar="A", type=ArchivePath())
@click.argument("other", metavar="B", type=ArchivePath())
@new_archive_options
@click.option("--skip-damaged", is_flag=True, help="Leave damaged and missing files out, and end with 4.")
def command(
    one: Path, other: Path, *, folder: Path, segment_bytes: int, codec: str, skip_damaged: bool, as_json: bool
) -> None:
    """Make one archive of two recordings of one feed: each event once, and what each of them lacked.

    A and B are each a folder, a manifest, the NDJSON_DEST of an archive, or a URL as s3://bucket/prefix; neither is
    changed. C is a new archive like any other, with one run and new numbers. It has its name once it is whole. Exit status
    0: made; 1: it could not be made, and nothing of it is left; 2: there is no such archive; 4: made, and something that
    was damaged is left out; 5: the disk is full, and nothing of it is left; 78: A, B or C is not suitable.
    """
    from rich.console import Console

    from recorder import merge, progress

    with progress.bar("reading", Console(stderr=True)) as report:
        found = merge.merge(
            [one, other], folder, report, segment_bytes=segment_bytes, codec=codec, skips_damaged=skip_damaged
        )
    if as_json:
        click.echo(merge.as_json(found))
    else:
        merge.print_merged(found, Console(width=None if sys.stdout.isatty() else _PIPE_COLUMNS))
    sys.exit(EXIT_LOSSES if found.skipped else EXIT_OK)
