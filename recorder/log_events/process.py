"""Log events of the process as a whole: settings, start, stop, its parts, the service manager, the books."""

from __future__ import annotations

from typing import Final

from recorder.log_events.event import Group, LogEvent

CONFIG: Final = Group(
    "polygon_config",
    "The process: settings, start, stop, parts, service manager.",
    (
        LogEvent(
            "settings_warning",
            "warning",
            "a setting deserves a look",
            "A setting does nothing, or not what it seems to; `message` says which and why.",
            "change the setting that `message` names",
        ),
        LogEvent(
            "started",
            "info",
            "recording, or a replay, begins: ports are open, feeds connect",
            "The archive is open and repaired, and every port listens. `run_id` is in the manifest and in `/status`.",
        ),
        LogEvent(
            "stopped",
            "info",
            "stopped",
            "The ordered end. `reason` says who asked for it; `failed` means that the recorder gave up.",
            "after `failed`, see the lines above",
        ),
        LogEvent(
            "fatal",
            "critical",
            "the recorder ends",
            "The last line of a recorder that could not start or go on: `message` says why, `exit_status` with which status "
            "the process ends, `advice` what comes next.",
            "do what `message` says; 78 means that a restart alone changes nothing",
        ),
        LogEvent(
            "stop_forced",
            "warning",
            "a second signal: the recorder ends at once",
            "SIGTERM or SIGINT came twice. What waited is not written; the next start repairs the archive.",
            "give a stop its time: `SHUTDOWN_TIMEOUT_SECS`",
        ),
        LogEvent(
            "archive_shutdown_timeout",
            "error",
            "the disk did not take everything within SHUTDOWN_TIMEOUT_SECS; records are lost",
            "The stop had to give up records that waited for the disk: `given_up` of them. The manifest has them, too.",
            "look for a slow or stuck disk; raise `SHUTDOWN_TIMEOUT_SECS` and the service manager's own limit",
        ),
        LogEvent(
            "signal_remembered",
            "info",
            "a signal waits until the archive is open",
            "A signal came while the archive was being repaired. It is obeyed afterwards.",
        ),
        LogEvent(
            "reloaded",
            "info",
            "tokens, certificate, limits, origins and key are as their files say",
            "SIGHUP came, or a file has changed: `trigger`. `changed` says what is new, `variables` which settings, "
            "`tokens_added` and `tokens_removed` which tokens by name; `mended` is what can be used again. No session of "
            "the exchange and no client is touched but those of removed tokens. A new key is for the next connection.",
        ),
        LogEvent(
            "reload_refused",
            "error",
            "what was read again cannot be used; what was read before stays in use",
            "`subject` is `settings`, `key`, `tokens` or `certificate`; `error` says what is wrong. `/ready?verbose=1` "
            "warns of it until it is mended. A restart would fail.",
            "mend the file; it is read again by itself",
        ),
        LogEvent(
            "restart_needed",
            "warning",
            "settings have changed that only a restart takes",
            "`variables` differ in the file of settings from what the recorder runs with.",
            "restart the recorder when a gap does least harm, or undo the change",
        ),
        LogEvent(
            "nothing_to_reopen",
            "info",
            "SIGHUP: no files are open that could be reopened",
            "SIGHUP came, and this recorder writes no files.",
        ),
        LogEvent(
            "nothing_to_rotate",
            "info",
            "SIGUSR1: no files are open that could be rotated",
            "SIGUSR1 came, and this recorder writes no files.",
        ),
        LogEvent(
            "part_failed",
            "error",
            "a part failed and will be restarted; everything else continues",
            "Something ended the named `part`. It begins again after `retry_in_secs`; `error` says why.",
            "report a traceback; [when a part fails](operations.md#when-a-part-fails)",
        ),
        LogEvent(
            "part_close_failed",
            "error",
            "a part failed while it was closed",
            "A defect showed while the named `part` was closed. All other parts are closed all the same.",
            "report the traceback",
        ),
        LogEvent(
            "balance_wrong",
            "error",
            "the books do not balance",
            "At the end, what a sink got is not what it recorded, left out and dropped. `differences` says by how much.",
            "keep the log and the archive, run `recorder verify`, and report it",
        ),
        LogEvent(
            "write_hung",
            "error",
            "a write has not returned; its records are lost",
            "At the end, a call into the target of `sink` hung. `unwritten` records may or may not be there.",
            "look for a stuck disk or file server; run `recorder verify`",
        ),
        LogEvent(
            "notify_socket_invalid",
            "warning",
            "NOTIFY_SOCKET is neither a path nor an abstract name: the service manager is not notified",
            "The service manager set a variable that cannot be used. It is not told of readiness.",
            "leave `NOTIFY_SOCKET` to the service manager",
        ),
        LogEvent(
            "watchdog_usec_invalid",
            "warning",
            "WATCHDOG_USEC is not a number of microseconds: no signs of life are sent",
            "The service manager set a variable that cannot be used. It may restart the recorder.",
            "leave `WATCHDOG_USEC` to the service manager",
        ),
        LogEvent(
            "notify_failed",
            "warning",
            "the service manager cannot be notified",
            "Its socket refuses messages. Recording continues; a watchdog may restart the recorder.",
            "see `reason`; the unit needs `NotifyAccess=main`",
        ),
        LogEvent(
            "writer_stuck",
            "error",
            "the archive's writer is stuck: the service manager gets no sign of life and will restart the recorder",
            "A call to the disk has not returned for `stuck_secs`.",
            "look at the disk (`dmesg`, `journalctl -k`)",
        ),
    ),
)

STATS: Final = Group(
    "polygon_stats",
    "Figures at intervals, and the books at the end.",
    (
        LogEvent(
            "stats",
            "info",
            "figures of the last interval",
            "Every `STATS_INTERVAL_SECS`: rates, drops, what waits, and the state of each feed.",
        ),
        LogEvent(
            "balance",
            "info",
            "every event of this run is accounted for",
            "At the end, for each sink: received = recorded + filtered + sampled out + dropped.",
        ),
    ),
)

LIBRARIES: Final[tuple[LogEvent, ...]] = (
    LogEvent(
        "library_log",
        "warning",
        "a library says",
        "A library logs something itself. `target` is the name of its logger, `message` are its words.",
        also=("error", "critical"),
    ),
    LogEvent(
        "log_lines_dropped",
        "error",
        "lines of the log are missing: nobody read it for a while",
        "What reads stderr stood still, and 4 MiB waited for it. `lines` are lost; recording never waits for the log.",
        "look at what reads the log: journald, the container runtime, a pipe",
    ),
)
"""Those that no module of ours logs as its own."""
