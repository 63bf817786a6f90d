"""Log events of the feeds: the exchange, or the recorder that is followed."""

from __future__ import annotations

from typing import Final

from recorder.log_events.event import Group, LogEvent

UPSTREAM: Final = Group(
    "polygon_upstream",
    "The feeds: the exchange, or the recorder that is followed.",
    (
        LogEvent(
            "connecting",
            "debug",
            "connecting",
            "A connection to `address` is being opened.",
        ),
        LogEvent(
            "authenticated",
            "debug",
            "the exchange has accepted the key",
            "The topics are asked for now; `asks_for` has the first of them.",
        ),
        LogEvent(
            "exchange_status",
            "debug",
            "the exchange says something",
            "Each status of the exchange, as it came: greeting, answer to the key, acknowledgements, errors.",
        ),
        LogEvent(
            "topics_requested",
            "debug",
            "more topics are asked for",
            "A client wants them (`SUBSCRIBE_ON_DEMAND`), or bars need them.",
        ),
        LogEvent(
            "topics_returned",
            "debug",
            "topics are given back",
            "No client wants them any more (`SUBSCRIBE_ON_DEMAND`).",
        ),
        LogEvent(
            "subscribed",
            "info",
            "subscribed",
            "The exchange has answered for the topics, once after each connect. `acknowledged` of `topics` are confirmed.",
        ),
        LogEvent(
            "topics_unacknowledged",
            "warning",
            "topics were not acknowledged; going on with the others",
            "The exchange refused `topics`, or did not confirm them in time: see `reason`. `not_authorized` is how often it "
            "has said that the plan does not include one. Clients that hold one are told.",
            "correct `SUBSCRIPTION`, or extend the plan; `recorder check` names each topic",
        ),
        LogEvent(
            "exchange_error",
            "warning",
            "the exchange reports an error",
            "The exchange sent a status that is an error; `messages` are its words.",
            "read its words; for most of them [the questions](faq.md) have an answer",
        ),
        LogEvent(
            "connect_failed",
            "warning",
            "could not connect",
            "No session came about. `reason` is one of those of `polygon_disconnects_total`, `message` says more.",
            "see `reason`; the next try is in `retry_in_secs`",
        ),
        LogEvent(
            "disconnected",
            "warning",
            "disconnected",
            "A session ended. `reason` is one of those of `polygon_disconnects_total`, `message` says more.",
            "nothing, if it is rare; see `reason` and `advice`",
        ),
        LogEvent(
            "gap",
            "warning",
            "a gap: no data between two sessions",
            "A session began after another had ended. What the exchange sent in between is missing for good.",
            "see what ended the last session: `reason`",
        ),
        LogEvent(
            "resumed",
            "info",
            "resumed: nothing is missing between two sessions",
            "The recorder that is followed has sent the `frames` that it had received since the last session.",
        ),
        LogEvent(
            "stream_followed",
            "info",
            "a NATS stream is followed",
            "`stream` is read from `server`, behind the position `after`; `pending_messages` of it are there already.",
        ),
        LogEvent(
            "stream_hole",
            "error",
            "events are missing between two messages of a NATS stream",
            "`events` says how many, where that is known. `cause`: `missing` (the messages went by age or size, or by a "
            "hand, before they were read), `deleted`, `purged`, `rolled back` or `emptied` (what became of the stream), "
            "`handed over` (no recorder was connected to the exchange before another one took over), "
            "`unreadable` (another format), `dropped` (by the recorder that writes). The gap is in the manifest.",
            "let the stream keep more (`NATS_MAX_AGE_SECS`, `NATS_MAX_BYTES` of the recorder that writes), or find out who "
            "removed it; [NATS](nats.md)",
        ),
        LogEvent(
            "stream_unreadable",
            "error",
            "a message of a NATS stream cannot be read",
            "It is passed over, and what it has is missing: the gap lasts until the next message that can be read.",
            "upgrade this recorder if a newer one writes the stream; else find out who else writes to it",
        ),
        LogEvent(
            "replay_waits",
            "info",
            "the replay waits for clients",
            "`recorder replay --wait-for-clients` begins once so many `clients` have subscribed.",
        ),
        LogEvent(
            "replay_complete",
            "info",
            "everything was replayed",
            "The end of an archive: `events` were played since the beginning, or the last seek. `sha256` is that of their "
            "payloads, a line each.",
        ),
        LogEvent(
            "backpressure",
            "warning",
            "frames arrive faster than they are passed on",
            "One read held more than `CHANNEL_CAP` frames. Nothing is lost yet; the exchange disconnects a slow reader.",
            "use fewer topics or a faster core: `polygon_event_loop_lag_seconds`",
        ),
        LogEvent(
            "market_hours_known",
            "info",
            "the hours of the markets are known",
            "The calendar is computed. `sessions` has the state of each cluster's market.",
        ),
        LogEvent(
            "market_hours_unknown",
            "warning",
            "the hours of the markets could not be computed; known hours stay in use, then every market is open",
            "The calendar failed with `reason`. Silence of a closed market may now count as a failure.",
            "see `reason`; `SESSION_CALENDAR=off` does without",
        ),
    ),
)
