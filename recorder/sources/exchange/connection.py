"""One upstream connection: from the WebSocket upgrade to its end, frames passed on once per read."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Final, NamedTuple

import aiohttp
from aiohttp import WSMsgType

from recorder.bus import Batch, Bus
from recorder.clock import Clock
from recorder.errors import (
    ConnectFailed,
    Disconnected,
    ServerDisconnect,
    UpstreamError,
)
from recorder.log import RateLimited, get_logger
from recorder.market_hours.hours import ClusterHours
from recorder.polygon.careful import is_status_only, statuses_in
from recorder.polygon.client import ClientSession, Step
from recorder.polygon.events import Decoder
from recorder.settings import UpstreamSettings
from recorder.sources.bus_session import BusSession
from recorder.sources.exchange.watch import STEP_TIMEOUT_SECS, Watch
from recorder.sources.stats import FeedStats

if TYPE_CHECKING:
    from aiohttp.client import ClientWebSocketResponse
    from aiohttp.http_websocket import WSMessageNoDecodeText

    Message = aiohttp.WSMessage | WSMessageNoDecodeText

CONNECT_TIMEOUT_SECS: Final = 15.0
CLOSE_TIMEOUT_SECS: Final = 2.0
FRAME_BYTES_MAX: Final = 64 * 1024 * 1024
"""A larger frame ends the connection; the vendor's are some kilobytes."""

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
        settings: UpstreamSettings,
        decoder: Decoder,
        bus: Bus,
        stats: FeedStats,
        clock: Clock,
        *,
        topics: Iterable[str],
        since_ms: int | None,
        session_opened: Callable[[], None],
        backpressure: RateLimited,
        hours: ClusterHours,
        pong_received: Callable[[bytes], None],
        data_timeout_secs: float,
    ) -> None:
        """`session_opened` is called once the first topic is acknowledged, or data flows without that.

        `hours` tell whether silence is to be expected; `data_timeout_secs` (0: none) is how long it may last if not.
        `since_ms` is the time from which on another recorder is asked for what was missed; None for the exchange.
        """
        self._settings = settings
        self._stats = stats
        self._clock = clock
        self.session = ClientSession(settings.api_key, topics, since_ms, amend=settings.amend)
        self._requests: asyncio.Queue[bytes | _Ping] = asyncio.Queue()
        """Requests and pings that are made while the session lasts."""
        self._session_opened = session_opened
        self._backpressure = backpressure
        self._pong_received = pong_received
        self.bus_session = BusSession(decoder, bus, stats, clock)
        self._watch = Watch(settings, self.session, self.bus_session, stats, clock, hours, data_timeout_secs)
        self.data_until_ns = 0
        """Wall clock until which the session that is over has brought everything; 0 if it brought nothing."""
        self._frames: list[bytes] = []
        """What was read and is passed on at the end of this turn of the loop."""
        self._ended: asyncio.Future[None] | None = None

    async def run(self, http: aiohttp.ClientSession) -> None:
        """Connect, greet, authenticate, subscribe, then pass on data until the connection ends.

        Raises the `UpstreamError` that tells how it ended.
        """
        loop = asyncio.get_running_loop()
        self._ended = loop.create_future()
        self._stats.state = "connecting"
        socket = await self._connect(http)
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
            await _close(socket)

    def _leave(self, reason: str) -> None:
        """Pass on what was read and end the session."""
        self._deliver()
        if self.bus_session.opened_at_ns:
            now_ns, wall_ns = self._clock.monotonic_ns(), self._clock.wall_ns()
            last_ns = self._stats.last_received_ns
            self.data_until_ns = self._watch.stops.data_until_ns(now_ns, wall_ns, last_ns)
        self.bus_session.close(reason, self.data_until_ns)
        if self._ended is not None and not self._ended.cancel() and not self._ended.cancelled():
            # The error that ended the session was raised already; asyncio complains about an error that nobody retrieves.
            self._ended.exception()

    async def _connect(self, http: aiohttp.ClientSession) -> ClientWebSocketResponse[bool]:
        url = self._settings.url
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_SECS):
                return await open_web_socket(http, url)
        except TimeoutError as error:
            raise ConnectFailed(f"{url}: no connection within {CONNECT_TIMEOUT_SECS:g} s") from error
        except aiohttp.WSServerHandshakeError as error:
            raise ConnectFailed(
                f"{url}: the server answered {error.status} instead of a WebSocket; is the address right?"
            ) from error
        except (aiohttp.ClientConnectorCertificateError, aiohttp.ClientConnectorSSLError) as error:
            raise ConnectFailed(f"{url}: TLS failed: {error}") from error
        except aiohttp.ClientConnectorError as error:
            raise ConnectFailed(f"{url}: {_why(error.os_error)}") from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise ConnectFailed(f"{url}: {error}") from error

    async def _authenticate(self, socket: ClientWebSocketResponse[bool]) -> None:
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

    async def _take_status(self, socket: ClientWebSocketResponse[bool]) -> None:
        message = await socket.receive()
        if message.type in (WSMsgType.TEXT, WSMsgType.BINARY):
            for status in statuses_in(bytes(message.data)):
                self._stats.statuses_received += 1
                for request in self.session.receive(status):
                    await socket.send_str(request.decode())
        elif message.type is WSMsgType.PING:
            await socket.pong(bytes(message.data))
        elif message.type is not WSMsgType.PONG:
            raise _disconnected(socket, message)

    async def _stream(self, socket: ClientWebSocketResponse[bool]) -> None:
        self._stats.state = "subscribing"
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
                self._watch.run(socket, self._ended, self._open_session), name=f"watch {cluster}"
            ),
            asyncio.create_task(self._ask(socket), name=f"ask {cluster}"),
        ]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            ends = await asyncio.gather(*tasks, return_exceptions=True)
        errors = [end for end in ends if end is not None and not isinstance(end, asyncio.CancelledError)]
        # A task that something else cancelled leaves no error of its own; the connection is over all the same.
        raise errors[0] if errors else Disconnected("a task of the connection was cancelled")

    def subscribe(self, topics: Iterable[str]) -> None:
        """Ask for more topics while the session lasts."""
        for request in self.session.subscribe(topics):
            self._requests.put_nowait(request)

    def unsubscribe(self, topics: Iterable[str]) -> None:
        """Unsubscribe from topics while the session lasts."""
        for request in self.session.unsubscribe(topics):
            self._requests.put_nowait(request)
        self._stats.topics_acknowledged = self.session.acknowledged

    def ping(self, payload: bytes) -> None:
        """Send a ping while the session lasts; `pong_received` is told of its answer."""
        self._requests.put_nowait(_Ping(payload))

    async def _ask(self, socket: ClientWebSocketResponse[bool]) -> None:
        while True:
            request = await self._requests.get()
            if isinstance(request, _Ping):
                self._stats.heartbeats_sent += 1
                await socket.ping(request.payload)
            else:
                await socket.send_str(request.decode())

    async def _read(self, socket: ClientWebSocketResponse[bool]) -> None:
        """Collect frames. `receive` does not yield while messages are buffered, so one delivery follows each read."""
        loop = asyncio.get_running_loop()
        receive = socket.receive
        cap = self._settings.channel_cap
        while True:
            message = await receive()
            kind = message.type
            if kind is WSMsgType.TEXT or kind is WSMsgType.BINARY:
                if not self._frames:
                    loop.call_soon(self._deliver)
                self._frames.append(message.data)  # bytes, since decode_text is off
                if len(self._frames) >= cap:
                    self._deliver()
                    self._warn_of_backpressure(cap)
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
                raise _disconnected(socket, message)

    def _warn_of_backpressure(self, cap: int) -> None:
        """One read brought more than `CHANNEL_CAP` frames: the exchange is ahead, and TCP holds the rest."""
        self._stats.cap_reached += 1
        suppressed = self._backpressure.ready(self._clock.monotonic_ns())
        if suppressed is not None:
            log.warning(
                "backpressure: frames arrive faster than they are passed on",
                cluster=self._settings.cluster,
                frames_in_one_read=f"more than CHANNEL_CAP={cap}",
                times_since_last_warning=suppressed + 1,
            )

    def _deliver(self) -> None:
        """Pass on what was read, in one synchronous pass."""
        frames, self._frames = self._frames, []
        if frames:
            self.bus_session.publish(frames, self._take_statuses)

    def _take_statuses(self, batch: Batch) -> None:
        session = self.session
        statuses = batch.statuses
        if self._settings.firehose:
            # A firehose passes frames on as they came: a status amid data was said to the other recorder.
            own = [frame for frame in batch.frames if is_status_only(frame)]
            statuses = [status for frame in own for status in statuses_in(frame)]
        self._stats.statuses_received += len(statuses)
        errors_before = session.errors_count
        try:
            for status in statuses:
                session.receive(status)
        except UpstreamError as error:
            self._end(error)
        errors = session.errors_count - errors_before
        if errors:
            self._stats.errors += errors
            log.warning(
                "the exchange reports an error",
                cluster=self._settings.cluster,
                messages=session.errors[-errors:],
                count=errors,
            )
        self._stats.topics_acknowledged = session.acknowledged
        if session.acknowledged and not self.bus_session.opened_at_ns:
            self._open_session()

    def _open_session(self) -> None:
        self._session_opened()
        self.bus_session.open()
        log.info(
            "subscribed",
            cluster=self._settings.cluster,
            acknowledged=self.session.acknowledged,
            topics=len(self.session.topics),
        )

    def _end(self, error: UpstreamError) -> None:
        if self._ended is not None and not self._ended.done():
            self._ended.set_exception(error)

    def __repr__(self) -> str:
        return f"Connection({self._settings.cluster}, {self.session!r}, frames={self._stats.frames_received})"


async def open_web_socket(http: aiohttp.ClientSession, url: str) -> ClientWebSocketResponse[bool]:
    """Ask for a WebSocket whose pings are answered here and whose text stays bytes; no deflate is offered."""
    return await http.ws_connect(
        url,
        autoping=False,
        max_msg_size=FRAME_BYTES_MAX,
        decode_text=False,
        timeout=aiohttp.ClientWSTimeout(ws_close=CLOSE_TIMEOUT_SECS),
    )


def _disconnected(socket: ClientWebSocketResponse[bool], message: Message) -> UpstreamError:
    """Say how a connection ended that ended without a status."""
    if message.type is WSMsgType.ERROR:
        return Disconnected(f"not WebSocket any more: {message.data}")
    code = socket.close_code
    if message.type is WSMsgType.CLOSE:
        words = f"closed by the exchange with {code}"
        if message.extra:
            words += f" ({message.extra})"
        return ServerDisconnect(words) if code == 1008 else Disconnected(words)
    error = socket.exception()
    return Disconnected("the connection was cut without a close frame" + (f": {error}" if error else ""))


async def _close(socket: ClientWebSocketResponse[bool]) -> None:
    """Close politely, but never wait long for the other side."""
    try:
        async with asyncio.timeout(CLOSE_TIMEOUT_SECS):
            await socket.close()
    except (TimeoutError, aiohttp.ClientError, OSError):
        return


def _why(error: OSError) -> str:
    """Put in words why there is no connection."""
    if error.errno is not None and error.errno > 0:
        return os.strerror(error.errno)  # asyncio's own text says only that the call failed
    # The peer that hangs up in the TLS handshake leaves an error without a word.
    return error.strerror or str(error) or "the connection was closed in the handshake"
