"""Check of the clock: how far it is from that of the exchange, by the `Date` of its answers (RFC 9110, 6.6.1)."""

from __future__ import annotations

import asyncio
from email.utils import parsedate_to_datetime
from typing import Final, NamedTuple
from urllib.parse import urlsplit, urlunsplit

import aiohttp

from recorder.checks.findings import Finding, failure, ok, skipped, warning
from recorder.checks.scene import Scene
from recorder.clock import Clock
from recorder.descriptors import own_socket
from recorder.settings.model import EXCHANGE

_LOOKS: Final = 5
_PAUSE_SECS: Final = 0.27
"""No divisor of a second, so that the looks fall on different parts of it."""
_WARNING_SECS: Final = 1.0
_FAILURE_SECS: Final = 60.0
_ADVICE: Final = (
    "have chrony or systemd-timesyncd keep this machine's clock: it dates the records and names the files"
)
_SCHEMES: Final = {"ws": "http", "wss": "https"}


class Offset(NamedTuple):
    """Bounds of how much later it is there than here, in seconds; the truth is between them."""

    least: float
    most: float

    @property
    def certain(self) -> float:
        """How far the clocks are apart at least."""
        return max(self.least, -self.most, 0.0)

    @property
    def possible(self) -> float:
        """How far they are apart at most."""
        return max(abs(self.least), abs(self.most))

    def narrowed(self, other: Offset) -> Offset:
        """Return what both allow; where they contradict each other, as several servers may, what either allows."""
        both = Offset(max(self.least, other.least), min(self.most, other.most))
        if both.least <= both.most:
            return both
        return Offset(min(self.least, other.least), max(self.most, other.most))


def bounds(there_secs: float, asked_secs: float, answered_secs: float) -> Offset:
    """Return what one answer proves: its whole seconds were true at some moment between question and answer here."""
    return Offset(there_secs - answered_secs, there_secs + 1.0 - asked_secs)


async def check_offset(scene: Scene) -> list[Finding]:
    """Compare the clock with that of each source."""
    if scene.settings.source != EXCHANGE:
        return [skipped("clock", f"not compared with the exchange's: SOURCE is {scene.settings.source}")]
    if scene.offline:
        return [skipped("clock", "--offline: not compared with the exchange's")]
    urls = {_http_url(upstream.url) for upstream in scene.settings.upstreams}
    return [await _check(scene, url) for url in sorted(urls)]


async def _check(scene: Scene, url: str) -> Finding:
    host = urlsplit(url).netloc
    try:
        offset = await measure(url, scene.clock)
    except (aiohttp.ClientError, OSError, ValueError):
        return skipped(
            "clock", f"{host} cannot be asked for the time; the finding on the cluster may say why"
        )
    if offset is None:
        return skipped("clock", f"{host} does not say what time it is")
    figures = {"least_secs": round(offset.least, 3), "most_secs": round(offset.most, 3)}
    late = "behind" if offset.least > 0 else "ahead of"
    apart = f"{offset.certain:,.1f} to {offset.possible:,.1f} s {late} that of {host}"
    if offset.certain >= _FAILURE_SECS:
        return failure("clock", apart, _ADVICE, **figures)
    if offset.certain >= _WARNING_SECS:
        return warning("clock", apart, _ADVICE, **figures)
    return ok("clock", f"at most {offset.possible:.1f} s from that of {host}", **figures)


async def measure(url: str, clock: Clock) -> Offset | None:
    """Ask a server for the time until its seconds say enough; None where it says none. Raise what aiohttp does."""
    offset: Offset | None = None
    connector, timeout = aiohttp.TCPConnector(socket_factory=own_socket), aiohttp.ClientTimeout(total=5)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as http:
        for _ in range(_LOOKS):
            asked = clock.wall_ns() / 1e9
            async with http.get(url, allow_redirects=False) as answer:
                answered = clock.wall_ns() / 1e9
                date = answer.headers.get("Date")
            if date is None:
                return None
            seen = bounds(parsedate_to_datetime(date).timestamp(), asked, answered)
            offset = seen if offset is None else offset.narrowed(seen)
            await asyncio.sleep(_PAUSE_SECS)
    return offset


def _http_url(url: str) -> str:
    parts = urlsplit(url)
    return urlunsplit((_SCHEMES[parts.scheme], parts.netloc, "/", "", ""))
