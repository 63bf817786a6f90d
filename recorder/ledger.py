"""The books: what became of every event, per cluster and channel, and in each sink."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from operator import not_
from typing import Final

from recorder.stats import AT, BYTES, EVENTS, counter, gauge, label, shown, with_newest

DROPS_PAUSE_MS: Final = 10_000
"""Drops that are closer to each other are one."""

CHANNELS_MAX: Final = 64
"""Channels that have books of their own. The wire names them, so without a limit they could fill memory."""
CHANNEL_CHARS_MAX: Final = 64
"""A longer name has no books of its own either."""
OTHER: Final = "other"
"""Stands in the books for the channels beyond the limits."""


class ChannelNames:
    """The names that channels are counted under: their own for the first `CHANNELS_MAX`, `OTHER` for the rest."""

    def __init__(self, known: Iterable[str] = (), *, are_all: bool = False) -> None:
        """`known` have names of their own in any case; where they `are_all`, no other channel gets one."""
        self._known = {"", *known}
        self._are_all = are_all

    def of(self, channel: str) -> str:
        """Return the name; a channel keeps it."""
        known = self._known
        if channel in known:
            return channel
        if self._are_all or len(known) > CHANNELS_MAX or len(channel) > CHANNEL_CHARS_MAX:
            return OTHER
        known.add(channel)
        return channel


class ByChannel(Counter[tuple[str, str]]):
    """Counts by (cluster, channel), under the names that channels have in the books."""

    def __init__(self, names: ChannelNames) -> None:
        super().__init__()
        self._names = names

    def __getitem__(self, key: tuple[str, str]) -> int:
        return super().__getitem__((key[0], self._names.of(key[1])))

    def __setitem__(self, key: tuple[str, str], count: int) -> None:
        super().__setitem__((key[0], self._names.of(key[1])), count)

    def add(self, cluster: str, counts: Mapping[str, int]) -> None:
        """Add counts by channel, as is done for each batch."""
        for channel, count in counts.items():
            key = cluster, channel
            if key not in self:
                key = cluster, self._names.of(channel)
            super().__setitem__(key, self.get(key, 0) + count)


@dataclass(slots=True)
class ChannelBalance:
    """What became of one channel's events on the way to the sinks."""

    received: int = 0
    filtered: int = 0
    sampled_out: int = 0
    rejected: int = 0


@dataclass(slots=True)
class DropRun:
    """Records of one channel that were dropped one after another for one reason. Wall clock."""

    cluster: str = shown("Name of the cluster.")
    channel: str = shown("The events' `ev` code.")
    reason: str = shown("Why, in words.")
    first: int = shown("When the first of them was dropped.", unit=AT)
    last: int = shown("When the last of them was dropped.", unit=AT)
    count: int = shown("How many.")


@dataclass(slots=True)
class PairStats:
    """One stream that a sink appends to, perhaps together with another recorder: who leads, what is added, what waits."""

    cluster: str = label("feed", "Name of the cluster.")
    stream: str = shown("Name of the stream.")
    leads: bool = gauge(
        "polygon_nats_leads",
        "1 while this recorder appends what comes, 0 while it follows the one that does.",
        default=False,
    )
    other: str = shown(
        "The other recorder that has appended last: host and run; empty where none has.", default=""
    )
    takeovers: int = counter(
        "polygon_nats_takeovers_total", "Times that this recorder went on because the other one was silent."
    )
    step_backs: int = counter(
        "polygon_nats_step_backs_total", "Times that another recorder went on in the place of this one."
    )
    fills: int = counter(
        "polygon_nats_fills_total",
        "Messages of this recorder that added what the one that leads has not got.",
    )
    filled_events: int = counter("polygon_nats_filled_events_total", "Events of these messages.", unit=EVENTS)
    covered_events: int = counter(
        "polygon_nats_covered_events_total",
        "Events of this recorder that another one has appended.",
        unit=EVENTS,
    )
    conflicts: int = counter(
        "polygon_nats_conflicts_total",
        "Messages that were refused, because another recorder had appended one just before; they are sent again.",
    )
    uncovered_events: int = gauge(
        "polygon_nats_uncovered_events",
        "Events of this recorder that are not known to be in the stream yet; those of the last second are normal.",
        unit=EVENTS,
    )
    behind_messages: int = gauge(
        "polygon_nats_behind_messages", "Messages of the stream that this recorder has not read yet."
    )
    kept_events: int = gauge(
        "polygon_nats_kept_events",
        "Events of another recorder that are kept in memory, to be compared with what comes.",
        unit=EVENTS,
    )


@dataclass(slots=True)
class SinkStats:
    """One sink. `pending` is what it accepted and has neither recorded nor dropped yet."""

    name: str = label("sink", "Name of the sink.")
    accepted: ByChannel = field(default_factory=lambda: ByChannel(ChannelNames()))
    """Records handed to the sink, by (cluster, channel); dropped ones included."""
    recorded: ByChannel = field(default_factory=lambda: ByChannel(ChannelNames()))
    dropped: ByChannel = field(default_factory=lambda: ByChannel(ChannelNames()))
    left_out: ByChannel = field(default_factory=lambda: ByChannel(ChannelNames()))
    """Records that this sink does not take, though others may; they count as filtered."""
    recent_drops: tuple[DropRun, ...] = ()
    """The newest last."""
    rejects_dropped: int = counter(
        "polygon_sink_rejects_dropped_total",
        "Lines for the reject file that were dropped; their events count as rejected all the same.",
        shown=False,
    )
    given_up: int = 0
    """Dropped events that could not be written before the shutdown's deadline."""
    failure: str = gauge(
        "polygon_sink_writable",
        "1 while the sink can write.",
        about="Why it cannot write now, in words; empty while it can.",
        default="",
        convert=not_,
        over_workers=None,
    )
    pending_bytes: int = gauge("polygon_sink_pending_bytes", "Bytes waiting for the sink.", unit=BYTES)
    pending_bytes_max: int = gauge(
        "polygon_sink_pending_limit_bytes",
        "Bytes that may wait for the sink; past them the newest records are dropped.",
        unit=BYTES,
    )
    pending_bytes_peak: int = gauge(
        "polygon_sink_pending_peak_bytes", "The most bytes that have waited for the sink at once.", unit=BYTES
    )
    pending_batches: int = gauge("polygon_sink_pending_batches", "Batches waiting for the sink.")
    bytes_written: int = counter(
        "polygon_sink_written_bytes_total", "Bytes handed to the operating system.", unit=BYTES
    )
    write_errors: int = counter("polygon_sink_write_errors_total", "Writes that failed.")
    busy_since_ns: int = 0
    """Monotonic time at which its thread began the call that it is in; 0 while it waits for work."""
    peers: int | None = None
    """The number of peers that are connected to it; None where nobody connects to a sink of this kind."""
    streams: list[PairStats] = field(default_factory=list)
    """The streams that it appends to, where it appends to streams."""

    def note_recorded(self, cluster: str, counts: Mapping[str, int]) -> None:
        """Count records, by channel, that are where the sink brings them."""
        self.recorded.add(cluster, counts)

    def note_drops(self, at_ms: int, cluster: str, counts: Mapping[str, int], reason: str) -> None:
        """Remember that records, by channel, were dropped; counting them is another matter."""
        for channel, count in counts.items():
            for run in self.recent_drops:
                is_same = (run.cluster, run.channel, run.reason) == (cluster, channel, reason)
                if is_same and at_ms - run.last <= DROPS_PAUSE_MS:
                    run.last = at_ms
                    run.count += count
                    break
            else:
                run = DropRun(cluster, channel, reason, at_ms, at_ms, count)
                self.recent_drops = with_newest(self.recent_drops, run)


class Ledger:
    """The books: `received = recorded + filtered + sampled out + rejected + dropped`, per cluster and channel.

    Shared by the stage that makes records (received, filtered, sampled out, rejected) and each sink
    (accepted, recorded, dropped). It holds for every sink by itself, once nothing is pending.
    """

    def __init__(self) -> None:
        self.channels: dict[tuple[str, str], ChannelBalance] = {}
        self.sinks: dict[str, SinkStats] = {}
        self._names = ChannelNames()

    def name_of(self, channel: str) -> str:
        """Return the name that a channel has in the books."""
        return self._names.of(channel)

    def channel(self, cluster: str, channel: str) -> ChannelBalance:
        """Return the books of one channel, made on first use. What has no channel is kept under `""`."""
        found = self.channels.get((cluster, channel))
        if found is None:
            key = (cluster, self._names.of(channel))
            found = self.channels.setdefault(key, ChannelBalance())
        return found

    def sink(self, name: str) -> SinkStats:
        """Return the books of one sink, made on first use."""
        found = self.sinks.get(name)
        if found is None:
            accepted, recorded, dropped, left_out = (ByChannel(self._names) for _ in range(4))
            found = SinkStats(name, accepted=accepted, recorded=recorded, dropped=dropped, left_out=left_out)
            self.sinks[name] = found
        return found

    @property
    def streams(self) -> list[PairStats]:
        """The streams that the sinks append to."""
        return [stream for sink in self.sinks.values() for stream in sink.streams]

    def differences(self, sink: str) -> dict[tuple[str, str], int]:
        """Return, per (cluster, channel), what is received but accounted for nowhere; empty when the books balance.

        Records that the sink still holds count as unaccounted, so ask when it has been drained.
        """
        books = self.sink(sink)
        found: dict[tuple[str, str], int] = {}
        for key, channel in list(self.channels.items()):
            known = channel.filtered + channel.sampled_out + channel.rejected
            rest = channel.received - known - books.left_out[key] - books.recorded[key] - books.dropped[key]
            if rest:
                found[key] = rest
        return found

    def totals(self, sink: str) -> dict[str, int]:
        """Return the sums over all channels under the names of the identity."""
        books = self.sink(sink)
        channels = list(self.channels.values())
        return {
            "received": sum(c.received for c in channels),
            "recorded": sum(books.recorded.values()),
            "filtered": sum(c.filtered for c in channels) + sum(books.left_out.values()),
            "sampled_out": sum(c.sampled_out for c in channels),
            "rejected": sum(c.rejected for c in channels),
            "dropped": sum(books.dropped.values()),
        }
