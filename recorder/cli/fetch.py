"""`recorder fetch`."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path

import click

from recorder.cli import ArchivePath, Command, Moment
from recorder.errors import EXIT_DAMAGE, EXIT_OK


@click.command("fetch", cls=Command)
@click.argument("url", metavar="URL", type=ArchivePath())
@click.argument("folder", metavar="FOLDER", type=click.Path(path_type=Path, file_okay=False))
@click.option(
    "--from", "start_ms", type=Moment(), default=0, help="Only files with records from this time on."
)
@click.option(
    "--to", "end_ms", type=Moment(), default=1 << 62, help="Only files with records before this time."
)
@click.option("--jobs", type=click.IntRange(1, 64), default=4, show_default=True, help="Files at a time.")
@click.option("--partial", is_flag=True, help="Fetch the rest if files are missing or damaged.")
@click.option("--json", "as_json", is_flag=True, help="Print a summary as a JSON object.")
def command(
    url: Path, folder: Path, start_ms: int, end_ms: int, jobs: int, partial: bool, as_json: bool
) -> None:
    """Download the files of an archive from a bucket, byte for byte, into a folder that is an archive again.

    URL is the archive's, such as s3://bucket/prefix. FOLDER is new, or one in which a fetch was interrupted: its complete
    files are kept. Each file is checked against its checksum, and the manifest comes last. It says which files were left
    out, and which records no file in the bucket has, so that `verify` finds the folder intact. A TIME is Unix ms, or ISO
    8601, UTC unless it says otherwise. Exit status 0: all is there; 1: it failed; 2: the URL has no archive; 3: with
    --partial, all but what the bucket has lost is there; 5: the disk is full; 78: the bucket refuses, or FOLDER is not
    suitable.
    """
    import orjson
    from rich.console import Console

    from recorder import progress
    from recorder.archive.fetch import Fetch
    from recorder.objects.path import ObjectPath
    from recorder.words import printable, size_text

    if not isinstance(url, ObjectPath):
        raise click.UsageError(f"{url} is not a URL such as s3://bucket/prefix")
    fetch = Fetch(url, folder, start_ms=start_ms, end_ms=end_ms, is_partial=partial)
    with progress.bar("fetching", Console(stderr=True)) as report:
        fetch.run(jobs, report)
    found = fetch.found
    for problem in found.problems:
        click.echo(f"problem: {printable(problem)}", err=True)
    if as_json:
        click.echo(orjson.dumps({**asdict(found), "folder": str(found.folder)}, option=orjson.OPT_INDENT_2))
        sys.exit(EXIT_DAMAGE if found.problems else EXIT_OK)
    for note in found.notes:
        click.echo(f"note: {printable(note)}", err=True)
    left = f"; {found.files_left:,} were not chosen" if found.files_left else ""
    lost = f"; {found.records_lost:,} records are in no file in the bucket" if found.records_lost else ""
    before = f", {found.files_before:,} of which were there" if found.files_before else ""
    click.echo(f"{found.folder}: {found.files:,} files, {size_text(found.bytes)}{before}{left}{lost}")
    sys.exit(EXIT_DAMAGE if found.problems else EXIT_OK)
