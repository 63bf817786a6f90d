"""Finishes at start what a crash left: torn lines, segments without entry, temporary and doubled files."""

from __future__ import annotations

import hashlib
from pathlib import Path

from recorder.archive.codec import compressed_path
from recorder.archive.compression import OnDisk
from recorder.archive.compressor import Compressor
from recorder.archive.context import ArchiveContext
from recorder.archive.entries import SIDE_CLOSED, entry_of, segment_fields, side_fields
from recorder.archive.layout import ArchiveFile, find_files, parse
from recorder.archive.manifest_index import (
    UNKNOWN_RUN,
    Entry,
    ManifestIndex,
    begins_with,
    first_record,
    still_there,
)
from recorder.archive.reader import Content, read_blocks
from recorder.archive.record import Summary
from recorder.archive.repair import Repair
from recorder.archive.scan import Line, Scan, blocks_of, holds_segment, is_foreign, read_lines, scan_lines
from recorder.errors import ArchiveConfigError, ArchiveError
from recorder.log import get_logger

log = get_logger("polygon_archive")


class Recovery:
    """Repairs an archive before a run begins to write, and logs and records what it did.

    After `run`, every file ends with a whole line, and every record in it is covered by the manifest. What is cut off
    stands in the reject file.
    """

    def __init__(self, context: ArchiveContext, index: ManifestIndex) -> None:
        """`index` is what the manifest says; recovery adds to it what it adds to the manifest."""
        self._context = context
        self._names = context.names
        self._index = index
        self._manifest = context.manifest
        self._doubt = context.doubt
        self._disk = context.disk
        self._stats = context.stats
        self._repair = Repair(context)
        self._last_seqs: dict[tuple[str, Path], int] | None = None
        """By run and active file, the last number that is on record. Made when it is first needed."""
        self.active: list[Path] = []
        """Active files that exist."""
        self.plain: list[tuple[Path, str]] = []
        """Sealed files of records that are not compressed, with the checksum if the manifest has one for the whole."""
        self.stamps: dict[Path, str] = {}
        """The newest stamp among the sealed files of each active one."""

    def run(self, torn_manifest: bytes = b"") -> None:
        """Repair. Raise `OSError`, `ArchiveError` and, for a file that holds something else, `ArchiveConfigError`.

        A kill in the middle of it leaves work for the next start, and no less than there was: each step is done whole or
        not at all, and is told by what the files and the manifest look like, never by what an earlier start remembered.
        """
        if torn_manifest:
            torn = Line(torn_manifest, len(torn_manifest), has_end=False)
            self._repair.keep(torn, "torn manifest line after a crash", self._names.manifest)
        self._rename_again()
        # Rotated files come first. One that was renamed before its line in the manifest takes along the segments that
        # the manifest has under the active file's name; what stands under that name now is another file.
        files = sorted(find_files(self._names, self._disk), key=lambda file: not file.rotated)
        for file in files:
            if file.temporary:
                # Half of something whose other form is still there: a compression, a rewriting.
                self._disk.unlink(file.path)
                self._stats.recovered += 1
                log.warning("archive_temporary_file_deleted", path=str(file.path))
        files = [file for file in files if not file.temporary and not self._finish_deletion(file)]
        for file in files:
            self.stamps[file.active] = max(file.stamp, self.stamps.get(file.active, ""))
        # Before a plain file is repaired: a power loss may have damaged it, while its compressed form is whole.
        for file in files:
            if file.rotated and file.codec != "none" and self._disk.stat(file.plain):
                self._finish_compression(file)
        for file in files:
            if file.active in self._names.sides:
                if not file.rotated:
                    self._repair_side(file.path)
            elif file.codec == "none":
                self._repair_file(file)
            elif (
                not self._disk.stat(file.plain) and self._names.relative(file.plain) not in self._index.files
            ):
                self._take_over(file)
        # The reject file comes last, since every repair above may have added to it. It may not have existed before.
        for file in find_files(self._names, self._disk):
            if file.active in self._names.sides and not file.temporary:
                self._cover_side(file)
        for file in files:
            if file.active in self._names.sides or file.codec != "none" or not self._disk.stat(file.path):
                continue
            if file.rotated:
                segments = self._index.files.get(self._names.relative(file.path), [])
                self.plain.append((file.path, segments[0].sha256 if len(segments) == 1 else ""))
            else:
                self.active.append(file.path)

    def _rename_again(self) -> None:
        """Rename an active file to what the manifest calls it, where a power loss has taken its renaming back."""
        files = find_files(self._names, self._disk)
        present = {file.plain for file in files if not file.temporary}
        for name, segments in self._index.files.items():
            path = self._names.folder / name
            active = parse(path).active
            if path in present or active not in present:
                continue
            state = self._disk.stat(active)
            if state is None or not state.st_size or state.st_size != segments[-1].end:
                continue
            if still_there(segments, active, state.st_size, self._disk.open_read):
                self._disk.rename(active, path)
                self._disk.sync_folder(path.parent)
                present.remove(active)
                self._stats.recovered += 1
                log.warning("archive_file_renamed_again", path=str(path))

    def _on_record(self, file: ArchiveFile) -> tuple[str, str, list[Entry]]:
        """Return a file's name, the name that it had where its rotation was not noted, and its segments."""
        name = self._names.relative(file.path)
        segments = self._index.files.get(name)
        if segments is not None or not file.rotated:
            return name, "", segments or []
        # The manifest does not know the rotated name: the kill came between the renaming and the line about it. Unless
        # the active file still is the one that the manifest means. Then this one belongs to lines that are lost.
        was = self._names.relative(file.active)
        segments = self._index.files.get(was, [])
        active = self._disk.stat(file.active)
        if segments and active and still_there(segments, file.active, active.st_size, self._disk.open_read):
            return name, "", []
        return name, was, segments

    def _repair_file(self, file: ArchiveFile) -> None:
        """Bring a plain file and the manifest together. Segments never overlap, so what is missing stands at the end."""
        state = self._disk.stat(file.path)
        if state is None:
            return
        name, was, segments = self._on_record(file)
        end = segments[-1].end if segments else 0
        if end == state.st_size and not was and self._is_certain(file, segments):
            return
        if not state.st_size and file.rotated and not segments:
            self._delete_empty(file.path)
            return
        run_id = ""
        if segments and not still_there(segments, file.path, state.st_size, self._disk.open_read):
            # Either the file has lost what the manifest vouches for, or it is another file with the same name. A record
            # is written once, so the first one tells. A sealed file has no namesake, but for one case: the active file
            # was moved away, another took its name, and that one has been rotated since.
            end = 0
            is_other = bool(was) and first_record(file.path, self._disk.open_read) is not None
            if (file.rotated and not is_other) or begins_with(segments[0], file.path, self._disk.open_read):
                run_id, was = segments[0].run_id, ""
                self._record_damage(file.path, segments, state.st_size)
        if not end and is_foreign(file.path, self._disk):
            if self._is_ours_to_write(file):
                raise ArchiveConfigError(
                    f"{file.path} holds something else than records of this program; set NDJSON_DEST to another file"
                )
            log.warning("archive_foreign_file", path=str(file.path))
            return
        scan = scan_lines(file.path, end, self._disk)
        if scan.damaged:
            # A kill tears only the last line. Damage before it is the work of a power loss, which writes pages back in
            # any order: zeros, or half a line, may stand between good ones.
            self._repair.rewrite(file.path, end)
        elif scan.torn:
            self._repair.cut(file.path, state.st_size, scan.torn)
        if file.rotated and not end and not scan.segments:
            self._delete_empty(file.path)
            return
        self._cover(file.path, name, was, end, scan, run_id)

    def _is_certain(self, file: ArchiveFile, segments: list[Entry]) -> bool:
        """Return whether a file of the right size is the right file, and need not be read.

        Where the last run was killed, logrotate may have put another file under the name of an active one. Where an
        fsync failed, a power loss can have left zeros in a file that has its size.
        """
        was_killed = self._index.unfinished_run() != UNKNOWN_RUN
        return all(segment.durable for segment in segments) and (file.rotated or not was_killed)

    def _delete_empty(self, path: Path) -> None:
        """Delete a sealed file without a record, as a power loss leaves it: readers expect records in sealed files."""
        self._disk.unlink(path)
        self._disk.sync_folder(path.parent)
        self._stats.recovered += 1
        log.warning("archive_empty_file_deleted", path=str(path))

    def _writer_of(self, name: str, summary: Summary) -> str:
        """Return the run that wrote some records: the one that was killed, unless it had written later numbers before."""
        run_id, active = self._index.unfinished_run(), parse(Path(name)).active
        if self._last_seqs is None:
            self._last_seqs = {}
            for of_file in self._index.files.values():
                for entry in of_file:
                    self._add_last_seq(entry.run_id, entry.file, entry.last_seq)
        if summary.records and summary.first_seq <= self._last_seqs.get((run_id, active), 0):
            # A run counts upwards in each file. So these are of a later one, whose lines in the manifest are lost.
            run_id = UNKNOWN_RUN
        self._add_last_seq(run_id, name, summary.last_seq)
        return run_id

    def _add_last_seq(self, run_id: str, name: str, last_seq: int) -> None:
        assert self._last_seqs is not None
        key = (run_id, parse(Path(name)).active)
        self._last_seqs[key] = max(last_seq, self._last_seqs.get(key, 0))

    def _record_damage(self, path: Path, segments: list[Entry], size: int) -> None:
        """Put on record that a file has lost what the manifest says of it; what is left gets new lines."""
        name = segments[-1].file
        expected = segments[-1].end
        log.error("archive_file_damaged", path=str(path), bytes=size, bytes_expected=expected)
        self._manifest.append("segment_damaged", file=name, bytes=size, bytes_expected=expected)
        # Its old lines would accuse the repaired file for ever. The line above does so once, for good.
        del self._index.files[name]

    def _cover(self, path: Path, name: str, was: str, offset: int, scan: Scan, run_id: str = "") -> None:
        """Add lines for what the manifest does not know yet; `run_id` wrote it, or else the run that must have."""
        if not scan.segments and was:
            # Nothing but the new name is missing. A segment without records says it.
            scan.segments.append((Summary(), hashlib.sha256().hexdigest()))
        if scan.segments:
            self._make_durable(path)
        # A compressed file was made durable before it got its name.
        durable = not self._doubt.inherited or parse(path).codec != "none"
        for summary, sha256 in scan.segments:
            writer = run_id or self._writer_of(name, summary)
            fields = segment_fields(name, summary, sha256, "recovered", offset, was, durable=durable)
            self._manifest.append(
                "segment_closed", run_id=writer, **fields, recovered_by=self._context.run_id
            )
            self._index.add(entry_of(writer, fields))
            self._stats.rotations["recovered"] += 1
            offset += summary.bytes
            was = ""
        if scan.segments:
            self._stats.recovered += 1
            log.warning(
                "archive_segment_recovered", path=str(path), records=sum(s.records for s, _ in scan.segments)
            )

    def _make_durable(self, path: Path) -> None:
        """Make a file durable, name included, before the manifest vouches for it.

        It was read from the page cache. Without this, a power loss could take what the manifest then still promises.
        """
        fd = self._disk.open_append(path)
        try:
            with self._doubt.syncing(path):
                self._disk.sync(fd)
        finally:
            self._disk.close(fd)
        self._disk.sync_folder(path.parent)

    def _finish_deletion(self, file: ArchiveFile) -> bool:
        """Delete a file that retention was about to delete; return whether this is one."""
        name = self._names.relative(file.plain)
        first = next((entry for entry in self._index.doomed.get(name, []) if entry.records), None)
        if first is None or name in self._index.files:
            return False
        if not begins_with(first, file.path, self._disk.open_read):
            return False  # another file has the name by now
        self._disk.unlink(file.path)
        self._stats.recovered += 1
        log.warning("archive_deletion_finished", path=str(file.path))
        return True

    def _repair_side(self, path: Path) -> None:
        state = self._disk.stat(path)
        torn = None
        for line in read_lines(blocks_of(path, self._disk)):
            torn = None if line.has_end else line
        if state and torn:
            self._repair.cut(path, state.st_size, torn)

    def _cover_side(self, file: ArchiveFile) -> None:
        """Add a line for what the manifest does not know of a file of rejects or positions."""
        state = self._disk.stat(file.path)
        if state is None:
            return
        name, was, segments = self._on_record(file)
        end = segments[-1].end if segments else 0
        if state.st_size <= end and not was:
            return
        if not segments or not still_there(segments, file.path, state.st_size, self._disk.open_read):
            end, was = 0, ""
        content, count = Content(), 0
        for block in blocks_of(file.path, self._disk, end):
            content.add(block)
            count += block.count(b"\n")
        summary = Summary(records=count, bytes=content.bytes)
        self._make_durable(file.path)
        durable = not self._doubt.inherited
        fields = side_fields(name, summary, content.sha256, "recovered", end, was, durable=durable)
        run_id = self._index.unfinished_run()
        kind = SIDE_CLOSED["rejects" if file.active == self._names.rejects else "positions"]
        self._manifest.append(kind, run_id=run_id, **fields, recovered_by=self._context.run_id)
        self._index.add(entry_of(run_id, fields, kind=kind))

    def _finish_compression(self, file: ArchiveFile) -> None:
        """Of a sealed file and its compressed form, keep the compressed one if it is right, else the plain one.

        It is right if it holds what the manifest has of the file, whatever the plain one holds by now; or else if it
        holds the same as the plain one.
        """
        plain = file.plain
        segments = self._index.files.get(self._names.relative(plain), [])
        compressed, on_disk, expected = Content(), Content(), Content()
        for block in read_blocks(plain, self._disk.open_read):
            expected.add(block)
        try:
            for block in read_blocks(file.path, self._disk.open_read, on_read=on_disk.add):
                compressed.add(block)
            whole = (compressed.bytes, compressed.sha256) == (expected.bytes, expected.sha256) or (
                bool(segments)
                and compressed.bytes == segments[-1].end
                and all(holds_segment(segment, file.path, self._disk) for segment in segments)
            )
        except ArchiveError as error:
            log.warning("archive_compressed_file_damaged", path=str(file.path), reason=str(error))
            whole = False
        if not whole:
            self._disk.unlink(file.path)
            self._stats.recovered += 1
            log.warning("archive_compressed_file_deleted", path=str(file.path))
            return
        finisher = Compressor(file.codec, self._context)
        entry = self._index.compressed.get(self._names.relative(plain))
        noted = entry is not None and (entry.codec, entry.sha256) == (file.codec, on_disk.sha256)
        target = compressed_path(plain, file.codec)
        finisher.finish(plain, target, OnDisk(on_disk.bytes, on_disk.sha256), noted=noted)
        self._stats.recovered += 1
        log.warning("archive_compression_finished", path=str(file.path))

    def _take_over(self, file: ArchiveFile) -> None:
        """Put a compressed file on record whose lines in the manifest are lost. The file is not altered."""
        name, was = self._names.relative(file.plain), self._names.relative(file.active)
        segments = self._index.files.get(was, [])
        try:
            if not segments or not holds_segment(segments[-1], file.path, self._disk):
                segments, was = [], ""
            end = segments[-1].end if segments else 0
            scan = scan_lines(file.path, end, self._disk)
        except ArchiveError as error:
            log.error("archive_compressed_file_damaged", path=str(file.path), reason=str(error))
            return
        if scan.damaged or scan.torn:
            log.error(
                "archive_compressed_file_damaged", path=str(file.path), reason="lines that are no records"
            )
            return
        on_disk = Content()
        for block in read_blocks(file.path, self._disk.open_read, codec="none"):
            on_disk.add(block)
        self._cover(file.path, name, was, end, scan)
        self._manifest.append(
            "segment_compressed", file=name, codec=file.codec, bytes=on_disk.bytes, sha256=on_disk.sha256
        )

    def _is_ours_to_write(self, file: ArchiveFile) -> bool:
        return not file.rotated and str(file.path) == str(Path(self._names.template))
