"""Flat files as the vendor has them: one for each feed, type and day, made again where its day has gained records."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final, NamedTuple
from urllib.parse import unquote

from recorder.archive.disk import Disk
from recorder.errors import ArchiveError
from recorder.export.flat_columns import FLAT_FILES, NUMBER
from recorder.export.ledger import Ledger, LedgerFile, failed
from recorder.export.session import Joined
from recorder.export.sorting import rows_of
from recorder.progress import Progress
from recorder.tables.engine import Engine
from recorder.tables.views import quoted

_FOLDER: Final = re.compile(
    r"feed=(?P<feed>[^/]+)/type=(?P<type>[^/]+)/date=(?P<year>\d+)-(?P<month>\d+)-(?P<day>\d+)$"
)


class _Wanted(NamedTuple):
    file: str
    columns: str
    of: list[LedgerFile]


class FlatFiles:
    """Makes the flat files of a tree. Each has its name once it is whole; one that is there is replaced at one moment."""

    def __init__(self, ledger: Ledger, disk: Disk) -> None:
        """Raise `ConfigError` where DuckDB is not installed."""
        self._ledger = ledger
        self._disk = disk
        self._engine = Engine("recorder export --layout flatfile")

    def run(
        self, is_due: Callable[[str], bool] = lambda folder: True, report: Progress | None = None
    ) -> Joined:
        """Make the file of each day that is due and has gained records.

        Raise `NoRoom` where the disk is full, and `RecorderError` where a file cannot be made.
        """
        due = [
            wanted
            for folder, files in self._ledger.folders().items()
            if is_due(folder)
            for wanted in [_wanted(folder, files)]
            if wanted is not None and self._ledger.made_of(wanted.file) != {one.file for one in files}
        ]
        done, total = 0, sum(file.bytes for wanted in due for file in wanted.of)
        rows = 0
        for wanted in due:
            rows += self._make(wanted)
            done += sum(file.bytes for file in wanted.of)
            if report is not None:
                report(done, total)
        return Joined(len(due), sum(len(wanted.of) for wanted in due), rows)

    def _make(self, wanted: _Wanted) -> int:
        target = self._ledger.folder / wanted.file
        names = {one.file for one in wanted.of}
        gone = sorted(self._ledger.made_of(wanted.file) - names)
        if gone:
            raise ArchiveError(
                f"{target} was made from {gone[0]}, which is gone; restore that file, or delete the flat file"
            )
        expected = sum(one.rows for one in wanted.of)
        unfinished = self._ledger.unfinished / "flat.csv.gz.tmp"
        with rows_of(sorted(names), self._ledger, self._engine) as connection:
            connection.execute(NUMBER)
            place = quoted(str(unfinished.resolve()))
            chosen = f"SELECT {wanted.columns} FROM files ORDER BY symbol, ts, run_id, seq"  # noqa: S608 - names of ours
            copy = f"COPY ({chosen}) TO {place} (FORMAT csv, HEADER, COMPRESSION gzip)"
            [(rows,)] = connection.execute(copy).fetchall()
        if rows != expected:
            raise ArchiveError(f"{target}: {rows:,} rows were made from {expected:,}; nothing is replaced")
        try:
            self._disk.make_folder(target.parent)
            descriptor = self._disk.open_append(unfinished)
            try:
                self._disk.sync(descriptor)
                size_bytes = self._disk.stat_open(descriptor).st_size
            finally:
                self._disk.close(descriptor)
            self._disk.rename(unfinished, target)
            self._disk.sync_folder(target.parent)
            self._ledger.add_made(LedgerFile(wanted.file, rows, size_bytes), wanted.of)
        except OSError as error:
            raise failed(self._ledger.folder, error) from error
        return expected


def _wanted(folder: str, files: list[LedgerFile]) -> _Wanted | None:
    """Return the flat file of a folder of the tree; None where its feed and type have none."""
    found = _FOLDER.search(folder)
    assert found is not None
    flat = FLAT_FILES.get((unquote(found["feed"]), found["type"]))
    if flat is None:
        return None
    year, month = found["year"], found["month"]
    file = f"{flat.folder}/{year}/{month}/{year}-{month}-{found['day']}.csv.gz"
    columns = ", ".join(f'{expression} AS "{name}"' for name, expression in flat.columns.items())
    return _Wanted(file, columns, files)
