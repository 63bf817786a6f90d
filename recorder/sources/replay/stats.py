"""What is known of a replay: where it stands, how fast it goes, how late it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from recorder.stats import AT, EVENTS, SECS, counter, gauge, shown

CatchUp = Literal["burst", "shift"]
"""What a replay does that is behind its time: send at once what is overdue, or move its clock."""


@dataclass(slots=True)
class PlayStats:
    """A replay."""

    catch_up: CatchUp = shown("What it does when it is late: `burst` or `shift`.")
    begin: int = shown("When the first record of it came.", unit=AT)
    end: int | None = shown("When the last one came; null where the manifest does not know that.", unit=AT)
    state: Literal["waiting", "playing", "paused", "ended"] = shown(
        "`waiting` for clients or for its delay, `playing`, `paused` or `ended`.", default="waiting"
    )
    rate: float | None = gauge(
        "polygon_replay_rate",
        "Times faster than it was recorded; no sample while it is as fast as clients take it.",
        about="Times faster than it was recorded; null: as fast as clients take it.",
        default=1.0,
    )
    position: int = gauge(
        "polygon_replay_position_timestamp_seconds",
        "The data's time: what came until then has been played, Unix time; 0 before the first read.",
        about="The data's time: what came until then has been played; 0 before the first read.",
        unit=AT,
        convert=lambda at_ms: at_ms / 1000,
    )
    progress: float | None = shown(
        "Which part of its time is behind it, from 0 to 1; null where `end` is.", default=None
    )
    events: int = gauge(
        "polygon_replay_events", "Events played since the beginning, or the last seek.", unit=EVENTS
    )
    gaps: int = gauge(
        "polygon_replay_gaps",
        "Recorded gaps passed since the beginning, or the last seek.",
    )
    lag_secs: float = gauge(
        "polygon_replay_lag_seconds", "How late the last read was passed on.", unit=SECS, default=0.0
    )
    moved_secs: float = counter(
        "polygon_replay_moved_seconds_total",
        "By how much the clock of the replay was moved because it was late, with --catch-up shift.",
        unit=SECS,
        default=0.0,
    )
    shifted_ms: int | None = shown(
        "By how many ms the times of events are shifted; null where they are those of the recording.",
        default=None,
    )
