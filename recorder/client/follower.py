"""`recorder.follow`: the events of topics, each once, from connection to connection, and what is missing between them."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncGenerator, Iterable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

import aiohttp

from recorder.backoff import STABLE_SECS, Backoff, limited
from recorder.bus import Batch, SessionClosed
from recorder.client.bars import is_of_bars
from recorder.client.line import Line
from recorder.client.parts import Cut, Event, LastValues, LeftOut, Lost, Part, PartMaker, Position
from recorder.clock import Clock, SystemClock
from recorder.errors import (
    KeyRefused,
    MaxConnections,
    StepTimeout,
    TlsFailed,
    TopicsRefused,
    UpstreamError,
)
from recorder.polygon import control
from recorder.polygon.client import REQUEST_BYTES_MAX, ClientSession, Step
from recorder.polygon.clusters import is_cluster_path
from recorder.polygon.events import EVERY_CLUSTER, Decoder
from recorder.polygon.manner import PLAIN, Manner, checked_manner
from recorder.polygon.rows import Rows, Status
from recorder.sources.exchange.resumption import Resumption
from recorder.sources.exchange.web_socket import http_session, open_web_socket

STEP_TIMEOUT_SECS: Final = 10.0
"""For the greeting, for the answer to the token, and for the acknowledgements."""
_REQUEST_BYTES_MIN: Final = 512
"""A recorder takes a message of 1 KiB in any case."""
_BACKOFF_INITIAL_SECS: Final = 0.5
_BACKOFF_MAX_SECS: Final = 10.0

_logger = logging.getLogger("recorder.client")
"""The standard library's: a program that sets up nothing sees warnings on stderr."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a follower asks for."""

    topics: tuple[str, ...]
    after: str = ""
    """A position of a recorder, behind which to go on; empty: from now on."""
    since_ms: int | None = None
    """Unix ms; what a recorder has received since then, and its bars from then on, come first."""
    amend: bool = False
    """Whether a recorder is to send bars again that late trades change."""
    manner: Manner = PLAIN
    """How a recorder is to send events."""


class Follower:
    """Follows topics of a recorder, or of the exchange: `async for` yields an `Event`, a `Lost` or a `LeftOut`.

    It connects when iteration begins, and again whenever a connection ends; each event comes once, in order. What a
    server cannot send any more comes as a `Lost`, where it is missing, and as a `LeftOut` what a recorder has left out
    because the program has asked for that by `slow`. The program that does not ask for the next
    event stops the reading, and the server sees a slow client. The iteration ends with a replay, and by an error where
    to try again cannot help: `KeyRefused`, `TopicsRefused`, `TlsFailed`. Leaving it, or cancelling the task, closes the
    connection. Another iteration goes on from `position`.
    """

    def __init__(
        self,
        url: str,
        token: str,
        wanted: Wanted,
        ca_file: str | None = None,
        *,
        clock: Clock | None = None,
        rng: random.Random | None = None,
    ) -> None:
        """`ca_file` (PEM) has the certificates to trust instead of those that the machine trusts."""
        self.position = wanted.after
        """Stands for everything before the present event. Kept, it is where the next program goes on; empty: none yet."""
        self.refusals: Mapping[str, str] = {}
        """Topics that the server refuses, or does not acknowledge, and why."""
        self._url = url
        self._token = token
        self._wanted = wanted
        self._ca_file = ca_file
        self._clock = clock or SystemClock()
        self._uniform = (rng or random.Random()).uniform
        path = urlsplit(url).path.strip("/")
        self._decoder = Decoder(path.partition("/")[0] if is_cluster_path(path) else EVERY_CLUSTER)
        self._bars = tuple(filter(is_of_bars, wanted.topics))
        self._served: set[str] = set()
        """Topics that were acknowledged in some session."""
        self._request_bytes_max = REQUEST_BYTES_MAX
        """Less, where a server takes only smaller messages."""
        self._silent: dict[str, str] = {}
        """Topics that were not in time, and the words for that."""

    async def __aiter__(self) -> AsyncGenerator[Event | Lost | LeftOut, None]:
        """Yield what comes. Raise KeyRefused, TopicsRefused or TlsFailed where nobody but a person can help."""
        async with aclosing(self.parts()) as parts:
            async for part in parts:
                match part:
                    case Rows():
                        for event in map(Event, part.channels, part.symbols, part.times_ms, part.objects):
                            yield event
                        for reject in part.rejects:
                            _logger.warning("%s: something is no event: %s", self._url, reject.reason)
                    case LastValues(rows):
                        for event in map(Event, rows.channels, rows.symbols, rows.times_ms, rows.objects):
                            yield event._replace(is_snapshot=True)
                    case Lost() | LeftOut():
                        yield part
                    case Status() if self.refusals:
                        raise self._refused()
                    case Status(control.ERROR, words):
                        _logger.warning("%s says: %s", self._url, words)
                    case Cut():
                        _logger.warning("%s", part)

    async def parts(self) -> AsyncGenerator[Part, None]:
        """Yield what comes, also the server's own words, as `recorder tail` shows it.

        Topics that are refused stand in `refusals`. :raises TopicsRefused: all of them are.
        """
        self.refusals, self._silent = {}, {}
        maker = PartMaker(self._wanted.since_ms)
        resumption = Resumption(self._decoder.cluster, maker, self.position, maker.keep)
        backoff = Backoff(_BACKOFF_INITIAL_SECS, _BACKOFF_MAX_SECS, self._uniform)
        limited_waits = limited(self._uniform)
        async with http_session(self._ca_file) as http:
            while not maker.is_complete:
                began_ns = self._clock.monotonic_ns()
                try:
                    async with aclosing(self._session(http, maker, resumption)) as session:
                        async for part in session:
                            yield part
                except KeyRefused as error:
                    raise KeyRefused(f"{self._url} refused the token: {error}") from error
                except TlsFailed:
                    raise
                except UpstreamError as error:
                    if self._clock.monotonic_ns() - began_ns >= STABLE_SECS * 1e9:
                        backoff.reset()
                    elif maker.has_data:
                        backoff.ease()
                    is_limited = isinstance(error, MaxConnections)
                    wait_secs = next(limited_waits) if is_limited else backoff.next_secs()
                    words = str(error)
                    cut = Cut(
                        words if words.startswith(self._url) else f"{self._url}: {words}",
                        wait_secs,
                    )
                else:
                    return
                yield cut
                await self._clock.sleep(wait_secs)

    async def _session(
        self, http: aiohttp.ClientSession, maker: PartMaker, resumption: Resumption
    ) -> AsyncGenerator[Part, None]:
        """Yield what one connection brings. Raise the error by which it ends; return at the end of a replay."""
        protocol, bars = self._ask(resumption.after)
        maker.begin(protocol, bars)
        resumption.requests_count = protocol.requests_count
        reason = "the connection has ended"
        line = Line(await open_web_socket(http, self._url))
        try:
            # The firehose of every cluster speaks when it is spoken to. Paths of clusters, and so the exchange, greet.
            if self._decoder.cluster == EVERY_CLUSTER and not await line.is_greeted(STEP_TIMEOUT_SECS):
                await line.send(*protocol.begin_unasked())
            step, step_ends_at = protocol.step, self._in_time()
            is_patient = True
            """Whether acknowledgements may come yet."""
            while not maker.is_complete:
                if protocol.step is not step:
                    step, step_ends_at = protocol.step, self._in_time()
                waits = step is not Step.STREAMING or (is_patient and bool(protocol.unacknowledged))
                frames = await line.take(self._secs_until(step_ends_at) if waits else None)
                if frames:
                    resumption.accept(self._batch(frames))
                    requests, maker.requests = maker.requests, []
                    await line.send(*requests)
                    if requests and protocol.step is not Step.AUTHENTICATING:
                        await line.ask_for_answer()  # it comes behind those to the topics
                else:
                    is_patient = False
                    self._end_patience(protocol, maker, line)
                self._look_at_refusals(protocol, maker)
                for part in maker.take():
                    if isinstance(part, Position):
                        self.position = part.after
                    yield part
                if len(self.refusals) == len(self._wanted.topics):
                    raise self._refused()
                if maker.failure is not None:
                    raise maker.failure
        except UpstreamError as error:
            reason = str(error)
            if line.refuses_size:
                self._request_bytes_max = max(_REQUEST_BYTES_MIN, self._request_bytes_max // 4)
            raise
        finally:
            self._served.update(set(protocol.topics) - set(protocol.unacknowledged))
            maker.end(reason)
            resumption.session_changed(SessionClosed(self._decoder.cluster, self._clock.wall_ns(), reason, 0))
            await line.close()

    def _ask(self, after: str) -> tuple[ClientSession, tuple[str, ...]]:
        """Return the session that asks for the topics, and the bars to ask for beside them: they have no positions."""
        wanted = self._wanted
        bars = self._bars if after else ()
        topics = [topic for topic in wanted.topics if topic not in bars]
        since_ms = None if after or self._served else wanted.since_ms
        # A status says that times are shifted; what that means is for the program to decide.
        session = ClientSession(
            self._token,
            topics,
            since_ms,
            amend=wanted.amend,
            after=after,
            manner=wanted.manner,
            allow_shifted=True,
        )
        session.request_bytes_max = self._request_bytes_max
        return session, bars

    def _batch(self, frames: list[bytes]) -> Batch:
        now_ns = self._clock.monotonic_ns()
        return Batch(self._decoder.cluster, self._clock.wall_ns(), frames, self._decoder, read_ns=now_ns)

    def _in_time(self) -> float:
        """Return until when a step that begins now may last, by the loop's clock."""
        return asyncio.get_running_loop().time() + STEP_TIMEOUT_SECS

    def _secs_until(self, at: float) -> float:
        return max(0.0, at - asyncio.get_running_loop().time())

    def _end_patience(self, protocol: ClientSession, maker: PartMaker, line: Line) -> None:
        """Take the silence of the server for an answer, where it has read what was asked.

        Raise StepTimeout where it has not. A server that acknowledges nothing and sends events all the same has its
        habits, and a topic that was acknowledged once is a good one.
        """
        if not line.has_read_requests:
            raise StepTimeout(f"timed out {protocol.step.value}")
        protocol.step = Step.STREAMING
        if maker.has_data and not protocol.acknowledged:
            return
        words = f"the server has not acknowledged it within {STEP_TIMEOUT_SECS:g} s, as if it did not know it"
        for topic in protocol.unacknowledged:
            if topic not in self._served and topic not in protocol.refused:
                self._silent[topic] = words
                maker.parts.append(Status(control.ERROR, f"{topic}: {words}"))

    def _look_at_refusals(self, protocol: ClientSession, maker: PartMaker) -> None:
        """Note which topics are refused by now, for good."""
        if protocol.refused or protocol.in_vain or self._silent or self.refusals:
            waiting = set(protocol.unacknowledged)
            silent = {topic: words for topic, words in self._silent.items() if topic in waiting}
            in_vain = {topic: f"{control.NOTHING_COMES}{words}" for topic, words in protocol.in_vain.items()}
            refused = {
                topic: _words_of(words)
                for topic, words in {**in_vain, **protocol.refused}.items()
                if not (maker.has_had_data and words.startswith(control.NOTHING_COMES))
            }
            self.refusals = {**silent, **refused}

    def _refused(self) -> TopicsRefused:
        """Return the error that names what is refused, and why."""
        every = "every topic" if len(self.refusals) == len(self._wanted.topics) else "some topics"
        words = "; ".join(f"{topic}: {why}" for topic, why in sorted(self.refusals.items()))
        return TopicsRefused(
            f"{self._url} refuses {every}: {words}. Name topics that it serves to this token, such as T.AAPL or T.*",
            self.refusals,
        )

    def __repr__(self) -> str:
        return f"Follower({self._url}, {','.join(self._wanted.topics)}, position={self.position!r})"


def _words_of(refusal: str) -> str:
    """Return the words of the exchange as an explanation; those of a recorder are one."""
    return (
        "the plan of this token does not include it" if refusal == control.NOT_AUTHORIZED.message else refusal
    )


def follow(
    url: str,
    topics: str | Iterable[str],
    *,
    token: str,
    after: str | None = None,
    since_ms: int | None = None,
    amend: bool = False,
    snapshot: bool = False,
    interval_ms: int | None = None,
    slow: str | None = None,
    ca_file: str | None = None,
) -> Follower:
    """Return what follows topics of a recorder, or of the exchange: an async iterator of `Event`, `Lost` and `LeftOut`.

    `url` is a recorder's, as `ws://127.0.0.1:8765` or `ws://127.0.0.1:8765/stocks`, or the exchange's with a cluster.
    `topics` are as `"T.AAPL,100Ms.AAPL"`, or several such texts. `after` is a position behind which to go on: the
    `position` that an earlier follower had. `since_ms` (Unix ms) asks a recorder for what it has received since then.
    `amend` asks it for the bars that late trades change. `ca_file` (PEM) names whom to trust with `wss://`.

    Three more are for the filtered port of a recorder, and for the aggregates of its bars port. `snapshot`: the last
    trade, quote and aggregate of each symbol come first, with `is_snapshot`. `interval_ms`: of each symbol the newest
    quote and aggregate at most so often, 10 to 60000. `slow`: `"drop"` or `"conflate"` leaves events out while the program
    is slow, and a `LeftOut` says how many, where `"disconnect"` would end the connection.

    Raise ValueError where no topic is named, where `url` is none of a WebSocket, for `after` and `since_ms` together, for an
    `interval_ms` out of its bounds, and for another word of `slow`.
    """
    if urlsplit(url).scheme not in ("ws", "wss"):
        raise ValueError(f"{url!r} is no address of a WebSocket: it begins with ws:// or wss://")
    if after and since_ms is not None:
        raise ValueError("after and since_ms: name one of them")
    texts = [topics] if isinstance(topics, str) else topics
    named = tuple(dict.fromkeys(topic for text in texts for topic in text.replace(",", " ").split()))
    if not named:
        raise ValueError("name a topic, such as T.AAPL")
    manner = checked_manner(snapshot=snapshot, interval_ms=interval_ms, slow=slow)
    return Follower(url, token, Wanted(named, after or "", since_ms, amend, manner), ca_file)
