"""Keeps the hours of all clusters: has them computed at start and once a day, in a process of their own.

`exchange_calendars` brings pandas: two seconds to import, and twice the memory of a whole recorder. A process that ends
again leaves neither here.
"""

from __future__ import annotations

import asyncio
import importlib.util
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, date, datetime, timedelta
from typing import Final
from urllib.parse import urlsplit

import msgspec

from recorder.clock import Clock
from recorder.errors import ConfigError, RecorderError
from recorder.log import get_logger
from recorder.market_hours.hours import ClusterHours, Span
from recorder.plugins import installing
from recorder.polygon.clusters import CLUSTERS
from recorder.settings import MarketHoursSettings, environ_without_settings

PACKAGE: Final = "exchange_calendars"
DAYS_BACK: Final = 7
DAYS_AHEAD: Final = 21
"""How far a clock may be set, and how long the calendars may fail to be renewed, before the hours are unknown."""
_RENEW_NS: Final = 86_400 * 1_000_000_000
_RETRY_NS: Final = 600 * 1_000_000_000
_POLL_SECS: Final = 60.0
"""How soon a clock that was set far is noticed."""
_COMPUTE_SECS: Final = 120.0
_REASON_CHARS: Final = 300

Spans = Mapping[str, Sequence[Span]]
Compute = Callable[[Sequence[str], date, date], Awaitable[Spans]]

log = get_logger("polygon_upstream")


class CalendarError(RecorderError):
    """The hours could not be computed."""


class MarketHours:
    """The hours of every cluster, which `run` keeps known. While they are unknown, every hour counts as open.

    Raise ConfigError where SESSION_CALENDAR=on and the package is missing.
    """

    def __init__(
        self,
        settings: MarketHoursSettings,
        urls: Mapping[str, str],
        clock: Clock,
        compute: Compute | None = None,
    ) -> None:
        """`urls` are those of the feeds, by cluster; `compute` is for tests."""
        self.enabled = compute is not None or is_enabled(settings)
        self.hours = {
            cluster: ClusterHours(delay_secs=_delay_secs(cluster, url), grace_secs=settings.data_timeout_secs)
            for cluster, url in urls.items()
        }
        self._clock = clock
        self._compute = compute or compute_apart
        self._due_ns: int | None = None
        """Monotonic time of the next computation; None before the first."""
        self._failed = False

    async def run(self) -> None:
        """Work until cancelled."""
        while True:
            await self.poll()
            await self._clock.sleep(_POLL_SECS)

    async def poll(self) -> None:
        """Compute the hours if they are a day old, or if the clock was set to where they are not known."""
        wall_ns, now_ns = self._clock.wall_ns(), self._clock.monotonic_ns()
        is_due = self._due_ns is None or now_ns >= self._due_ns
        is_known = all(hours.knows(wall_ns) for hours in self.hours.values())
        if is_due or not (is_known or self._failed):
            await self._renew(wall_ns)
            self._due_ns = now_ns + (_RETRY_NS if self._failed else _RENEW_NS)

    async def learn(self) -> None:
        """Compute the hours now. Raise `CalendarError`; what was known then stays known."""
        first, last = days_around(self._clock.wall_ns())
        spans = await self._compute(list(self.hours), first, last)
        for cluster, hours in self.hours.items():
            hours.learn(spans[cluster], _midnight_ns(first), _midnight_ns(last))

    async def _renew(self, wall_ns: int) -> None:
        try:
            await self.learn()
            self._failed = False
        except CalendarError as error:
            self._failed = True
            log.warning(
                "market_hours_unknown",
                reason=str(error),
            )
            return
        states = {cluster: hours.at(wall_ns).state for cluster, hours in self.hours.items()}
        log.info("market_hours_known", sessions=states)

    def __repr__(self) -> str:
        return f"MarketHours({self.hours!r})"


def is_enabled(settings: MarketHoursSettings) -> bool:
    """Return whether hours should be known. Raise ConfigError where they must be and the package is missing."""
    if settings.calendar == "on" and not is_installed():
        raise ConfigError(f"SESSION_CALENDAR=on needs {PACKAGE}: {installing(PACKAGE)}, or set it to auto")
    return settings.calendar != "off" and is_installed()


def is_installed() -> bool:
    """Return whether hours can be computed."""
    return importlib.util.find_spec(PACKAGE) is not None


def days_around(wall_ns: int) -> tuple[date, date]:
    """Return the first and the last day whose market hours are worth knowing. Raise `CalendarError`."""
    try:
        today = (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=wall_ns // 1_000_000_000)).date()
        return today - timedelta(days=DAYS_BACK), today + timedelta(days=DAYS_AHEAD)
    except OverflowError as error:
        raise CalendarError(f"the clock shows a time that has no date: {wall_ns} ns") from error


async def compute_apart(clusters: Sequence[str], first: date, last: date) -> Spans:
    """Compute the market hours of these days in another process. Raise `CalendarError`."""
    # More days at both ends: the market hours of a day may begin on the day before.
    begin, end = first - timedelta(days=4), last + timedelta(days=4)
    try:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "recorder.market_hours", begin.isoformat(), end.isoformat(), *clusters),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=_environment(),
        )
    except OSError as error:
        raise CalendarError(f"no process can be started: {error.strerror or error}") from error
    try:
        async with asyncio.timeout(_COMPUTE_SECS):
            out, said = await process.communicate()
    except TimeoutError as error:
        raise CalendarError(f"they took more than {_COMPUTE_SECS:g} s") from error
    finally:
        if process.returncode is None:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()
    if process.returncode:
        words = said.decode("utf-8", "replace").strip().rpartition("\n")[2]
        raise CalendarError(words[:_REASON_CHARS] or f"the process ended with {process.returncode}")
    try:
        return msgspec.json.decode(out, type=dict[str, list[tuple[int, int]]])
    except msgspec.MsgspecError as error:
        raise CalendarError(f"what the process printed cannot be read: {error}") from error


def _environment() -> dict[str, str]:
    """Return the environment without our settings and secrets, and without a thread of numpy's for each core."""
    return {**environ_without_settings(), "OPENBLAS_NUM_THREADS": "1", "NOTIFY_SOCKET": ""}


def _delay_secs(cluster: str, url: str) -> float:
    """Return how much later than the market a feed is."""
    host = urlsplit(url).hostname or ""
    return CLUSTERS[cluster].delay_secs if host.startswith("delayed.") else 0.0


def _midnight_ns(day: date) -> int:
    return int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp()) * 1_000_000_000
