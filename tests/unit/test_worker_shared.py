"""What is one for all workers: places, topics and time are asked for once, and taken back from a worker that has ended."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from fakes import FakeClock
from serving import LIMITS

from recorder.servers.admission import Places
from recorder.servers.demand import OnDemandTopics
from recorder.servers.relay import BarRelay
from recorder.settings import ClientLimits, DemandSettings
from recorder.sources.source import TopicSink
from recorder.workers.shared import Shared
from recorder.workers.wire import Admit, Answer, AskTime, Down, Enter, Leave, Release, Want
from recorder.workers.worker import Worker


class Source:
    """A source that keeps what it is asked for."""

    def __init__(self) -> None:
        self.topics: list[str] = []
        self.asked = 0

    def subscribe(self, topics: Iterable[str]) -> None:
        self.topics += topics

    def unsubscribe(self, topics: Iterable[str]) -> None:
        for topic in topics:
            self.topics.remove(topic)

    def ask_time(self) -> None:
        self.asked += 1


class Told(Worker):
    """A worker without a process, which keeps what it is told."""

    def __init__(self, number: int) -> None:
        super().__init__(number, 2**20, lambda worker, message: None, lambda: None)
        self.told: list[Down] = []

    def send(self, message: Down) -> None:
        self.told.append(message)


def shared(
    exchange: Source, bars: Source, clock: FakeClock, **limits: Any
) -> tuple[Shared, Places, OnDemandTopics]:
    """Return what is shared by the workers of a recorder of stocks, its places, and its topics on demand."""
    sources: dict[str, TopicSink] = {"stocks": exchange}
    places = Places(ClientLimits.model_construct(**{**LIMITS, **limits}))
    demand = OnDemandTopics(
        DemandSettings(enabled=True, release_delay_secs=0.0), sources, {"stocks": frozenset()}, clock
    )
    relay = BarRelay((1, 60_000))
    relay.connect("stocks", bars)
    return Shared(places, sources, demand, relay), places, demand


async def test_places_are_counted_over_all_workers() -> None:
    """The last place goes to whichever worker asks first; that of a client of a worker that ended is free again."""
    made, places, _ = shared(Source(), Source(), FakeClock(), clients_max=2, clients_per_token_max=1)
    one, two = Told(1), Told(2)
    made.handle(one, Enter(1, "bars"))
    made.handle(one, Admit(2, "bars", "me"))
    made.handle(two, Enter(1, "bars"))
    made.handle(two, Admit(2, "bars", "me"))
    made.handle(two, Enter(3, "bars"))
    assert one.told == [Answer(1, True), Answer(2, True)]
    assert two.told == [Answer(1, True), Answer(2, False), Answer(3, False)]
    made.handle(two, Leave("bars", "me"))
    made.handle(two, Leave("bars", ""))
    made.forget(one)
    assert places.taken == {}
    made.forget(two)
    assert places.taken == {}


async def test_topics_are_wanted_until_no_worker_wants_them() -> None:
    """Events of the exchange and bars of another recorder, each once; a worker that ended wants nothing any more."""
    exchange, bars, clock = Source(), Source(), FakeClock()
    made, _, demand = shared(exchange, bars, clock)
    one, two = Told(1), Told(2)
    for worker in (one, two):
        made.handle(worker, Want("stocks", ["T.AAPL"], False))
        made.handle(worker, Want("stocks", ["100Ms.AAPL"], True))
    assert (exchange.topics, bars.topics) == (["T.AAPL"], ["100Ms.AAPL"])
    made.handle(one, Release("stocks", ["T.AAPL"], False))
    made.forget(one)
    demand.release_due()
    assert (exchange.topics, bars.topics) == (["T.AAPL"], ["100Ms.AAPL"])
    made.forget(two)
    demand.release_due()
    assert (exchange.topics, bars.topics) == ([], [])


async def test_the_time_is_asked_of_the_exchange() -> None:
    """Whichever worker asks."""
    exchange = Source()
    made, _, _ = shared(exchange, Source(), FakeClock())
    made.handle(Told(1), AskTime("stocks"))
    assert exchange.asked == 1
