"""Log events of the archive: files, manifest, repair, disk space, compression, retention."""

from __future__ import annotations

from typing import Final

from recorder.log_events.clickhouse import CLICKHOUSE
from recorder.log_events.event import Group, LogEvent
from recorder.log_events.export import EXPORT
from recorder.log_events.uploads import UPLOADS

_DISK: Final = "look at the disk (`dmesg`, `journalctl -k`): replace or repair it"
_OTHER_PROGRAM: Final = "find the program that touches the archive, and keep it away"
_VERIFY: Final = "run `recorder verify`, which names every file that is not as it was written"

_FILES: Final = (
    LogEvent(
        "archive_opened",
        "info",
        "the archive is open",
        "Repair is done, the lock is held, and records can be written.",
    ),
    LogEvent(
        "archive_segment_closed",
        "info",
        "a file is sealed",
        "A file of records is complete; `reason` says why. The manifest has its size, counts and checksum.",
    ),
    LogEvent(
        "archive_rejects_closed",
        "info",
        "a file of rejects is complete",
        "It holds what could not be read as an event.",
        "look into it: the exchange may have changed something",
    ),
    LogEvent(
        "archive_file_truncated",
        "error",
        "another program shortened a file that is being written; its records are lost",
        "The file is smaller than what was written, as after `copytruncate`. A new one takes what comes.",
        "rotate with the recorder's own settings, or as `logrotate/recorder` does",
    ),
    LogEvent(
        "archive_file_vanished",
        "warning",
        "another program moved or deleted the file; a new one of this name takes what comes",
        "The file is no longer under its name. What was moved keeps its records.",
        f"{_OTHER_PROGRAM}, unless it is logrotate",
    ),
    LogEvent(
        "archive_close_failed",
        "error",
        "a file could not be closed in order",
        "The system reported an error while the file was closed. Its last records may be lost to a power failure.",
        _DISK,
    ),
    LogEvent(
        "archive_fsync_failed",
        "error",
        "the disk did not confirm what was written; the file counts as not durable",
        "An fsync failed, and what it covered may be lost at a power failure. What follows goes into a new file.",
        f"{_DISK}; [runbook](operations.md#alert-recordernotdurable)",
    ),
    LogEvent(
        "archive_folder_fsync_failed",
        "error",
        "the disk did not confirm a file's name",
        "An fsync of a folder failed. The file may be missing from it after a power failure.",
        _DISK,
    ),
    LogEvent(
        "archive_line_left_torn",
        "warning",
        "half a line stays at the end of a file",
        "The disk refused to cut what a failed write had left there. Readers of that file meet half a line.",
        _DISK,
    ),
    LogEvent(
        "archive_not_written",
        "warning",
        "the archive cannot be written; records wait in memory",
        "A write failed with `reason`. It is tried again, and `pending_bytes` wait. Nothing is lost yet.",
        "see `reason`: make room, or repair the disk; [runbook](operations.md#alert-recorderwriteerrors)",
    ),
    LogEvent(
        "archive_written_again",
        "warning",
        "the archive is written again",
        "The failure `after` is over, and what waited is being written.",
    ),
    LogEvent(
        "archive_clock_set_back",
        "warning",
        "the machine's clock was set back while records came",
        "The times of records go back by `back_ms`; their numbers and their order do not. The manifest has a line about it, "
        "so that whoever asks for a time gets all of its records.",
        "see that the clock of the machine is kept by NTP, which does not set it back",
    ),
    LogEvent(
        "archive_records_dropped",
        "error",
        "records were given up: the archive did not take them",
        "`count` records are lost for `reason`. The manifest has a line about them.",
        "see `reason`: make room, or repair the disk",
    ),
)

_MANIFEST: Final = (
    LogEvent(
        "manifest_cut",
        "error",
        "the manifest is shorter than it was: lines at its end are missing",
        "A power failure or another program took lines that were known to be durable. The new manifest says so.",
        f"{_OTHER_PROGRAM}; {_VERIFY}",
    ),
    LogEvent(
        "manifest_damaged",
        "warning",
        "a line of the manifest cannot be read",
        "`problem` says what is wrong with `line`. The files that it was about are checked and noted again.",
        _VERIFY,
    ),
    LogEvent(
        "manifest_vanished",
        "warning",
        "another program moved or deleted the manifest; a new one takes what comes",
        "The manifest is no longer under its name.",
        _OTHER_PROGRAM,
    ),
    LogEvent(
        "manifest_renewed",
        "warning",
        "the manifest is written again",
        "After the failure `after`, the manifest was copied to a new file that is durable.",
    ),
    LogEvent(
        "manifest_not_written",
        "error",
        "the manifest cannot be written; its lines wait in memory",
        "A write failed with `reason`. It is tried again.",
        "see `reason`: make room, or repair the disk",
    ),
    LogEvent(
        "manifest_lines_lost",
        "error",
        "lines of the manifest are lost",
        "The stop had to give up `lines`. The next start checks the files and notes them again.",
        _DISK,
    ),
    LogEvent(
        "manifest_lines_not_durable",
        "error",
        "the disk did not confirm the last lines of the manifest",
        "They are written, and a power failure may take them.",
        _DISK,
    ),
    LogEvent(
        "manifest_line_too_late",
        "warning",
        "a line came after the manifest was closed",
        "It is not in the manifest. A call to the disk took longer than the stop waits.",
        "look for a slow or stuck disk",
    ),
    LogEvent(
        "manifest_line_left_torn",
        "warning",
        "half a line stays at the end of the manifest",
        "The disk refused to cut what a failed write had left there. The next start repairs it.",
        _DISK,
    ),
    LogEvent(
        "manifest_checkpoint_not_written",
        "warning",
        "the lock file does not say how far the manifest goes",
        "A loss of lines at its end would be noticed later, or not at all.",
        _DISK,
    ),
)

_REPAIR: Final = (
    LogEvent(
        "archive_repair_interrupted",
        "warning",
        "the archive was still being repaired; the next start repeats the repair",
        "The stop came during the repair at the start.",
    ),
    LogEvent(
        "archive_line_cut",
        "warning",
        "half a line, or damage, was taken out of a file",
        "The last run was killed, or power failed. What was cut is kept in the file of rejects.",
    ),
    LogEvent(
        "archive_segment_recovered",
        "warning",
        "records that the last run could not seal are sealed now",
        "The last run was killed. Its `records` are checked and on record.",
    ),
    LogEvent(
        "archive_file_damaged",
        "error",
        "a file has lost records that were sealed",
        "It has `bytes` instead of `bytes_expected`. What is left gets new lines in the manifest, and so does the damage.",
        f"{_OTHER_PROGRAM}, or repair the disk",
    ),
    LogEvent(
        "archive_foreign_file",
        "warning",
        "a file of the archive's name was not written by this program; it is left alone",
        "Its lines are no records. It is neither altered nor deleted.",
        "move it out of the archive's folder",
    ),
    LogEvent(
        "archive_file_renamed_again",
        "warning",
        "the renaming of a file is completed",
        "The last run was killed while it rotated the file.",
    ),
    LogEvent(
        "archive_empty_file_deleted",
        "warning",
        "a sealed file without a record is deleted",
        "A power failure left it.",
    ),
    LogEvent(
        "archive_temporary_file_deleted",
        "warning",
        "a temporary file of the last run is deleted",
        "The last run was killed while it wrote the file.",
    ),
    LogEvent(
        "archive_deletion_finished",
        "warning",
        "a file that retention was about to delete is deleted",
        "The last run was killed in between.",
    ),
    LogEvent(
        "archive_compression_finished",
        "warning",
        "a compressed file takes the place of the plain one",
        "The last run was killed after it had compressed the file. Its content is compared.",
    ),
    LogEvent(
        "archive_compressed_file_deleted",
        "warning",
        "an incomplete compressed file is deleted; the plain one is whole",
        "The last run was killed while it compressed the file.",
    ),
    LogEvent(
        "archive_compressed_file_damaged",
        "error",
        "a compressed file cannot be read to its end",
        "As an error: nothing else has its records. As a warning: the plain file is whole and stays.",
        _DISK,
        also=("warning",),
    ),
    LogEvent(
        "archive_lock_file_damaged",
        "warning",
        "the lock file cannot be read; a new one is written",
        "It says how far the manifest is durable. Without it, a loss of the manifest's last lines goes unnoticed.",
        _DISK,
    ),
    LogEvent(
        "archive_lock_file_not_written",
        "warning",
        "the lock file cannot be written",
        "The next start does not learn which files the disk has not confirmed.",
        _DISK,
    ),
    LogEvent(
        "archive_position_lost",
        "warning",
        "the start does not go on where the last run was",
        "Behind the last position of the other recorder's stream that the journal has, more is recorded than one write "
        "brings. So a part of the journal is gone. The stream begins anew, and there is a gap.",
        "see who else writes to the archive's folder",
    ),
)

_SPACE: Final = (
    LogEvent(
        "archive_disk_pressure",
        "warning",
        "the space on the archive's disk has changed a lot",
        "The `step` that follows from the free space has changed; [the steps](operations.md#when-the-disk-fills). "
        "As an error: nothing more is recorded. As an information: a step is undone.",
        "make room, or lower `NDJSON_MIN_FREE_BYTES`",
        also=("error", "info"),
    ),
    LogEvent(
        "archive_space_unknown",
        "warning",
        "the free space on the archive's disk cannot be determined",
        "The system does not say it. Steps against a full disk rest.",
        _DISK,
    ),
    LogEvent(
        "archive_reserve_not_freed",
        "warning",
        "the space that is set aside for the manifest could not be freed",
        "On a full disk, lines of the manifest may have to wait.",
        "make room",
    ),
    LogEvent(
        "archive_compression_failed",
        "error",
        "a file could not be compressed; it stays plain",
        "It is tried again in `retry_secs`. Its records are safe.",
        "see `reason`; [runbook](operations.md#alert-recordercompressionfails)",
    ),
    LogEvent(
        "archive_compression_left",
        "info",
        "files stay plain until the next start",
        "The stop did not wait for compression.",
    ),
    LogEvent(
        "archive_file_deleted",
        "info",
        "retention deletes a file",
        "`reason` says which setting asks for it. The manifest keeps its lines.",
    ),
    LogEvent(
        "archive_retention_failed",
        "warning",
        "retention cannot delete a file, or cannot note it",
        "See `reason`. It is tried again, and the file stays until then.",
        "see `reason`: usually permissions, or a full disk",
    ),
)

ARCHIVE: Final = Group(
    "polygon_archive",
    "The archive: files, manifest, repair at the start, space, compression, retention, uploads, export, ClickHouse.",
    (*_FILES, *_MANIFEST, *_REPAIR, *_SPACE, *UPLOADS, *EXPORT, *CLICKHOUSE),
)
