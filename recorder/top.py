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
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote

import aiohttp
from rich.console import Console, RenderableType
from rich.live import Live

from recorder import addresses, loop
from recorder.errors import EXIT_FAILURE, EXIT_OK, ConfigError
from recorder.fleet_screen import draw_lines
from recorder.ops.asking import NoAnswer, ask, asking, decode, events
from recorder.ops.lines import NO_ANSWER, Line, ask_lines
from recorder.ops.status_schema import History, Snapshot
from recorder.screen import SPARK_SECS, Screen, duration_text
from recorder.servers.tokens import plain_token
from recorder.settings import Settings

_STALE_SECS: Final = 5.0
"""After this long, the screen shows the age of its data."""
_RETRY_SECS: Final = 2.0
_REDRAW_SECS: Final = 1.0
_HINT: Final = "q: quit"


@dataclass(frozen=True, slots=True)
class TopOptions:
    """What the command takes."""

    urls: tuple[str, ...]
    """Of the ops servers: `http://host:port`, and a path where a proxy gives it one."""
    once: bool
    """One plain snapshot, then the end."""


def run_top(options: TopOptions, console: Console) -> int:
    """Show recorders until `q` or a signal; return the exit status. Raise NoAnswer where the only one cannot be asked.

    A connection that ends after the first snapshot is made again, and what is shown says how old it is.
    """
    if options.once:
        return loop.run(_once(options, console))
    top = _One(options, console) if len(options.urls) == 1 else _Several(options, console)
    return loop.run(top.run())


async def _once(options: TopOptions, console: Console) -> int:
    async with asking() as http:
        if len(options.urls) > 1:
            lines = await ask_lines(http, options.urls)
            console.print(draw_lines(lines, console))
            return EXIT_OK if any(line.state != NO_ANSWER for line in lines) else EXIT_FAILURE
        snapshot = await ask(http, options.urls[0], Snapshot)
    rates = {feed.cluster: (feed.events_per_sec or feed.frames_per_sec,) for feed in snapshot.feeds}
    console.print(Screen(console).draw(snapshot, rates))
    return EXIT_OK


class _Top:
    """The live form: one task follows, keys and time redraw. What is followed is for those that derive from it."""

    def __init__(self, options: TopOptions, console: Console) -> None:
        self._urls = options.urls
        self._console = console
        self._quit = asyncio.Event()
        self._changed = asyncio.Event()

    async def run(self) -> int:
        running = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            running.add_signal_handler(number, self._quit.set)
        running.add_signal_handler(signal.SIGWINCH, self._changed.set)
        async with asking() as http:
            await self._begin(http)
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

    async def _begin(self, http: aiohttp.ClientSession) -> None:
        """Get what is shown first."""
        raise NotImplementedError

    async def _follow(self, http: aiohttp.ClientSession) -> None:
        """Get what is shown from then on, until cancelled."""
        raise NotImplementedError

    def _draw(self) -> RenderableType:
        """Return what is to be seen now."""
        raise NotImplementedError

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
                live.update(self._draw(), refresh=True)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_REDRAW_SECS):
                        await self._changed.wait()


class _One(_Top):
    """One recorder, with all that it says of itself."""

    def __init__(self, options: TopOptions, console: Console) -> None:
        super().__init__(options, console)
        self._url = self._urls[0]
        self._screen = Screen(console)
        self._rates: dict[str, deque[float]] = {}
        self._snapshot: Snapshot
        self._arrived = 0.0
        self._trouble = ""

    async def _begin(self, http: aiohttp.ClientSession) -> None:
        # A recorder that cannot be reached at all is an error; one that comes and goes is shown.
        self._take(await ask(http, self._url, Snapshot))

    def _draw(self) -> RenderableType:
        notice = ""
        age_secs = asyncio.get_running_loop().time() - self._arrived
        if age_secs >= _STALE_SECS or self._trouble:
            why = self._trouble or "nothing comes"
            notice = f"NO CONNECTION: what is shown is {duration_text(age_secs)} old; trying again ({why})"
        return self._screen.draw(
            self._snapshot,
            {cluster: list(rates) for cluster, rates in self._rates.items()},
            height=self._console.height,
            notice=notice,
            hint=_HINT,
        )

    async def _follow(self, http: aiohttp.ClientSession) -> None:
        while True:
            try:
                async for name, data in events(http, self._url):
                    if name == "history":
                        self._remember(decode(data, History, self._url))
                    elif name == "snapshot":
                        self._take(decode(data, Snapshot, self._url))
                self._trouble = "the recorder ended the connection"
            except NoAnswer as error:
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


class _Several(_Top):
    """Several recorders, a line each. One that cannot be asked is named, and asked again."""

    def __init__(self, options: TopOptions, console: Console) -> None:
        super().__init__(options, console)
        self._lines: list[Line] = []

    async def _begin(self, http: aiohttp.ClientSession) -> None:
        self._lines = await ask_lines(http, self._urls)

    async def _follow(self, http: aiohttp.ClientSession) -> None:
        while True:
            await asyncio.sleep(_REDRAW_SECS)
            self._lines = await ask_lines(http, self._urls)
            self._changed.set()

    def _draw(self) -> RenderableType:
        return draw_lines(self._lines, self._console, height=self._console.height, hint=_HINT)


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
