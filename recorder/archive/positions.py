"""Finds the record that a position of another recorder's stream is, in the journal of an archive that may be growing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple

from recorder.archive.disk import Disk, identity
from recorder.archive.journal import JournalLine, read_line
from recorder.archive.layout import MANIFEST_ENDING, POSITIONS_ENDING, parse
from recorder.archive.record import Reached
from recorder.errors import ArchiveError
from recorder.polygon.position import Told, parse_told

CHUNK_BYTES: Final = 1 << 18
"""Of so much of a journal it is remembered what it begins with. One chunk is read for a position."""

UNKNOWN: Final = "it does not know the position"
INEXACT: Final = "what came just behind the position it has by other positions"


class Border(NamedTuple):
    """Where a read ends, of which run of this recorder."""

    run_id: str
    reached: Reached


class Spot(NamedTuple):
    """The record up to which everything of a cluster came before a position."""

    run_id: str
    seq: int


_DAMAGE: Final = Border("", Reached("", 0, 0))
"""Stands for borders in lines that cannot be read."""
_HEAD_BYTES: Final = 256
"""By so much at its beginning a file is known again, whatever its name is by now."""


@dataclass(slots=True)
class _Chunk:
    """Whole lines of a journal."""

    offset: int
    size: int = 0
    first: dict[tuple[str, str], Told] = field(default_factory=dict)
    """By cluster and epoch, the first position."""
    begins: dict[str, Border] = field(default_factory=dict)
    """By cluster, the first border, whatever it is."""
    is_damaged: bool = False
    """Whether a line cannot be read."""

    def add(self, line: JournalLine, size: int) -> None:
        self.size += size
        if line.cluster not in self.begins or (line.epoch and (line.cluster, line.epoch) not in self.first):
            border = next(line.borders())
            self.begins.setdefault(line.cluster, Border(line.run_id, border))
            told = parse_told(border.after)
            if told is not None:
                self.first.setdefault((line.cluster, told.epoch), told)


@dataclass(slots=True)
class _File:
    """One file of a journal, as far as it has been read."""

    path: Path
    head: bytes
    """Its first bytes."""
    chunks: list[_Chunk] = field(default_factory=list)

    @property
    def size(self) -> int:
        return self.chunks[-1].offset + self.chunks[-1].size if self.chunks else 0

    def read_on(self) -> None:
        """Read what has been added."""
        for line, size in _lines(self.path, self.size):
            if not self.chunks or self.chunks[-1].size >= CHUNK_BYTES:
                self.chunks.append(_Chunk(self.size))
            if line is None:
                self.chunks[-1].size += size
                self.chunks[-1].is_damaged = True
            else:
                self.chunks[-1].add(line, size)


class Positions:
    """The journal of one archive. What it has read once it does not read again; used by one thread at a time."""

    def __init__(self, manifest: Path) -> None:
        self._folder = manifest.parent
        self._active = manifest.with_name(manifest.name.removesuffix(MANIFEST_ENDING) + POSITIONS_ENDING)
        self._files: dict[tuple[int, int], _File] = {}
        self._disk = Disk()

    def find(self, told: Told, cluster: str) -> Spot | str | None:
        """Return the record that a position is, for a cluster, or why it is not known; None where that may change soon.

        Raise `ArchiveError` or `OSError` where the journal cannot be read.
        """
        self._look()
        later: Border | None = None
        for file in reversed(self._files.values()):
            for chunk in reversed(file.chunks):
                first = chunk.first.get((cluster, told.epoch))
                if first is None or not _is_before(first, told):
                    later = _DAMAGE if chunk.is_damaged else chunk.begins.get(cluster, later)
                    continue
                border, behind = _last_before(file.path, chunk, told, cluster)
                return _spot(told, border, behind or later)
        return UNKNOWN

    def find_all(self, told: Told, clusters: Iterable[str]) -> dict[str, Spot] | str | None:
        """Return the same for several clusters; why it is not known where that is so for one of them."""
        spots: dict[str, Spot] = {}
        for cluster in clusters:
            spot = self.find(told, cluster)
            if spot is None or isinstance(spot, str):
                return spot
            spots[cluster] = spot
        return spots

    def _look(self) -> None:
        """Read what has been added since the last look."""
        found = [parse(path) for path in self._disk.list_files(self._folder, deep=False)]
        found = [file for file in found if file.active == self._active and not file.temporary]
        files: dict[tuple[int, int], _File] = {}
        for file in sorted(found, key=lambda file: (not file.rotated, file.age_key)):
            try:
                with self._disk.open_read(file.path) as content:
                    key = identity(self._disk.stat_open(content.fileno()))
                    head = content.read(_HEAD_BYTES)
            except FileNotFoundError:
                continue  # it was renamed or deleted at this moment
            assert key is not None
            known = self._files.get(key)
            if known is None or not (known.head and head.startswith(known.head)):
                known = _File(file.path, head)
            files[key] = known
            known.path = file.path
        self._files = files
        for known in files.values():
            known.read_on()

    def __repr__(self) -> str:
        return f"Positions({self._active}, {len(self._files)} files)"


def _last_before(path: Path, chunk: _Chunk, told: Told, cluster: str) -> tuple[Border, Border | None]:
    """Return the last border of a chunk that is not behind a position, and the one that follows it there, if any does."""
    found: Border | None = None
    behind: Border | None = None
    for line, _ in _lines(path, chunk.offset, chunk.size):
        if line is None:
            behind = behind or _DAMAGE
            continue
        if line.cluster != cluster:
            continue
        for reached in line.borders():
            border = Border(line.run_id, reached)
            here = parse_told(reached.after)
            if here is not None and here.epoch == told.epoch and _is_before(here, told):
                found, behind = border, None
            elif found is not None and behind is None:
                behind = border
    if found is None:
        raise ArchiveError(f"{path} has changed")
    return found, behind


def _spot(told: Told, border: Border, behind: Border | None) -> Spot | str | None:
    """Return the record that a position is between two borders."""
    here = parse_told(border.reached.after)
    assert here is not None
    spot = Spot(border.run_id, border.reached.seq)
    if _is_before(told, here):
        return spot
    if behind is None:
        return None  # it is behind all that has been noted
    next_ = parse_told(behind.reached.after)
    if next_ is None or next_.epoch != told.epoch:
        return INEXACT
    if told.number is not None and here.number is not None and next_.number is not None:
        return spot  # it is between two reads, not in one
    if told.record is None or next_.record is None:
        return INEXACT
    # The records that the other recorder has made of the read before this border are the last ones up to it.
    events = behind.reached.events
    count = told.record - (next_.record - events)
    return Spot(behind.run_id, behind.reached.seq - events + count) if count > 0 else spot


def _is_before(one: Told, other: Told) -> bool:
    """Return whether a position is not behind another one of the same epoch."""
    if one.number is not None and other.number is not None:
        return one.number <= other.number
    return one.record is not None and other.record is not None and one.record <= other.record


def _lines(path: Path, offset: int, size: int | None = None) -> Iterator[tuple[JournalLine | None, int]]:
    """Yield the whole lines from an offset on, each with its size; None for one that cannot be read."""
    with path.open("rb") as file:
        file.seek(offset)
        for text in file:
            if (size is not None and size <= 0) or not text.endswith(b"\n"):
                return
            if size is not None:
                size -= len(text)
            yield read_line(text), len(text)
