"""Log events of `recorder clickhouse`, which speaks as the archive does."""

from __future__ import annotations

from typing import Final

from recorder.log_events.event import LogEvent

CLICKHOUSE: Final = (
    LogEvent(
        "clickhouse_started",
        "info",
        "sending begins: what the tables have is known",
        "`recorder clickhouse` has asked the server what it has, and reads the archive on from there.",
    ),
    LogEvent(
        "clickhouse_waits",
        "warning",
        "there is no archive to send yet",
        "With `--follow`, the command waits for a recorder that has not begun; `reason` says where there is no archive.",
        "start the recorder, or name the folder of its archive",
    ),
    LogEvent(
        "clickhouse_stopped",
        "info",
        "sending has ended",
        "`rows` are what this process has brought there; `failure` says why not everything was sent, if that is so.",
    ),
    LogEvent(
        "clickhouse_progress",
        "info",
        "rows are being sent",
        "Once a minute with `--follow`. `behind_secs` is the age of the newest record that was sent.",
    ),
    LogEvent(
        "clickhouse_table_created",
        "info",
        "a table was created",
        "The first records of their kind came, and `--create` allows it.",
    ),
    LogEvent(
        "clickhouse_away",
        "warning",
        "the server does not take rows; they wait in the archive",
        "It does not answer, or refuses for a time: too many parts, no memory, no space. `reason` has its words. After "
        "`secs_left` the command gives up (`--wait`). Nothing is lost unless retention deletes unsent records.",
        "look at the server; if it stays away, give retention (`NDJSON_RETAIN_BYTES`, `NDJSON_RETAIN_SECS`) more room",
    ),
    LogEvent(
        "clickhouse_back",
        "info",
        "the server takes rows again",
        "It did not for `secs`.",
    ),
    LogEvent(
        "clickhouse_smaller_inserts",
        "warning",
        "the server has no memory for an insert; the next ones are smaller",
        "`rows` are in an insert from now on. The number grows again with each insert that the server takes.",
        "give the server more memory, or the user a higher `max_memory_usage`",
    ),
    LogEvent(
        "clickhouse_token_without_rows",
        "warning",
        "the server knew an insert and did not have its rows; they are sent under another name",
        "It died, or its disk refused, between noting an insert and storing its rows. They are in the table now.",
    ),
    LogEvent(
        "clickhouse_rows_doubled",
        "error",
        "a table has more rows than were sent",
        "After an insert, the table has `rows` of a run and cluster; `expected` is what it had before and what was sent.",
        "find out who else inserts there; `SELECT seq, count() … GROUP BY seq HAVING count() > 1` shows which",
    ),
    LogEvent(
        "clickhouse_left_out",
        "error",
        "a file of the archive is damaged or missing, and its records are not sent",
        "`reason` says which, and `records` how many it had. Only with `--skip-damaged`.",
        "`recorder verify`; once the file is whole again, send it to another database",
    ),
    LogEvent(
        "clickhouse_lost",
        "error",
        "records were deleted or damaged before they were sent",
        "Files with `records` of `table` that the server never had are removed or damaged. The table `lost` keeps where.",
        "give retention more room; another copy of the archive can be sent, too",
    ),
)
