"""One session of a source, as the bus and the figures see it: opened once, its batches, closed once."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from recorder.bus import Batch, Bus, Mark, Missed, SessionClosed, SessionOpened
from recorder.clock import Clock
from recorder.polygon.events import Decoder
from recorder.sources.stats import FeedStats


class BusSession:
    """Passes on what a source reads, in one synchronous pass for each read, and keeps the figures of it.

    Whatever comes before `open` is passed on all the same; it belongs to no session.
    """

    def __init__(self, decoder: Decoder, bus: Bus, stats: FeedStats, clock: Clock) -> None:
        """The session is of the decoder's cluster."""
        self._decoder = decoder
        self._bus = bus
        self._stats = stats
        self._clock = clock
        self.opened_at_ns = 0
        """Monotonic time at which the session was opened; 0 before and after."""
        self.lasted_secs = 0.0
        """How long the session was open; 0 if it never was."""
        self.last_read_ns = 0
        """Monotonic time of the last read, whatever it brought."""
        self.last_data_ns = 0
        """Monotonic time of the last data; before the first, of the session's beginning."""
        self.data_received = False

    def open(self, resumed: int | None = None, missed: tuple[Missed, ...] = ()) -> None:
        """Begin the session: the source has what it asked for. `resumed` and `missed` as for `SessionOpened`."""
        stats = self._stats
        self.opened_at_ns = stats.subscribed_at_ns = self._clock.monotonic_ns()
        self.last_data_ns = self.last_data_ns or self.opened_at_ns
        stats.frames_since_subscribed = 0
        stats.sessions += 1
        stats.connected = stats.subscribed = True  # a source without connections has no other moment for it
        stats.since_ns = self._clock.wall_ns()
        stats.state = "streaming"
        stats.reason = ""
        self._bus.announce(SessionOpened(self._decoder.cluster, self._clock.wall_ns(), resumed, missed))

    def publish(
        self,
        frames: Sequence[bytes],
        answered: Callable[[Batch], None] = lambda batch: None,
        wire: Sequence[bytes] = (),
        read_ns: int | None = None,
        marks: Sequence[Mark] = (),
    ) -> None:
        """Pass on what one read brought; `wire` and `marks` as for `Batch`, `read_ns` where the source has its own clock.

        `answered` is called with a batch that holds statuses before its data is counted: they may open the session
        that the data belongs to.
        """
        stats = self._stats
        began_ns = self._clock.monotonic_ns()
        received_ns = self._clock.wall_ns()
        batch = Batch(
            self._decoder.cluster,
            received_ns,
            frames,
            self._decoder,
            read_ns=began_ns if read_ns is None else read_ns,
            wire=wire,
            marks=marks,
        )
        self._bus.publish(batch)
        stats.interarrival_seconds.observe((began_ns - self.last_read_ns) / 1e9)
        if len(frames) > 1:
            stats.interarrival_seconds.observe(0.0, len(frames) - 1)
        self.last_read_ns = began_ns
        stats.batches_received += 1
        stats.frames_received += len(frames)
        stats.bytes_received += sum(map(len, frames))
        data_frames = len(frames)
        if batch.statuses:
            data_frames = len(batch.data_frames)
            answered(batch)
        if data_frames:
            self.data_received = True
            self.last_data_ns = began_ns
            stats.stale_secs = 0.0
            stats.last_received_ns = received_ns
            if self.opened_at_ns:
                stats.frames_since_subscribed += data_frames
            newest_ms = batch.newest_event_ms
            if newest_ms:
                stats.last_event_ms = max(stats.last_event_ms, newest_ms)
                stats.latency_seconds.observe(max(0.0, received_ns / 1e9 - newest_ms / 1e3))
        stats.pass_seconds.observe((self._clock.monotonic_ns() - began_ns) / 1e9)

    def close(self, reason: str, data_until_ns: int | None = None, after: str = "") -> None:
        """End the session, if it is open. Nothing is missing until `data_until_ns` (wall clock), else the last read.

        With `after`, the position up to which all was passed on, also one that was not open yet: its data counts.
        """
        stats = self._stats
        if self.opened_at_ns or (after and self.data_received):
            if self.opened_at_ns:
                now_ns = self._clock.monotonic_ns()
                self.lasted_secs = max(1e-9, (now_ns - self.opened_at_ns) / 1e9)
            self.opened_at_ns = 0
            until_ns = stats.last_received_ns if data_until_ns is None else data_until_ns
            change = SessionClosed(self._decoder.cluster, self._clock.wall_ns(), reason, until_ns, after)
            self._bus.announce(change)
        stats.connected = False
        if stats.subscribed:
            stats.since_ns = self._clock.wall_ns()
        stats.subscribed = False
        stats.topics_acknowledged = 0
        stats.stale_secs = 0.0

    def __repr__(self) -> str:
        return f"BusSession({self._decoder.cluster}, open={bool(self.opened_at_ns)})"
