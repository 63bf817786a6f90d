"""Where the files of an archive under verification stand: in their place, under another name, or nowhere."""

from __future__ import annotations

import os
from pathlib import Path

from recorder.archive.catalogue import Catalogue, Entry, begins_with, still_there
from recorder.archive.check import Task, holds_segments
from recorder.archive.codec import codec_of, plain_path
from recorder.archive.disk import Disk, identity
from recorder.archive.layout import MANIFEST_ENDING, holds_records, is_rejects, parse
from recorder.archive.reader import open_file
from recorder.errors import ArchiveError


class Whereabouts:
    """Finds the files that a manifest speaks of, and those that bear the archive's name.

    In an archive without end, segments go along with a file whose renaming was not noted; in any archive, with one
    that another program moved.
    """

    def __init__(
        self, manifest: Path, catalogue: Catalogue, before: list[Path], *, is_unfinished: bool
    ) -> None:
        """`before` are the files that were there before the manifest was read.

        Raises `ArchiveError` or `OSError` where files cannot be looked at.
        """
        self.known: dict[str, list[Path]] = {}
        """Files that the manifest knows, by their plain name."""
        self.others: dict[str, list[Path]] = {}
        """Files of the archive that the manifest does not know, by their plain name."""
        self.followed: dict[Path, list[Entry]] = {}
        """Segments that left with a file that another program moved, by the name that it has now."""
        self.moved_away: list[list[Entry]] = []
        """Segments of files that another program moved, and that are not here any more."""
        self.missing: list[tuple[str, list[Entry]]] = []
        """Files that are not where the manifest says, and their segments."""
        self.states: dict[Path, os.stat_result] = {}
        """What was seen of each file when it was found."""
        self._manifest = manifest
        self._folder = manifest.parent
        self._catalogue = catalogue
        self._is_unfinished = is_unfinished
        self._strays_found: dict[tuple[Path, str], list[tuple[Path, int | None]]] = {}
        self._find_files(before)
        self._names = {self.name(path) for path in self._found}
        if is_unfinished:
            self._follow_renamed()
        self._follow_moved()

    def name(self, path: Path) -> str:
        """Give the name by which the manifest knows a file, compressed or not."""
        return plain_path(path).relative_to(self._folder).as_posix()

    def owns(self, path: Path) -> bool:
        """Tell by its name whether a file belongs to the archive."""
        file = parse(path)
        if not holds_records(path) and not (is_rejects(path) and file.plain.suffix == ".ndjson"):
            return False
        stem = self._manifest.name.removesuffix(MANIFEST_ENDING)
        return file.active in self._active or (
            path.parent == self._folder
            and file.active.stem not in self._strangers
            and f"{file.active.stem}.".startswith(f"{stem}.")
        )

    def find_renamed(self, task: Task) -> Path | None:
        """Find an active file under the name that it was rotated to.

        Sealed files keep their names but for the codec, and are not looked for in this way: what they leave when they are
        deleted, their inode, may be another file's by now.
        """
        own = parse(task.path)
        if task.identity is None or own.rotated:
            return None
        disk = Disk()
        for path in list_files(self._folder, deep=True):
            is_new = path == task.path or self.name(path) not in self._names
            if is_new and parse(path).active == own.active and identity(disk.stat(path)) == task.identity:
                return path
        return None

    def new_name(self, task: Task, now: Catalogue) -> str:
        """Give the name that a file has by now; of an active one, the first that its name was changed to."""
        name = self.name(task.path)
        if task.identity is None:
            return name
        closed = [entry for entries in now.files.values() for entry in entries] + now.deleted
        names = [entry.file for entry in closed if entry.was == name and entry.file not in self._names]
        return min(names, key=lambda text: parse(Path(text)).age_key, default=name)

    def _find_files(self, before: list[Path]) -> None:
        """Sort out the files there are; one that changed its name during one listing is found by the other."""
        disk, names = Disk(), self._catalogue.files
        deep = any("/" in name for name in names)
        by_identity: dict[tuple[int, int] | None, Path] = {}
        for path in [
            *(path for path in before if deep or path.parent == self._folder),
            *list_files(self._folder, deep=deep),
        ]:
            state = disk.stat(path)
            if state is not None:
                by_identity[identity(state)] = path
                self.states[path] = state
        self._found = sorted(by_identity.values())
        for path in self._found:
            # Its deletion failed, or was not reached; what it holds is part of the archive until the next start.
            self._catalogue.undo_deletion(self.name(path))
        self._active = {self._folder / parse(Path(name)).active for name in names}
        self._strangers = {
            path.name.removesuffix(MANIFEST_ENDING)
            for path in self._found
            if path.name.endswith(MANIFEST_ENDING) and path != self._manifest
        }
        for path in self._found:
            name = self.name(path)
            if parse(path).temporary:
                continue
            if name in names:
                self.known.setdefault(name, []).append(path)
            elif self.owns(path):
                self.others.setdefault(name, []).append(path)

    def _follow_renamed(self) -> None:
        """Let segments go with a file that was renamed by rotation, and whose rotation was not noted any more."""
        for name, paths in list(self.others.items()):
            file = parse(paths[0])
            entries = self._catalogue.files.get(file.active.relative_to(self._folder).as_posix(), [])
            if (
                file.rotated
                and entries
                and still_there(entries, file.path, file.path.stat().st_size, open_file)
            ):
                del self._catalogue.files[entries[-1].file]
                self._catalogue.files[name] = entries
                self.known[name] = self.others.pop(name)
                stale = self.known.pop(entries[-1].file, None)
                if stale:
                    self.others[entries[-1].file] = stale

    def _follow_moved(self) -> None:
        """Find the files that another program moved, and tell what is not here any more."""
        for name, paths in list(self.known.items()):
            entries = self._catalogue.files[name]
            if self._was_replaced(paths[0], entries):
                self.others[name] = self.known.pop(name)
                self._follow(entries)
        for entries in self._catalogue.moved:
            self._follow(entries)
        for name, entries in self._catalogue.files.items():
            if name in self.known or name in self.others or not any(entry.bytes for entry in entries):
                continue
            if parse(Path(name)).rotated:
                self.missing.append((name, entries))
            else:
                self._follow(entries, certain=self._is_unfinished or entries[-1].reason == "reopen")

    def _was_replaced(self, path: Path, entries: list[Entry]) -> bool:
        """Tell whether another file stands under the name of an active one, after which nothing was noted."""
        if parse(path).rotated or begins_with(entries[0], path, open_file):
            return False
        size = path.stat().st_size
        if still_there(entries, path, size, open_file):
            return False
        return bool(size) or entries[-1].reason == "reopen" or self._find_moved(entries) is not None

    def _follow(self, entries: list[Entry], *, certain: bool = True) -> None:
        """Look for the file that these segments are in by now; `certain` says that it was moved, not lost."""
        entries = [entry for entry in entries if entry.bytes]
        if not entries:
            return
        name = entries[-1].file
        path = self._find_moved(entries)
        if path is not None:
            self.followed[path] = entries
            for paths in self.others.values():
                if path in paths:
                    paths.remove(path)
        elif certain:
            self.moved_away.append(entries)
        else:
            self.missing.append((name, entries))

    def _find_moved(self, entries: list[Entry]) -> Path | None:
        """Look for these segments in the files beside theirs that the manifest does not know."""
        entries = [entry for entry in entries if entry.bytes]
        name = Path(entries[-1].file)
        for path, size in self._strays(name.parent, name.stem):
            if (size is None or size == entries[-1].end) and holds_segments(path, entries):
                return path
        return None

    def _strays(self, folder: Path, stem: str) -> list[tuple[Path, int | None]]:
        """Give the files that the manifest does not know and whose names begin so, each with its size if it is plain.

        Found once: an archive that logrotate has worked on for long has many, and has lost sight of as many.
        """
        found = self._strays_found.get((folder, stem))
        if found is None:
            known = {path for paths in self.known.values() for path in paths}
            found = self._strays_found[folder, stem] = [
                (path, path.stat().st_size if codec_of(path) == "none" else None)
                for path in self._found
                if path.name.startswith(stem) and path.parent == self._folder / folder and path not in known
            ]
        return found


def list_files(folder: Path, *, deep: bool) -> list[Path]:
    """Give the files in a folder, or also below it. Raises `ArchiveError`."""
    try:
        return sorted(Disk().list_files(folder, deep=deep))
    except OSError as error:
        raise ArchiveError(f"cannot read {folder}: {error.strerror or error}") from error
