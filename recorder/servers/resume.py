"""Clients that were cut go on where they were: first they get what they have missed, then what all get."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from typing import Final

from recorder.clock import Clock
from recorder.frames import TIME_PING
from recorder.polygon import control
from recorder.polygon.control import encode_status
from recorder.polygon.rows import Status
from recorder.polygon.server import Subscribe
from recorder.servers.client import Client
from recorder.servers.hotlog import HotLog, Start
from recorder.servers.port import Past, Port
from recorder.servers.stats import Resumed, ServerStats
from recorder.servers.topics import parse_bar_topic

STEP_NS: Final = 2_000_000
"""How long the loop works on the past before it looks after the present again."""
STEP_READS: Final = 8
"""Entries of the log that one client is sent before it is another client's turn."""
FULL_SECS: Final = 0.01
"""How long to wait where no client has room for more."""
POSITION_SECS: Final = 1.0
"""Time between two positions that a client is told."""
_ROOM: Final = 0.5
"""Share of what a client may leave unread that its past may fill."""
_POSITIONS_MAX: Final = 500
"""Clients that are told a position before the loop may do anything else."""


@dataclass(slots=True)
class Wish:
    """Topics that a client gets from an entry of the log on, and does not get live yet."""

    port: Port
    topics: dict[str, None]
    past: Past
    number: int
    """Of the next entry to read."""
    is_resume: bool
    """Whether the client is waiting for the end of the past."""
    count: int = 0
    """What it has been sent, in events; on the firehose, in frames."""


class Resumes:
    """Stands between the clients and their ports: lets through what concerns the present, and serves the past itself.

    A client that asks for the past reads the hot log from there on. When it has read all, it is subscribed at its port in
    the same moment: each pass of the bus appends to the log and delivers at once, so that nothing is missing and nothing
    comes twice. What a client subscribes to while it reads waits its turn, and is read from the moment of the request
    on. Events of topics that it held when it asked are left out of the past: they come, or came, by these.

    Bounds: the loop works for `STEP_NS` on the past, then looks after the present; a client is sent no more than it has
    room for; and where the log forgets what a client has yet to read, the client is closed with 1008.
    """

    def __init__(self, log: HotLog, clock: Clock) -> None:
        self._log = log
        self._clock = clock
        self._wishes: dict[Client, deque[Wish]] = {}
        """Of each client that reads, in the order of its requests."""
        self._told: dict[Client, int] = {}
        """The clients that want positions, and the last that each was told; -1 before the first."""
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
        async with asyncio.TaskGroup() as group:
            group.create_task(self._read_all())
            group.create_task(self._tell_all())

    def subscribe(self, port: Port, client: Client, wish: Subscribe, stats: ServerStats) -> None:
        """Send the client these topics, from where it wants them on."""
        if wish.positions:
            self._told.setdefault(client, -1)
        wants_past = wish.after is not None or wish.since_ms is not None
        if wants_past or client in self._wishes:
            events = tuple(topic for topic in wish.topics if parse_bar_topic(topic) is None)
            if len(events) < len(wish.topics):
                self._subscribe_bars(port, client, wish)
            if events:
                self._subscribe_events(port, client, events, wish, stats)
        elif wish.topics:
            port.subscribe(client, wish.topics, None, amend=wish.amend)
        if client in self._told and client not in self._wishes:
            self._tell(client)

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
                    later.past.release(given, wish.number)
        if live:
            port.unsubscribe(client, tuple(live))
            for wish in queue:
                wish.past.release(live, self._log.end)
        for wish in list(queue):
            if not wish.topics:
                queue.remove(wish)
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
        self._wishes.pop(client, None)
        self._told.pop(client, None)
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
                self._wishes.pop(client, None)
            if self._clock.monotonic_ns() >= until_ns:
                break
        return has_moved

    def tell(self, clients: Iterable[Client]) -> None:
        """Send these clients their position, if it has changed, and they are not behind it."""
        for client in clients:
            if client in self._wishes or self._told.get(client, self._log.position) == self._log.position:
                continue
            try:
                self._tell(client)
            except Exception as error:
                client.fail(error)

    async def _read_all(self) -> None:
        while True:
            await self._awake.wait()
            has_moved = self.step()
            if not self._wishes:
                self._awake.clear()
                self._idle.set()
                self._log.rest()
            await asyncio.sleep(0.0 if has_moved else FULL_SECS)

    async def _tell_all(self) -> None:
        while True:
            await asyncio.sleep(POSITION_SECS)
            clients = list(self._told)
            for begin in range(0, len(clients), _POSITIONS_MAX):
                self.tell(clients[begin : begin + _POSITIONS_MAX])
                await asyncio.sleep(0.0)

    def _subscribe_bars(self, port: Port, client: Client, wish: Subscribe) -> None:
        """Bars have a past of their own, by time."""
        bars = tuple(topic for topic in wish.topics if parse_bar_topic(topic) is not None)
        if wish.after is not None:
            words = "after is for events, and bars come from now on; ask for bars with since"
            client.say(*[encode_status(Status(control.ERROR, f"{topic}: {words}")) for topic in bars])
        port.subscribe(client, bars, wish.since_ms, amend=wish.amend)

    def _subscribe_events(
        self, port: Port, client: Client, topics: tuple[str, ...], wish: Subscribe, stats: ServerStats
    ) -> None:
        start, is_resume = self._log.now, False
        if wish.after is not None or wish.since_ms is not None:
            start = self._start(wish)
            if not start.recovered and wish.partial:
                start = self._log.oldest(start.reason)
            is_resume = start.recovered or wish.partial
            outcome: Resumed = "recovered" if start.recovered else "partial" if wish.partial else "refused"
            stats.resumes[outcome] += 1
            client.say(self._answer(client, start, wish))
        queue = self._wishes.get(client)
        if queue is None and start.number == self._log.end:
            port.subscribe(client, topics, None)
            if is_resume:
                client.say(_complete(0))
            return
        asked = frozenset(wish.topics)
        held = [topic for topic in client.session.topics if topic not in asked]
        past = port.past(client, topics, held)
        made = Wish(port, dict.fromkeys(topics), past, start.number, is_resume)
        self._wishes.setdefault(client, deque()).append(made)
        self._awake.set()
        self._idle.clear()

    def _start(self, wish: Subscribe) -> Start:
        if wish.after is not None:
            return self._log.after(wish.after)
        assert wish.since_ms is not None
        return self._log.since(wish.since_ms, self._clock.wall_ns() // 1_000_000)

    def _answer(self, client: Client, start: Start, wish: Subscribe) -> bytes:
        """Return the status that says what becomes of a wish for the past."""
        log = self._log
        gaps = log.outages(start.position, client.cluster)
        if start.recovered:
            words = "what you missed follows"
            if gaps:
                words += f", less what this recorder itself has missed in {len(gaps)} gaps"
        elif wish.partial:
            words = f"not all that you missed is kept, what there is follows: {start.reason}"
        else:
            words = f"what you missed cannot be sent, events come from now on: {start.reason}"
        facts = {
            "recovered": start.recovered,
            "from": log.told(start.position),
            "available_from": log.told(log.offered_position),
            "available_since": log.offered_ms,
            "gaps": [gap.shown() for gap in gaps],
            "reason": start.reason,
        }
        return encode_status(Status(control.RESUME, words), **facts)

    def _read_on(self, client: Client, queue: deque[Wish], until_ns: int) -> bool:
        """Send a client more of what it has missed; return False where it has no room for it."""
        log, wish = self._log, queue[0]
        if wish.number < log.first:
            client.close(1008, "too slow: what you have yet to get is no longer kept", "slow_consumer")
            return True
        for read in range(STEP_READS):
            if wish.number == log.end:
                break
            pending = client.pending_bytes
            if pending and pending + log.size_of(wish.number) > client.limits.pending_bytes_max * _ROOM:
                return read > 0
            wish.count += wish.past.send(log.batch(wish.number), wish.number)
            wish.number += 1
            if client.closing or self._clock.monotonic_ns() >= until_ns:
                break
        if wish.number == log.end and not client.closing:
            self._join(client, queue)
        return True

    def _join(self, client: Client, queue: deque[Wish]) -> None:
        """A client has read all that there is for one wish: it gets live what comes from now on."""
        wish = queue.popleft()
        wish.port.subscribe(client, tuple(wish.topics), None)
        if wish.is_resume:
            client.say(_complete(wish.count))
        if not queue:
            self._caught_up(client)

    def _caught_up(self, client: Client) -> None:
        """A client reads nothing of the past any more."""
        del self._wishes[client]
        if client in self._pings:
            port, payload = self._pings.pop(client)
            port.ping(client, payload)
        if client in self._told:
            self._tell(client)

    def _tell(self, client: Client) -> None:
        """Send a client the position for which all that it was sent before stands."""
        position = self._told[client] = self._log.position
        told = self._log.told(position)
        client.say(encode_status(Status(control.POSITION, told), after=told))

    def __repr__(self) -> str:
        return f"Resumes({self._log!r}, {len(self._wishes)} clients read)"


def _complete(count: int) -> bytes:
    return encode_status(Status(control.RESUME_COMPLETE, f"that was all you missed: {count}"), count=count)
