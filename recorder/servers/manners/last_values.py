"""The last trade, quote and aggregate of each symbol, for clients that want to begin with them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from itertools import islice
from typing import Final

from recorder.bus import SOUGHT, Batch, SessionChange, SessionClosed
from recorder.clock import Clock
from recorder.polygon.channels import REPLACEABLE_CHANNELS, TRADE_CHANNELS
from recorder.polygon.rows import Rows
from recorder.servers.past.hotlog import HotLog
from recorder.servers.subscriptions import EVERYTHING, spellings

STEP_NS: Final = 2_000_000
"""How long the loop works on the past before it looks after the present again."""
KEPT: Final = TRADE_CHANNELS | REPLACEABLE_CHANNELS

_Values = dict[str, dict[str, bytes]]
"""By channel and symbol, the last event."""


class LastValues:
    """A consumer of the bus that keeps nothing until somebody asks for a snapshot, unless it is told to from the start.

    Then it takes what the hot log still has, in steps of `STEP_NS` between the passes, and from there on each batch: by
    column, not by event. It keeps `SNAPSHOT_VALUES_MAX` events; where there are more, those whose symbols have been known
    longest are forgotten.
    """

    def __init__(
        self, clusters: Iterable[str], log: HotLog, clock: Clock, values_max: int, *, from_start: bool
    ) -> None:
        """`values_max` of 0: no snapshots."""
        self._log = log
        self._clock = clock
        self.values_max = values_max
        self._kept: dict[str, _Values] = {cluster: {} for cluster in clusters}
        self._older: dict[str, _Values] = {cluster: {} for cluster in self._kept}
        """What the hot log had, until it has been read to the end."""
        self.is_kept = False
        self.is_whole = True
        """Whether no value had to be forgotten."""
        self.since_ms = 0
        """All that was received from then on counts, Unix ms."""
        self._number = self._end = 0
        """What is to be read of the hot log."""
        self._sought = 0
        """What stands before this in the hot log is of another time of a replay."""
        self._wanted = asyncio.Event()
        self._ready = asyncio.Event()
        if from_start:
            self.begin()

    async def prepare(self) -> None:
        """Return once a snapshot can be taken."""
        self.begin()
        if self.is_kept:
            await self._ready.wait()

    def begin(self) -> None:
        """Keep values from here on, and read what the hot log has; nothing where that has begun."""
        if self.values_max and not self.is_kept:
            self.is_kept = True
            self._number, self._end = max(self._log.first, self._sought), self._log.end
            self._wanted.set()

    async def run(self) -> None:
        """Read the hot log once somebody asks, until cancelled."""
        while True:
            await self._wanted.wait()
            if not self.read_on():
                self._wanted.clear()
            await asyncio.sleep(0)

    def read_on(self) -> bool:
        """Read the hot log for `STEP_NS`; return False once it is read to the end."""
        until_ns = self._clock.monotonic_ns() + STEP_NS
        while self._number < self._end:
            if self._number < self._log.first:  # forgotten while we read
                self._number = min(self._log.first, self._end)
                self.since_ms = 0
                continue
            batch = self._log.batch(self._number)
            self._number += 1
            self.since_ms = self.since_ms or batch.received_ns // 1_000_000
            self._take(self._older[batch.cluster], batch.rows)
            if self._clock.monotonic_ns() >= until_ns:
                return True
        if self.is_kept and not self._ready.is_set():
            self._join()
        return False

    def accept(self, batch: Batch) -> None:
        """Take the values of a batch."""
        if self.is_kept:
            self._take(self._kept[batch.cluster], batch.rows)

    def session_changed(self, change: SessionChange) -> None:
        """Values stay over a gap; a replay that goes on at another time begins anew."""
        if isinstance(change, SessionClosed) and change.reason == SOUGHT:
            self._kept[change.cluster].clear()
            self._older[change.cluster].clear()
            self._number = self._sought = self._log.end

    def is_awaited(self) -> bool:
        """Nobody waits for a value as such."""
        return False

    def of(self, cluster: str, topics: Iterable[str]) -> list[bytes]:
        """Return the last values of some topics, each once, as fragments."""
        kept = self._kept[cluster]
        wanted: dict[str, set[str] | None] = {}
        """Symbols by channel; None is all of them."""
        for topic in topics:
            channel, _, symbol = topic.partition(".")
            if topic == EVERYTHING:
                wanted = dict.fromkeys(kept)
                break
            if symbol == EVERYTHING:
                wanted[channel] = None
            elif (symbols := wanted.setdefault(channel, set())) is not None:
                symbols |= spellings(cluster, symbol)
        found: list[bytes] = []
        for channel, symbols in wanted.items():
            values = kept.get(channel, {})
            found += (
                values.values()
                if symbols is None
                else [values[symbol] for symbol in symbols if symbol in values]
            )
        return found

    def _take(self, kept: _Values, rows: Rows) -> None:
        channels = KEPT & rows.counts.keys()
        for channel in channels:
            one = rows if len(rows.counts) == 1 else rows.of_channels({channel})
            kept.setdefault(channel, {}).update(zip(one.symbols, one.fragments, strict=True))
        if sum(map(len, kept.values())) > self.values_max:
            self._forget(kept)

    def _forget(self, kept: _Values) -> None:
        """Forget the symbols that have been known longest in the channel that has most."""
        self.is_whole = False
        while (excess := sum(map(len, kept.values())) - self.values_max) > 0:
            largest = max(kept.values(), key=len)
            for symbol in list(islice(largest, excess)):
                del largest[symbol]

    def _join(self) -> None:
        """Put what is newer over what the hot log had."""
        for cluster, newer in self._kept.items():
            older = self._older[cluster]
            for channel, values in newer.items():
                older.setdefault(channel, {}).update(values)
            self._kept[cluster] = older
        self._older = {cluster: {} for cluster in self._kept}
        self.since_ms = self.since_ms or self._clock.wall_ns() // 1_000_000
        self._log.rest()
        self._ready.set()

    def __repr__(self) -> str:
        counts = {cluster: sum(map(len, kept.values())) for cluster, kept in self._kept.items()}
        return f"LastValues({counts if self.is_kept else 'not asked for'})"
