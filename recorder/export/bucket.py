"""A tree in a bucket: each file is put whole and proven, and an object for each segment says that its files are there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, unquote

import msgspec

from recorder.archive.record import UNREADABLE
from recorder.archive.recorded_segment import Segment
from recorder.errors import DestinationRefused
from recorder.export.layout import HIVE
from recorder.export.ledger import VERSION, Key, LedgerFile
from recorder.export.spans import Span, not_there
from recorder.export.tree import Written, file_name, other_channels
from recorder.objects.store import BLOCK_BYTES, Blocks, ObjectStore
from recorder.tables.scratch import scratch_folder

_OURS: Final = "_export/"
_HEAD: Final = f"{_OURS}export.json"
_GONE: Final = f"{_OURS}gone.json"
_SEGMENTS: Final = f"{_OURS}segments/"


class BucketTree:
    """No object is ever partial: it gets its name once it is complete. Two exports of one archive put the same objects."""

    def __init__(self, url: str) -> None:
        """Raise `ConfigError` where the URL cannot be used, and `PackageMissing` without obstore."""
        from recorder.settings.load import store_environ

        self.layout = HIVE
        self.unfinished = Path()
        self._store = ObjectStore(url, store_environ())
        self._exit = ExitStack()
        self._done: dict[Key, set[str]] = {}
        self._gone: set[Key] = set()
        self._notes: dict[str, dict[str, tuple[int, int]]] = {}
        """By run and name, the numbers of the first and the last record of the segment that is noted."""

    def __enter__(self) -> BucketTree:
        """Look at what is there. Raise `DestinationRefused` where that is no export, and `StoreError`."""
        names = {found.name for found in self._store.list(_OURS)}
        if _HEAD not in names:
            strange = next((found.name for found in self._store.list()), None)
            if strange is not None:
                raise DestinationRefused(
                    f"{self.place} has {strange} and no {_HEAD}: it is not an export; name an empty prefix"
                )
            self._store.put(_HEAD, msgspec.json.encode({"version": VERSION, "layout": self.layout.name}))
        elif self._read(_HEAD) != {"version": VERSION, "layout": self.layout.name}:
            raise DestinationRefused(f"{self.place} was not written by this version; name another prefix")
        if _GONE in names:
            self._gone = {(run_id, first_seq, sha256) for run_id, first_seq, sha256 in self._read(_GONE)}
        for name in names:
            if name.startswith(_SEGMENTS):
                types, _, segment = name.removeprefix(_SEGMENTS).partition("/")
                run_id, first_seq, last_seq, sha256 = segment.removesuffix(".json").rsplit("-", 3)
                key = unquote(run_id), int(first_seq), sha256
                self._done.setdefault(key, set()).update(types.split("."))
                self._notes.setdefault(key[0], {})[name] = int(first_seq), int(last_seq)
        self.unfinished = self._exit.enter_context(scratch_folder("recorder-export-"))
        return self

    def __exit__(self, *_: object) -> None:
        self._exit.close()

    @property
    def place(self) -> str:
        """The URL."""
        return self._store.url

    @property
    def is_new(self) -> bool:
        """Whether nothing was ever exported to it."""
        return not self._done and not self._gone

    def done(self, run_id: str, first_seq: int, sha256: str) -> set[str]:
        """Return the types of a segment that are in the tree."""
        return self._done.get((run_id, first_seq, sha256), set())

    def was_gone(self, run_id: str, first_seq: int, sha256: str) -> bool:
        """Return whether retention had deleted a segment before the first export."""
        return (run_id, first_seq, sha256) in self._gone

    def add_gone(self, keys: list[Key]) -> None:
        """Note which segments retention had deleted before the first export. Raise `StoreError`."""
        self._store.put(_GONE, msgspec.json.encode(keys))
        self._gone.update(keys)

    def publish(self, segment: Segment, written: list[Written]) -> list[LedgerFile]:
        """Put the files of a segment, then the object that notes them. Raise `StoreError`.

        A file of the same name was left by an export that ended before the note; it is replaced.
        """
        types = sorted({one.partition.type for one in written})
        written, _ = not_there(segment, written, self._spans(segment, types), self.place)
        files = []
        for one in written:
            file = f"{one.partition.folder}/{file_name(segment)}"
            self._store.put_content(file, _reader(one.temporary), one.size_bytes, replaces=True)
            one.temporary.unlink()
            files.append(LedgerFile(file, one.rows, one.size_bytes))
        numbers = f"{segment.first_seq:012d}-{segment.last_seq:012d}"
        note = (
            f"{_SEGMENTS}{'.'.join(types)}/{quote(segment.run_id, safe='')}-{numbers}-{segment.sha256}.json"
        )
        content = {"files": files, "channels": other_channels(segment.counts)}
        self._store.put(note, msgspec.json.encode(content))
        self._done.setdefault((segment.run_id, segment.first_seq, segment.sha256), set()).update(types)
        self._notes.setdefault(segment.run_id, {})[note] = segment.first_seq, segment.last_seq
        return files

    def _spans(self, segment: Segment, types: list[str]) -> list[Span]:
        """Return what the tree has of segments of the same run and of these types that overlap. Raise `StoreError`."""
        spans = []
        for name, (first_seq, last_seq) in self._notes.get(segment.run_id, {}).items():
            is_of_types = not set(types).isdisjoint(name.split("/")[-2].split("."))
            if is_of_types and first_seq <= segment.last_seq and segment.first_seq <= last_seq:
                noted = self._read(name)
                files = {file["file"]: file["rows"] for file in noted["files"]}
                spans.append(Span(first_seq, last_seq, files, frozenset(noted["channels"])))
        return spans

    def _read(self, name: str) -> Any:
        try:
            return msgspec.json.decode(self._store.read(name))
        except UNREADABLE as error:
            raise DestinationRefused(
                f"{self._store.url_of(name)} is not part of an export: {error}"
            ) from error


def _reader(path: Path) -> Blocks:
    def blocks() -> Iterator[bytes]:
        with path.open("rb") as file:
            yield from iter(lambda: file.read(BLOCK_BYTES), b"")

    return blocks
