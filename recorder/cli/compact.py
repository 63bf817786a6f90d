"""`recorder compact`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from recorder.cli import ArchivePath, Command
from recorder.cli.merge import make, new_archive_options


@click.command("compact", cls=Command)
@click.argument("path", metavar="PATH", type=ArchivePath())
@new_archive_options
def command(path: Path, **options: Any) -> None:
    """Make an archive of few large files of one that has many small ones.

    PATH is a folder, a manifest, or the NDJSON_DEST of an archive; it is not changed. C has the same events in the same
    order, as one run with new numbers. It has its name once it is whole. Exit status 0: made; 1: it could not be made, and
    nothing of it is left; 2: there is no such archive; 4: made, and something that was damaged is left out; 78: PATH or C is
    not suitable.
    """
    make([path], **options)
