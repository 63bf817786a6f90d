"""NATS_PER_SYMBOL against a real nats-server: each event of the chosen channels once, under the subject of its symbol."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest
from fakes import batch_of
from nats_servers import Asking, NatsServer, contents_of, nats_settings, serving, shared_server
from sink_recordings import SinkRecording, at_work
from waiting import eventually

from recorder.checks.nats import check_nats
from recorder.checks.scene import Scene
from recorder.clock import SystemClock
from recorder.errors import ConfigError
from recorder.ops.books import balances, difference
from recorder.settings import load_settings
from recorder.sinks.nats import symbol_publisher
from recorder.sinks.nats.symbol_publisher import SymbolPublisher
from recorder.sinks.nats.symbols import NAME, SymbolSink
from recorder.stream_message import SymbolNames, token_of

CHANNELS = ("A", "AM", "LULD")
SYMBOLS = ("AAPL", "BRK.B", "O:SPY 1", "*>%")


@pytest.fixture
def server() -> NatsServer:
    """Return the server that all tests share that do it no harm; each has a stream of its own."""
    return shared_server()


@pytest.fixture
def prefix(request: pytest.FixtureRequest) -> str:
    """Return a prefix of streams that is this test's own."""
    return f"S{abs(hash(request.node.name)) % 10**9}"


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(symbol_publisher, "_RETRY_SECS_MAX", 0.1)


class Recording(SinkRecording[SymbolSink]):
    """A sink of symbols with its bus and books."""

    def __init__(self, server: NatsServer, prefix: str = "MD", **changes: Any) -> None:
        settings = nats_settings(server, stream_prefix=prefix, per_symbol=CHANNELS, **changes)
        super().__init__(lambda ledger: SymbolSink(settings, ("stocks",), ledger, SystemClock(), "run"))
        self.sent: dict[tuple[str, str], list[bytes]] = {}
        """By channel and symbol: the events of the chosen channels."""

    def publish(self, turns: int = 1) -> None:
        """Put events of each channel and symbol on the bus, trades among them."""
        for _ in range(turns):
            events = []
            for channel in (*CHANNELS, "T"):
                for symbol in SYMBOLS:
                    self.count += 1
                    name = "T" if channel == "LULD" else "sym"
                    event = b'{"ev":"%b","%b":"%b","s":1760375617662,"q":%d}' % (
                        channel.encode(),
                        name.encode(),
                        symbol.encode(),
                        self.count,
                    )
                    events.append(event)
                    if channel != "T":
                        self.sent.setdefault((channel, symbol), []).append(event)
            self.bus.publish(batch_of(b"[%b]" % b",".join(events)))


def recording(
    server: NatsServer, prefix: str = "MD", **changes: Any
) -> AbstractAsyncContextManager[Recording]:
    """Return a sink that runs for as long as the context lasts."""
    return at_work(Recording(server, prefix, **changes), NAME, close_secs=10)


def found(server: NatsServer, subject: str, prefix: str = "MD") -> list[bytes]:
    """Return the events of a subject."""
    return contents_of(server, SymbolNames.of(prefix, "stocks").stream, subject)


@pytest.mark.parametrize(
    ("name", "token"),
    [
        ("AAPL", "AAPL"),
        ("BRK.B", "BRK%2EB"),
        ("a b\tc\r\n", "a%20b%09c%0D%0A"),
        ("*>%", "%2A%3E%25"),
        ("I:SPX", "I:SPX"),
        ("", "%"),
    ],
)
def test_names_become_tokens(name: str, token: str) -> None:
    """No two names share one, and none divides a subject or stands for others."""
    assert token_of(name) == token


async def test_a_filter_on_a_subject_yields_one_symbol(server: NatsServer, prefix: str) -> None:
    """Byte for byte and in order; the channels that are not chosen stay out, and the books say so."""
    async with recording(server, prefix) as made:
        made.publish(20)
        await made.stored()
    names = SymbolNames.of(prefix, "stocks")
    for (channel, symbol), events in made.sent.items():
        assert found(server, names.subject(channel, symbol), prefix) == events
    both = found(server, f"{names.root}.*.AAPL", prefix)
    assert sorted(both) == sorted(event for channel in CHANNELS for event in made.sent[channel, "AAPL"])
    assert len(found(server, names.subjects, prefix)) == sum(map(len, made.sent.values()))
    totals = made.ledger.totals(NAME)
    assert (totals["recorded"], totals["filtered"], totals["dropped"]) == (240, 80, 0)
    books = balances(made.ledger, made.sink.stats)
    assert books["stocks", "T"].filtered == 80
    assert difference(books) == 0


async def test_a_server_that_is_killed_and_one_that_stands_still(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """kill -9 while rounds are under way, and SIGSTOP until they are sent again: each event is there once, in order."""
    monkeypatch.setattr(symbol_publisher, "ACK_SECS_MAX", 0.5)
    with serving(tmp_path / "nats") as server:
        async with recording(server) as made:
            for fault, mend in ((server.kill, server.start), (server.pause, server.resume)):
                made.publish(150)
                seen = made.ledger.totals(NAME)["recorded"]
                await eventually(
                    lambda seen=seen: made.ledger.totals(NAME)["recorded"] > seen, "some of them are stored"
                )
                assert made.sink.queue.pending_bytes, "not all of them"
                fault()
                await eventually(lambda: made.sink.stats.failure, "the failure")
                made.publish()
                mend()
            await made.stored()
            assert made.ledger.totals(NAME)["dropped"] == 0
        names = SymbolNames.of("MD", "stocks")
        for (channel, symbol), events in made.sent.items():
            assert found(server, names.subject(channel, symbol)) == events


async def test_a_doubt_that_lasts_longer_than_the_servers_know_ids(
    server: NatsServer, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is stored and was never acknowledged is found by its subjects, and not sent again."""
    monkeypatch.setattr(symbol_publisher, "ACK_SECS_MAX", 0.5)
    monkeypatch.setattr(symbol_publisher, "IDS_SECS", 0.0)
    names = SymbolNames.of(prefix, "stocks")
    async with recording(server, prefix) as made:
        with Asking(server) as asking:
            config = asking.ask(f"$JS.API.STREAM.INFO.{names.stream}")["config"]
            forgetful = {**config, "duplicate_window": 100_000_000}
            assert "created" in asking.ask(f"$JS.API.STREAM.UPDATE.{names.stream}", forgetful)
        with monkeypatch.context() as deaf:
            deaf.setattr(SymbolPublisher, "_receive", lambda *_: None)
            made.publish(20)
            await eventually(lambda: made.sink.stats.failure, "the failure")
        await made.stored()
        made.publish()
        await made.stored()
        for (channel, symbol), events in made.sent.items():
            assert found(server, names.subject(channel, symbol), prefix) == events


async def test_two_recorders_of_one_feed(server: NatsServer, prefix: str) -> None:
    """What both append is there once; each counts all of it as recorded."""
    async with recording(server, prefix) as one, recording(server, prefix) as other:
        for _ in range(10):
            one.publish(5)
            other.publish(5)
        await one.stored()
        await other.stored()
        assert one.sent == other.sent
    names = SymbolNames.of(prefix, "stocks")
    for (channel, symbol), events in one.sent.items():
        assert found(server, names.subject(channel, symbol), prefix) == events
    assert one.ledger.totals(NAME)["recorded"] == other.ledger.totals(NAME)["recorded"] == 600


async def test_events_come_no_faster_than_servers_take_them(
    server: NatsServer, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rounds wait for each other; what comes faster waits in the queue, and is dropped past its limit."""
    monkeypatch.setattr(symbol_publisher, "EVENTS_PER_SEC_MAX", 1000)
    monkeypatch.setattr(symbol_publisher, "ROUND_EVENTS_MAX", 100)
    async with recording(server, prefix, buffer_bytes=200_000) as made:
        begun_ns = SystemClock().monotonic_ns()
        made.publish(100)
        dropped = made.ledger.totals(NAME)["dropped"]
        assert 0 < dropped < 1200
        await made.stored()
        stored = made.ledger.totals(NAME)["recorded"]
        assert stored + dropped == 1200
        assert (SystemClock().monotonic_ns() - begun_ns) / 1e9 >= (stored - 100) / 1000
    assert len(found(server, SymbolNames.of(prefix, "stocks").subjects, prefix)) == stored


async def test_a_stream_of_another_shape_is_named(server: NatsServer, prefix: str) -> None:
    """It ends the start, as with the streams of frames."""
    async with recording(server, prefix):
        pass
    other = Recording(server, prefix, max_age_secs=60)
    with pytest.raises(ConfigError, match=f"stream {prefix}_STOCKS_SYMBOLS is of another shape: max_age is"):
        await other.sink.open()


async def test_check_looks_at_these_streams(server: NatsServer, prefix: str, tmp_path: Path) -> None:
    """It makes none, and warns of servers that are slow with many subjects."""
    environ = {
        "POLYGON_API_KEY": "key",
        "POLYGON_CLUSTER": "stocks",
        "SINK": "nats",
        "NATS_URL": server.url,
        "NATS_STREAM_PREFIX": prefix,
        "NATS_MAX_BYTES": "1GiB",
        "NATS_MAX_AGE_SECS": "1h",
        "NATS_PER_SYMBOL": "A,AM",
    }
    settings = load_settings(environ, tmp_path).settings
    told = [(one.level.value, one.text) for one in await check_nats(Scene(settings, (), SystemClock()))]
    is_old = any("nats-server 2.9" in text for _, text in told[:1])
    warned = [text for level, text in told if level == "warning" and text.startswith("NATS_PER_SYMBOL: ")]
    assert len(warned) == is_old
    name = f"{prefix}_STOCKS_SYMBOLS"
    words = f"stream {name} for {prefix.lower()}.stocks.symbols.> does not exist; the recorder makes it"
    assert ("ok", words) in told
    with Asking(server) as asking:
        assert "error" in asking.ask(f"$JS.API.STREAM.INFO.{name}")
