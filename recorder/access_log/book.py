"""What each connection has received since its last line, in the process that serves it."""

from __future__ import annotations

import asyncio
import secrets
import time
import traceback
from collections.abc import Callable, Iterable, Mapping
from typing import Final, Protocol

from recorder.access_log.record import SCHEMA_VERSION, AccessRecord, Kind, encode, moment
from recorder.clock import Clock
from recorder.log import RateLimited, get_logger

_DAY_NS: Final = 86_400_000_000_000
_ENTRIES_AT_ONCE: Final = 200
"""Connections whose lines are written before the loop does anything else."""
_WARN_SECS: Final = 5.0

WriteLines = Callable[[bytes, int, int], None]
"""Takes whole lines, how many they are, and from when they count, in Unix nanoseconds. It neither blocks nor raises."""

log = get_logger("polygon_clients")


class Recipient(Protocol):
    """What the log reads of a client; delivery counts it in any case, once for each client and pass."""

    name: str
    address: str
    address_port: int
    agent: str
    cluster: str
    reason: str
    events_sent: int
    bytes_sent: int
    uncounted_bytes: int
    """Of data whose events nobody has counted."""


class Entry:
    """The account of one connection."""

    __slots__ = (
        "_before",
        "begun_ns",
        "client",
        "connected_ns",
        "connection",
        "fingerprint",
        "gained",
        "lost",
        "port",
        "seq",
        "topics",
    )

    def __init__(
        self,
        client: Recipient,
        port: str,
        fingerprint: str,
        topics: Callable[[], Mapping[str, object]],
        now_ns: int,
    ) -> None:
        """`topics` returns what the client holds."""
        self.client = client
        self.port = port
        self.fingerprint = fingerprint
        self.topics = topics
        self.connection = secrets.token_hex(8)
        self.seq = 0
        self.connected_ns = self.begun_ns = now_ns
        self.gained: dict[str, None] = {}
        self.lost: dict[str, None] = {}
        self._before = (client.events_sent, client.bytes_sent, client.uncounted_bytes)

    def subscribed(self, topics: Iterable[str]) -> None:
        """Note topics that the client receives from now on."""
        for topic in topics:
            self.gained[topic] = None
            self.lost.pop(topic, None)

    def unsubscribed(self, topics: Iterable[str]) -> None:
        """Note topics that the client receives no more."""
        self.lost.update(dict.fromkeys(topics))

    def take(self) -> tuple[int, int, int]:
        """Return events, bytes and uncounted bytes since the last call."""
        client = self.client
        before = self._before
        now = self._before = (client.events_sent, client.bytes_sent, client.uncounted_bytes)
        return now[0] - before[0], now[1] - before[1], now[2] - before[2]


class AccessBook:
    """Writes a line when a connection is let in, each interval, at each midnight (UTC), and when it ends.

    So a kill loses what one interval counted. Whatever goes wrong here, no client notices.
    """

    def __init__(
        self, interval_secs: float, clusters: Iterable[str], write: WriteLines, clock: Clock
    ) -> None:
        """`clusters` are those of the recorder, which a client without one of its own may ask for."""
        self._interval_secs = interval_secs
        self._clusters = list(clusters)
        self._write = write
        self._clock = clock
        self._entries: dict[Entry, None] = {}
        self._warning = RateLimited(_WARN_SECS)
        self.failures = 0
        """Lines that were not written because of a defect."""

    def join(
        self, client: Recipient, port: str, fingerprint: str, topics: Callable[[], Mapping[str, object]]
    ) -> Entry:
        """Begin the account of a connection whose token is good."""
        entry = Entry(client, port, fingerprint, topics, self._clock.wall_ns())
        self._entries[entry] = None
        self._put([entry], "joined")
        return entry

    def leave(self, entry: Entry) -> None:
        """Close an account: the connection has ended."""
        self._entries.pop(entry, None)
        self._put([entry], "left")

    async def run(self) -> None:
        """Write the lines of each interval and each end of a day, until cancelled."""
        clock = self._clock
        due_ns = clock.monotonic_ns() + int(self._interval_secs * 1e9)
        day = clock.wall_ns() // _DAY_NS
        while True:
            now_ns = clock.wall_ns()
            to_midnight_secs = (_DAY_NS - now_ns % _DAY_NS) / 1e9
            await clock.sleep(max(0.0, min(to_midnight_secs, (due_ns - clock.monotonic_ns()) / 1e9)))
            today = clock.wall_ns() // _DAY_NS
            # A timer may fire a moment before the wall clock is there.
            if today == day and clock.monotonic_ns() < due_ns:
                continue
            due_ns = clock.monotonic_ns() + int(self._interval_secs * 1e9)
            is_new_day, day = today != day, today
            await self.flush(restate=is_new_day)

    async def flush(self, *, restate: bool = False) -> None:
        """Write a line for each connection; with `restate`, the next line of each names every topic that it holds."""
        entries = list(self._entries)
        for place in range(0, len(entries), _ENTRIES_AT_ONCE):
            present = [entry for entry in entries[place : place + _ENTRIES_AT_ONCE] if entry in self._entries]
            self._put(present, "interval")
            if restate:
                for entry in present:
                    entry.gained = dict.fromkeys(entry.topics())
            await asyncio.sleep(0)

    def _put(self, entries: list[Entry], kind: Kind) -> None:
        if not entries:
            return
        begun_ns = min(entry.begun_ns for entry in entries)
        now_ns = self._clock.wall_ns()
        try:
            lines = [encode(self._close_interval(entry, kind, now_ns)) for entry in entries]
            self._write(b"\n".join([*lines, b""]), len(lines), begun_ns)
        except Exception as error:  # a client must not pay for what its account cannot hold
            self.failures += len(entries)
            if self._warning.ready(time.monotonic_ns()) is not None:
                log.error(
                    "access_log_defect",
                    error="".join(traceback.format_exception(error)),
                    lines_missing=self.failures,
                )

    def _close_interval(self, entry: Entry, kind: Kind, now_ns: int) -> AccessRecord:
        """Return the line of what an entry has counted, and begin its next interval."""
        client = entry.client
        events, size, uncounted = entry.take()
        begun_ns, ended_ns = entry.begun_ns, max(now_ns, entry.begun_ns)  # the wall clock may go back
        seq, gained, lost = entry.seq, entry.gained, entry.lost
        entry.begun_ns, entry.seq, entry.gained, entry.lost = ended_ns, seq + 1, {}, {}
        return AccessRecord(
            schema_version=SCHEMA_VERSION,
            kind=kind,
            token=client.name,
            fingerprint=entry.fingerprint,
            port=entry.port,
            clusters=[client.cluster] if client.cluster else self._clusters,
            address=client.address,
            address_port=client.address_port,
            agent=client.agent,
            connection=entry.connection,
            seq=seq,
            connected=moment(entry.connected_ns),
            begun=moment(begun_ns),
            ended=moment(ended_ns),
            events=None if uncounted else events,
            bytes=size,
            subscribed=list(gained),
            unsubscribed=list(lost),
            topics_count=len(entry.topics()),
            reason=client.reason if kind == "left" else "",
        )

    def __repr__(self) -> str:
        return f"AccessBook({len(self._entries)} connections, failures={self.failures})"
