"""An export that follows: each segment as its recorder seals it, until the process is told to end."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Final, NamedTuple

from recorder.archive.recorded import manifests_of
from recorder.archive.recorded_segment import Segment
from recorder.clock import SystemClock
from recorder.errors import EXIT_FAILURE, NoArchive
from recorder.export.ledger import LedgerFile
from recorder.export.session import Export, Finish, open_all
from recorder.log import get_logger

_LOOK_SECS: Final = 0.5
"""How often a manifest is asked for its size."""
_SEARCH_SECS: Final = 60.0
"""How often the folder is searched for other archives."""
_SEALED: Final = b'"kind":"segment_closed"'

log = get_logger("polygon_archive")


class Ended(BaseException):
    """The process was told to end."""


class _Seen(NamedTuple):
    inode: int
    size_bytes: int
    """Up to the end of the last whole line that was looked at."""


class ManifestWatch:
    """Says when the archives of a path have sealed something. Of a manifest only what is new is read."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: dict[Path, _Seen] = {}
        self._searched_secs = float("-inf")

    def has_sealed(self) -> bool:
        """Return whether a segment was sealed since this was last asked; True the first time.

        Raise `NoArchive` while there is none, and `OSError`.
        """
        if time.monotonic() - self._searched_secs > _SEARCH_SECS or not self._seen:
            found = manifests_of(self._path)
            self._searched_secs = time.monotonic()
            self._seen = {manifest: self._seen.get(manifest, _Seen(0, 0)) for manifest in found}
        looks = [self._look(manifest, seen) for manifest, seen in list(self._seen.items())]
        return any(looks)

    def _look(self, manifest: Path, seen: _Seen) -> bool:
        state = manifest.stat()
        begin = seen.size_bytes if seen.inode == state.st_ino and seen.size_bytes <= state.st_size else 0
        if begin and begin == state.st_size:
            return False
        with manifest.open("rb") as file:
            file.seek(begin)
            data = file.read()
        self._seen[manifest] = _Seen(state.st_ino, begin + data.rfind(b"\n") + 1)
        return _SEALED in data


class Following:
    """Exports what is sealed, then what will be. What is wrong with an archive is logged once, and the rest goes on."""

    def __init__(self, paths: Iterable[Path], export: Export, finish: Finish | None = None) -> None:
        """`finish` gets the files of a day once that day is over."""
        self._finish = finish
        self._watches = {path: ManifestWatch(path) for path in paths}
        self._there: set[Path] = set()
        """Paths that have an archive by now."""
        self._export = export
        self._is_over = False
        self._said: set[str] = set()
        self._lost = 0

    def run(self, *, is_partial: bool) -> None:
        """Export until SIGTERM or SIGINT. Raise what `Export.run` does."""
        with self._ending():
            log.info("export_started", path=", ".join(map(str, self._watches)), place=self._export.place)
            try:
                while True:
                    sealed = [self._has_sealed(path, watch) for path, watch in self._watches.items()]
                    if any(sealed):
                        self._pass(is_partial=is_partial)
                    self._wait()
            except Ended:
                log.info("export_stopped", place=self._export.place)

    def _has_sealed(self, path: Path, watch: ManifestWatch) -> bool:
        try:
            has_sealed = watch.has_sealed()
        except (NoArchive, FileNotFoundError):
            self._say_once("export_waits", f"{path} has no archive yet")
            self._there.discard(path)
            return False
        self._there.add(path)
        return has_sealed

    def _pass(self, *, is_partial: bool) -> None:
        there = [path for path in self._watches if path in self._there]
        found = self._export.run(open_all(there), self._go_on, self._say_exported, is_partial=is_partial)
        for problem in found.problems:
            self._say_once("export_incomplete", problem)
        if found.lost > self._lost:
            log.error("export_lost", count=found.lost - self._lost, place=found.place)
            self._lost = found.lost

        if self._finish is not None:
            self._finish.run(self._is_over_by_now, self._go_on)

    def _is_over_by_now(self, folder: str) -> bool:
        return self._export.layout.is_over(folder, SystemClock.wall_ns() // 1_000_000)

    def _go_on(self, done: int, total: int) -> None:
        if self._is_over:
            raise Ended

    def _wait(self) -> None:
        time.sleep(_LOOK_SECS)
        self._go_on(0, 0)

    @staticmethod
    def _say_exported(segment: Segment, files: list[LedgerFile]) -> None:
        log.info(
            "segment_exported",
            file=segment.path.name,
            run_id=segment.run_id,
            first_seq=segment.first_seq,
            records=sum(file.rows for file in files),
            files=len(files),
        )

    def _say_once(self, event: str, message: str) -> None:
        if message not in self._said:
            self._said.add(message)
            if event == "export_waits":
                log.warning("export_waits", message=message)
            else:
                log.error("export_incomplete", message=message)

    @contextmanager
    def _ending(self) -> Iterator[None]:
        before = {number: signal.signal(number, self._end) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _end(self, number: int, frame: FrameType | None) -> None:
        if self._is_over:
            os._exit(EXIT_FAILURE)  # the operator has no patience left; the next start finishes the rest
        self._is_over = True
