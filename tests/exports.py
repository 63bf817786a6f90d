"""Exports, and what readers see of them."""

from __future__ import annotations

from pathlib import Path

import duckdb

from recorder.archive.compaction import Compaction, only_manifest
from recorder.archive.disk import Disk
from recorder.export import compaction
from recorder.export.layout import HIVE
from recorder.export.ledger import Ledger
from recorder.export.session import Choice, Export, Exported
from recorder.tables.sealed import open_sealed


def export(
    archive: Path,
    dest: Path,
    choice: Choice | None = None,
    *,
    jobs: int = 1,
    disk: Disk | None = None,
    is_partial: bool = False,
    sort: tuple[str, ...] = (),
) -> Exported:
    """Export what is sealed; with `sort`, the files of each folder are joined behind that."""
    disk = disk or Disk()
    with Ledger(dest, HIVE, disk) as ledger:
        run = Export(ledger, choice or Choice(), jobs=jobs, disk=disk).run
        found = run(open_sealed(archive), is_partial=is_partial)
        if sort:
            found.joined = compaction.Compaction(ledger, sort, disk).run()
        return found


def tree(dest: Path) -> dict[str, bytes]:
    """Return the files that readers see."""
    return {str(path.relative_to(dest)): path.read_bytes() for path in dest.glob("feed=*/**/*.parquet")}


def rows(dest: Path) -> list[tuple[str, int, str, str, str, bytes]]:
    """Return what all files have, as DuckDB reads the tree: run, number, feed, type, date, payload."""
    found = duckdb.sql(
        f"SELECT run_id, seq, feed, type, date, payload FROM read_parquet('{dest}/feed=*/**/*.parquet', "
        "union_by_name = true, hive_types_autocast = false) ORDER BY run_id, seq"
    ).fetchall()
    return [(*row[:5], row[5].encode()) for row in found]


def compact(archive: Path, into: Path) -> Path:
    """Make an archive of few files of one that has many; return its folder."""
    with Compaction(only_manifest(archive, into), into, segment_bytes=1 << 20, codec="zstd") as new:
        new.make()
    return into
