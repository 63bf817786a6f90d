"""PURE. Whether the recorder is ready, and if not, why, in words for a person."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime
from typing import Final

from recorder.archive.pressure import PressureStats
from recorder.ledger import SinkStats
from recorder.market_hours.hours import MarketState
from recorder.part import PartStats
from recorder.sources.stats import FeedStats
from recorder.words import size_text
from recorder.workers.stats import WorkerStats

_DONE_ABOUT_PRESSURE: Final = {
    "warn": "nothing is done about it yet",
    "compress": "files are rotated and compressed early",
    "delete": "retention is applied at once",
    "sample": "only some quotes are recorded",
    "no_quotes": "no quotes are recorded",
    "stop": "recording is paused",
}
"""By the step's name."""

_STALL_SECS = 5.0
"""A sink whose thread has been in one write for this long hangs, or will not keep up."""


def readiness(
    feeds: Sequence[FeedStats],
    sinks: Sequence[SinkStats],
    *,
    pressure: PressureStats | None = None,
    workers: Sequence[WorkerStats] = (),
    ready_min_messages: int,
    ready_delay_ms: int,
    now_monotonic_ns: int,
    quiet: Collection[str] = (),
) -> list[str]:
    """Return the reasons why data does not flow from every cluster into every sink; an empty list means that it flows.

    A cluster is ready once `ready_min_messages` data frames have come and `ready_delay_ms` have passed since its
    subscription was acknowledged, and until its market is open and brings nothing. `quiet` clusters, whose market is
    closed, need not bring any frame. A sink is ready while it can write; the archive while it need not leave anything
    out because of disk `pressure`; the `workers`, if there are any, while one of them is up.
    """
    reasons = [] if feeds else ["no upstream connection is configured"]
    for feed in feeds:
        frames_min = 0 if feed.cluster in quiet else ready_min_messages
        reason = _feed_reason(feed, frames_min, ready_delay_ms, now_monotonic_ns)
        if reason:
            reasons.append(f"{feed.cluster}: {reason}")
    for sink in sinks:
        reason = _sink_reason(sink, now_monotonic_ns)
        if reason:
            reasons.append(f"{sink.name}: {reason}; {size_text(sink.pending_bytes)} pending")
    if pressure is not None and pressure.losing:
        reasons.append(_pressure_words(pressure))
    if workers and not any(worker.state == "up" for worker in workers):
        reasons.append("servers: no worker is up, so no client is served; they are being restarted")
    return reasons


def part_reasons(parts: Sequence[PartStats], now_monotonic_ns: int) -> list[str]:
    """Return the reasons why data is missing somewhere because a part is not up."""
    reasons = []
    for part in parts:
        if not part.carries_data:
            continue
        if part.state == "starting":
            secs = max(0, now_monotonic_ns - part.since_ns) // 1_000_000_000
            reasons.append(f"{part.name}: {part.opening}, for {secs} s now")
        elif part.state == "degraded":
            reasons.append(f"{part.name}: {part.reason}; it is being started again")
    return reasons


def warnings(
    pressure: PressureStats | None,
    parts: Sequence[PartStats] = (),
    workers: Sequence[WorkerStats] = (),
    bar_feeds: Sequence[FeedStats] = (),
    upload_failure: str = "",
) -> list[str]:
    """Return what is about to become a reason, and what fails without any data being missing."""
    found = []
    if pressure is not None and pressure.step and not pressure.losing:
        found.append(_pressure_words(pressure))
    if upload_failure:
        found.append(f"uploads: {upload_failure}; files stay here, and it is tried again")
    found += [
        f"{part.name}: {part.reason}; it is being started again, and no data is missing for that"
        for part in parts
        if part.state == "degraded" and not part.carries_data
    ]
    if any(worker.state == "up" for worker in workers):
        found += [
            f"worker {worker.number}: {worker.reason}; the others serve meanwhile"
            for worker in workers
            if worker.state == "down"
        ]
    found += [
        f"bars of {feed.cluster}: {feed.reason or feed.state}"
        for feed in bar_feeds
        if not (feed.connected and feed.subscribed)
    ]
    return found


def pauses(sessions: Mapping[str, MarketState]) -> list[str]:
    """Return, for each cluster whose market is closed, that no data is expected, and until when."""
    return [
        f"{cluster}: the market is closed, so no data is expected"
        + (f" before {_moment(session.until_ns)}" if session.until_ns else "")
        for cluster, session in sessions.items()
        if session.state == "closed"
    ]


def _moment(wall_ns: int) -> str:
    return f"{datetime.fromtimestamp(wall_ns // 1_000_000_000, UTC):%Y-%m-%d %H:%M} UTC"


def _pressure_words(pressure: PressureStats) -> str:
    return (
        f"archive: disk pressure, {_DONE_ABOUT_PRESSURE[pressure.word]}: {size_text(pressure.free_bytes or 0)} free, "
        f"undone at {size_text(pressure.needed_bytes)}; NDJSON_MIN_FREE_BYTES is {size_text(pressure.min_free_bytes)}"
    )


def stalled_secs(sink: SinkStats, now_ns: int) -> float:
    """Return how long a sink's thread has been in its present call; 0 while it waits for work."""
    since_ns = sink.busy_since_ns
    return max(0, now_ns - since_ns) / 1e9 if since_ns else 0.0


def _sink_reason(sink: SinkStats, now_ns: int) -> str:
    if sink.failure:
        return sink.failure
    stalled = stalled_secs(sink, now_ns)
    return f"the last write has not returned for {stalled:.0f} s" if stalled >= _STALL_SECS else ""


def _feed_reason(feed: FeedStats, frames_min: int, delay_ms: int, now_ns: int) -> str:
    if not (feed.connected and feed.subscribed):
        return feed.reason or feed.state
    if feed.stale_secs:
        return f"no data for {feed.stale_secs:.0f} s, though the market is open"
    if feed.frames_since_subscribed < frames_min:
        if feed.frames_since_subscribed == 0:
            first = "the first data frame" if frames_min == 1 else f"the first of {frames_min} data frames"
            return f"waiting for {first} since subscribing"
        return f"{feed.frames_since_subscribed} of {frames_min} data frames since subscribing"
    subscribed_ms = (now_ns - feed.subscribed_at_ns) // 1_000_000
    if subscribed_ms < delay_ms:
        return f"subscribed for {subscribed_ms} ms of the {delay_ms} ms that READY_DELAY_MS asks for"
    return ""
