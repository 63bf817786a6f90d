"""Several recorders, a line each: what each is, does and says, as `recorder top URL URL` and the live page show it."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, Final

import aiohttp
import msgspec
from msgspec import Struct

from recorder.ops.asking import NoAnswer, ask, shown_url

ANSWER_SECS: Final = 2.0
"""How long a recorder may take to say how it is."""
_AT_ONCE_MAX: Final = 8
"""Recorders that are asked at the same time: each answer takes memory."""


class _Feed(Struct):
    cluster: str
    events_received: int | None = None
    frames_per_sec: float = 0.0
    events_per_sec: float = 0.0
    last_received: int = 0
    gaps: int = 0


class _Stream(Struct):
    leads: bool = False


class _Sink(Struct):
    name: str = ""
    streams: list[_Stream] = []


class _Replay(Struct):
    lag_secs: float = 0.0


class Status(Struct):
    """What is shown of `/status`; recorders of other versions have other fields besides."""

    hostname: str
    version: str
    run_id: str
    at: int
    ready: bool
    reasons: list[str]
    feeds: list[_Feed]
    loop_lag_secs: float = 0.0
    sinks: list[_Sink] = []
    servers: list[Any] = []
    clients_count: int = 0
    replay: _Replay | None = None


class Line(Struct):
    """One recorder at one moment; one that cannot be asked has a name and a reason."""

    address: str
    """Where it was asked."""
    state: str
    """`recording`, `serving`, `replaying`, `not ready` or `no answer`."""
    reasons: list[str] = []
    """Why it is not ready, or cannot be asked."""
    hostname: str = ""
    run_id: str = ""
    version: str = ""
    does: str = ""
    """What it records to, whether it leads the other one of a pair, and whether it serves."""
    clusters: list[str] = []
    events_per_sec: float | None = None
    """None where nobody counts them."""
    frames_per_sec: float = 0.0
    data_age_secs: float | None = None
    """Since any data came; None before the first."""
    lag_secs: float = 0.0
    """How late it is: its event loop, or what it plays."""
    gaps: int = 0
    """Of this run."""
    clients: int = 0
    name: str = ""
    """What it is called among the others."""
    is_this: bool = False
    """Whether it is the one that was asked for all of them."""

    @property
    def is_well(self) -> bool:
        """Whether it can be asked, and is ready."""
        return self.state not in (NOT_READY, NO_ANSWER)


NOT_READY: Final = "not ready"
NO_ANSWER: Final = "no answer"


def line_of(address: str, status: Status) -> Line:
    """Return the line of a recorder that says this of itself."""
    feeds = status.feeds
    is_counted = any(feed.events_received is not None for feed in feeds)
    last_received = max((feed.last_received for feed in feeds), default=0)
    does = "replaying" if status.replay is not None else "recording" if status.sinks else "serving"
    lag_secs = max(status.loop_lag_secs, status.replay.lag_secs if status.replay is not None else 0.0)
    return Line(
        address=shown_url(address),
        state=does if status.ready else NOT_READY,
        reasons=status.reasons,
        hostname=status.hostname,
        run_id=status.run_id,
        version=status.version,
        does=_does(status),
        clusters=[feed.cluster for feed in feeds],
        events_per_sec=sum(feed.events_per_sec for feed in feeds) if is_counted else None,
        frames_per_sec=sum(feed.frames_per_sec for feed in feeds),
        data_age_secs=max(0, status.at - last_received) / 1000 if last_received else None,
        lag_secs=lag_secs,
        gaps=sum(feed.gaps for feed in feeds),
        clients=status.clients_count,
    )


def _does(status: Status) -> str:
    """Return what a recorder does with what it gets."""
    does = [f"records ({', '.join(sink.name for sink in status.sinks)})"] if status.sinks else []
    streams = [stream for sink in status.sinks for stream in sink.streams]
    does += ["leads" if any(stream.leads for stream in streams) else "follows"] if streams else []
    does += ["replays"] if status.replay is not None else []
    does += ["serves"] if status.servers else []
    return ", ".join(does) or "nothing"


async def ask_lines(http: aiohttp.ClientSession, urls: Iterable[str], token: str | None = None) -> list[Line]:
    """Return the lines of recorders, in the order of their addresses. One that does not answer has a line, too.

    `token` is that of a recorder which asks others; where it is None, the addresses have one.
    """
    places = asyncio.Semaphore(_AT_ONCE_MAX)

    async def line(url: str) -> Line:
        try:
            async with places, asyncio.timeout(ANSWER_SECS):
                return line_of(url, await ask(http, url, Status, token))
        except NoAnswer as error:
            # Its address stands beside it.
            return Line(shown_url(url), NO_ANSWER, [str(error).removeprefix(shown_url(url)).lstrip(": ")])
        except TimeoutError:
            return Line(shown_url(url), NO_ANSWER, [f"does not answer within {ANSWER_SECS:g} s"])

    return named(await asyncio.gather(*map(line, urls)))


def named(lines: Sequence[Line]) -> list[Line]:
    """Return these lines with names: that of the machine, and the address unless no other recorder is there."""
    machines = Counter(line.hostname for line in lines)
    for line in lines:
        place = line.address.partition("://")[2]
        is_alone = line.hostname and machines[line.hostname] == 1
        line.name = line.hostname if is_alone else " ".join(filter(None, [line.hostname, place]))
    return list(lines)


def own_line(address: str, snapshot: object) -> Line:
    """Return the line of this recorder itself, by its own snapshot."""
    return line_of(address, msgspec.convert(snapshot, Status, from_attributes=True))
