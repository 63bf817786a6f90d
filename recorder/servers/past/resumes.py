"""Clients that were cut go on where they were: first they get what they have missed, then what all get.

What they have missed is read from memory, and from the archive where it is older.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace
from itertools import islice
from typing import Final

from recorder.archive.onward import BLOCK_BYTES
from recorder.archive.wanted import Asked, Found, Place
from recorder.clock import Clock
from recorder.frames import TIME_PING
from recorder.polygon.control import encode_position
from recorder.polygon.server import Subscribe
from recorder.servers.client import Client
from recorder.servers.firehose import FIREHOSE
from recorder.servers.past.answer import complete, say_answer, waits
from recorder.servers.past.bar_request import marked
from recorder.servers.past.cold import READERS_MAX, ColdReader, ColdReaders
from recorder.servers.past.entry import Start, told_place
from recorder.servers.past.hotlog import HotLog
from recorder.servers.past.upstream import ANOTHER, NOT_YET
from recorder.servers.past.wish import STEP_READS, Wish, end_for_good, has_room, reached_by
from recorder.servers.port import HOT, Port
from recorder.servers.stats import ServerStats
from recorder.servers.topics import parse_bar_topic

STEP_NS: Final = 2_000_000
"""How long the loop works on the past before it looks after the present again."""
FULL_SECS: Final = 0.01
"""How long to wait where no client has room for more."""
POSITION_SECS: Final = 1.0
"""Time between two positions that a client is told."""
_POSITIONS_MAX: Final = 500
"""Clients that are told a position before the loop may do anything else."""


class Resumes:
    """Stands between the clients and their ports: lets through what concerns the present, and serves the past itself.

    A client that asks for the past reads the hot log from there on. When it has read all, it is subscribed at its port in
    the same moment: each pass of the bus appends to the log and delivers at once, so that nothing is missing and nothing
    comes twice. What a client subscribes to while it reads waits its turn, and is read from the moment of the request
    on. Events of topics that it held when it asked are left out of the past: they come, or came, by these.

    What the log does not have any more is read from the archive, as far as that has everything: up to an entry that the
    log still has, where the client goes on in the log.

    Bounds: the loop works for `STEP_NS` on the past, then looks after the present; a client is sent no more than it has
    room for; and where nothing has what a client has yet to get, the client is closed with 1008.
    """

    def __init__(self, log: HotLog, clock: Clock, cold: ColdReaders | None = None) -> None:
        """`cold` is for tests: what reads the archive of the log, in place of threads."""
        self._log = log
        self._clock = clock
        if cold is None and log.manifest is not None:
            cold = ColdReaders(log.manifest, log.epoch)
        self.cold = cold
        """What reads the archive; None where there is none."""
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stirred = asyncio.Event()
        """Set when a block of the archive has been read."""
        self._wishes: dict[Client, deque[Wish]] = {}
        """Of each client that reads, in the order of its requests."""
        self._told: dict[Client, str] = {}
        """The clients that want positions, and the last that each was told; empty before the first."""
        self._ports: dict[Client, Port] = {}
        """Where these are."""
        self._pings: dict[Client, tuple[Port, bytes]] = {}
        """The last ping of a client that reads and asks for the time; it is answered behind the past."""
        self._awake = asyncio.Event()
        """Set while some client reads."""
        self._idle = asyncio.Event()
        """Set while none does."""
        self._idle.set()

    @property
    def is_reading(self) -> bool:
        """Whether any client has yet to be sent something of the past."""
        return bool(self._wishes)

    async def caught_up(self) -> None:
        """Wait until no client reads the past any more."""
        await self._idle.wait()

    async def run(self) -> None:
        """Work on what clients have missed, and tell positions, until cancelled."""
        self._loop = asyncio.get_running_loop()
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._read_all())
                group.create_task(self._tell_all())
        finally:
            if self.cold is not None:
                self.cold.shut_down()

    def subscribe(self, port: Port, client: Client, wish: Subscribe, stats: ServerStats) -> None:
        """Send the client these topics, from where it wants them on."""
        if wish.positions:
            self._told.setdefault(client, "")
            self._ports[client] = port
        if wish.each and wish.positions and wish.topics:
            # Only here does a client get whole reads, and those of one cluster.
            client.wants_marks = port.name == FIREHOSE and client.cluster != ""
        wants_past = wish.after is not None or wish.since_ms is not None
        if wants_past or client in self._wishes:
            events = tuple(topic for topic in wish.topics if parse_bar_topic(topic) is None)
            bars = tuple(topic for topic in wish.topics if parse_bar_topic(topic) is not None)
            if bars:  # their past is the port's
                port.subscribe(client, bars, wish if wants_past else None, amend=wish.amend)
            if events:
                self._subscribe_events(port, client, events, wish, stats)
        elif wish.topics:
            port.subscribe(client, wish.topics, amend=wish.amend, manner=wish.manner)
        if client in self._told and client not in self._wishes:
            self._tell(client)

    async def arrival(self, client: Client, after: str) -> None:
        """Wait until this recorder has come to a position that a client was told elsewhere, but not for long."""
        until_ns = self._clock.monotonic_ns() + self._log.upstream.patience_ns
        while self._log.is_ahead(after, client.cluster) and not client.closing:
            if self._clock.monotonic_ns() >= until_ns:
                return
            await asyncio.sleep(FULL_SECS)

    def unsubscribe(self, port: Port, client: Client, topics: tuple[str, ...]) -> None:
        """Send the client these topics no longer."""
        queue = self._wishes.get(client)
        if queue is None:
            port.unsubscribe(client, topics)
            return
        live = dict.fromkeys(topics)
        for place, wish in enumerate(queue):
            given = [topic for topic in live if topic in wish.topics]
            for topic in given:
                del wish.topics[topic], live[topic]
            if given:
                wish.past.drop(given)
                for later in islice(queue, place + 1, None):
                    later.past.release(given, wish.where)
                    later.cuts.append(wish.where)
        if live:
            port.unsubscribe(client, tuple(live))
            for wish in queue:
                wish.past.release(live, (HOT, self._log.end))
        for wish in list(queue):
            if not wish.topics:
                queue.remove(wish)
                wish.let_go(self._log, self.cold)
        if not queue:
            self._caught_up(client)

    def ping(self, port: Port, client: Client, payload: bytes) -> None:
        """Answer a ping; where the time is asked for, behind what the client has yet to be sent."""
        if client in self._wishes and payload.startswith(TIME_PING):
            self._pings[client] = port, payload
        else:
            port.ping(client, payload)

    def forget(self, port: Port, client: Client) -> None:
        """Remove a client that is gone."""
        self._drop(client)
        self._told.pop(client, None)
        self._ports.pop(client, None)
        self._pings.pop(client, None)
        port.forget(client)

    def step(self) -> bool:
        """Work on what clients have missed, on each a little, for `STEP_NS` in all; return whether any got on."""
        until_ns = self._clock.monotonic_ns() + STEP_NS
        has_moved = False
        for client in list(self._wishes):
            queue = self._wishes.pop(client)
            self._wishes[client] = queue  # behind the others, so that no client is always served last
            try:
                has_moved |= self._read_on(client, queue, until_ns)
            except Exception as error:
                # The defect of one connection must not cost the others what they missed.
                client.fail(error)
            if client.closing:
                self._drop(client)
            if self._clock.monotonic_ns() >= until_ns:
                break
        return has_moved

    def tell(self, clients: Iterable[Client]) -> None:
        """Send these clients their position, if it has changed: also those that read the archive, and nothing besides."""
        for client in clients:
            if client.is_behind or client not in self._told:
                continue
            queue = self._wishes.get(client)
            try:
                if queue is None:
                    if self._told[client] != self._position(client):
                        self._tell(client)
                elif len(queue) == 1 and (place := queue[0].news(client)) is not None:
                    self._say_position(client, told_place(place))
            except Exception as error:
                client.fail(error)

    async def _read_all(self) -> None:
        while True:
            await self._awake.wait()
            self._stirred.clear()
            has_moved = self.step()
            if not self._wishes:
                self._awake.clear()
                self._idle.set()
                self._log.rest()
            if has_moved:
                await asyncio.sleep(0.0)
                continue
            with suppress(TimeoutError):
                async with asyncio.timeout(FULL_SECS):
                    await self._stirred.wait()

    async def _tell_all(self) -> None:
        while True:
            await asyncio.sleep(POSITION_SECS)
            clients = list(self._told)
            for begin in range(0, len(clients), _POSITIONS_MAX):
                self.tell(clients[begin : begin + _POSITIONS_MAX])
                await asyncio.sleep(0.0)

    def _subscribe_events(
        self, port: Port, client: Client, topics: tuple[str, ...], wish: Subscribe, stats: ServerStats
    ) -> None:
        start, is_resume, cold = self._log.now, False, None
        if wish.after is not None or wish.since_ms is not None:
            start = self._start(client, wish)
            if start.reason == NOT_YET or (client.wants_marks and start.reason == ANOTHER):
                wish = replace(wish, partial=False)  # what there is may be what it has, from elsewhere
            if start.older is not None and self.cold is not None:
                cold = self._open(self.cold, start.older, client, partial=wish.partial)
            else:
                if not start.recovered and wish.partial:
                    start = self._log.oldest(start.reason)
                is_resume = start.recovered or wish.partial
                say_answer(self._log, client, wish, stats, start)
        queue = self._wishes.get(client)
        if queue is None and cold is None and start.number == self._log.end:
            if is_resume:
                client.say(complete(0))
            port.subscribe(client, topics, manner=wish.manner)
            return
        asked = frozenset(wish.topics)
        held = [topic for topic in client.session.topics if topic not in asked]
        past = port.past(client, topics, held)
        made = Wish(port, dict.fromkeys(topics), past, stats, start.number, start.seq, is_resume, wish.manner)
        made.rank = start.rank
        made.is_findable = not (self._log.is_amid(start.number) or made.is_ragged(client))
        if cold is not None:
            made.go_cold(cold, self._log)
            made.unanswered = (wish, start)
        self._wishes.setdefault(client, deque()).append(made)
        self._awake.set()
        self._idle.clear()

    def _start(self, client: Client, wish: Subscribe) -> Start:
        if wish.after is not None:
            return self._log.after(wish.after, client.cluster)
        assert wish.since_ms is not None
        return self._log.since(wish.since_ms, self._clock.wall_ns() // 1_000_000)

    @staticmethod
    def _open(
        readers: ColdReaders, wanted: Place | Asked | int, client: Client, *, partial: bool
    ) -> ColdReader:
        """Begin to read the archive for a client; say to it that it waits for others, where it does."""
        reader = readers.open(wanted, partial=partial)
        ahead = readers.ahead_of(reader) - READERS_MAX + 1
        if ahead > 0:
            client.say(waits(ahead))
        return reader

    def _read_cold(self, client: Client, wish: Wish, readers: ColdReaders, until_ns: int) -> bool:
        """Send a client more of what the archive has for it; return whether anything was sent or has become known."""
        log, cold = self._log, wish.cold
        assert cold is not None
        has_come = readers.work(
            cold, self._clock.monotonic_ns(), self._wake, has_room=has_room(client, BLOCK_BYTES)
        )
        if cold.lost:
            end_for_good(client, f"what you have yet to get is not in the archive: {cold.lost}", "past_lost")
            return True
        if cold.found is None:
            return has_come
        if not wish.is_begun:
            self._begin_cold(client, wish, cold.found, readers)
            return True
        return wish.send_archived(client, log, readers, self._clock, until_ns) or has_come

    def _begin_cold(self, client: Client, wish: Wish, found: Found, readers: ColdReaders) -> None:
        """It is known what the archive has for a wish: go on by that, and tell a client that waits to be told."""
        log = self._log
        wish.is_begun = True
        if found.place is not None:
            wish.stats.archive_reads += 1
        if wish.unanswered is None:
            if found.place is None:
                words = f"too slow: what you have yet to get is not in the archive: {found.reason}"
                end_for_good(client, words, "slow_consumer")
            return
        request, start = wish.unanswered
        wish.unanswered = None
        if found.place is None:
            begin = log.oldest(start.reason) if request.partial else log.now
            start = begin._replace(recovered=False, reason=start.reason)
            wish.go_hot(start.number, start.seq, readers)
        wish.is_resume = found.recovered or request.partial
        say_answer(log, client, request, wish.stats, start, found)

    def _read_on(self, client: Client, queue: deque[Wish], until_ns: int) -> bool:
        """Send a client more of what it has missed; return False where it has no room for it, or nothing is read yet."""
        log, wish = self._log, queue[0]
        if wish.cold is None and wish.number < log.first:
            if self.cold is None or not wish.is_findable:
                end_for_good(client, "too slow: what you have yet to get is no longer kept", "slow_consumer")
                return True
            place = Place(log.epoch, wish.seq)
            wish.go_cold(self._open(self.cold, place, client, partial=False), log)
        if wish.cold is not None and self.cold is not None:
            return self._read_cold(client, wish, self.cold, until_ns)
        for read in range(STEP_READS):
            if wish.number == log.end:
                break
            if not has_room(client, log.size_of(wish.number)):
                return read > 0
            batch = log.batch(wish.number)
            if not log.has_come(wish.number, wish.rank):
                wish.count += wish.past.send(batch, wish.where)
            wish.number += 1
            if not log.is_amid(wish.number):
                wish.seq, wish.is_findable = log.begin_seq(wish.number), not wish.is_ragged(client)
            elif self.cold is not None:
                wish.seq += len(batch.rows)  # the log knows the number at the border of a read alone
            if client.closing or self._clock.monotonic_ns() >= until_ns:
                break
        if wish.number == log.end and not client.closing:
            self._join(client, queue)
        return True

    def _join(self, client: Client, queue: deque[Wish]) -> None:
        """A client has read all that there is for one wish: it gets live what comes from now on."""
        log, wish = self._log, queue.popleft()
        wish.let_go(log, self.cold)
        if wish.is_resume:
            client.say(complete(wish.count))
        wish.port.subscribe(client, tuple(wish.topics), manner=wish.manner)
        if not queue:
            self._caught_up(client)

    def _drop(self, client: Client) -> None:
        """Forget what a client wants of the past."""
        for wish in self._wishes.pop(client, ()):
            wish.let_go(self._log, self.cold)

    def _wake(self) -> None:
        """Have the loop look at what has been read; called on any thread."""
        if self._loop is not None:
            with suppress(RuntimeError):  # it is closed
                self._loop.call_soon_threadsafe(self._stirred.set)

    def _caught_up(self, client: Client) -> None:
        """A client reads nothing of the past any more."""
        del self._wishes[client]
        if client in self._pings:
            port, payload = self._pings.pop(client)
            port.ping(client, payload)
        if client in self._told:
            self._tell(client)

    def _tell(self, client: Client) -> None:
        """Send a client the position for which all that it was sent before stands; nothing while it is behind."""
        told = "" if client.is_behind else self._position(client)
        if told:
            self._told[client] = told
            self._say_position(client, told)

    def _position(self, client: Client) -> str:
        """Return the position for which all that a client was sent stands; empty where none does now."""
        told = self._log.told_to(client.cluster, reached_by(client, self._log))
        closed_ms = self._ports[client].bars_closed_ms(client)
        return marked(told, closed_ms) if closed_ms is not None else ""

    @staticmethod
    def _say_position(client: Client, told: str) -> None:
        client.say(encode_position(told, each=client.wants_marks))

    def __repr__(self) -> str:
        return f"Resumes({self._log!r}, {len(self._wishes)} clients read)"
