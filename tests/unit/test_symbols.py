"""The symbols of the live page: followed only while somebody looks, and within bounds."""

from __future__ import annotations

import pytest
from fakes import FakeClock, batch_of

import recorder.ops.symbols as symbols_module
from recorder.bus import Bus
from recorder.ops.status_schema import SYMBOLS_LISTED_MAX
from recorder.ops.symbols import WATCH_SECS, Symbols


def trade(symbol: str, price: object, number: int = 1) -> bytes:
    """Return a trade."""
    return b'{"ev":"T","sym":"%b","p":%b,"s":1,"t":%d}' % (symbol.encode(), str(price).encode(), number)


def frame(*events: bytes) -> bytes:
    """Return a frame of events."""
    return b"[" + b",".join(events) + b"]"


class World:
    """A bus, and the symbols on it."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.bus = Bus()
        self.symbols = Symbols(self.bus, self.clock)

    def second(self, cluster: str, *frames: bytes) -> None:
        """Let a second pass in which these frames come, each in a read of its own."""
        for each in frames:
            self.bus.publish(batch_of(each, cluster=cluster))
        self.clock.advance(1)
        self.symbols.look()


def test_nobody_looks_and_nothing_is_done() -> None:
    """Without a watcher it is not on the bus; it gets there when somebody looks, and leaves when nobody does."""
    world = World()
    world.second("stocks", frame(trade("AAPL", 1)))
    assert world.bus.consumers == []
    assert (world.symbols.most_active(), world.symbols.count) == ([], 0)
    world.symbols.watch()
    world.symbols.watch()
    assert world.bus.consumers == [world.symbols]
    assert not world.bus.is_awaited()
    world.second("stocks", frame(trade("AAPL", 1)))
    assert world.symbols.count == 1
    world.clock.advance(WATCH_SECS)
    world.symbols.look()
    assert world.bus.consumers == []
    assert world.symbols.count == 0
    assert world.bus.failures == 0


def test_prices_and_rates() -> None:
    """The price is that of the last trade; the rate counts all events; the busiest comes first."""
    world = World()
    world.symbols.watch()
    quote = b'{"ev":"Q","sym":"AAPL","bp":1.5,"ap":1.6,"t":1}'
    busy = frame(trade("AAPL", 272.15), quote, quote, trade("AAPL", 272.2))
    for _ in range(3):
        world.symbols.watch()
        world.second("stocks", busy, frame(trade("MSFT", "4.72e2")))
    aapl, msft = world.symbols.most_active()
    assert (aapl.cluster, aapl.symbol, aapl.price) == ("stocks", "AAPL", 272.2)
    assert aapl.events_per_sec == pytest.approx(4, abs=0.01)
    assert (msft.symbol, msft.price) == ("MSFT", 472.0)
    assert msft.events_per_sec == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize(
    ("cluster", "event", "price"),
    [
        ("indices", b'{"ev":"V","val":6603.25,"T":"I:SPX","t":1}', 6603.25),
        ("forex", b'{"ev":"C","p":"EUR/USD","x":48,"a":1.16,"b":1.15,"t":1}', 1.15),
        ("options", b'{"ev":"Q","sym":"O:SPY261218C00600000","bp":4.2,"ap":4.3,"t":1}', 4.2),
        ("stocks", b'{"ev":"AM","sym":"AAPL","c":272.5,"s":1,"e":2}', 272.5),
        ("futures", b'{"ev":"A","sym":"ESZ6","c":"6603.25","s":1,"e":2}', 6603.25),
        ("stocks", b'{"ev":"T","sym":"AAPL","p":"<b>","t":1}', None),
        ("stocks", b'{"ev":"T","sym":"AAPL","p":null,"t":1}', None),
        ("stocks", b'{"ev":"T","sym":"AAPL","t":1}', None),
        ("stocks", b'{"ev":"NEW","sym":"AAPL","p":1,"t":1}', None),
    ],
)
def test_every_cluster_has_its_price(cluster: str, event: bytes, price: float | None) -> None:
    """Where there are no trades, the price is the last value, close or bid; odd data has none and breaks nothing."""
    world = World()
    world.symbols.watch()
    world.second(cluster, frame(event))
    [found] = world.symbols.most_active()
    assert found.price == price
    assert world.bus.failures == 0


def test_a_trade_is_better_than_a_quote() -> None:
    """Once a cluster has shown a trade, quotes and aggregates set no price any more."""
    world = World()
    world.symbols.watch()
    aggregate = b'{"ev":"A","sym":"AAPL","c":1.5,"s":1,"e":2}'
    world.second("stocks", frame(aggregate), frame(trade("AAPL", 2)), frame(aggregate))
    assert [found.price for found in world.symbols.most_active()] == [2.0]


def test_a_search_finds_what_is_not_among_the_busiest() -> None:
    """The list has its bound; a search looks at all symbols, in whatever case."""
    world = World()
    world.symbols.watch()
    busy = [trade(f"BUSY{place}", 1) for place in range(SYMBOLS_LISTED_MAX) for _ in range(2)]
    world.second("stocks", frame(*busy, trade("AAPL", 272.15)))
    listed = world.symbols.most_active()
    assert len(listed) == SYMBOLS_LISTED_MAX
    assert world.symbols.count == SYMBOLS_LISTED_MAX + 1
    assert "AAPL" not in {each.symbol for each in listed}
    assert [each.symbol for each in world.symbols.most_active("aap")] == ["AAPL"]
    assert world.symbols.most_active("nothing") == []


def test_a_flood_is_sampled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Past its events a second it looks at none, and the rates are worked out from those before."""
    monkeypatch.setattr(symbols_module, "EVENTS_MAX", 100)
    world = World()
    world.symbols.watch()
    world.second("stocks")
    for _ in range(2):
        world.symbols.watch()
        world.second("stocks", *[frame(*[trade("AAPL", 1)] * 10)] * 50)
    [found] = world.symbols.most_active()
    assert found.events_per_sec == pytest.approx(500, rel=0.01)


def test_names_without_end_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """The wire names symbols, so their number has a bound; a long name is cut."""
    monkeypatch.setattr(symbols_module, "SYMBOLS_MAX", 50)
    world = World()
    world.symbols.watch()
    for second in range(20):
        world.symbols.watch()
        world.second("stocks", frame(*[trade(f"S{second}-{place}", 1) for place in range(40)]))
    assert world.symbols.count <= 100
    world.second("stocks", frame(*[trade("X" * 5_000, 1)] * 100))
    assert len(world.symbols.most_active()[0].symbol) <= 501
