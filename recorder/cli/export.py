"""`recorder export`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from recorder.cli import ArchivePath, Command, Moment
from recorder.errors import EXIT_DAMAGE, EXIT_OK

if TYPE_CHECKING:
    from recorder.archive.disk import Disk
    from recorder.export.bucket import BucketTree
    from recorder.export.ledger import Ledger
    from recorder.export.session import Exported, Finish


class Columns(click.ParamType):  # type: ignore[type-arg]  # click 8.2 has no generic one
    """Columns that rows can be sorted by, with commas between them."""

    name = "columns"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, ...]:
        from recorder.export.tree import SORT_COLUMNS

        if isinstance(value, tuple):
            return value
        found = tuple(part.strip() for part in str(value).split(","))
        unknown = [name for name in found if name not in SORT_COLUMNS]
        if unknown:
            self.fail(f"{unknown[0]!r} is none of {', '.join(SORT_COLUMNS)}", param, ctx)
        return found


class Types(click.ParamType):  # type: ignore[type-arg]  # click 8.2 has no generic one
    """Types of the tree, with commas between them."""

    name = "types"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> frozenset[str]:
        from recorder.polygon.channels import CHANNELS

        if isinstance(value, frozenset):
            return value
        found = frozenset(part.strip() for part in str(value).split(",")) - {""}
        unknown = sorted(found - set(CHANNELS) - {"other"})
        if unknown or not found:
            names = ", ".join([*CHANNELS, "other"])
            self.fail(
                f"{', '.join(unknown) or 'nothing'} is no type of an export; there are {names}", param, ctx
            )
        return found


@click.command("export", cls=Command)
@click.argument("paths", nargs=-1, required=True, metavar="PATH...", type=ArchivePath())
@click.option("--to", "dest", metavar="DEST", required=True, type=ArchivePath(), help="Where the files go.")
@click.option(
    "--types",
    type=Types(),
    default=None,
    help="Only these types, such as T,Q; `other` is every unknown type.",
)
@click.option(
    "--from", "start_ms", type=Moment(), default=0, help="Only segments with records from this time on."
)
@click.option(
    "--until", "end_ms", type=Moment(), default=1 << 62, help="Only segments with records before this time."
)
@click.option("--jobs", type=click.IntRange(1), default=1, show_default=True, help="Processes.")
@click.option("--partial", is_flag=True, help="Export the rest if files are missing or damaged.")
@click.option(
    "--layout",
    type=click.Choice(["hive", "flatfile"]),
    default="hive",
    show_default=True,
    help="Parquet in folders by feed, type and date, or the vendor's flat files.",
)
@click.option("--compact", is_flag=True, help="Join the files of each folder into one sorted file.")
@click.option(
    "--sort",
    type=Columns(),
    metavar="COLUMNS",
    default="symbol,ts",
    show_default=True,
    help="Columns to sort by with --compact, separated by commas: symbol, ts, ingest_ts, run_id, seq.",
)
@click.option(
    "--follow", is_flag=True, help="Run until stopped, and export each segment as its recorder seals it."
)
@click.option("--json", "as_json", is_flag=True, help="Print a summary as a JSON object.")
def command(
    paths: tuple[Path, ...],
    dest: Path,
    types: frozenset[str] | None,
    start_ms: int,
    end_ms: int,
    jobs: int,
    partial: bool,
    layout: str,
    compact: bool,
    sort: tuple[str, ...],
    follow: bool,
    as_json: bool,
) -> None:
    """Write archives as Parquet files, typed columns beside the exact payload: DEST/feed=…/type=…/date=…/.

    A PATH is a folder, a manifest, an active file, or a URL such as s3://bucket/prefix; its recorder may be running. DEST is
    a new folder, one that an export has made, or the URL of a bucket: sealed segments that are not in it yet are added, and
    what is there is left alone. A TIME is Unix ms, or ISO 8601, UTC unless it says otherwise. Exit status 0: DEST has all
    that is sealed; 1: it failed; 2: there is no archive, or DEST is something else; 3: the archive is damaged, or lacks
    files; 5: the disk is full.
    """
    from recorder.export import summary
    from recorder.objects.path import ObjectPath
    from recorder.words import printable

    if follow and as_json:
        raise click.UsageError("--follow logs what it does; --json is for an export that ends")
    if follow and any(isinstance(path, ObjectPath) for path in paths):
        raise click.UsageError("--follow is for an archive on this machine; run the export of a bucket again")
    if isinstance(dest, ObjectPath) and (compact or layout != "hive"):
        raise click.UsageError(
            "a bucket takes only the layout hive, without --compact; export to a folder, and sync it"
        )
    if compact and layout != "hive":
        raise click.UsageError("--compact is for the layout hive; a flat file is one file a day")
    found = _exported(
        paths, dest, layout, types, (start_ms, end_ms), jobs, partial, sort if compact else (), follow
    )
    if found is None:
        sys.exit(EXIT_OK)
    for note in found.notes:
        click.echo(f"note: {printable(note)}", err=True)
    for problem in found.problems:
        click.echo(f"problem: {printable(problem)}; `recorder verify` checks the whole archive", err=True)
    click.echo(summary.as_json(found) if as_json else summary.as_text(found))
    sys.exit(EXIT_DAMAGE if found.problems else EXIT_OK)


def _exported(
    paths: tuple[Path, ...],
    dest: Path,
    layout: str,
    types: frozenset[str] | None,
    times_ms: tuple[int, int],
    jobs: int,
    is_partial: bool,
    sort: tuple[str, ...],
    follows: bool,
) -> Exported | None:
    """Return what was done; None where it went on until it was told to end."""
    from rich.console import Console

    from recorder import progress
    from recorder.archive.disk import Disk
    from recorder.export.follow import Following
    from recorder.export.session import Choice, Export, open_all, refuse_inside

    for path in paths:
        refuse_inside(dest, path)
    sealed = None if follows else open_all(paths)
    disk = Disk()
    with _tree(dest, layout, disk) as tree:
        choice = Choice(_types_of(layout, types), *times_ms)
        export = Export(tree, choice, jobs=jobs, disk=disk)
        finish = _finish(tree, sort, disk)
        if sealed is None:
            Following(paths, export, finish).run(is_partial=is_partial)
            return None
        with progress.bar("exporting", Console(stderr=True)) as report:
            found = export.run(sealed, report, is_partial=is_partial)
        if finish is not None:
            with progress.bar("sorting", Console(stderr=True)) as report:
                found.joined = finish.run(report=report)
    return found


def _tree(dest: Path, layout: str, disk: Disk) -> Ledger | BucketTree:
    from recorder.export.bucket import BucketTree
    from recorder.export.layout import LAYOUTS
    from recorder.export.ledger import Ledger
    from recorder.objects.path import ObjectPath

    return BucketTree(str(dest)) if isinstance(dest, ObjectPath) else Ledger(dest, LAYOUTS[layout], disk)


def _types_of(layout: str, types: frozenset[str] | None) -> frozenset[str]:
    """Return the types to export; none for all of them."""
    from recorder.export.flat_columns import FLAT_FILES

    if layout == "hive":
        return types or frozenset()
    has = frozenset(code for _, code in FLAT_FILES)
    if types is not None and not types <= has:
        names = ", ".join(sorted(types - has))
        raise click.UsageError(f"there are no flat files of {names}, but of {', '.join(sorted(has))}")
    return types or has


def _finish(tree: Ledger | BucketTree, sort: tuple[str, ...], disk: Disk) -> Finish | None:
    from recorder.export.compaction import Compaction
    from recorder.export.flat_files import FlatFiles
    from recorder.export.layout import FLATFILE
    from recorder.export.ledger import Ledger

    if not isinstance(tree, Ledger):
        return None
    if tree.layout is FLATFILE:
        return FlatFiles(tree, disk)
    return Compaction(tree, sort, disk) if sort else None
