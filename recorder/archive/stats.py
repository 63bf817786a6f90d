"""What the archive's files count."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Literal, get_args

from recorder.archive.gaps import GapHistory, Silence
from recorder.archive.pressure import PressureStats
from recorder.overlap import Recorded
from recorder.stats import AT, BYTES, Histogram, counter, gauge, histogram, label, shown

FSYNC_SECONDS = (0.0005, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 30)
Rotation = Literal["fsync_failed", "pressure", "recovered", "reopen", "shutdown", "signal", "size", "time"]
"""Why a segment was closed."""
ROTATIONS: Final[tuple[Rotation, ...]] = get_args(Rotation)


@dataclass(slots=True)
class ActiveSegment:
    """A file that is being written."""

    file: str = label("file", "Name, relative to the archive's folder.")
    bytes: int = gauge(
        "polygon_active_file_bytes", "Size of each file being written.", about="Its size.", unit=BYTES
    )
    records: int = gauge(
        "polygon_active_file_records", "Records in each file being written.", about="Its records."
    )
    rotates_at: int | None = shown(
        "When it is rotated by time; null while it is empty, and without NDJSON_ROTATE_SECS.",
        unit=AT,
        default=None,
    )


@dataclass(slots=True)
class ClosedSegment:
    """A file that was finished in this run."""

    file: str = shown("Name before compression, relative to the archive's folder.")
    records: int = shown("Its records.")
    bytes: int = shown("Its size as NDJSON.", unit=BYTES)
    closed: int = shown("When it was finished.", unit=AT)
    reason: str = shown("Why, as in `polygon_rotations_total`.")
    compressed_bytes: int | None = shown(
        "Its size on disk once compressed; null while plain.", unit=BYTES, default=None
    )
    deleted: bool = shown("Whether retention has deleted it.", default=False)


def _is_told(failure: str) -> float:
    return float(bool(failure))


def _secs_of(ms: int | None) -> float:
    return (ms or 0) / 1000


@dataclass(slots=True)
class UploadStats:
    """Sealed files on their way to the bucket of ARCHIVE_UPLOAD_URL."""

    url: str | None = shown("Where files are uploaded to; null without ARCHIVE_UPLOAD_URL.", default=None)
    failure: str = gauge(
        "polygon_upload_failing",
        "Whether nothing can be uploaded now: 0 or 1.",
        about="Why nothing can be uploaded now; empty while it can.",
        default="",
        convert=_is_told,
    )
    uploaded: int = counter("polygon_uploaded_files_total", "Files uploaded, proven and on record.")
    uploaded_bytes: int = counter("polygon_uploaded_bytes_total", "Bytes of the files uploaded.", unit=BYTES)
    errors: int = counter(
        "polygon_upload_errors_total",
        "Attempts that failed, and answers of the bucket that a file is not there as it was.",
    )
    waiting_files: int = gauge("polygon_upload_waiting_files", "Sealed files that are not uploaded yet.")
    waiting_bytes: int = gauge(
        "polygon_upload_waiting_bytes", "Bytes of the sealed files that are not uploaded yet.", unit=BYTES
    )
    waiting_since: int | None = gauge(
        "polygon_upload_waiting_since_timestamp_seconds",
        "When the oldest file that is not uploaded yet was sealed; no sample while none waits.",
        about="When the oldest file that is not uploaded yet was sealed; null while none waits.",
        unit=AT,
        default=None,
        convert=_secs_of,
    )
    last_success: int | None = gauge(
        "polygon_upload_last_success_timestamp_seconds",
        "When the last file was uploaded; no sample before the first of this run.",
        about="When the last file was uploaded; null before the first of this run.",
        unit=AT,
        default=None,
        convert=_secs_of,
    )
    kept_files: int = gauge(
        "polygon_upload_kept_files", "Files that retention would delete, if the bucket had confirmed them."
    )


@dataclass(slots=True)
class ArchiveStats:
    """The files of the archive."""

    rotations: Counter[Rotation] = counter(
        "polygon_rotations_total", "Segments closed, by reason.", by="reason", values=ROTATIONS, shown=False
    )
    rejects_written: int = counter("polygon_rejects_written_total", "Lines written to the reject file.")
    reopens: int = counter("polygon_reopens_total", "Reopenings on SIGHUP.", shown=False)
    vanished: int = counter(
        "polygon_vanished_files_total",
        "Active files that were moved or deleted without a signal.",
        shown=False,
    )
    fsync_errors: int = counter("polygon_fsync_errors_total", "Failed fsyncs.")
    fsync_seconds: Histogram = histogram(
        "polygon_fsync_duration_seconds", "How long fsync took.", FSYNC_SECONDS
    )
    compressed: int = counter("polygon_compressed_files_total", "Files compressed.", shown=False)
    compress_errors: int = counter(
        "polygon_compress_errors_total", "Compressions that failed; the plain file stays."
    )
    compress_pending: int = gauge("polygon_compress_pending_files", "Rotated files waiting to be compressed.")
    compress_bytes_in: int = counter(
        "polygon_compress_input_bytes_total", "Bytes before compression.", shown=False
    )
    compress_bytes_out: int = counter(
        "polygon_compress_output_bytes_total", "Bytes after compression.", shown=False
    )
    deleted: int = counter("polygon_deleted_segments_total", "Segments deleted by retention.")
    recovered: int = counter(
        "polygon_recovered_files_total", "Files that a crash had left and that the start finished."
    )
    manifest_errors: int = counter(
        "polygon_manifest_errors_total", "Manifest lines that could not be written at once."
    )
    active: dict[str, ActiveSegment] = field(default_factory=dict)
    """By file name."""
    recent: tuple[ClosedSegment, ...] = ()
    """The newest last."""
    rotate_bytes: int | None = shown(
        "Size at which a file is rotated: NDJSON_MAX_BYTES.", unit=BYTES, default=None
    )
    rotate_secs: int | None = shown("NDJSON_ROTATE_SECS; null: time rotates nothing.", default=None)
    pressure: PressureStats = field(default_factory=PressureStats)
    upload: UploadStats = field(default_factory=UploadStats)
    silences: dict[str, Silence] = field(default_factory=dict)
    """By cluster, since when nothing comes, and why; also from runs before this one. Only the loop changes it, once the
    archive is open."""
    recorded: Mapping[str, Recorded] = field(default_factory=dict)
    """By cluster, how far the runs before this one have recorded another recorder's stream."""
    history: GapHistory = field(default_factory=GapHistory)
    """The gaps that are over, of all runs. Only the loop changes it, once the archive is open."""

    def find_closed(self, file: str) -> ClosedSegment | None:
        """Return a segment that was closed not long ago."""
        return next((segment for segment in self.recent if segment.file == file), None)
