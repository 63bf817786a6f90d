"""Clients that miss events rather than be closed: what is left out while they are slow, and how they are told."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from recorder.polygon.channels import REPLACEABLE_CHANNELS
from recorder.polygon.control import encode_status
from recorder.polygon.manner import CONFLATED, DROPPED, Slow
from recorder.polygon.rows import Status
from recorder.servers.client import Client
from recorder.servers.delivery import deliver
from recorder.servers.means import Means
from recorder.servers.stats import ServerStats
from recorder.servers.subscriptions import Subscriptions

FULL_SHARE: Final = 0.875
"""Share of what a client may leave unread that events fill; the rest is for answers."""
ROOM_SHARE: Final = 0.5
"""Below this share, a client whose events were dropped has room again; above it, values begin to be conflated."""
CALM_SHARE: Final = 0.25
"""Below this share, they are conflated no longer."""
HELD_SHARE: Final = 0.5
"""Share that the values which are held back may take: there is room for all of them once a client is calm."""


class Leniency:
    """One client that has asked for `drop` or `conflate`.

    `drop`: where an event finds no room, it is left out, and so is all that follows, until half of the limit is free.
    `conflate`: from half of the limit on, the newest quote and aggregate of each symbol is held back instead of being
    sent; everything else is sent while there is room, and left out where there is none. Once three quarters of the limit
    are free, the values that are held go out.

    In either case the client is then told how much was left out, from when to when, and the position behind which all of
    it lies. Nothing is left out silently.
    """

    def __init__(
        self,
        client: Client,
        way: Slow,
        means: Means,
        stats: ServerStats,
    ) -> None:
        self.way = way
        self.left_out = 0
        self.is_behind = False
        self._client = client
        self._log, self._clock, self._pacer, _ = means
        self._stats = stats
        self._held: dict[tuple[str, str], bytes] = {}
        """The newest event of each channel and symbol, in the order of the stream."""
        self._held_bytes = 0
        self._dropped = 0
        self._conflated = 0
        self._from_ms = self._to_ms = 0
        self._after = ""

    def takes(self, size: int, events_count: int) -> bool:
        """Return whether the client is sent so many bytes; if not, these events count as left out."""
        self.look()
        fits = self._fill(size) <= FULL_SHARE
        if not self.is_behind and not (fits if self.way == "drop" else self._fill(size) <= ROOM_SHARE):
            self._fall_behind()
        if fits and (self.way == "conflate" or not self.is_behind):
            return True
        self._count(dropped=events_count)
        return False

    def must_hold(self, size: int) -> bool:
        """Return whether values are to be held back, where so many bytes are about to be sent."""
        self.look()
        if not self.is_behind and self._fill(size) > FULL_SHARE:
            self._fall_behind()
        return self.is_behind

    def _fill(self, size: int) -> float:
        """Return how full the client would be with so many bytes more, as a share of what it may leave unread."""
        return (self._client.pending_bytes + size) / self._client.limits.pending_bytes_max

    def hold(self, channels: Sequence[str], symbols: Sequence[str], fragments: Sequence[bytes]) -> None:
        """Take events of a client that is behind: hold back what newer values replace, send the rest; or drop them."""
        if self.way == "drop":
            self._count(dropped=len(fragments))
            return
        rest: list[bytes] = []
        held = self._held
        bytes_max = self._client.limits.pending_bytes_max * HELD_SHARE
        dropped = conflated = 0
        for channel, symbol, fragment in zip(channels, symbols, fragments, strict=True):
            if channel not in REPLACEABLE_CHANNELS:
                rest.append(fragment)
                continue
            # Out and in again, so that what is held keeps the order of the stream.
            before = held.pop((channel, symbol), None)
            if before is not None:
                conflated += 1
                self._held_bytes -= len(before)
            elif self._held_bytes + len(fragment) > bytes_max:
                dropped += 1
                continue
            held[channel, symbol] = fragment
            self._held_bytes += len(fragment)
        if dropped or conflated:
            self._count(dropped, conflated)
        if rest:
            deliver([self._client], rest, self._stats)

    def keep(self, wanted: Iterable[Subscriptions[Client]]) -> None:
        """Hold back only what some of these indices have: the client has given other topics back."""
        channels, symbols = [channel for channel, _ in self._held], [symbol for _, symbol in self._held]
        places: set[int] = set()
        for index in wanted:
            everything = range(len(channels))
            places |= set(everything if index.everybody() else ())
            for _, found in index.match(channels, symbols, everything):
                places |= set(found)
        self._held = {key: value for place, (key, value) in enumerate(self._held.items()) if place in places}
        self._held_bytes = sum(map(len, self._held.values()))

    def look(self) -> None:
        """Go on as usual if the client has room again, or is gone."""
        if not self.is_behind:
            return
        client = self._client
        share = CALM_SHARE if self.way == "conflate" else ROOM_SHARE
        if client.closing:
            self._catch_up()
        elif client.fullness <= share:
            try:
                self.recover()
            except Exception as error:  # the defect of one connection must not cost the others their turn
                client.fail(error)

    def recover(self) -> None:
        """Say what was left out, and send what is held back."""
        if not self.is_behind:
            return
        held = self._catch_up()
        if self._dropped or self._conflated:
            self._client.say(self._account())
            self._dropped = self._conflated = self._from_ms = self._to_ms = 0
        if held:
            deliver([self._client], held, self._stats)

    def _fall_behind(self) -> None:
        self.is_behind = True
        settled = self._log.settled
        self._after = self._log.told_to(self._client.cluster, settled) or self._log.told(*settled)
        self._pacer.watch(self)

    def _catch_up(self) -> list[bytes]:
        """Be behind no longer; return what is held back."""
        self.is_behind = False
        self._pacer.leave(self)
        held = list(self._held.values())
        self._held = {}
        self._held_bytes = 0
        return held

    def _count(self, dropped: int = 0, conflated: int = 0) -> None:
        self._to_ms = self._clock.wall_ns() // 1_000_000
        self._from_ms = self._from_ms or self._to_ms
        self._dropped += dropped
        self._conflated += conflated
        self.left_out += dropped + conflated
        self._stats.events_dropped += dropped
        self._stats.events_conflated += conflated

    def _account(self) -> bytes:
        """Return the status that says what was left out."""
        count = self._dropped + self._conflated
        words = f"you were slow: {count} events were left out"
        if self._conflated:
            words += f", {self._conflated} of them for newer ones of the same symbols"
        facts = {
            "count": count,
            "dropped": self._dropped,
            "conflated": self._conflated,
            "from": self._from_ms,
            "to": self._to_ms,
            "after": self._after,
        }
        return encode_status(Status(DROPPED if self.way == "drop" else CONFLATED, words), **facts)

    def __repr__(self) -> str:
        state = f"behind, {len(self._held)} held" if self.is_behind else "with room"
        return f"Leniency({self._client!r}, {self.way}, {state})"
