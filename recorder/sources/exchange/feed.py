"""One cluster's feed: connects, and connects again, for as long as the process lives."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Final

import aiohttp

from recorder.backoff import STABLE_SECS, Backoff, limited
from recorder.bus import Border, Missed, Watermark
from recorder.errors import (
    DataTimeout,
    KeyRefused,
    MaxConnections,
    NotAuthorized,
    ShiftedReplay,
    StoodBy,
    Untrusted,
    UpstreamError,
)
from recorder.log import get_logger, mask
from recorder.overlap import Recorded
from recorder.sources.exchange.connection import Connection
from recorder.sources.exchange.context import FeedContext
from recorder.sources.exchange.marks import Marks, Resumed
from recorder.sources.exchange.passage import Passage
from recorder.sources.exchange.web_socket import http_session
from recorder.sources.stats import Gap
from recorder.stats import with_newest

LIMITED: Final = (MaxConnections, KeyRefused, NotAuthorized, ShiftedReplay)
"""Ends after which a quick new attempt does harm or cannot help."""
_LIMITED_STABLE_SECS: Final = 600.0
"""After such an end a session must last this long before the long waits begin again: a twin ends ours each minute."""
_FIREHOSE_WAIT_SECS_MAX: Final = 2.0
"""Where the doubling stops for another recorder, unless BACKOFF_MAX_SECS says less."""
RESUME_PATIENCE_NS: Final = 60_000_000_000
"""How long after a cut time stands still for what another recorder may send of what was missed."""
_DATA_TIMEOUT_DOUBLINGS_MAX: Final = 5
"""Where no new session brings data either, the market may be closed for once, and reconnecting becomes rarer."""

log = get_logger("polygon_upstream")


class Keys:
    """What the exchange thinks of the key, over all feeds that start together.

    One refusal proves little: one cluster may be missing from the plan, and a login service may be down for a minute.
    Only when every feed is refused, and none was ever accepted, can nobody but an operator help.
    """

    def __init__(self) -> None:
        self._feeds: dict[Feed, bool] = {}
        """Whether the last answer to a feed that has never had a session was a refusal."""

    def add(self, feed: Feed) -> None:
        """Take a feed into account."""
        self._feeds[feed] = False

    def is_hopeless(self, feed: Feed) -> bool:
        """Note that the key of `feed` was refused; return whether that is so for every feed."""
        self._feeds[feed] = True
        return all(refused and not feed.stats.sessions for feed, refused in self._feeds.items())


class Feed:
    """Follows one cluster: one connection at a time, for ever, with backoff between attempts.

    `run` raises KeyRefused when the exchange has refused the key of every feed and has never accepted one, ShiftedReplay
    when that is what the first session would follow, since then only an operator can help. Everything else is tried
    again. Each connection makes the subscriptions of the last.
    """

    def __init__(
        self,
        context: FeedContext,
        *,
        keys: Keys | None = None,
        rng: random.Random | None = None,
        name: str = "",
        recorded: Callable[[], Recorded] = Recorded,
    ) -> None:
        """`name` is what the part is called, `feed` and the cluster unless given.

        `keys` are shared with the feeds that start together; a feed without them is alone. `recorded` returns, once this
        runs, how far a run before has recorded another recorder's stream.
        """
        settings = context.settings
        self.name = name or f"feed {settings.cluster}"
        self.settings = settings
        self.stats = context.stats
        self.stats.topics_wanted = len(settings.topics)
        self._topics = dict.fromkeys(settings.topics)
        """What is subscribed on each connection: what the settings say, and what is wanted besides."""
        self._connection: Connection | None = None
        self._time_timer: asyncio.TimerHandle | None = None
        self._sleep: asyncio.Future[None] | None = None
        """The last wait between two attempts."""
        self._context = context
        self._clock = context.clock
        self._rng = rng or random.Random()
        self._marks = Marks() if settings.firehose else None
        """The position of the recorder that is followed; None where it is the exchange."""
        self._recorded = recorded
        self._missed_until_ms = 0
        """Up to when it has told of times that it missed itself."""
        self._passage = Passage(
            lambda until_ns: context.bus.advance(Watermark(settings.cluster, until_ns)),
            settings.silence_max_ms,
        )
        self._barren = 0
        """Sessions in a row that were given up because they brought no data at all."""
        self._backoff = self._make_backoff()
        self._limited_waits = limited(self._rng.uniform)
        self._keys = keys or Keys()
        self._keys.add(self)
        self._lost_at_ns = 0
        """Monotonic time since which there is no session; 0 before the first was lost."""
        self._gap: tuple[int, str] | None = None
        """Wall clock since which there is no data, and why; None in a session and before the first."""

    async def open(self) -> None:
        """Do nothing: an exchange that cannot be reached is tried again by `run`."""

    async def close(self, deadline_ns: int) -> None:
        """Do nothing: `run` has passed on what was read, and hung up, when it is cancelled."""

    async def run(self) -> None:
        """Work until cancelled."""
        if self._marks is not None and not self.stats.connects:
            self._marks.go_on(self._recorded())
            if self._marks.settled:
                # So that whoever follows this recorder knows where it is before the first of what was missed has come.
                self._context.bus.pass_border(Border(self.settings.cluster, self._marks.settled))
        async with http_session() as http:
            try:
                while True:
                    await self._wait_for_turn()
                    wait_secs = await self._attempt(http)
                    self.stats.state = "waiting"
                    if self._context.turn.is_given:
                        await self._wait(wait_secs)
            finally:
                self.stats.state = "stopped"
                if self._time_timer is not None:
                    self._time_timer.cancel()

    async def _attempt(self, http: aiohttp.ClientSession) -> float:
        """Connect once and follow the session to its end; return the seconds to wait before the next attempt."""
        stats = self.stats
        stats.connects += 1
        if stats.connects > 1:
            stats.reconnects += 1
        if self._marks is not None:
            self._marks.begin()
        connection = Connection(
            self._context,
            topics=self._topics,
            marks=self._marks,
            session_opened=self._session_opened,
            pong_received=self._pong_received,
            data_timeout_secs=self.settings.data_timeout_secs
            * 2 ** min(self._barren, _DATA_TIMEOUT_DOUBLINGS_MAX),
        )
        self._connection = connection
        try:
            await connection.run(http)
        except UpstreamError as error:
            return self._ended(error, connection)
        except Exception:
            # The supervisor starts the feed again; the time until then is a gap like any other.
            self._note_gap(connection, "defect")
            raise
        finally:
            self._connection = None
            self._passage.connection_lost()
        raise AssertionError("a connection ends by raising")

    async def _wait_for_turn(self) -> None:
        """Wait until no other recorder with the same key has the connection."""
        turn = self._context.turn
        turn.on_end = self._stand_by
        if not turn.is_given:
            self.stats.state = "standby"
            await turn.wait()

    def _stand_by(self) -> None:
        if self._connection is not None:
            self._connection.end(StoodBy("the other recorder with the same key has the connection now"))

    async def _wait(self, secs: float) -> None:
        """Wait before the next attempt; another key ends the wait."""
        self._sleep = asyncio.ensure_future(self._clock.sleep(secs))
        try:
            await asyncio.wait([self._sleep])
        finally:
            self._sleep.cancel()

    def use_key(self, api_key: str) -> None:
        """Use another key from the next connection on, which comes at once where none is open."""
        self.settings = self.settings.model_copy(update={"api_key": api_key})
        self._context = replace(self._context, settings=self.settings)
        self._backoff, self._limited_waits = self._make_backoff(), limited(self._rng.uniform)
        self._keys.add(self)
        if self._sleep is not None:
            self._sleep.cancel()

    def subscribe(self, topics: Iterable[str]) -> None:
        """Subscribe to more topics, now and on every connection to come."""
        new = [topic for topic in topics if topic not in self._topics]
        self._topics.update(dict.fromkeys(new))
        self.stats.topics_wanted = len(self._topics)
        if self._connection is not None and new:
            self._connection.subscribe(new)

    def unsubscribe(self, topics: Iterable[str]) -> None:
        """Unsubscribe from topics that were wanted besides those of the settings."""
        held = [topic for topic in topics if topic in self._topics and topic not in self.settings.topics]
        for topic in held:
            del self._topics[topic]
        self.stats.topics_wanted = len(self._topics)
        if self._connection is not None and held:
            self._connection.unsubscribe(held)

    def ask_time(self) -> None:
        """Ask how far time has come at the exchange; the bus gets a `Watermark` of now or later once that is known."""
        self._passage.ask(self._clock.monotonic_ns())
        self._look_at_time()

    def _look_at_time(self) -> None:
        """Send the ping that is due, and look again while somebody waits for the time."""
        if self._time_timer is not None:
            self._time_timer.cancel()
            self._time_timer = None
        connection = self._connection
        now_ns = self._clock.monotonic_ns()
        is_open = connection is not None and connection.bus_session.opened_at_ns > 0
        is_paused = connection is not None and connection.reading.is_braked
        listening = not is_paused and (is_open or not self._may_resume(now_ns))
        payload = self._passage.look(now_ns, connected=is_open, listening=listening)
        if connection is not None and payload is not None:
            connection.ping(payload)
        if self._passage.is_asked:
            wait_secs = (self._passage.look_ns - now_ns) / 1e9
            self._time_timer = asyncio.get_running_loop().call_later(wait_secs, self._look_at_time)

    def _pong_received(self, payload: bytes) -> None:
        self._passage.answered(payload)
        self._look_at_time()

    def _may_resume(self, now_ns: int) -> bool:
        """Return whether what was missed since the last session may still come, so that no time has passed."""
        is_recent = self._lost_at_ns > 0 and now_ns - self._lost_at_ns < RESUME_PATIENCE_NS
        return is_recent and self._marks is not None and bool(self._marks.after)

    def _session_opened(self) -> Resumed:
        """Note that a session begins; return how it is joined to the one before."""
        resumed = self._resumed()
        self._look_at_time()
        if self._lost_at_ns:
            self.stats.reconnect_successes += 1
            self.stats.reconnect_seconds.observe((self._clock.monotonic_ns() - self._lost_at_ns) / 1e9)
        gap, self._gap = self._gap, None
        self.stats.gap_since = 0
        if resumed.frames is not None:
            self.stats.resumes += 1
            log.info("resumed", cluster=self.settings.cluster, frames=resumed.frames)
        elif gap is not None:
            from_ns, reason = gap
            now_ms = self._clock.wall_ns() // 1_000_000
            self._note_missed(Missed(from_ns // 1_000_000, now_ms, reason))
        for missed in resumed.missed:
            self._note_missed(missed)
        return resumed

    def _note_missed(self, missed: Missed) -> None:
        """Count and report a time of which nothing came, and nothing will."""
        secs = max(0.0, (missed.to_ms - missed.from_ms) / 1e3)  # the wall clock may have been set back
        self.stats.gaps += 1
        self.stats.gap_secs += secs
        self.stats.recent_gaps = with_newest(self.stats.recent_gaps, Gap(*missed))
        log.warning(
            "gap",
            cluster=self.settings.cluster,
            secs=round(secs, 3),
            from_ms=missed.from_ms,
            to_ms=missed.to_ms,
            reason=missed.reason,
        )

    def _resumed(self) -> Resumed:
        """Return what the recorder that is followed has sent of what was missed, and what it missed itself."""
        marks = self._marks
        if marks is None:
            return Resumed()
        frames = marks.count
        marks.opened()
        if not marks.recovered:
            return Resumed()
        now_ms = self._clock.wall_ns() // 1_000_000
        missed = []
        for outage in marks.outages:
            # It tells of one again and again, as long as nothing comes behind it.
            from_ms = max(outage.from_ms, self._missed_until_ms)
            to_ms = outage.to_ms or now_ms
            if outage.cluster == self.settings.cluster and from_ms < to_ms:
                missed.append(Missed(from_ms, to_ms, outage.reason))
                self._missed_until_ms = to_ms
        if marks.is_another_run and not missed:
            return Resumed()  # it has missed something between its runs, and may not know yet up to when
        return Resumed(frames, tuple(missed))

    def _note_gap(self, connection: Connection, reason: str) -> None:
        """Remember since when there is no data, and why, for the session that ends the gap."""
        if connection.bus_session.lasted_secs:
            from_ns = connection.data_until_ns or self._clock.wall_ns()
            self._gap = from_ns, reason
            self.stats.gap_since = from_ns // 1_000_000
            self.stats.gap_reason = reason
        if connection.bus_session.lasted_secs or not self._lost_at_ns:
            self._lost_at_ns = self._clock.monotonic_ns()

    def _ended(self, error: UpstreamError, connection: Connection) -> float:
        """Count and report an end; choose the wait."""
        stats = self.stats
        stats.errors += 1
        stats.ended_by[error.reason] += 1
        stats.reason = mask(str(error))  # pages show it, and the exchange may have said the key
        if connection.bus_session.lasted_secs == 0 and stats.connects > 1:
            stats.reconnect_failures += 1
        if isinstance(error, KeyRefused) and not stats.sessions:
            stats.reason = mask(self._refusal(error))
            if self._keys.is_hopeless(self):
                raise KeyRefused(self._refusal(error)) from error
        if isinstance(error, ShiftedReplay) and not stats.sessions:
            raise ShiftedReplay(f"{self.settings.cluster}: {self.settings.url}: {error}") from error
        self._note_gap(connection, error.reason)
        if stats.frames_since_subscribed:
            self._barren = 0
        elif isinstance(error, DataTimeout):
            self._barren += 1
        has_brought_data = connection.bus_session.lasted_secs > 0 and stats.frames_since_subscribed > 0
        if connection.bus_session.lasted_secs >= STABLE_SECS or (has_brought_data and self.settings.firehose):
            self._backoff.reset()
        elif has_brought_data:
            self._backoff.ease()
        if connection.bus_session.lasted_secs >= _LIMITED_STABLE_SECS:
            self._limited_waits = limited(self._rng.uniform)
        wait_secs = next(self._limited_waits) if isinstance(error, LIMITED) else self._backoff.next_secs()
        advice = {}
        if isinstance(error, MaxConnections):
            advice["advice"] = (
                "another program uses the same key; each new connection ends the older one. "
                "Stop it, or give it its data through this recorder"
            )
        if isinstance(error, Untrusted):
            advice["advice"] = (
                "let SSL_CERT_FILE in the environment name a PEM file with the CA that signed it"
            )
        log.warning(
            "disconnected" if connection.bus_session.lasted_secs else "connect_failed",
            cluster=self.settings.cluster,
            reason=error.reason,
            message=str(error),
            retry_in_secs=round(wait_secs, 3),
            **advice,
        )
        return wait_secs

    def _refusal(self, error: KeyRefused) -> str:
        settings = self.settings
        if settings.firehose:
            return (
                f"{settings.cluster}: the recorder at {settings.url} refused the token: {error}. "
                "POLYGON_API_KEY must be one of its AUTH_TOKENS."
            )
        return (
            f"{settings.cluster}: the exchange refused the key: {error}. "
            "Check POLYGON_API_KEY, and that its plan includes this cluster in real time."
        )

    def _make_backoff(self) -> Backoff:
        settings = self.settings
        max_secs = settings.backoff_max_secs
        if settings.firehose:
            # A recorder of ours needs no politeness, and what it sends meanwhile is lost to us.
            max_secs = min(max_secs, max(settings.backoff_initial_secs, _FIREHOSE_WAIT_SECS_MAX))
        return Backoff(settings.backoff_initial_secs, max_secs, self._rng.uniform)

    def __repr__(self) -> str:
        stats = self.stats
        return f"Feed({self.settings.cluster}, {stats.state}, sessions={stats.sessions}, frames={stats.frames_received})"
