"""`recorder compact`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from recorder.cli import ArchivePath, Command
from recorder.cli.merge import new_archive_options


@click.command("compact", cls=Command)
@click.argument("path", metavar="PATH", type=ArchivePath())
@new_archive_options
def command(path: Path, *, folder: Path, segment_bytes: int, codec: str, as_json: bool) -> None:
    """Make an archive of few large files of one that has many small ones.

    PATH is a folder, a manifest, or the NDJSON_DEST of an archive. It is not changed, and no recorder may be writing to it.
    C has the same runs, with the same records, numbers, gaps and losses, so that it can take the place of PATH. It gets its
    name once `verify` has found it intact. Exit status 0: made; 1: it could not be made, and nothing of it is left; 2: there
    is no such archive; 5: the disk is full, and nothing of it is left; 78: PATH or C is not suitable.
    """
    import orjson
    from rich.console import Console

    from recorder import progress
    from recorder.archive.compaction import Compaction, only_manifest

    manifest = only_manifest(path, folder)
    with (
        Compaction(manifest, folder, segment_bytes=segment_bytes, codec=codec) as compaction,
        progress.bar("copying", Console(stderr=True)) as report,
    ):
        compaction.make(report)
    found = compaction.found
    if as_json:
        click.echo(orjson.dumps({**asdict(found), "folder": str(found.folder)}, option=orjson.OPT_INDENT_2))
    else:
        click.echo(f"{found.folder}: {found.files:,} files of records, made from {found.files_before:,}")
