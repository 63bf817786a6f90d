"""Sees that messages of a stream have gone before their time, which disturbs no appending."""

from __future__ import annotations

from recorder.jetstream.streams import JetStream, StreamAway
from recorder.settings.nats import NatsSettings
from recorder.sinks.nats.appender import Appender


class PurgeWatch:
    """Looks at one stream now and then."""

    def __init__(self, appender: Appender, settings: NatsSettings) -> None:
        self._appender = appender
        self._max_age_secs = settings.max_age_secs or 0
        self._max_bytes = settings.max_bytes or 0
        self._seq = 0
        """Of the last message at the latest look; 0: there was none."""
        self._received_ns = 0
        """When its frames were received, by the wall clock."""

    def begin(self, seq: int) -> None:
        """Note the last message, as a connection finds the stream."""
        self._seq, self._received_ns = seq, self._appender.last_received_ns

    async def look(self, jetstream: JetStream, wall_ns: int) -> bool:
        """Return whether the last message of the look before is gone; the next one that is appended says so then.

        :raises StreamAway: the servers do not say, or the stream is another one now.
        """
        appender = self._appender
        created, state = await jetstream.state_of(appender.stream)
        if created != appender.created:
            raise StreamAway(f"stream {appender.stream} is another one now")
        is_gone = 0 < self._seq < state["first_seq"]
        is_young = (wall_ns - self._received_ns) / 1e9 < self._max_age_secs / 2
        is_purged = is_gone and is_young and state["bytes"] < self._max_bytes / 2
        if is_purged:
            appender.note_purge()
        self.begin(state["last_seq"] if state["messages"] else 0)
        return is_purged
