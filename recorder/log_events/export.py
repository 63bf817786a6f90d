"""Log events of an export that goes on beside a recorder."""

from __future__ import annotations

from typing import Final

from recorder.log_events.event import LogEvent

EXPORT: Final = (
    LogEvent(
        "export_started",
        "info",
        "the export follows the archive",
        "`recorder export --follow` has begun: `path` is the archive, `place` the tree.",
    ),
    LogEvent(
        "export_waits",
        "warning",
        "there is no archive yet",
        "`recorder export --follow` waits for the recorder's first start.",
        "if the recorder is running, name its folder",
    ),
    LogEvent(
        "segment_exported",
        "info",
        "a segment is exported",
        "Its files have their names in the tree, and are in the ledger.",
    ),
    LogEvent(
        "export_incomplete",
        "error",
        "something of the archive is damaged or missing, and is not exported",
        "With `--partial` the export continues with the rest; `message` says what is wrong.",
        "run `recorder verify`, which names every file that is not as it was written",
    ),
    LogEvent(
        "export_lost",
        "error",
        "retention has deleted records before they were exported",
        "The export was stopped, or behind, for longer than files are kept; `count` records are not in the tree.",
        "keep files for longer (`NDJSON_RETAIN_SECS`, `NDJSON_RETAIN_BYTES`), and look why the export was behind",
    ),
    LogEvent(
        "export_stopped",
        "info",
        "the export ends",
        "It was told to stop. The next one continues where this one was.",
    ),
)
