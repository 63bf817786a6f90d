"""Reads an archive as it grows: sealed segments, file by file, then the records that a running recorder is writing."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, NamedTuple

from recorder.archive.cutting import Records, cut
from recorder.archive.disk import Disk
from recorder.archive.held import HeldFile
from recorder.archive.layout import holds_records, parse
from recorder.archive.look import ReadManifest
from recorder.archive.manifest_index import NEVER_MS, UNKNOWN_RUN, Entry
from recorder.archive.place import Place
from recorder.archive.proofs import Proofs
from recorder.archive.recorded_segment import Segment
from recorder.archive.recording import Recording
from recorder.errors import EXIT_DAMAGE, Altered, ArchiveError
from recorder.log import get_logger

_TAIL_BYTES: Final = 1 << 20
_LOOKS_MAX: Final = 5
"""A manifest that changes while it is read is read again, so often at most; the next look is soon."""
_LOOK_NS: Final = 30_000_000_000
"""What two looks within one tick of the file system's clock cannot tell apart is found by then."""
log = get_logger("polygon_archive")

_HINT: Final = "--skip-damaged sends the rest, and `recorder verify` says more"


class Damaged(ArchiveError):
    """A file of the archive is damaged or missing, and the rest is not enough."""

    exit_status = EXIT_DAMAGE


class _Key(NamedTuple):
    """Which segment one is, whatever its file is called by now."""

    run_id: str
    active: Path
    offset: int
    first_seq: int


class _Tail:
    """What stands behind the last segment of an active file, and what comes there."""

    def __init__(self, held: HeldFile, offset: int) -> None:
        self._path = held.path
        self._file = held.open()
        self._file.seek(offset)
        self._rest = b""

    def read(self, is_current: Callable[[], bool]) -> Iterator[Records]:
        """Yield the records that have come, many at once, as long as the manifest `is_current`. Raise `ArchiveError`."""
        while True:
            begin = self._file.tell()
            data = self._file.read(_TAIL_BYTES)
            if not data:
                return
            if not is_current():
                # Another run may have begun, which notes that before it writes behind this one.
                self._file.seek(begin)
                return
            data = self._rest + data
            border = data.rfind(b"\n") + 1
            self._rest = data[border:]
            if border:
                yield cut(data[:border], str(self._path))

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()


class _State(NamedTuple):
    """What was there at a look."""

    manifest: tuple[int, ...]
    folders: list[tuple[int, ...]]
    idle: list[tuple[int, ...]]
    """Active files without a record behind their last segments."""


class Block(NamedTuple):
    """Records of one run, in the order of their numbers, out of one file."""

    run_id: str
    records: Records


class Reader:
    """Reads one archive from its beginning on, each segment once; `blocks` may be called again for what came since.

    Blocks of one file come in the order in which they were written. What was read behind the last segment of an active file
    comes once more when that is sealed, so the caller leaves out records that it has.
    """

    def __init__(
        self,
        manifest: Path,
        place: Place,
        is_sent: Callable[[Recording, Segment], bool],
        *,
        follows: bool,
        skips_damaged: bool,
        from_ms: int = 0,
    ) -> None:
        """`place` is where the files are. `is_sent` says that nothing of a sealed segment is wanted.

        What came before `from_ms` is not wanted, either.
        """
        self.manifest = manifest
        self._place = place
        self._is_sent = is_sent
        self._follows = follows
        self._skips_damaged = skips_damaged
        self._from_ms = from_ms
        self._state: _State | None = None
        self._look_ns = 0
        """When the next look is due though nothing seems to have changed."""
        self._view: Recording | None = None
        self._waiting: list[Segment] = []
        self._done: set[_Key] = set()
        self._tails: dict[_Key, _Tail] = {}
        self._folders: list[Path] = []
        self._idle: list[Path] = []
        self._proofs = Proofs()
        self._lost: set[tuple[str, str, int]] = set()
        self.damaged: list[tuple[Segment, str]] = []
        """What was passed over."""
        self.total_bytes = self.done_bytes = 0
        """Of the sealed segments that are there."""
        self.unsealed_bytes = 0
        """What a recorder at work has written and not sealed, and what is not read here."""

    def blocks(self) -> Iterator[Block]:
        """Yield what is there and has not been yielded. Raise `ArchiveError`, `Damaged` where that is what it is."""
        while True:
            self._look()
            try:
                yield from self._blocks()
            except ArchiveError:
                # A file that was compressed, deleted or taken over by a recorder meanwhile is no damage.
                if not self._has_changed():
                    raise
                continue
            return

    def may_have_lost(self) -> bool:
        """Return whether segments have gone, or were passed over, since this was last asked."""
        if self._view is None:
            return False
        known = len(self._lost)
        self._lost |= {(entry.run_id, entry.file, entry.first_seq) for entry in self.segments()[1]}
        self._lost |= {(one.run_id, str(one.active), one.first_seq) for one, _ in self.damaged}
        return len(self._lost) > known

    def segments(self) -> tuple[list[Segment], list[Entry]]:
        """Return the segments that are there, and what the manifest has of those that are not."""
        if self._view is None:
            return [], []
        return self._view.segments, [
            entry for entry in self._view.gone if entry.last_ingest_ts >= self._from_ms
        ]

    def close(self) -> None:
        """Let go of files."""
        for tail in self._tails.values():
            tail.close()
        self._tails.clear()

    def _state_now(self) -> _State:
        """Return what changes with the manifest, and with files that are not read on as it is."""
        return _State(
            _file_state(self.manifest),
            [_file_state(folder) for folder in self._folders],
            [_file_state(path) for path in self._idle],
        )

    def _has_changed(self) -> bool:
        """Return whether something has come or gone since the look; nobody records where a copy is."""
        return not self._place.is_copy and self._state != self._state_now()

    def _look(self) -> None:
        """Look at the archive, if it may have changed."""
        now_ns = time.monotonic_ns()
        if self._view is not None and now_ns < self._look_ns and not self._has_changed():
            return
        if self._place.is_copy:
            self._take(Recording(self.manifest, place=self._place))
            self._look_ns = NEVER_MS
            return
        # What changes from here on is seen by the next look.
        manifest = _file_state(self.manifest)
        files = self._place.list_files(self.manifest.parent, deep=True)
        folders = sorted({self.manifest.parent, *(path.parent for path in files)})
        folder_states = [_file_state(folder) for folder in folders]
        active = {path: _file_state(path) for path in files if _is_active(path)}
        self._take(self._recording(manifest))
        read = {segment.path for segment in self._waiting if not segment.sha256}
        self._folders = folders
        self._idle = [path for path in active if path not in read]
        self._state = _State(manifest, folder_states, [active[path] for path in self._idle])
        self._look_ns = now_ns + _LOOK_NS

    def _recording(self, manifest: tuple[int, ...]) -> Recording:
        """Return the archive as it is now; `manifest` is the state that its manifest had a moment ago."""
        if not self._follows:
            return Recording(self.manifest)
        for _ in range(_LOOKS_MAX):
            # Where the kernel's list of locks shows other processes to nobody, as in containers, a recorder that is at work
            # cannot be told from one that was killed. A follower takes it for granted.
            read = ReadManifest.of(self.manifest, is_live=True)
            view = Recording(self.manifest, read)
            before, manifest = manifest, _file_state(self.manifest)
            if before == manifest:
                break
        return view

    def _take(self, view: Recording) -> None:
        """Find out what is left to read. Raise `Damaged`."""
        if view.doubts and not self._skips_damaged:
            raise Damaged(f"{view.doubts[0]}; {_HINT}")
        self._view = view
        self._waiting = []
        self.total_bytes = self.done_bytes = self.unsealed_bytes = 0
        tails: set[_Key] = set()
        for segment in view.segments:
            if not segment.sha256:
                if view.is_live and not self._follows:
                    self.unsealed_bytes += segment.size_bytes
                elif segment.run_id != UNKNOWN_RUN:
                    tails.add(_key(segment))
                    self._waiting.append(segment)
                continue
            if not segment.may_have(self._from_ms, NEVER_MS):
                continue
            self.total_bytes += segment.size_bytes
            if _key(segment) in self._done or self._is_sent(view, segment):
                self._done.add(_key(segment))
                self.done_bytes += segment.size_bytes
            else:
                self._waiting.append(segment)
        for key in self._tails.keys() - tails:
            self._tails.pop(key).close()

    def _blocks(self) -> Iterator[Block]:
        for segment in list(self._waiting):
            parts = self._sealed(segment) if segment.sha256 else self._tail(segment)
            for records in parts:
                if self._from_ms and len(records):
                    records = records.between(self._from_ms, NEVER_MS)
                if len(records):
                    yield Block(segment.run_id, records)

    def _sealed(self, segment: Segment) -> Iterator[Records]:
        try:
            for block in segment.blocks(self._proofs):
                self.done_bytes += len(block)
                yield cut(block, str(segment.path))
        except ArchiveError as error:
            if self._has_changed():
                raise
            if not self._skips_damaged:
                if isinstance(error, Altered) or not segment.exists():
                    raise Damaged(f"{error}; {_HINT}") from error
                raise
            log.error("clickhouse_left_out", reason=str(error), records=sum(segment.counts.values()))
            self.damaged.append((segment, str(error)))
        self._waiting.remove(segment)
        self._done.add(_key(segment))

    def _tail(self, segment: Segment) -> Iterator[Records]:
        tail = self._tails.get(_key(segment))
        if tail is None:
            if segment.held is None:
                return  # it has no file of this machine
            tail = self._tails[_key(segment)] = _Tail(segment.held, segment.offset)
        read = self._state
        yield from tail.read(lambda: read is not None and read.manifest == _file_state(self.manifest))

    def __repr__(self) -> str:
        return f"Reader({str(self.manifest)!r}, {len(self._waiting)} segments wait)"


def _file_state(path: Path) -> tuple[int, ...]:
    state = Disk().stat(path)
    return (state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns) if state is not None else ()


def _is_active(path: Path) -> bool:
    file = parse(path)
    return holds_records(path) and not file.rotated and not file.temporary and file.codec == "none"


def _key(segment: Segment) -> _Key:
    return _Key(segment.run_id, segment.active, segment.offset, segment.first_seq)
