"""Topics that the exchange refuses, as the ports know it."""

from __future__ import annotations

from recorder.bus import TopicsAnswered


class Refusals:
    """What the exchange refuses now, by cluster and by topic as it is asked for upstream."""

    def __init__(self) -> None:
        self._words: dict[tuple[str, str], str] = {}

    def take(self, answered: TopicsAnswered) -> None:
        """Remember what is refused, and forget what no longer is."""
        for topic in answered.topics:
            if answered.refusal:
                self._words[answered.cluster, topic] = answered.refusal
            else:
                self._words.pop((answered.cluster, topic), None)

    def of(self, cluster: str, topic: str) -> str:
        """Return why nothing will come of a topic; empty where that is not known."""
        return self._words.get((cluster, topic), "")

    def all(self) -> list[TopicsAnswered]:
        """Return what is refused, as it is taken."""
        alike: dict[tuple[str, str], list[str]] = {}
        for (cluster, topic), words in self._words.items():
            alike.setdefault((cluster, words), []).append(topic)
        return [TopicsAnswered(cluster, tuple(topics), words) for (cluster, words), topics in alike.items()]

    def __repr__(self) -> str:
        return f"Refusals({len(self._words)} topics)"
