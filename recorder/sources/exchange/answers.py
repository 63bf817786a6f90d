"""What the exchange says of the topics that it was asked for: which ones it refuses, or leaves without an answer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, NamedTuple

from recorder.polygon import control
from recorder.polygon.client import ClientSession

NOT_AUTHORIZED: Final = (
    f"the exchange says: {control.NOT_AUTHORIZED.message}; the plan of the recorder's key does not include it"
)


class Change(NamedTuple):
    """Topics of which something else is known than before."""

    topics: tuple[str, ...]
    refusal: str
    """Why nothing will come of them; empty: they are acknowledged after all, or no longer asked for."""


class Answers:
    """The answers on one connection, and what was told of those on the connections before it.

    The exchange refuses without naming a topic, and says nothing at all about a channel that it does not know. So a topic
    counts as refused when the refusals leave no other, and as unknown when it has waited for too long.
    """

    def __init__(self, session: ClientSession, told: dict[str, str]) -> None:
        """`told` outlives the connection: topics whose refusal was told, and in which words."""
        self._session = session
        self._told = told
        self._asked_ns: dict[str, int] = {}
        """When a topic without an acknowledgement was first seen here, by the monotonic clock."""

    def look(self, now_ns: int, wait_secs: float, *, acknowledges: bool) -> Iterator[Change]:
        """Yield what has changed since the last look; to be exhausted.

        `acknowledges`: whether silence means something. From an exchange that sends data and acknowledges nothing, it
        means nothing.
        """
        waiting = self._session.unacknowledged
        self._asked_ns = {topic: self._asked_ns.get(topic, now_ns) for topic in waiting}
        if not (waiting or self._told):
            return
        silent_until_ns = now_ns - int(wait_secs * 1e9)
        silence = (
            f"the exchange has not acknowledged it within {wait_secs:g} s, as if it did not know the channel"
        )
        refusals: dict[str, str] = {}
        for topic, asked_ns in self._asked_ns.items():
            if topic in self._session.refused:
                refusals[topic] = _words(self._session.refused[topic])
            elif acknowledges and asked_ns <= silent_until_ns:
                refusals[topic] = silence
        news: dict[str, list[str]] = {}
        # What is asked for again, as after a reconnect, is in doubt, and stays refused until it is acknowledged.
        for topic in [topic for topic in self._told if topic not in self._asked_ns]:
            del self._told[topic]
            news.setdefault("", []).append(topic)
        for topic, refusal in refusals.items():
            if self._told.get(topic) != refusal:
                self._told[topic] = refusal
                news.setdefault(refusal, []).append(topic)
        for refusal, topics in news.items():
            yield Change(tuple(topics), refusal)

    def __repr__(self) -> str:
        return f"Answers({len(self._asked_ns)} topics wait, {len(self._told)} refused)"


def _words(refusal: str) -> str:
    """Return the words of the exchange as an explanation; those of another recorder are one."""
    if refusal == control.NOT_AUTHORIZED.message:
        return NOT_AUTHORIZED
    return refusal.removeprefix(control.NOTHING_COMES)
