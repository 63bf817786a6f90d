"""Makes an archive of few large files of one that has many small ones: the same runs, numbers and lines of the manifest.

Files of one run that follow one another, each with one segment, become one. Everything else is copied byte for byte. The old
archive is not touched: sealed files never change, and whoever exports, uploads or mirrors them relies on that.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from recorder.archive.codec import compressed_path, plain_path
from recorder.archive.compression import Job, compress_file
from recorder.archive.disk import Disk
from recorder.archive.entries import segment_fields
from recorder.archive.layout import MANIFEST_ENDING, TMP_SUFFIX, kind_of, parse
from recorder.archive.locator import Located
from recorder.archive.look import Look, look_at
from recorder.archive.new_folder import NewFolder, refuse_destination
from recorder.archive.reader import lines, read_blocks
from recorder.archive.record import Summary, summarise
from recorder.archive.recorded import manifests_of
from recorder.archive.recorded_segment import Segment
from recorder.archive.verify import verify
from recorder.archive.workers import Progress
from recorder.errors import ArchiveConfigError, ArchiveError
from recorder.objects.path import ObjectPath

COMPACTED: Final = "compacted"
"""Why a segment was closed that was made of several."""
_ABOUT_FILES: Final = ("segment_compressed", "segment_uploaded")
"""Lines that say where and how the bytes of a file lie."""
_LINES_AT_ONCE: Final = 1000
_COPY_BYTES: Final = 1 << 20


@dataclass(slots=True)
class Compacted:
    """What came of it."""

    folder: Path
    files_before: int = 0
    files: int = 0
    """Of records."""
    joined: int = 0
    """So many files of the old archive became fewer."""


@dataclass(slots=True)
class _Join:
    """Segments that become one, in their order."""

    segments: list[Segment] = field(default_factory=list)
    size_bytes: int = 0

    @property
    def path(self) -> Path:
        """The plain name of the file that it becomes: that of the first."""
        return plain_path(self.segments[0].path)


class Compaction(NewFolder):
    """One archive as it is made."""

    def __init__(
        self, manifest: Path, folder: Path, *, segment_bytes: int, codec: str, disk: Disk | None = None
    ) -> None:
        """Look at the archive of a manifest. Raise `ArchiveError` where it cannot be compacted as it is."""
        super().__init__(folder, "", stem=manifest.name.removesuffix(MANIFEST_ENDING), disk=disk)
        self._manifest_path = manifest
        self._source = manifest.parent
        self._codec = codec
        look = look_at(manifest)
        _refuse_unsuitable(manifest, look)
        self._index = look.index
        self._files = sorted(_files_of(look.located))
        self._joins = [join for join in _joins(manifest, look, segment_bytes) if len(join.segments) > 1]
        self._ends = {self._key(join.segments[-1]): join for join in self._joins}
        self._joined = {self._key(one) for join in self._joins for one in join.segments}
        self._joined_files = {self._name(one.path) for join in self._joins for one in join.segments}
        self._copies = [path for path in self._files if self._name(path) not in self._joined_files]
        self.found = Compacted(
            folder,
            files_before=sum(kind_of(path) == "records" for path in self._files),
            files=sum(kind_of(path) == "records" for path in self._copies) + len(self._joins),
            joined=len(self._joined),
        )

    def make(self, progress: Progress | None = None) -> None:
        """Write everything, and give it its name once `verify` finds it whole. Raise `ArchiveError`."""
        sizes = [join.size_bytes for join in self._joins]
        total, done = sum(sizes) + sum(path.stat().st_size for path in self._copies), 0
        try:
            for path in self._copies:
                self._copy(path)
                done += path.stat().st_size
                _tell(progress, done, total)
            noted: dict[int, list[dict[str, Any]]] = {}
            for join in self._joins:
                try:
                    noted[id(join)] = self._join(join)
                except ArchiveError as error:
                    hint = "" if "`recorder verify`" in str(error) else "; `recorder verify` says more"
                    raise ArchiveError(f"{error}{hint}") from error
                done += join.size_bytes
                _tell(progress, done, total)
            self._write_manifest(noted)
            for folder in {self._unfinished, *(self._target(path).parent for path in self._files)}:
                self._disk.sync_folder(folder)
            self._finish(_verify)
        except OSError as error:
            raise self._failed(error) from error

    def _is_ours(self, path: Path) -> bool:
        name = path.relative_to(self._unfinished)
        known = {self._name(file) for file in self._files}
        plain = plain_path(name.with_name(name.name.removesuffix(TMP_SUFFIX)))
        return plain.as_posix() in known or plain.name in (self._names.manifest.name, self._names.lock.name)

    def _name(self, path: Path) -> str:
        return plain_path(path).relative_to(self._source).as_posix()

    def _key(self, segment: Segment) -> tuple[str, str, int]:
        """Return what distinguishes its line in the manifest."""
        return segment.run_id, self._name(segment.path), segment.first_seq

    def _target(self, path: Path) -> Path:
        return self._unfinished / path.relative_to(self._source)

    def _copy(self, path: Path) -> None:
        """Copy a file as it is."""
        target = self._target(path)
        self._disk.make_folder(target.parent)
        fd = self._disk.create(target)
        try:
            with self._disk.open_read(path) as file:
                while block := file.read(_COPY_BYTES):
                    self._disk.write_all(fd, block)
            self._disk.sync(fd)
        finally:
            self._disk.close(fd)
        self._disk.set_mtime(target, path.stat().st_mtime_ns)

    def _join(self, join: _Join) -> list[dict[str, Any]]:
        """Write one file of several; return what the manifest says of it. Raise `OSError` or `ArchiveError`."""
        target = self._target(join.path)
        self._disk.make_folder(target.parent)
        summary, digest = Summary.of_segment(), hashlib.sha256()
        fd = self._disk.create(target)
        try:
            for segment in join.segments:
                for block in segment.blocks():
                    self._disk.write_all(fd, block)
                    digest.update(block)
                    summary.add(summarise(block))
            self._disk.sync(fd)
        finally:
            self._disk.close(fd)
        last = join.segments[-1]
        self._disk.set_mtime(target, last.path.stat().st_mtime_ns)
        name, sha256 = self._name(join.path), digest.hexdigest()
        fields = segment_fields(name, summary, sha256, COMPACTED, 0)
        said = [{"kind": "segment_closed", "run_id": last.run_id, **fields, "joined": len(join.segments)}]
        if self._codec != "none":
            packed = compressed_path(target, self._codec)
            temporary = packed.with_name(packed.name + TMP_SUFFIX)
            on_disk = compress_file(Job(target, temporary, self._codec, sha256), self._disk)
            self._disk.rename(temporary, packed)
            self._disk.unlink(target)
            facts = {"codec": self._codec, "bytes": on_disk.bytes, "sha256": on_disk.sha256}
            said.append({"kind": "segment_compressed", "run_id": last.run_id, "file": name, **facts})
        return said

    def _write_manifest(self, noted: dict[int, list[dict[str, Any]]]) -> None:
        """Write the old manifest's lines, with those of joined segments where the last of them was."""
        waiting: list[dict[str, Any]] = []
        for line in self._lines():
            kind, key = line["kind"], (line["run_id"], line.get("file"), line.get("first_seq"))
            if kind == "segment_closed" and key in self._joined:
                join = self._ends.get(key)
                said = noted[id(join)] if join is not None else []
                waiting += [
                    {"kind": one["kind"], "run_id": one["run_id"], "ts": line["ts"], **one} for one in said
                ]
            elif kind not in _ABOUT_FILES or line["file"] not in self._joined_files:
                waiting.append(line)
            if len(waiting) >= _LINES_AT_ONCE:
                self._manifest.append_copies(waiting)
                waiting.clear()
        self._manifest.append_copies(waiting)
        self._raise_failure()

    def _lines(self) -> Iterator[dict[str, Any]]:
        """Yield the old manifest's lines, less what chains them."""
        for data in lines(read_blocks(self._manifest_path), str(self._manifest_path)):
            if not data.endswith(b"\n"):
                return  # the next start would cut it
            line: dict[str, Any] = json.loads(data)
            line.pop("prev", None)
            line.pop("sum", None)
            yield line


def only_manifest(path: Path, folder: Path) -> Path:
    """Return the manifest of the archive that a path means. Raise `ArchiveError` for none, several, or a bad `folder`."""
    if isinstance(path, ObjectPath):
        raise ArchiveConfigError(f"{path} is in a bucket; only an archive of this machine can be compacted")
    manifests = manifests_of(path)
    if len(manifests) > 1:
        names = ", ".join(str(manifest) for manifest in manifests)
        raise ArchiveConfigError(f"{path} has several archives; name the manifest of one: {names}")
    refuse_destination(folder, manifests)
    return manifests[0]


def _refuse_unsuitable(manifest: Path, look: Look) -> None:
    folder = manifest.parent
    if look.read.check.is_live:
        raise ArchiveConfigError(
            f"{folder} is being recorded to; stop its recorder, or wait until it has ended"
        )
    problems = [*look.read.report.problems, *look.foreign]
    problems += [f"{name} is missing" for name, _ in look.located.missing]
    problems += [f"{entry.file or manifest.name} had lost its end" for entry in look.index.damaged]
    if problems:
        raise ArchiveError(f"{folder}: {problems[0]}; `recorder verify` says more")


def _files_of(located: Located) -> Iterator[Path]:
    for paths in (*located.known.values(), *located.unknown.values()):
        yield from paths
    yield from located.followed


def _joins(manifest: Path, look: Look, segment_bytes: int) -> Iterator[_Join]:
    """Yield what follows one another in a run and in files of one name, up to a size; also what stays alone."""
    folder, files = manifest.parent, look.index.files
    moved = {folder / parse(Path(entry.file)).active for entries in look.index.moved for entry in entries}
    streams: dict[tuple[str, Path], list[Segment]] = {}
    for segment in look.segments:
        streams.setdefault((segment.run_id, segment.active), []).append(segment)
    for (_, active), segments in streams.items():
        join = _Join()
        for segment in sorted(segments, key=lambda one: one.first_seq):
            name = plain_path(segment.path).relative_to(folder).as_posix()
            # Whatever shares a file with others, or has no name of its own, stays where it is.
            is_apart = segment.held is not None or len(files.get(name, [])) != 1 or active in moved
            if join.segments and (is_apart or join.size_bytes + segment.size_bytes > segment_bytes):
                yield join
                join = _Join()
            if not is_apart:
                join.segments.append(segment)
                join.size_bytes += segment.size_bytes
        if join.segments:
            yield join


def _verify(folder: Path) -> None:
    """Raise `ArchiveError` where what was made is not whole."""
    report = verify([folder])
    problems = [*report.problems, *(problem for file in report.every_file for problem in file.problems)]
    if not report.ok:
        raise ArchiveError(f"what was made is not whole: {problems[0]}; nothing of it was left behind")


def _tell(progress: Progress | None, done: int, total: int) -> None:
    if progress is not None:
        progress(done, total)
