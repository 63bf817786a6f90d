"""`recorder top`: the live page in a terminal; one plain snapshot without a terminal."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import termios
import tty
from collections import deque
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Final, TypeVar
from urllib.parse import quote, urlsplit

import aiohttp
import msgspec
from rich.console import Console
from rich.live import Live

from recorder import addresses, loop
from recorder.descriptors import own_socket
from recorder.errors import EXIT_OK, ConfigError, RecorderError
from recorder.ops.status_schema import SCHEMA_VERSION, History, Snapshot
from recorder.screen import SPARK_SECS, Screen, duration_text
from recorder.servers.tokens import plain_token
from recorder.settings import Settings
from recorder.version import VERSION

_CONNECT_SECS: Final = 5.0
_SILENCE_SECS: Final = 15.0
"""A recorder sends a snapshot each second; after this long without one, the program reconnects."""
_STALE_SECS: Final = 5.0
"""After this long, the screen shows the age of its data."""
_RETRY_SECS: Final = 2.0
_EVENT_BYTES_MAX: Final = 32 * 1024 * 1024
_HINT: Final = "q: quit"

T = TypeVar("T")


class TopError(RecorderError):
    """No snapshot can be had; the words say why, and what to do."""


@dataclass(frozen=True, slots=True)
class TopOptions:
    """What the command takes."""

    url: str
    """Of the ops server: `http://host:port`, and a path where a proxy gives it one."""
    once: bool
    """One plain snapshot, then the end."""


def run_top(options: TopOptions, console: Console) -> int:
    """Show the recorder until `q` or a signal; return the exit status. Raise TopError where it cannot be asked.

    A connection that ends after the first snapshot is made again, and what is shown says how old it is.
    """
    return loop.run(_once(options, console) if options.once else _Top(options, console).run())


async def _once(options: TopOptions, console: Console) -> int:
    async with _session() as http:
        snapshot = await _ask(http, options.url)
    rates = {feed.cluster: (feed.events_per_sec or feed.frames_per_sec,) for feed in snapshot.feeds}
    console.print(Screen(console).draw(snapshot, rates))
    return EXIT_OK


class _Top:
    """The live form: one task follows, keys and time redraw."""

    def __init__(self, options: TopOptions, console: Console) -> None:
        self._options = options
        self._console = console
        self._screen = Screen(console)
        self._snapshot: Snapshot | None = None
        self._rates: dict[str, deque[float]] = {}
        self._arrived = 0.0
        self._trouble = ""
        self._quit = asyncio.Event()
        self._changed = asyncio.Event()

    async def run(self) -> int:
        running = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            running.add_signal_handler(number, self._quit.set)
        running.add_signal_handler(signal.SIGWINCH, self._changed.set)
        async with _session() as http:
            # A recorder that cannot be reached at all is an error; one that comes and goes is shown.
            self._take(await _ask(http, self._options.url))
            following = asyncio.create_task(self._follow(http))
            quitting = asyncio.create_task(self._quit.wait())
            showing = asyncio.create_task(self._show())
            try:
                with self._keys():
                    await asyncio.wait({following, quitting, showing}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for task in (following, quitting, showing):
                    task.cancel()
                ends = await asyncio.gather(following, quitting, showing, return_exceptions=True)
        for end in ends:
            if isinstance(end, Exception):
                raise end
        return EXIT_OK

    @contextlib.contextmanager
    def _keys(self) -> Iterator[None]:
        """Read single keys for as long as this lasts; leave the terminal as it was."""
        if not sys.stdin.isatty():
            yield
            return
        running = asyncio.get_running_loop()
        fd = sys.stdin.fileno()
        before = termios.tcgetattr(fd)
        tty.setcbreak(fd)
        running.add_reader(fd, self._on_key)
        try:
            yield
        finally:
            running.remove_reader(fd)
            termios.tcsetattr(fd, termios.TCSADRAIN, before)

    def _on_key(self) -> None:
        keys = os.read(sys.stdin.fileno(), 64)
        if not keys or keys.lower().startswith(b"q"):
            self._quit.set()

    async def _show(self) -> None:
        with Live(console=self._console, screen=True, auto_refresh=False) as live:
            while True:
                self._changed.clear()
                self._draw(live)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(1.0):
                        await self._changed.wait()

    def _draw(self, live: Live) -> None:
        if self._snapshot is None:
            return
        notice = ""
        age_secs = asyncio.get_running_loop().time() - self._arrived
        if age_secs >= _STALE_SECS or self._trouble:
            why = self._trouble or "nothing comes"
            notice = f"NO CONNECTION: what is shown is {duration_text(age_secs)} old; trying again ({why})"
        live.update(
            self._screen.draw(
                self._snapshot,
                {cluster: list(rates) for cluster, rates in self._rates.items()},
                height=self._console.height,
                notice=notice,
                hint=_HINT,
            ),
            refresh=True,
        )

    async def _follow(self, http: aiohttp.ClientSession) -> None:
        while True:
            try:
                async for name, data in _events(http, self._options.url):
                    if name == "history":
                        self._remember(_decode(data, History, self._options.url))
                    elif name == "snapshot":
                        self._take(_decode(data, Snapshot, self._options.url))
                self._trouble = "the recorder ended the connection"
            except TopError as error:
                self._trouble = str(error)
            self._changed.set()
            await asyncio.sleep(_RETRY_SECS)

    def _take(self, snapshot: Snapshot) -> None:
        for feed in snapshot.feeds:
            rates = self._rates.setdefault(feed.cluster, deque(maxlen=SPARK_SECS))
            rates.append(feed.events_per_sec if feed.events_received is not None else feed.frames_per_sec)
        self._snapshot = snapshot
        self._arrived = asyncio.get_running_loop().time()
        self._trouble = ""
        self._changed.set()

    def _remember(self, history: History) -> None:
        for cluster, rates in history.feeds.items():
            values = rates.events if any(rates.events) else rates.frames
            self._rates[cluster] = deque(values, maxlen=SPARK_SECS)


def _session() -> aiohttp.ClientSession:
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_SECS, sock_read=_SILENCE_SECS)
    headers = {"User-Agent": f"polygon-recorder/{VERSION}"}
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(socket_factory=own_socket),
        timeout=timeout,
        headers=headers,
        cookie_jar=aiohttp.DummyCookieJar(),
    )


async def _ask(http: aiohttp.ClientSession, url: str) -> Snapshot:
    """Return the snapshot of this moment. Raise TopError."""
    async with _get(http, url, "status") as answer:
        return _decode(await answer.read(), Snapshot, url)


async def _events(http: aiohttp.ClientSession, url: str) -> AsyncIterator[tuple[str, bytes]]:
    """Yield name and data of the events of a stream until it ends. Raise TopError."""
    async with _get(http, url, "events") as answer:
        waiting = b""
        async for part in answer.content.iter_any():
            waiting += part
            *whole, waiting = waiting.split(b"\n\n")
            if len(waiting) > _EVENT_BYTES_MAX:
                raise TopError(f"{shown_url(url)} is not the ops server of a recorder: an event does not end")
            for event in whole:
                fields = dict(line.split(b": ", 1) for line in event.split(b"\n") if b": " in line)
                yield fields.get(b"event", b"").decode("ascii", "replace"), fields.get(b"data", b"")


@contextlib.asynccontextmanager
async def _get(http: aiohttp.ClientSession, url: str, path: str) -> AsyncIterator[aiohttp.ClientResponse]:
    """Ask for a path. What goes wrong, also while the answer is read, is raised as TopError."""
    shown = shown_url(url)
    try:
        async with http.get(f"{url.rstrip('/')}/{path}") as answer:
            if answer.status != 200:
                raise TopError(_refusal(shown, answer.status, answer.reason or ""))
            yield answer
    except aiohttp.ClientConnectorError as error:
        # asyncio's own text says only that the call failed.
        number = error.os_error.errno or 0
        why = os.strerror(number) if number > 0 else str(error.os_error)
        raise TopError(
            f"{shown} cannot be reached: {why}. Is the recorder running, with METRICS_ADDR there?"
        ) from error
    except TimeoutError as error:
        raise TopError(f"{shown} does not answer") from error
    except (aiohttp.ClientError, OSError, ValueError) as error:
        raise TopError(f"{shown}: {str(error) or type(error).__name__}") from error


def _refusal(shown: str, status: int, words: str) -> str:
    hints = {
        401: "it wants a token: give it as http://any:TOKEN@host:port",
        403: "this user may not",
        404: "is that a recorder's METRICS_ADDR?",
        421: "it listens for this machine alone: ask it as localhost",
        503: "as many follow it as may; `recorder top --once` asks for one snapshot",
    }
    return f"{shown} answered {status} {words}: {hints.get(status, 'is that a recorder?')}"


def _decode(data: bytes, kind: type[T], url: str) -> T:
    try:
        return msgspec.json.decode(data, type=kind)
    except msgspec.MsgspecError as error:
        raise TopError(_misfit(data, url, error)) from error


class _Version(msgspec.Struct):
    schema_version: int
    version: str


def _misfit(data: bytes, url: str, error: msgspec.MsgspecError) -> str:
    with contextlib.suppress(msgspec.MsgspecError):
        other = msgspec.json.decode(data, type=_Version)
        if other.schema_version != SCHEMA_VERSION or other.version != VERSION:
            return (
                f"{shown_url(url)} is of version {other.version}, this program of {VERSION}, and they do not understand "
                "each other: use the program that belongs to the recorder"
            )
    return f"{shown_url(url)} is not the ops server of a recorder: {error}"


def own_url(settings: Settings) -> str:
    """Return where the recorder of these settings is asked, with a token if it wants one.

    Raise ConfigError where it has no ops server.
    """
    ops = settings.ops
    if ops is None:
        raise ConfigError("METRICS_ADDR is empty, so there is nothing to ask: give an address")
    token = "" if addresses.is_loopback(ops.host) else plain_token(settings.servers)
    user = f"recorder:{quote(token, safe='')}@" if token else ""
    return f"http://{user}{addresses.joined(addresses.from_here(ops.host), ops.port)}"


def shown_url(url: str) -> str:
    """Return an address without user and password."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
