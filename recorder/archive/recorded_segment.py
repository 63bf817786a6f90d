"""One segment of an archive as it is read: whole lines of one run in one file, wherever that file is by now."""

from __future__ import annotations

import hashlib
import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO, Final, NamedTuple

from recorder.archive.codec import codec_of
from recorder.archive.held import HeldFile
from recorder.archive.manifest_index import Entry, first_bytes, first_record
from recorder.archive.narrowing import bytes_before
from recorder.archive.place import HERE, Place
from recorder.archive.proofs import Proofs
from recorder.archive.reader import Opener, read_blocks
from recorder.archive.record import RecordHeader
from recorder.archive.set_back import CLOCK_RACE_MS
from recorder.errors import Altered, Unreadable

_MOVES_MAX: Final = 3
"""A file under compression changes its name once; it is looked for so often."""


class Packed(NamedTuple):
    """A compressed file."""

    codec: str
    sha256: str
    """Of the file as it lies on disk. It was proven to have the plain content before the manifest got this."""


@dataclass(frozen=True, slots=True)
class Segment:
    """What one run wrote into one file, where that file is now."""

    path: Path
    run_id: str
    active: Path
    """The active file that it was written to."""
    offset: int
    size_bytes: int
    """Plain content of the segment; of one that is not sealed, what there is of it now."""
    sha256: str
    """Of the plain content; empty where the manifest does not have it yet."""
    first_seq: int
    last_seq: int
    """0 where the manifest does not have it yet."""
    first_ingest_ms: int
    last_ingest_ms: int
    """0 where the manifest does not have it yet."""
    counts: Mapping[str, int]
    """Records by type; empty where the manifest does not have it yet."""
    packed: Packed | None = None
    """Of its file once it is compressed, where the manifest has it, and where nothing else is in that file."""
    held: HeldFile | None = None
    """The file itself, open, where it could be another one by now that has its name."""
    set_back_ms: int = CLOCK_RACE_MS
    """A record of the run may have come, by its time, so much before one that has a lower number; `NEVER_MS`: any time."""
    place: Place = HERE
    """Where the file is."""

    def may_have(self, start_ms: int, end_ms: int) -> bool:
        """Return whether there may be records that came from a time on, before another, Unix ms."""
        is_over = bool(self.last_ingest_ms) and self.last_ingest_ms + self.set_back_ms < start_ms
        return not is_over and self.first_ingest_ms - self.set_back_ms < end_ms

    def exists(self) -> bool:
        """Return whether there is a file under any of its names."""
        return self.held is not None or self.place.size_bytes(self._form()) is not None

    def blocks(self, proofs: Proofs | None = None, begin: int = 0) -> Iterator[bytes]:
        """Yield whole lines, many at once; with `proofs`, from a line end on, where `begin` bytes stand before.

        Raise `ArchiveError` where the file cannot be read, is damaged, or is not the one that was written. Of a sealed
        segment `proofs` knows that, or finds out before anything is yielded; without them it turns out at its end at the
        latest.
        """
        path, file = self._open(proofs)
        noted = self._noted(path)
        digest = hashlib.sha256() if self.sha256 and proofs is None else None
        # The sum of the file as it lies on disk vouches for what is in it, and has less to go through.
        whole = self._plain(path, file, begin, digest.update if digest is not None and noted else None)
        count, rest = begin, b""
        for block in first_bytes(whole, self.size_bytes - begin):
            if digest is not None and not noted:
                digest.update(block)
            count += len(block)
            border = block.rfind(b"\n") + 1
            if border:
                yield rest + block[:border] if rest else block[:border]
                rest = block[border:]
            else:
                rest += block
        if count < self.size_bytes:
            # Also of a file that is still written to: another one has its name by now.
            raise Altered(
                f"{path}: {self.size_bytes - count:,} bytes are missing; `recorder verify {path.parent}` says more"
            )
        if digest is None:
            return  # what stands behind the last line end is still being written
        if noted:
            deque(whole, maxlen=0)  # the end of the compressed frame
        if digest.hexdigest() != (noted or self.sha256) or rest:
            raise Altered(
                f"{path}: the segment at {self.offset} is not what was written; see `recorder verify`"
            )

    @property
    def stored(self) -> tuple[Path, str]:
        """Its file and, where that is known, the checksum of what lies there, as a place asks for them."""
        return self.path, self._noted(self.path)

    def without(self, is_before: Callable[[RecordHeader], bool]) -> Segment:
        """Return the segment less the lines at its beginning that are `is_before`, as far as these are easily left out.

        Only where there is no checksum that all of its lines would be needed for.
        """
        if self.sha256:
            return self
        count = self.bytes_before(is_before)
        return replace(self, offset=self.offset + count, size_bytes=self.size_bytes - count)

    def bytes_before(self, is_before: Callable[[RecordHeader], bool]) -> int:
        """Return how many bytes at the beginning are lines that are `is_before`, as far as that is easily found."""
        if codec_of(path := self._form()) != "none":
            return 0
        try:
            with self.opener(path) as file:
                return bytes_before(file, self.offset, self.size_bytes, is_before)
        except OSError:
            return 0  # who reads it is told

    def _open(self, proofs: Proofs | None, *, is_again: bool = False) -> tuple[Path, BinaryIO]:
        """Open the file, by the name that it has by now; with `proofs` it is known to be what was written.

        What a cache had of it and was damaged there is fetched once more.
        """
        if self.held is not None and self.held.was_cut:
            raise Altered(
                f"{self.path}: it was cut or written over since the archive was opened; `recorder verify` says more"
            )
        for attempt in range(_MOVES_MAX):
            path = self._form()
            try:
                file = self.held.open() if self.held is not None else self.place.open(path, self._noted(path))
            except OSError as error:
                # Between the look and the opening it may have been compressed.
                if attempt + 1 < _MOVES_MAX and self.place.size_bytes(path) is None:
                    continue
                raise Unreadable(f"cannot read {path}: {error.strerror or error}") from error
            break
        try:
            if proofs is not None and self.sha256:
                self._prove(proofs, path, file)
        except Altered:
            file.close()
            if is_again or not self.place.forget(path, self._noted(path)):
                raise
            return self._open(proofs, is_again=True)
        except BaseException:
            file.close()
            raise
        return path, file

    def _prove(self, proofs: Proofs, path: Path, file: BinaryIO) -> None:
        noted = self._noted(path)

        def content() -> Iterator[bytes]:
            again = self.held.open() if self.held is not None else os.fdopen(os.dup(file.fileno()), "rb")
            return _raw(path, again) if noted else first_bytes(self._plain(path, again), self.size_bytes)

        proofs.prove(path, file.fileno(), noted or self.sha256, content, grows=path == self.active)

    def _noted(self, path: Path) -> str:
        """Return the checksum that the file under this name has as it lies on disk; empty where that is not known."""
        is_it = self.packed is not None and self.packed.codec == codec_of(path)
        return self.packed.sha256 if self.packed is not None and is_it else ""

    def _plain(
        self, path: Path, file: BinaryIO, begin: int = 0, on_read: Callable[[bytes], object] | None = None
    ) -> Iterator[bytes]:
        """Yield the plain content of an open file from a place in the segment on, then close the file."""
        is_plain = codec_of(path) == "none"
        file.seek(self.offset + begin if is_plain else 0)
        blocks = read_blocks(path, lambda _: file, on_read=on_read)
        return blocks if is_plain else _behind(blocks, self.offset + begin)

    @property
    def opener(self) -> Opener:
        """Opens the file that it was, by whatever name."""
        return self.place.open if self.held is None else self.held.open

    def _form(self) -> Path:
        """Return the name that the file has by now; of one that is held, the name that it had."""
        return self.path if self.held is not None else self.place.form(self.path)


def expect(segments: Sequence[Segment]) -> None:
    """Let the files of segments be fetched ahead, where they are elsewhere: they will be read, in about this order."""
    if segments:
        segments[0].place.expect([segment.stored for segment in segments])


def sealed(
    path: Path,
    active: Path,
    entry: Entry,
    packed: Packed | None,
    held: HeldFile | None = None,
    place: Place = HERE,
) -> Segment:
    return Segment(
        path,
        entry.run_id,
        active,
        entry.offset,
        entry.bytes,
        entry.sha256,
        entry.first_seq,
        entry.last_seq,
        entry.first_ingest_ts,
        entry.last_ingest_ts,
        entry.counts,
        packed,
        held,
        place=place,
    )


def unsealed(held: HeldFile, active: Path, run_id: str, offset: int, size_bytes: int) -> Segment | None:
    """Return what stands behind the last segment of a file; None where that is no record."""

    def open_at(path: Path) -> BinaryIO:
        file = held.open()
        file.seek(offset)
        return file

    first = first_record(held.path, open_at)
    if first is None:
        return None
    return Segment(
        held.path,
        run_id,
        active,
        offset,
        size_bytes,
        "",
        first.seq,
        0,
        first.ingest_ts,
        0,
        {},
        held=held,
    )


def _raw(path: Path, file: BinaryIO) -> Iterator[bytes]:
    """Yield an open file as it lies on disk, whatever its name says, then close it."""
    file.seek(0)
    return read_blocks(path, lambda _: file, codec="none")


def _behind(blocks: Iterator[bytes], count: int) -> Iterator[bytes]:
    """Yield the blocks without their first `count` bytes."""
    for block in blocks:
        if count < len(block):
            yield block[count:]
        count = max(0, count - len(block))
