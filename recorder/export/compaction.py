"""The files of a day joined into one that is sorted: put in their place at one moment, in bounded memory."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from recorder.archive.disk import Disk
from recorder.errors import ArchiveError, DestinationRefused
from recorder.export.exchange import exchange
from recorder.export.ledger import Ledger, LedgerFile, failed
from recorder.export.parquet_file import ROW_GROUP_ROWS, ParquetFile
from recorder.export.session import Joined
from recorder.export.sorting import rows_of
from recorder.polygon.typed_columns import PAYLOAD
from recorder.progress import Progress
from recorder.tables.engine import Engine

_AS_RECORDED: Final = ("run_id", "seq")


class Compaction:
    """Joins the files of each folder of a tree. Readers see either those that were, or the one that is sorted."""

    def __init__(self, ledger: Ledger, sort: Sequence[str], disk: Disk) -> None:
        """Raise `ConfigError` where DuckDB is not installed."""
        self._ledger = ledger
        self._order = tuple(dict.fromkeys((*sort, *_AS_RECORDED)))
        self._disk = disk
        self._engine = Engine("recorder export --compact")

    def run(
        self, is_due: Callable[[str], bool] = lambda folder: True, report: Progress | None = None
    ) -> Joined:
        """Join the files of each folder that is due, unless it has one file that is sorted so.

        Raise `NoRoom` where the disk is full, and `RecorderError` where a folder cannot be joined.
        """
        due = {
            folder: files
            for folder, files in self._ledger.folders().items()
            if is_due(folder) and not self._is_joined(files)
        }
        done, total = 0, sum(file.bytes for files in due.values() for file in files)
        rows = 0
        for folder, files in due.items():
            try:
                rows += self._join(folder, files)
            except OSError as error:
                raise failed(self._ledger.folder, error) from error
            done += sum(file.bytes for file in files)
            if report is not None:
                report(done, total)
        return Joined(len(due), sum(len(files) for files in due.values()), rows)

    def _is_joined(self, files: list[LedgerFile]) -> bool:
        return len(files) == 1 and self._ledger.order_of(files[0]) == self._order

    def _join(self, folder: str, files: list[LedgerFile]) -> int:
        place, names = self._ledger.folder / folder, {Path(file.file).name for file in files}
        strange = sorted({path.name for path in place.iterdir()} - names)
        if strange:
            raise DestinationRefused(f"{place} has {strange[0]}, which no export has made; remove it")
        digest = hashlib.sha256("\n".join(sorted(names)).encode()).hexdigest()
        new_place = self._ledger.unfinished / digest
        self._disk.make_folder(new_place)
        target = new_place / f"sorted-{digest[:16]}.parquet"
        rows, size_bytes = self._write(target, files)
        if rows != sum(file.rows for file in files):
            raise ArchiveError(
                f"{place}: {rows:,} rows were made from {sum(file.rows for file in files):,}; nothing is replaced"
            )
        self._disk.sync_folder(new_place)
        # The line counts once the file is in the folder: it is written before, so that no moment knows of neither.
        self._ledger.add_joined(LedgerFile(f"{folder}/{target.name}", rows, size_bytes), files, self._order)
        exchange(new_place, place)
        self._disk.sync_folder(place.parent)
        self._disk.sync_folder(self._ledger.unfinished)
        for name in names:
            self._disk.unlink(new_place / name)
        new_place.rmdir()
        return rows

    def _write(self, target: Path, files: list[LedgerFile]) -> tuple[int, int]:
        schema = pq.read_schema(self._ledger.folder / files[0].file)
        out = ParquetFile(
            target, schema.with_metadata({"recorder.sort": ",".join(self._order)}), self._order, self._disk
        )
        try:
            written_bytes = 0
            with rows_of([file.file for file in files], self._ledger, self._engine) as connection:
                [(payload_bytes,)] = connection.execute("SELECT sum(strlen(payload)) FROM files").fetchall()
                found = connection.table("files").order(", ".join(self._order))
                for table in _in_row_groups(pa.RecordBatchReader.from_stream(found)):
                    out.write(table)
                    written_bytes += pc.sum(pc.binary_length(table[PAYLOAD.name])).as_py()
            if written_bytes != payload_bytes:
                raise ArchiveError(f"{target}: its payloads differ from those of its source files")
            return out.finish()
        except BaseException:
            out.discard()
            raise


def _in_row_groups(batches: Iterable[Any]) -> Iterator[Any]:
    """Yield what comes as tables of the rows of a row group, the last one smaller."""
    waiting: list[Any] = []
    count = 0
    for batch in batches:
        waiting.append(batch)
        count += batch.num_rows
        while count >= ROW_GROUP_ROWS:
            whole = pa.Table.from_batches(waiting)
            yield whole.slice(0, ROW_GROUP_ROWS)
            waiting = whole.slice(ROW_GROUP_ROWS).to_batches()
            count -= ROW_GROUP_ROWS
    if count:
        yield pa.Table.from_batches(waiting)
