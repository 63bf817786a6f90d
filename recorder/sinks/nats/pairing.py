"""What a recorder does about the other one of its stream: follows it, claims its connection, logs who leads."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Final

from recorder.bus import SessionChange
from recorder.clock import Clock
from recorder.jetstream.connection import Connection
from recorder.jetstream.streams import JetStream, text_of
from recorder.ledger import PairStats
from recorder.log import RateLimited, get_logger
from recorder.sinks.nats.appender import Appender
from recorder.sinks.nats.claim import Claim
from recorder.sinks.nats.following import Following
from recorder.sources.turn import Turn

_WARN_SECS: Final = 60.0

log = get_logger("polygon_clients")


class Pairing:
    """One stream, over all connections. What fails ends the connection, and says so there."""

    def __init__(
        self, appender: Appender, clock: Clock, changed: Callable[[], None], turn: Turn | None
    ) -> None:
        """`changed` is called when something was read. `turn` is given where one of the two is connected at a time."""
        self._appender = appender
        self._clock = clock
        self._changed = changed
        self._claim = Claim(appender, turn, appender.takeover_ns) if turn is not None else None
        self._following: Following | None = None
        self._told: PairStats | None = None
        """What the log has told of."""
        self._warning = RateLimited(_WARN_SECS)

    async def begin(self, connection: Connection, jetstream: JetStream) -> None:
        """Begin to follow the stream, where it has something that is not known, or another recorder leads.

        :raises RecorderError: the servers do not have it now.
        """
        if self._is_follower:
            await self._read_on(connection, jetstream)
        claim, clock = self._claim, self._clock
        if claim is not None:
            claim.listen(clock.monotonic_ns())
            await connection.subscribe(
                self._life_subject,
                lambda delivery: claim.hear(
                    delivery.content.decode("utf-8", "replace"), clock.monotonic_ns()
                ),
            )

    async def look(self, connection: Connection, jetstream: JetStream) -> None:
        """Do what is due, before anything is sent.

        :raises RecorderError: the servers do not have it now.
        """
        following, now_ns = self._following, self._clock.monotonic_ns()
        if following is not None and following.failure:
            connection.fail(following.failure)
        elif following is not None and self._appender.is_alone(now_ns):
            await self.stop()
        elif following is None and self._is_follower:
            await self._read_on(connection, jetstream)
        if self._claim is not None and self._claim.look(now_ns):
            await connection.publish(self._life_subject, self._appender.writer.encode(), "", {})
        self._tell()

    async def stop(self) -> None:
        """Follow no more, until there is a reason."""
        following, self._following = self._following, None
        if following is not None:
            await following.stop()

    def is_stuck(self, since_ns: int) -> bool:
        """Return whether nothing was read since then, though something is to be read."""
        following = self._following
        return following is not None and self._appender.is_behind and following.heard_ns < since_ns

    def session_changed(self, change: SessionChange) -> None:
        """Note that the cluster's connection to the exchange has data, or no longer."""
        if self._claim is not None:
            self._claim.session_changed(change, self._clock.monotonic_ns())

    @property
    def _is_follower(self) -> bool:
        return self._appender.is_behind or not self._appender.leads

    @property
    def _life_subject(self) -> str:
        return self._appender.subject.removesuffix("frames") + "alive"

    async def _read_on(self, connection: Connection, jetstream: JetStream) -> None:
        """Begin to read behind the last message that is known; at first, the latest messages."""
        where: dict[str, object] = {
            "deliver_policy": "by_start_sequence",
            "opt_start_seq": self._appender.last_seq + 1,
        }
        if since_ns := self._appender.looks_back_to_ns:
            where = {"deliver_policy": "by_start_time", "opt_start_time": text_of(since_ns)}
        following = Following(self._appender, connection, self._clock, self._changed)
        await following.start(jetstream, where)
        self._following = following

    def _tell(self) -> None:
        """Log who leads, when that changes, and what the one that leads has not got."""
        stats, told = self._appender.stats, self._told
        if told is None or told.leads != stats.leads:
            log.info("nats_role", stream=stats.stream, leads=stats.leads, other=stats.other)
        elif (
            told.filled_events == stats.filled_events
            or self._warning.ready(self._clock.monotonic_ns()) is None
        ):
            return
        else:
            log.warning("nats_filled", stream=stats.stream, events=stats.filled_events, other=stats.other)
        self._told = replace(stats)
