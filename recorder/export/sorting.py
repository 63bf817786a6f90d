"""DuckDB as an export has it: the rows of some files, to be sorted in bounded memory, with errors of the tree."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from recorder.export.ledger import Ledger, failed
from recorder.tables.engine import Engine, FileFailed, lock_in
from recorder.tables.views import quoted

if TYPE_CHECKING:
    from recorder.tables.engine import Connection

_MEMORY: Final = "256MB"
"""Of DuckDB: rows beyond it are sorted on disk."""
_FULL: Final = "No space left"
"""As DuckDB says it."""


@contextmanager
def rows_of(files: list[str], ledger: Ledger, engine: Engine) -> Iterator[Connection]:
    """Yield DuckDB with the view `files` of some files of a tree. It writes where unfinished files stand, and nowhere else.

    :raises NoRoom: the disk is full.
    :raises RecorderError: something cannot be read or written.
    """
    paths = [(ledger.folder / file).resolve() for file in files]
    listed = ", ".join(quoted(str(path)) for path in paths)
    try:
        with engine.connected(ledger.unfinished, memory_limit=_MEMORY, threads=1) as connection:
            lock_in(connection, ledger.unfinished.resolve(), paths)
            connection.execute(
                f"CREATE VIEW files AS FROM read_parquet([{listed}], hive_partitioning = false)"
            )
            yield connection
    except OSError as error:
        raise failed(ledger.folder, error) from error
    except FileFailed as error:
        if _FULL not in str(error):
            raise
        raise failed(ledger.folder, OSError(errno.ENOSPC, _FULL)) from error
