"""PURE. Whether the recorder is ready, and if not, why, in words for a person."""

from __future__ import annotations

from collections.abc import Sequence

from recorder.stats import FeedStats, SinkStats


def readiness(
    feeds: Sequence[FeedStats],
    sinks: Sequence[SinkStats],
    *,
    ready_min_messages: int,
    ready_delay_ms: int,
    now_monotonic_ns: int,
) -> list[str]:
    """Give the reasons why data does not flow from every cluster into every sink; none: ready.

    A cluster is ready once `ready_min_messages` data frames have come and `ready_delay_ms` have passed since
    its subscription was acknowledged; a sink while it can write.
    """
    reasons = [] if feeds else ["no upstream connection is configured"]
    for feed in feeds:
        reason = _feed_reason(feed, ready_min_messages, ready_delay_ms, now_monotonic_ns)
        if reason:
            reasons.append(f"{feed.cluster}: {reason}")
    reasons += [
        f"{sink.name}: {sink.failure}; {_size(sink.pending_bytes)} pending" for sink in sinks if sink.failure
    ]
    return reasons


def _feed_reason(feed: FeedStats, frames_min: int, delay_ms: int, now_ns: int) -> str:
    if not (feed.connected and feed.subscribed):
        return feed.reason or feed.state
    if feed.frames_since_subscribed < frames_min:
        if feed.frames_since_subscribed == 0:
            first = "the first data frame" if frames_min == 1 else f"the first of {frames_min} data frames"
            return f"waiting for {first} since subscribing"
        return f"{feed.frames_since_subscribed} of {frames_min} data frames since subscribing"
    subscribed_ms = (now_ns - feed.subscribed_at_ns) // 1_000_000
    if subscribed_ms < delay_ms:
        return f"subscribed for {subscribed_ms} ms of the {delay_ms} ms that READY_DELAY_MS asks for"
    return ""


def _size(size_bytes: int) -> str:
    """Give a size as people read it: `12.3 MiB`."""
    if size_bytes < 1024:
        return f"{size_bytes} bytes"
    size = size_bytes / 1024
    for unit in ("KiB", "MiB"):
        if size < 1024:
            return f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} GiB"
