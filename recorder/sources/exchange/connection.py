"""One upstream connection: from the WebSocket upgrade to its end, frames passed on once per read."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Final, NamedTuple

import aiohttp
from aiohttp import WSMsgType

from recorder.bus import Batch, Border
from recorder.errors import Disconnected, UpstreamError
from recorder.log import get_logger
from recorder.polygon.careful import is_status_only, statuses_in
from recorder.polygon.client import ClientSession, Step, listed
from recorder.sources.exchange.context import FeedContext
from recorder.sources.exchange.gathering import Gathering
from recorder.sources.exchange.marks import Marks, Resumed
from recorder.sources.exchange.reading import Reading
from recorder.sources.exchange.watch import STEP_TIMEOUT_SECS, Watch
from recorder.sources.exchange.web_socket import (
    WebSocket,
    close_web_socket,
    disconnected,
    open_web_socket,
)

PASS_BYTES_MAX: Final = 512 * 1024
"""More is not collected for one pass: larger passes serve a thousand filtered clients more slowly, and so do smaller."""

_SMALL_READ_BYTES_MAX: Final = 128 * 1024
"""The event loops read 256 KiB at once; a read that brought less than half of it has emptied the socket."""

log = get_logger("polygon_upstream")


class _Ping(NamedTuple):
    """A ping to send."""

    payload: bytes


class Connection:
    """One attempt to connect and the session that comes of it. `run` ends by raising an `UpstreamError`.

    Frames are published as they are read: all that one socket read brought is one batch. Cancelling `run` passes on
    what was read, then closes.
    """

    def __init__(
        self,
        context: FeedContext,
        *,
        topics: Iterable[str],
        session_opened: Callable[[], Resumed],
        pong_received: Callable[[bytes], None],
        data_timeout_secs: float,
        marks: Marks | None = None,
    ) -> None:
        """`session_opened` is called once the first topic is acknowledged, or data flows without that.

        `data_timeout_secs` (0: none) is how long silence may last where none is to be expected. With `marks` the other
        recorder is asked for what was missed behind their position, and says its position behind each read; the session
        opens once nothing is on its way of what was missed.
        """
        self._context = context
        self._settings = settings = context.settings
        self._stats = context.stats
        self._clock = context.clock
        self._marks = marks
        self.session = ClientSession(
            settings.api_key,
            topics,
            amend=settings.amend,
            after=marks.after if marks is not None else None,
            each=marks is not None,
            allow_shifted=settings.allow_shifted,
        )
        self._requests: asyncio.Queue[bytes | _Ping] = asyncio.Queue()
        """Requests and pings that are made while the session lasts."""
        self._session_opened = session_opened
        self._pong_received = pong_received
        self.bus_session = context.session()
        self.reading = Reading(context, None)
        self._watch = Watch(context, self.session, self.bus_session, data_timeout_secs)
        self.data_until_ns = 0
        """Wall clock until which the session that is over has brought everything; 0 if it brought nothing."""
        self._gathering = Gathering()
        """What was read and is passed on at the end of this turn of the loop."""
        self._is_scheduled = False
        """Whether a pass is due in this turn of the loop."""
        self._ended: asyncio.Future[None] | None = None
        self._is_subscribed_logged = False

    async def run(self, http: aiohttp.ClientSession) -> None:
        """Connect, greet, authenticate, subscribe, then pass on data until the connection ends.

        Raise the `UpstreamError` that tells how it ended.
        """
        self._ended = asyncio.get_running_loop().create_future()
        self._stats.state = "connecting"
        log.debug("connecting", cluster=self._settings.cluster, address=self._settings.url)
        socket = await open_web_socket(http, self._settings.url)
        self._stats.connected = True
        self.bus_session.last_read_ns = self._clock.monotonic_ns()
        try:
            await self._authenticate(socket)
            await self._stream(socket)
        except UpstreamError as error:
            self._leave(error.reason)
            raise
        except (aiohttp.ClientError, OSError) as error:
            self._leave(Disconnected.reason)
            raise Disconnected(f"the connection broke: {error}") from error
        except asyncio.CancelledError:
            self._leave("shutdown")
            raise
        except BaseException:
            # A reader of the manifest must not mistake a defect of ours for an ordered stop.
            self._leave("defect")
            raise
        finally:
            self.reading.end()
            await close_web_socket(socket)

    def _leave(self, reason: str) -> None:
        """Pass on what was read and end the session."""
        self._deliver()
        if self.bus_session.opened_at_ns:
            now_ns, wall_ns = self._clock.monotonic_ns(), self._clock.wall_ns()
            last_ns = self._stats.last_received_ns
            self.data_until_ns = self._watch.stops.data_until_ns(now_ns, wall_ns, last_ns)
        self.bus_session.close(reason, self.data_until_ns, self._marks.settled if self._marks else "")
        if self._ended is not None and not self._ended.cancel() and not self._ended.cancelled():
            # The error that ended the session was raised already; asyncio complains about an error that nobody retrieves.
            self._ended.exception()

    async def _authenticate(self, socket: WebSocket) -> None:
        """Await the greeting and the answer to the key, one message at a time."""
        session = self.session
        self._stats.state = "authenticating"
        while session.step in (Step.GREETING, Step.AUTHENTICATING):
            step = session.step
            try:
                async with asyncio.timeout(STEP_TIMEOUT_SECS):
                    while session.step is step:
                        await self._take_status(socket)
            except TimeoutError:
                session.step_timed_out(data_received=False)
        topics = list(session.topics)
        log.debug(
            "authenticated", cluster=self._settings.cluster, asks_for=listed(topics), topics=len(topics)
        )

    async def _take_status(self, socket: WebSocket) -> None:
        message = await socket.receive()
        if message.type in (WSMsgType.TEXT, WSMsgType.BINARY):
            statuses = statuses_in(bytes(message.data))
            self._context.log_statuses(statuses)
            self._stats.statuses_received += len(statuses)
            # What comes along with the answer to the key may end the session before anything is asked for.
            for request in [request for status in statuses for request in self.session.receive(status)]:
                await socket.send_str(request.decode())
        elif message.type is WSMsgType.PING:
            await socket.pong(bytes(message.data))
        elif message.type is not WSMsgType.PONG:
            raise disconnected(socket, message)

    async def _stream(self, socket: WebSocket) -> None:
        self._stats.state = "subscribing"
        self.reading = Reading(self._context, socket.transport)
        self.bus_session.last_read_ns = self._clock.monotonic_ns()
        if not self.session.topics:
            self._open_session()
        assert self._ended is not None
        cluster = self._settings.cluster
        # Not a TaskGroup: there, an error of one of the tasks wins over a cancellation of ours in the same moment,
        # and the caller that stops the feed would wait for ever while it connects again.
        tasks = [
            asyncio.create_task(self._read(socket), name=f"read {cluster}"),
            asyncio.create_task(
                self._watch.run(socket, self.reading, self._ended, self._end_subscribing),
                name=f"watch {cluster}",
            ),
            asyncio.create_task(self._ask(socket), name=f"ask {cluster}"),
        ]
        front = socket.front
        if front is not None:
            front.begin(self._take_read)
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            if front is not None:
                front.end()
            for task in tasks:
                task.cancel()
            ends = await asyncio.gather(*tasks, return_exceptions=True)
        errors = [end for end in ends if end is not None and not isinstance(end, asyncio.CancelledError)]
        # A task that something else cancelled leaves no error of its own; the connection is over all the same.
        raise errors[0] if errors else Disconnected("a task of the connection was cancelled")

    def subscribe(self, topics: Iterable[str]) -> None:
        """Ask for more topics while the session lasts."""
        topics = list(topics)
        log.debug(
            "topics_requested", cluster=self._settings.cluster, asks_for=listed(topics), topics=len(topics)
        )
        for request in self.session.subscribe(topics):
            self._requests.put_nowait(request)

    def unsubscribe(self, topics: Iterable[str]) -> None:
        """Unsubscribe from topics while the session lasts."""
        topics = list(topics)
        log.debug(
            "topics_returned", cluster=self._settings.cluster, returns=listed(topics), topics=len(topics)
        )
        for request in self.session.unsubscribe(topics):
            self._requests.put_nowait(request)
        self._stats.topics_acknowledged = self.session.acknowledged

    def ping(self, payload: bytes) -> None:
        """Send a ping while the session lasts; `pong_received` is told of its answer."""
        self._requests.put_nowait(_Ping(payload))

    async def _ask(self, socket: WebSocket) -> None:
        while True:
            request = await self._requests.get()
            if isinstance(request, _Ping):
                self._stats.heartbeats_sent += 1
                await socket.ping(request.payload)
            else:
                await socket.send_str(request.decode())

    async def _read(self, socket: WebSocket) -> None:
        """Take what the front leaves to aiohttp: all but plain frames, and where there is no front, all.

        `receive` does not yield while messages are buffered, so one delivery follows each read.
        """
        receive = socket.receive
        while True:
            message = await receive()
            kind = message.type
            if kind is WSMsgType.TEXT or kind is WSMsgType.BINARY:
                self._take([message.data], len(message.data), b"")  # bytes, since decode_text is off
            elif kind is WSMsgType.PING:
                self.bus_session.last_read_ns = self._clock.monotonic_ns()
                await socket.pong(bytes(message.data))
            elif kind is WSMsgType.PONG:
                self.bus_session.last_read_ns = self._clock.monotonic_ns()
                # The pong confirms the frames in front of it, too.
                self._deliver()
                self._pong_received(bytes(message.data))
            else:
                # What the exchange said before it closed explains more than the close code.
                self._deliver()
                if self._ended is not None and self._ended.done():
                    await self._ended
                raise disconnected(socket, message)

    def _take_read(self, frames: list[bytes], size_bytes: int, wire: bytes) -> None:
        """Take the frames that the front has found in one read."""
        # A full read may be followed by another one in this turn of the loop, and then they share a pass. Any other has
        # emptied the socket: to wait for the end of the turn would only cost a turn.
        self._take(frames, size_bytes, wire, more_may_come=size_bytes > _SMALL_READ_BYTES_MAX)

    def _take(self, frames: list[bytes], size_bytes: int, wire: bytes, *, more_may_come: bool = True) -> None:
        """Take what was read; of another recorder, only what is whole there."""
        if self._marks is None:
            self._collect(frames, size_bytes, wire, more_may_come=more_may_come)
            return
        for part in self._marks.take(frames, wire):
            if not part.after:
                self._deliver()  # its position is not known, and is not that of what comes behind it
            self._gathering.add(part.frames, sum(map(len, part.frames)), part.wire, part.after)
            is_enough = len(self._gathering.frames) >= self._settings.channel_cap
            if is_enough or not part.after or self._gathering.size_bytes >= PASS_BYTES_MAX:
                self._deliver()
        if more_may_come:
            self._pass_on()
        else:
            self._deliver()

    def _collect(
        self, frames: list[bytes], size_bytes: int, wire: bytes, *, more_may_come: bool = True
    ) -> None:
        """Keep what was read for one pass at the end of this turn of the loop, or pass it on where it is enough.

        `wire` is the frames as they came, or empty where that is not known.
        """
        cap = self._settings.channel_cap
        gathering = self._gathering
        while len(gathering.frames) + len(frames) >= cap:
            room = cap - len(gathering.frames)
            wire = b""  # it is no longer what is passed on at once
            # The size is that of the whole read: so many frames are more than enough for a rest, whatever their size.
            gathering.add(frames[:room], size_bytes, wire)
            frames = frames[room:]
            self._deliver()
            self._context.warn_of_backpressure()
        if frames:
            gathering.add(frames, size_bytes, wire)
            if gathering.size_bytes >= PASS_BYTES_MAX or not more_may_come:
                self._deliver()
            else:
                self._pass_on()

    def _pass_on(self) -> None:
        """Have what was collected delivered once, when all that was read in this turn of the loop is there."""
        if not self._is_scheduled:
            self._is_scheduled = True
            asyncio.get_running_loop().call_soon(self._end_turn)

    def _end_turn(self) -> None:
        self._is_scheduled = False
        self._deliver()

    def _deliver(self) -> None:
        """Pass on what was read, in one synchronous pass, and hold the reading where that was enough for the sinks."""
        frames, wire, size_bytes, marks = self._gathering.take()
        if frames:
            self.bus_session.publish(frames, self._take_statuses, wire, marks=marks)
            if self._marks is not None:
                self._open_when_due()
            self.reading.look()
            self.reading.rest(self.bus_session.last_read_ns, len(frames), size_bytes)
        elif marks:
            self._context.bus.pass_border(Border(self._settings.cluster, marks[-1].after))
            self._open_when_due()
        elif self._marks is not None:
            self._open_when_due()

    def _take_statuses(self, batch: Batch) -> None:
        session = self.session
        statuses = batch.statuses
        if self._settings.firehose:
            # A firehose passes frames on as they came: a status amid data was said to the other recorder.
            own = [frame for frame in batch.frames if is_status_only(frame)]
            statuses = [status for frame in own for status in statuses_in(frame)]
        self._stats.statuses_received += len(statuses)
        self._context.log_statuses(statuses)
        errors_before = session.errors_count
        try:
            for status in statuses:
                session.receive(status)
        except UpstreamError as error:
            self.end(error)
        errors = session.errors_count - errors_before
        if errors:
            self._stats.errors += errors
            log.warning(
                "exchange_error",
                cluster=self._settings.cluster,
                messages=session.errors[-errors:],
                count=errors,
            )
        self._stats.topics_acknowledged = session.acknowledged
        self._open_when_due()
        if self.bus_session.opened_at_ns and session.is_answered:
            self._log_subscribed()

    def _open_when_due(self) -> None:
        """Open the session that has an acknowledged topic, unless what was missed is on its way."""
        is_behind = self._marks is not None and self._marks.is_catching_up
        if self.session.acknowledged and not self.bus_session.opened_at_ns and not is_behind:
            self._open_session()

    def _open_session(self) -> None:
        resumed, missed = self._session_opened()
        self.bus_session.open(resumed, missed)
        if self.session.is_answered:
            self._log_subscribed()

    def _end_subscribing(self) -> None:
        """Go on without the answers that have not come in time."""
        if not self.bus_session.opened_at_ns:
            self._open_session()
        self._log_subscribed()

    def _log_subscribed(self) -> None:
        """Say once in a session what the exchange has answered."""
        if self._is_subscribed_logged:
            return
        self._is_subscribed_logged = True
        log.info(
            "subscribed",
            cluster=self._settings.cluster,
            address=self._settings.url,
            acknowledged=self.session.acknowledged,
            topics=len(self.session.topics),
        )

    def end(self, error: UpstreamError) -> None:
        """Let the session end for a reason."""
        if self._ended is not None and not self._ended.done():
            self._ended.set_exception(error)

    def __repr__(self) -> str:
        return f"Connection({self._settings.cluster}, {self.session!r}, frames={self._stats.frames_received})"
