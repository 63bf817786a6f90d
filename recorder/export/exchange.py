"""Exchanges two folders in one step: a reader that opens a file finds either the old or the new one."""

from __future__ import annotations

import ctypes
import errno
import os
from pathlib import Path
from typing import Final

_AT_FDCWD: Final = -100
_RENAME_EXCHANGE: Final = 2
"""Both of renameat2(2)."""
_NOT_HERE: Final = frozenset({errno.EINVAL, errno.ENOSYS})


def exchange(one: Path, other: Path) -> None:
    """Exchange two folders of one file system. Raise `OSError`, which says so where that file system cannot do it."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.renameat2(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE) == 0:
        return
    code = ctypes.get_errno()
    why = "this file system cannot exchange folders" if code in _NOT_HERE else os.strerror(code)
    raise OSError(code, why, str(other))
