"""Log events of the bus and of the sinks."""

from __future__ import annotations

from typing import Final

from recorder.log_events.event import Group, LogEvent

RECORDS: Final = Group(
    "polygon_events",
    "The bus and the sinks. An archive's sink speaks as `polygon_archive`, ZeroMQ's as `polygon_clients`.",
    (
        LogEvent(
            "records_dropped",
            "error",
            "records are dropped",
            "A sink cannot take more, and records are lost to it. `message` says why, `dropped_total` is their number.",
            "find what is too slow: the disk, the reader, the processor; [runbook](operations.md#alert-recorderdrops)",
        ),
        LogEvent(
            "consumer_failed",
            "error",
            "a consumer failed and misses this batch; all others got it",
            "A defect in one consumer of the bus. `error` has the traceback.",
            "report the traceback",
        ),
        LogEvent(
            "stdout_write_failed",
            "error",
            "stdout cannot be written",
            "The reader of stdout is gone, or its file cannot grow. Without it this sink has no purpose.",
            "see `error`; restart the recorder with its reader",
        ),
    ),
)
