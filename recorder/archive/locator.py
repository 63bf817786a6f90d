"""Finds the files of an archive under verification: in their place, under another name, or nowhere."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from recorder.archive.check import holds_segments
from recorder.archive.codec import codec_of, plain_path
from recorder.archive.disk import Disk
from recorder.archive.layout import (
    MANIFEST_ENDING,
    TMP_SUFFIX,
    active_name,
    active_pattern,
    holds_records,
    kind_of,
    parse,
)
from recorder.archive.manifest_index import Entry, ManifestIndex, begins_with, still_there
from recorder.archive.place import HERE, Place
from recorder.archive.policy import FileNames


@dataclass(slots=True)
class Located:
    """Where the segments of an archive were found."""

    known: dict[str, list[Path]] = field(default_factory=dict)
    """Files that the manifest knows, by their plain name."""
    unknown: dict[str, list[Path]] = field(default_factory=dict)
    """Files of the archive that the manifest does not know, by their plain name."""
    followed: dict[Path, list[Entry]] = field(default_factory=dict)
    """Segments in a file that another program moved, by the name that the file has now."""
    moved_away: list[list[Entry]] = field(default_factory=list)
    """Segments of a file that was moved, and that is not in the archive's folder any more."""
    missing: list[tuple[str, list[Entry]]] = field(default_factory=list)
    """Files that are not where the manifest says, and their segments."""
    not_copied: list[tuple[str, list[Entry]]] = field(default_factory=list)
    """Of a copy: files that nobody has put there yet, and their segments."""
    newer: list[Path] = field(default_factory=list)
    """Of a copy: files of which its manifest does not know yet."""


class FileLocator:
    """Finds the files that a manifest speaks of, and those that have the archive's name.

    `locate` follows files of a stopped archive: one that logrotate moved, and one that a killed run had renamed without
    noting it. `locate_sealed` is for an archive whose recorder is at work: it follows nothing that may change again;
    `locate_live` does, for those who have the files open. `locate_copied` is for a copy elsewhere, where nothing moves.
    """

    def __init__(
        self, manifest: Path, index: ManifestIndex, files: list[Path] | None = None, place: Place = HERE
    ) -> None:
        """List the files of a place, unless somebody has. Raise `ArchiveError`."""
        self._manifest = manifest
        self._folder = manifest.parent
        self._index = index
        self._place = place
        names = _names_of_last(index, self._folder)
        self._pattern = active_pattern(names) if names is not None else None
        self._deep = any("/" in name for name in index.files) or (
            names is not None and Path(names.template).parent != names.folder
        )
        self.files: Final = self.list_again() if files is None else files
        self._actives = {self._folder / name for name in set(map(active_name, index.files))}
        self._other_archives = {
            path.name.removesuffix(MANIFEST_ENDING)
            for path in self.files
            if path.name.endswith(MANIFEST_ENDING) and path != manifest
        }
        self._strays_found: dict[tuple[Path, str], list[tuple[Path, int | None]]] = {}
        self._located = Located()

    def list_again(self) -> list[Path]:
        """Return the files that are there now. Raise `ArchiveError`."""
        files = self._place.list_files(self._folder, deep=self._deep)
        return [path for path in files if not path.name.endswith(TMP_SUFFIX)]

    def name(self, path: Path) -> str:
        """Return the name by which the manifest knows a file, compressed or not."""
        plain = plain_path(path)
        return plain.name if path.parent == self._folder else plain.relative_to(self._folder).as_posix()

    def active(self, name: str) -> Path:
        """Return the active file that a file is or was, by its name in the manifest."""
        return self._folder / active_name(name)

    def owns(self, path: Path) -> bool:
        """Return whether a file belongs to the archive, by its name."""
        file = parse(path)
        if not holds_records(path) and not (kind_of(path) != "records" and file.plain.suffix == ".ndjson"):
            return False
        if self._pattern is not None and self._pattern.fullmatch(str(file.active)):
            return True
        stem = self._manifest.name.removesuffix(MANIFEST_ENDING)
        return file.active in self._actives or (
            path.parent == self._folder
            and file.active.stem not in self._other_archives
            and f"{file.active.stem}.".startswith(f"{stem}.")
        )

    def locate(self, *, is_unfinished: bool) -> Located:
        """Find every file of an archive that nobody writes to; `is_unfinished` says that its last run was killed.

        Raise `ArchiveError` or `OSError` where a file cannot be read.
        """
        located, files = self._located, self._index.files
        for path in self.files:
            # The deletion failed, or a kill came first. Until the next start the file is part of the archive.
            self._index.undo_deletion(self.name(path))
        self._sort_out(self.files)
        if is_unfinished:
            self._follow_renamed()
        self._follow_replaced(files.keys())
        for entries in self._index.moved:
            self._follow(entries)
        for name, entries in files.items():
            if name in located.known or name in located.unknown or not any(entry.bytes for entry in entries):
                continue
            if parse(Path(name)).rotated:
                located.missing.append((name, entries))
            else:
                self._follow(entries, certain=is_unfinished or entries[-1].reason == "reopen")
        return located

    def locate_sealed(self) -> Located:
        """Find what is sealed, and the active files, of an archive whose recorder is at work.

        A file that was rotated since the manifest was read belongs to neither; it is left alone.
        """
        files = self._index.files
        self._sort_out(path for path in self.files if not parse(path).rotated or self.name(path) in files)
        return self._locate_moving()

    def locate_live(self) -> Located:
        """Find the same, and files that were rotated and are not in the manifest yet. Raise `ArchiveError` or `OSError`."""
        lost = {self.name(self._folder / entry.file) for entry in self._index.damaged if entry.file}
        gone = self._index.doomed.keys() | lost
        self._sort_out(path for path in self.files if not gone or self.name(path) not in gone)
        self._follow_renamed()
        self._follow_replaced(
            {name for name, entries in self._index.files.items() if entries[-1].reason == "reopen"}
        )
        return self._locate_moving()

    def _locate_moving(self) -> Located:
        located, files = self._located, self._index.files
        for name, entries in files.items():
            if active_name(name) != name:
                # A file that is compressed at this moment may have been listed under neither of its names.
                located.known.setdefault(name, [self._folder / name])
            elif name not in located.known:
                self._follow(entries)
        for entries in self._index.moved:
            self._follow(entries)
        return located

    def locate_copied(self) -> Located:
        """Find what was put to another place. What is on record as put there has to be there.

        Retention deletes files where the recorder is, and none of the copies.
        """
        located, index = self._located, self._index
        for name in [*index.uploaded, *map(self.name, self.files)]:
            index.undo_deletion(name)
        self._sort_out(self.files)
        for paths in located.unknown.values():
            located.newer += paths
        located.unknown.clear()
        for name, entries in index.files.items():
            if name not in located.known and any(entry.bytes for entry in entries):
                place = located.missing if name in index.uploaded else located.not_copied
                place.append((name, entries))
        located.moved_away += index.moved
        return located

    def _sort_out(self, paths: Iterable[Path]) -> None:
        for path in paths:
            name = self.name(path)
            if name in self._index.files:
                self._located.known.setdefault(name, []).append(path)
            elif self.owns(path):
                self._located.unknown.setdefault(name, []).append(path)

    def _follow_renamed(self) -> None:
        """Let segments go with a file that rotation renamed, where a kill came before the manifest's line on that."""
        known, unknown, files = self._located.known, self._located.unknown, self._index.files
        for name, paths in list(unknown.items()):
            file = parse(paths[0])
            entries = files.get(file.active.relative_to(self._folder).as_posix(), [])
            if (
                file.rotated
                and entries
                and still_there(entries, file.path, file.path.stat().st_size, HERE.open)
            ):
                was = entries[-1].file
                files[name] = files.pop(was)
                known[name] = unknown.pop(name)
                if was in known:
                    unknown[was] = known.pop(was)

    def _follow_replaced(self, names: Collection[str]) -> None:
        """Look for the segments of files in whose place another one stands."""
        located = self._located
        for name in sorted(located.known.keys() & names):
            entries = self._index.files[name]
            if self._was_replaced(located.known[name][0], entries):
                located.unknown[name] = located.known.pop(name)
                self._follow(entries)

    def _was_replaced(self, path: Path, entries: list[Entry]) -> bool:
        """Return whether another file stands under the name of an active one, after which nothing was noted."""
        if parse(path).rotated or begins_with(entries[0], path, HERE.open):
            return False
        size = path.stat().st_size
        if still_there(entries, path, size, HERE.open):
            return False
        return bool(size) or entries[-1].reason == "reopen" or self._find_moved(entries) is not None

    def _follow(self, entries: list[Entry], *, certain: bool = True) -> None:
        """Look for the file that has these segments now; `certain` says that it was moved, not lost."""
        entries = [entry for entry in entries if entry.bytes]
        if not entries:
            return
        path = self._find_moved(entries)
        if path is not None:
            self._located.followed[path] = entries
            for paths in self._located.unknown.values():
                if path in paths:
                    paths.remove(path)
        elif certain:
            self._located.moved_away.append(entries)
        else:
            self._located.missing.append((entries[-1].file, entries))

    def _find_moved(self, entries: list[Entry]) -> Path | None:
        """Return the file that has exactly these segments, of those beside theirs that the manifest does not know."""
        entries = [entry for entry in entries if entry.bytes]
        name = Path(entries[-1].file)
        for path, size in self._strays(name.parent, name.stem):
            if (size is None or size == entries[-1].end) and holds_segments(path, entries):
                return path
        return None

    def _strays(self, folder: Path, stem: str) -> list[tuple[Path, int | None]]:
        """Return the files that the manifest does not know and whose names begin so, each with its size if it is plain.

        They are found once: after years of logrotate an archive has many, and as many segments to look for in them.
        """
        found = self._strays_found.get((folder, stem))
        if found is None:
            disk = Disk()
            known = {path for paths in self._located.known.values() for path in paths}
            found = self._strays_found[folder, stem] = []
            for path in self.files:
                state = disk.stat(path)
                if (
                    state is not None
                    and path.name.startswith(stem)
                    and path.parent == self._folder / folder
                    and path not in known
                ):
                    found.append((path, state.st_size if codec_of(path) == "none" else None))
        return found


def _names_of_last(index: ManifestIndex, folder: Path) -> FileNames | None:
    """Return what the files of a run are called that has not ended, where its settings tell more than the manifest's name.

    Of a run that has ended, all files are in the manifest.
    """
    run = index.last_run
    if run is None or run.ended or not isinstance(run.settings, Mapping):
        return None
    dest, is_split = run.settings.get("NDJSON_DEST"), bool(run.settings.get("NDJSON_SPLIT_PER_TYPE"))
    if not isinstance(dest, str) or "{" not in dest:
        return None
    # The folder may have another name by now, or be seen from elsewhere.
    there = FileNames(dest, is_split)
    return FileNames(str(folder / Path(there.template).relative_to(there.folder)), is_split)
