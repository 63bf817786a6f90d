"""What is one for all workers, and so stays in the recording process: places for clients, topics, the exchange's time."""

from __future__ import annotations

from collections.abc import Mapping

from recorder.servers.admission import Places
from recorder.servers.demand import OnDemandTopics
from recorder.servers.relay import BarRelay
from recorder.servers.topics import parse_bar_topic
from recorder.sources.source import TopicSink
from recorder.workers.wire import Admit, Answer, AskTime, Enter, Leave, Release, Want
from recorder.workers.worker import Worker

Request = Enter | Admit | Leave | AskTime | Want | Release
"""What a worker asks of the recording process for its clients."""


class Shared:
    """Answers what workers ask for their clients, and takes back what a worker held that has ended."""

    def __init__(
        self,
        places: Places,
        sources: Mapping[str, TopicSink],
        demand: OnDemandTopics | None,
        relay: BarRelay | None,
    ) -> None:
        """`demand` is None where no topics are subscribed on demand, `relay` where bars come from no other recorder."""
        self._places = places
        self._sources = sources
        self._demand = demand
        self._relay = relay

    def handle(self, worker: Worker, request: Request) -> None:
        """Do what a worker asks for, and remember what it holds from then on."""
        match request:
            case Enter(number, port):
                worker.places[port, ""] += 1
                worker.send(Answer(number, self._places.enter(port)))
            case Admit(number, port, token):
                worker.places[port, token] += 1
                worker.send(Answer(number, self._places.admit(port, token)))
            case Leave(port, token):
                self._places.leave(port, token)
                worker.places[port, ""] -= 1
                if token:
                    worker.places[port, token] -= 1
            case AskTime(cluster):
                self._sources[cluster].ask_time()
            case Want(cluster, topics, bars):
                worker.wanted.setdefault((cluster, bars), {}).update(dict.fromkeys(topics))
                self._want(request)
            case Release(cluster, topics, bars):
                held = worker.wanted.get((cluster, bars), {})
                for topic in topics:
                    held.pop(topic, None)
                self._release(request)

    def forget(self, worker: Worker) -> None:
        """Take back what a worker that has ended held for its clients."""
        self._places.forget(worker.places)
        for (cluster, bars), topics in worker.wanted.items():
            self._release(Release(cluster, list(topics), bars))

    def _want(self, wish: Want) -> None:
        if wish.bars and self._relay is not None:
            for topic in filter(None, map(parse_bar_topic, wish.topics)):
                self._relay.want(wish.cluster, topic)
        elif self._demand is not None:
            self._demand.subscribe(wish.cluster, wish.topics)

    def _release(self, wish: Release) -> None:
        if wish.bars and self._relay is not None:
            for topic in filter(None, map(parse_bar_topic, wish.topics)):
                self._relay.unwant(wish.cluster, topic)
        elif self._demand is not None:
            self._demand.unsubscribe(wish.cluster, wish.topics)

    def __repr__(self) -> str:
        return f"Shared({self._places!r})"
