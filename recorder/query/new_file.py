"""A new file that an answer is written to."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from recorder.errors import EXIT_USAGE, ArchiveError, RecorderError
from recorder.tables.engine import FileFailed


class NoPlace(RecorderError):
    """The answer has no place to go."""

    exit_status = EXIT_USAGE


@contextmanager
def new_file(target: Path) -> Iterator[Path]:
    """Yield another name to write to. What was written has its own name once it is whole and on disk, or is gone.

    :raises NoPlace: there is a file of that name, or no such folder.
    :raises ArchiveError: it cannot be written.
    """
    if target.exists():
        raise NoPlace(f"{target} exists; name another file, or delete this one")
    if not target.parent.is_dir():
        raise NoPlace(f"{target.parent} is not a folder; make it, or name another file")
    unfinished = target.with_name(f"{target.name}.{os.getpid()}.tmp")
    try:
        yield unfinished
        with unfinished.open("rb") as file:
            os.fsync(file.fileno())
        unfinished.rename(target)
    except OSError as error:
        raise ArchiveError(f"cannot write {target}: {error.strerror or error}") from error
    except FileFailed as error:
        if unfinished.name not in str(error):
            raise
        reason = os.strerror(errno.ENOSPC) if os.strerror(errno.ENOSPC) in str(error) else str(error)
        raise ArchiveError(f"cannot write {target}: {reason}") from error
    finally:
        unfinished.unlink(missing_ok=True)
