"""Which sealed segments have been held against their checksums, so that a process does that once for each."""

from __future__ import annotations

import hashlib
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final, NamedTuple

from recorder.errors import Altered, ArchiveError

_PROVEN_MAX: Final = 100_000
"""Segments that are remembered; those that were proven first are forgotten."""


class _State(NamedTuple):
    """A file as it was when it was looked at."""

    inode: int
    size_bytes: int
    changed_ns: int


class Proofs:
    """Remembers which files had their checksums, and what these files were then. One that has changed is looked at anew.

    Threads may share one: who wants what another one is about to prove waits for it.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._proven: OrderedDict[tuple[Path, str], _State] = OrderedDict()
        self.is_over = False
        """Whether nothing is wanted any more, so that a long file is not read to its end."""

    def prove(
        self, path: Path, descriptor: int, sha256: str, content: Callable[[], Iterable[bytes]], *, grows: bool
    ) -> None:
        """Hold an open file's content against its checksum, unless that has been done. Raise `ArchiveError`.

        `grows` says that more may be appended to the file, behind this content.
        """
        with self._lock:
            state = _state_of(descriptor)
            known = self._proven.get((path, sha256))
            if known == state or (known and grows and _has_grown(known, state)):
                return
            digest = hashlib.sha256()
            for block in content():
                digest.update(block)
                if self.is_over:
                    raise ArchiveError("this recorder ends")
            if digest.hexdigest() != sha256:
                raise Altered(f"{path}: it is not what was written; see `recorder verify`")
            self._proven[path, sha256] = state
            if len(self._proven) > _PROVEN_MAX:
                self._proven.popitem(last=False)

    def __repr__(self) -> str:
        return f"Proofs({len(self._proven)} segments)"


def _state_of(descriptor: int) -> _State:
    state = os.fstat(descriptor)
    return _State(state.st_ino, state.st_size, state.st_mtime_ns)


def _has_grown(before: _State, now: _State) -> bool:
    return before.inode == now.inode and before.size_bytes < now.size_bytes
