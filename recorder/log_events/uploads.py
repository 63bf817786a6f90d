"""Log events of the archive in a bucket: what was uploaded, and why something is not."""

from __future__ import annotations

from typing import Final

from recorder.log_events.event import LogEvent

UPLOADS: Final = (
    LogEvent(
        "archive_file_uploaded",
        "info",
        "a file is in the bucket",
        "The bucket was seen to have it, with its size and checksum, and the manifest says so. It took `secs`.",
    ),
    LogEvent(
        "archive_upload_fails",
        "error",
        "nothing can be uploaded now; files stay here until it can",
        "See `reason`. It is tried again in `retry_secs`, and `/status` has the reason meanwhile. Recording goes on.",
        "see `reason`; [runbook](operations.md#alert-recorderuploadfails)",
    ),
    LogEvent(
        "archive_upload_works_again",
        "info",
        "files are uploaded again",
        "The failure `after` is over, and what waited is being uploaded.",
    ),
    LogEvent(
        "archive_upload_refused",
        "error",
        "one file cannot be uploaded; the others are",
        "See `reason`: the bucket has another object of its name, or the file is not what it was when it was sealed. It is "
        "tried again in `retry_secs`, and stays here. Nothing in the bucket is replaced.",
        "see `reason`; [runbook](operations.md#alert-recorderuploadwaits)",
    ),
    LogEvent(
        "archive_upload_lost",
        "error",
        "the bucket has lost a file; it is uploaded again",
        "Retention was about to delete the file here, and the bucket does not have it any more. The file stays.",
        "find who deletes objects there: a lifecycle rule, another program, a person",
    ),
    LogEvent(
        "archive_upload_unconfirmed",
        "error",
        "the bucket does not confirm a file that retention would delete here; the file stays",
        "See `reason`. The bucket is asked again as long as the file is due.",
        "see `reason`; [runbook](operations.md#alert-recorderuploadfails)",
    ),
    LogEvent(
        "archive_end_not_uploaded",
        "warning",
        "the manifest in the bucket does not say how the run ended",
        "See `reason`. Nothing is lost: the manifest on the disk says it, and the one in the bucket will say it after the "
        "first upload of the next run. Until then, the bucket shows the run as not ended.",
    ),
    LogEvent(
        "archive_upload_left",
        "info",
        "files are left for the next start to upload",
        "The stop did not wait for uploads; an upload under way is abandoned, and leaves no object.",
    ),
)
