"""The simulated exchange over real sockets: the vendor's protocol, the vendor's own client, and every fault."""

from __future__ import annotations

import asyncio
import gzip
import itertools
import json
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import aiohttp
import massive
import pytest
from aiohttp import WSMsgType
from fakes import FakeClock
from shared_data import shared_file
from waiting import eventually

from recorder.errors import ConfigError
from recorder.polygon.careful import split_elements
from recorder.polygon.control import MAX_CONNECTIONS, SLOW_CONSUMER
from recorder.polygon.events import Decoder
from recorder.simulator.exchange import Simulator
from recorder.simulator.faults import FAULTS, parse_fault
from recorder.simulator.market import Market
from recorder.simulator.settings import SimulatorSettings

FAST = {"rate": 10_000, "bursts": False, "symbols": 50, "frame_events": 10, "market_start": "subscriber"}


class Client:
    """A client that sends by hand and keeps what it got."""

    def __init__(self, ws: aiohttp.ClientWebSocketResponse) -> None:
        self.ws = ws

    async def next(self) -> bytes:
        """Return the next text frame; fail on anything else."""
        message = await asyncio.wait_for(self.ws.receive(), 20)
        assert message.type is WSMsgType.TEXT, message
        data: bytes = message.data
        return data

    async def status(self) -> str:
        """Return the message of the next frame, which must hold exactly one status."""
        [status] = json.loads(await self.next())
        assert status["ev"] == "status"
        text: str = status["message"]
        return text

    async def authenticate(self) -> None:
        """Be greeted and show a key."""
        assert await self.status() == "Connected Successfully"
        await self.ws.send_json({"action": "auth", "params": "key"})
        assert await self.status() == "authenticated"

    async def subscribe(self, *topics: str) -> None:
        """Go all the way from the greeting to the acknowledgements."""
        await self.authenticate()
        await self.ws.send_json({"action": "subscribe", "params": ",".join(topics)})
        for topic in topics:
            assert await self.status() == f"subscribed to: {topic}"

    async def events(self, count: int) -> list[bytes]:
        """Return at least `count` events, each with its own bytes."""
        events: list[bytes] = []
        while len(events) < count:
            events += split_elements(await self.next())
        return events

    async def rest(self) -> tuple[list[bytes], aiohttp.WSMessage]:
        """Return all frames up to the end, and the message that ended the stream."""
        frames = []
        while True:
            message = await asyncio.wait_for(self.ws.receive(), 20)
            if message.type is not WSMsgType.TEXT:
                return frames, message
            frames.append(message.data)


@asynccontextmanager
async def exchange(**options: Any) -> AsyncIterator[Simulator]:
    """Run an exchange on a free port."""
    simulator = Simulator(SimulatorSettings(**{"port": 0, **FAST, **options}))
    task = asyncio.create_task(simulator.run())
    listening = asyncio.create_task(simulator.listening.wait())
    try:
        await asyncio.wait((task, listening), return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            await task
        yield simulator
    finally:
        for each in (listening, task):
            each.cancel()
            with suppress(asyncio.CancelledError):
                await each


@asynccontextmanager
async def client(simulator: Simulator, path: str = "/stocks") -> AsyncIterator[Client]:
    """Connect to it."""
    url = f"ws://127.0.0.1:{simulator.port}{path}"
    async with (
        aiohttp.ClientSession() as session,
        session.ws_connect(url, autoping=False, max_msg_size=0, decode_text=False) as ws,
    ):
        yield Client(ws)


# --- the protocol ------------------------------------------------------------------------------------------


async def test_the_vendors_own_client_receives_trades() -> None:
    """The official Python client connects, authenticates, subscribes and understands every trade and aggregate."""
    received: list[Any] = []
    async with exchange(rate=1_000) as simulator:
        official = massive.WebSocketClient(
            "key",
            feed=f"127.0.0.1:{simulator.port}",
            market="stocks",
            secure=False,
            subscriptions=["T.*", "Q.NVDA", "A.*"],
        )

        async def process(messages: list[Any]) -> None:
            received.extend(messages)

        task = asyncio.create_task(official.connect(process))
        try:
            await eventually(lambda: {m.event_type for m in received} >= {"T", "Q", "A"})
        finally:
            # Its wait_for may swallow a cancellation, as that of Python 3.11 does; closing always ends it.
            await official.close()
            await asyncio.wait_for(task, 20)
    trades = [message for message in received if message.event_type == "T"]
    assert all(trade.symbol and trade.price > 0 and trade.sequence_number for trade in trades)
    assert {quote.symbol for quote in received if quote.event_type == "Q"} == {"NVDA"}


@pytest.mark.parametrize(
    ("path", "topic", "channel"),
    [
        ("/stocks", "T.*", "T"),
        ("/options", "T.*", "T"),
        ("/futures", "Q.*", "Q"),
        ("/futures/comex", "T.*", "T"),
        ("/crypto", "XT.BTC-USD", "XT"),
        ("/forex", "C.EUR-USD", "C"),
        ("/indices", "V.I:SPX", "V"),
        ("/indices/", "V.*", "V"),
    ],
)
async def test_every_cluster_delivers_what_was_subscribed(path: str, topic: str, channel: str) -> None:
    """On each path the topic's events arrive, and nothing else."""
    async with exchange(symbols=None) as simulator, client(simulator, path) as subscriber:
        await subscriber.subscribe(topic)
        received = await subscriber.events(30)
    events = Decoder(path.strip("/").partition("/")[0]).decode([b"[" + b",".join(received) + b"]"])
    assert not events.rejects
    assert set(events.channels) == {channel}
    symbols = set(events.symbols)
    if not topic.endswith("*"):
        assert symbols == {topic.partition(".")[2].replace("EUR-USD", "EUR/USD")}
    if path == "/futures/comex":
        assert {symbol[:2] for symbol in symbols} <= {"GC", "SI", "HG"}


@pytest.mark.parametrize("path", ["/", "/bonds", "/stocks/cme", "/futures/eurex", "/stocks/x/y"])
async def test_an_unknown_path_fails_the_upgrade(path: str) -> None:
    """What is no cluster is 404; a plain request for a cluster is a bad request."""
    async with exchange(clusters=("stocks", "futures")) as simulator, aiohttp.ClientSession() as session:
        url = f"http://127.0.0.1:{simulator.port}"
        with pytest.raises(aiohttp.WSServerHandshakeError, match="404"):
            await session.ws_connect(url + path)
        async with session.get(url + "/stocks") as response:
            assert response.status == 400


async def test_topics_are_acknowledged_as_the_vendor_does() -> None:
    """Acks for known channels, once; silence for unknown channels and bare wildcards; then an unsubscribe."""
    async with exchange() as simulator, client(simulator) as subscriber:
        await subscriber.subscribe("T.NOSUCHSYMBOL")
        for params in ("T.NOSUCHSYMBOL", "ZZ.AAPL", "*", "T", "T.A*", "AM.AAPL"):
            await subscriber.ws.send_json({"action": "subscribe", "params": params})
        assert await subscriber.status() == "subscribed to: AM.AAPL"
        await subscriber.ws.send_json({"action": "unsubscribe", "params": "AM.AAPL, T.NOSUCHSYMBOL"})
        assert await subscriber.status() == "unsubscribed to: AM.AAPL"
        assert await subscriber.status() == "unsubscribed to: T.NOSUCHSYMBOL"
        await subscriber.ws.send_str("[object Object]")
        assert "not JSON" in await subscriber.status()
        assert simulator.stats.events_sent == 0


class HeldUpClock(FakeClock):
    """A clock that sleeps until it is moved on."""

    async def sleep(self, seconds: float) -> None:
        until_ns = self.mono_ns + int(seconds * 1e9)
        await eventually(lambda: self.mono_ns >= until_ns)


class SteadyMarket(Market[None]):
    """Plays a number each tenth of a second."""

    def __init__(self, clock: HeldUpClock) -> None:
        super().__init__("stocks", SimulatorSettings(port=0), clock)
        self.played: list[int] = []

    async def run(self) -> None:
        self._open()
        for number in itertools.count():
            await self._wait_until(number / 10)
            self.played.append(number)


async def test_what_is_due_comes_before_a_pong() -> None:
    """An exchange that was held up first sends what it should have sent; what is due later it does not wait for."""
    clock = HeldUpClock()
    market = SteadyMarket(clock)
    await market.caught_up()
    task = asyncio.create_task(market.run())
    await eventually(lambda: market.played == [0])
    clock.advance(0.55)
    assert market.played == [0]
    await market.caught_up()
    assert market.played == [0, 1, 2, 3, 4, 5]
    await market.caught_up()
    assert market.played == [0, 1, 2, 3, 4, 5]
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


async def test_pings_are_answered_under_data() -> None:
    """A ping comes back with its payload while the market flows."""
    async with exchange() as simulator, client(simulator) as subscriber:
        await subscriber.subscribe("T.*")
        await subscriber.ws.ping(b"are you there")
        while (message := await asyncio.wait_for(subscriber.ws.receive(), 20)).type is not WSMsgType.PONG:
            assert message.type is WSMsgType.TEXT
        assert message.data == b"are you there"


async def test_only_accepted_keys_get_in() -> None:
    """Another key is refused, then the connection closed with 1008."""
    async with exchange(keys=("right",)) as simulator:
        async with client(simulator) as stranger:
            await stranger.status()
            await stranger.ws.send_json({"action": "auth", "params": "wrong"})
            assert await stranger.status() == "authentication failed"
            assert (await stranger.rest())[1].data == 1008
        async with client(simulator) as friend:
            await friend.status()
            await friend.ws.send_json({"action": "auth", "params": "right"})
            assert await friend.status() == "authenticated"
        assert simulator.stats.keys_refused == 1


async def test_who_shows_no_key_is_cut() -> None:
    """Without a key in time there is a status, then the end."""
    async with exchange(auth_timeout_secs=0.05) as simulator, client(simulator) as silent:
        await silent.status()
        assert await silent.status() == "No authentication request received."
        assert (await silent.rest())[1].data == 1008


async def test_one_connection_too_many_costs_the_oldest() -> None:
    """The older connection of the key is told so and closed; the newer one, and another cluster's, live on."""
    async with (
        exchange(connections_max=1) as simulator,
        client(simulator) as older,
        client(simulator, "/forex") as elsewhere,
    ):
        await older.subscribe("LV.*")
        await elsewhere.subscribe("C.*")
        async with client(simulator) as newer:
            await newer.subscribe("T.*")
            frames, end = await older.rest()
            assert json.loads(frames[-1])[0]["message"] == MAX_CONNECTIONS.message
            assert end.data == 1008
            assert await newer.events(10)
            assert await elsewhere.events(10)
    assert simulator.stats.max_connections == 1


async def test_a_slow_consumer_is_cut() -> None:
    """A client that does not read is cut once its pending bytes pass the limit; one that reads is not."""
    async with (
        exchange(rate=1_000_000, frame_events=100, pending_bytes_max=1024 * 1024) as simulator,
        client(simulator) as slow,
    ):
        await slow.subscribe("T.*", "Q.*")
        await eventually(lambda: simulator.stats.slow_consumers == 1)
        frames, end = await slow.rest()
        assert json.loads(frames[-1])[0]["status"] == SLOW_CONSUMER.status
        assert end.data == 1008
        await eventually(lambda: simulator.stats.connections_open == 0)


async def test_everybody_sees_the_same_market() -> None:
    """Two subscribers with different topics get the same trades with the same numbers."""
    async with exchange() as simulator, client(simulator) as first, client(simulator) as second:
        await first.subscribe("T.*")
        await second.subscribe("T.*", "Q.*")
        mine = await first.events(500)
        theirs = [event for event in await second.events(2_000) if event.startswith(b'{"ev":"T"')]
    common = mine[mine.index(theirs[0]) :]
    assert common
    shared = min(len(common), len(theirs))
    assert common[:shared] == theirs[:shared]


async def test_a_flood_waits_for_its_subscribers() -> None:
    """As fast as it is taken: nobody is cut, nothing is left out, and nothing piles up."""
    async with (
        exchange(rate=0, frame_events=100, pending_bytes_max=1024 * 1024) as simulator,
        client(simulator) as subscriber,
    ):
        await subscriber.subscribe("T.*", "Q.*", "LULD.*", "NOI.*", "FMV.*")
        numbers = [json.loads(event).get("q") for event in await subscriber.events(60_000)]
        assert simulator.stats.slow_consumers == 0
    first = next(number - place for place, number in enumerate(numbers) if number)
    assert all(number in (None, first + place) for place, number in enumerate(numbers))


async def test_ticks_come_through_the_sockets_byte_for_byte() -> None:
    """The recorded file arrives complete; then the connection stays, silent, and the exchange says that it is done."""
    path = shared_file("data/ticks_stocks_20131007.ndjson.gz")
    lines = gzip.decompress(path.read_bytes()).splitlines()
    async with exchange(ticks_path=path, rate=0, market_start=None) as simulator:
        assert set(simulator.markets) == {"stocks"}
        async with client(simulator) as subscriber:
            await subscriber.subscribe("Q.SPY")
            wanted = [line.partition(b'"m":')[2][:-1] for line in lines if b'"ev":"Q","sym":"SPY"' in line]
            assert await subscriber.events(len(wanted)) == wanted
            await asyncio.wait_for(simulator.finished.wait(), 20)
            await subscriber.ws.ping(b"still there")
            message = await asyncio.wait_for(subscriber.ws.receive(), 20)
            assert message.type is WSMsgType.PONG


async def test_the_log_has_what_was_sent(tmp_path: Path) -> None:
    """Each line has cluster, connection and the exact frame, in the order in which the client got them."""
    log = tmp_path / "sent.ndjson"
    async with exchange(log_path=log) as simulator, client(simulator) as subscriber:
        await subscriber.subscribe("T.*")
        frames = [await subscriber.next() for _ in range(20)]
    logged = [line.partition(b'"frame":')[2][:-1] for line in log.read_bytes().splitlines()]
    assert logged[:20] == frames
    assert log.read_bytes().startswith(b'{"cluster":"stocks","conn":1,"frame":[')


# --- faults ------------------------------------------------------------------------------------------------


async def struck(fault: str, topic: str = "T.*", **options: Any) -> tuple[list[bytes], aiohttp.WSMessage]:
    """Subscribe at an exchange with this fault; return all data frames and the end."""
    async with exchange(faults=(fault,), **options) as simulator, client(simulator) as victim:
        await victim.subscribe(topic)
        outcome = await victim.rest()
        assert simulator.stats.faults_struck == 1
        return outcome


def events_in(frames: list[bytes]) -> int:
    return sum(len(json.loads(frame)) for frame in frames)


async def test_refuse_auth() -> None:
    """The key is refused and the connection dropped without a close frame; as often as told, then no more."""
    async with exchange(faults=("refuse-auth:times=1",)) as simulator:
        async with client(simulator) as victim:
            await victim.status()
            await victim.ws.send_json({"action": "auth", "params": "key"})
            assert await victim.status() == "authentication failed"
            assert (await victim.rest())[1].type in (WSMsgType.CLOSED, WSMsgType.ERROR)
            assert victim.ws.close_code == 1006
        async with client(simulator) as spared:
            await spared.subscribe("T.*")
            assert await spared.events(1)


async def test_refuse_auth_after_some_events() -> None:
    """With `after` the first connection gets in, and later ones are refused."""
    async with exchange(faults=("refuse-auth:after=10",)) as simulator:
        async with client(simulator) as first:
            await first.subscribe("T.*")
            await first.events(20)
        async with client(simulator) as second:
            await second.status()
            await second.ws.send_json({"action": "auth", "params": "key"})
            assert await second.status() == "authentication failed"


async def test_no_access() -> None:
    """The plan's message, then a close."""
    async with exchange(faults=("no-access",)) as simulator, client(simulator) as victim:
        await victim.status()
        await victim.ws.send_json({"action": "auth", "params": "key"})
        assert "plan" in await victim.status()
        assert (await victim.rest())[1].data == 1008


async def test_max_connections_as_the_answer_to_the_key() -> None:
    """The status comes in the place of the acceptance, then a close."""
    async with exchange(faults=("max-connections",)) as simulator, client(simulator) as victim:
        await victim.status()
        await victim.ws.send_json({"action": "auth", "params": "key"})
        assert await victim.status() == MAX_CONNECTIONS.message
        assert (await victim.rest())[1].data == 1008


async def test_max_connections_in_the_middle() -> None:
    """The twin takes over after exactly the given number of events."""
    frames, end = await struck("max-connections:after=123")
    assert events_in(frames[:-1]) == 123
    assert json.loads(frames[-1])[0]["status"] == "max_connections"
    assert end.data == 1008


async def test_no_greeting() -> None:
    """The exchange says nothing at first; a client that asks anyway is answered."""
    async with exchange(faults=("no-greeting",)) as simulator, client(simulator) as victim:
        await victim.ws.send_json({"action": "auth", "params": "key"})
        assert await victim.status() == "authenticated"


async def test_no_acks() -> None:
    """Data comes though nothing was acknowledged."""
    async with exchange(faults=("no-acks",)) as simulator, client(simulator) as victim:
        await victim.authenticate()
        await victim.ws.send_json({"action": "subscribe", "params": "T.*"})
        assert all(event.startswith(b'{"ev":"T"') for event in await victim.events(30))


async def test_slow_acks() -> None:
    """Acks and data take their time, what comes after them does not."""
    async with exchange(faults=("slow-acks:delay=200ms,times=1",)) as simulator, client(simulator) as victim:
        await victim.authenticate()
        await victim.ws.send_json({"action": "subscribe", "params": "T.*"})
        await victim.ws.send_json({"action": "unsubscribe", "params": "Q.*"})
        await victim.ws.send_json({"action": "hello"})
        assert "unknown action" in await victim.status()
        assert await victim.status() == "subscribed to: T.*"
        assert await victim.events(1)


async def test_not_authorized() -> None:
    """Topics outside the plan get the error that names nothing; the others of the request work."""
    fault = "not-authorized:topics=Q+T.NVDA"
    async with exchange(faults=(fault,)) as simulator, client(simulator) as victim:
        await victim.authenticate()
        await victim.ws.send_json({"action": "subscribe", "params": "Q.*,T.NVDA,T.TSLA"})
        assert [await victim.status() for _ in range(3)] == [
            "not authorized",
            "not authorized",
            "subscribed to: T.TSLA",
        ]
        assert all(b"TSLA" in event for event in await victim.events(5))


@pytest.mark.parametrize("pings", ["yes", "no"])
async def test_stall(pings: str) -> None:
    """After exactly the given number of events, data stops for a time, with or without pongs, and then resumes."""
    fault = f"stall:after=57,for=300ms,pings={pings}"
    async with exchange(faults=(fault,)) as simulator, client(simulator) as victim:
        await victim.subscribe("T.*")
        received = await victim.events(57)
        assert len(received) == 57
        await eventually(lambda: simulator.stats.faults_struck == 1)
        await victim.ws.ping(b"1")
        message = await asyncio.wait_for(victim.ws.receive(), 20)
        assert message.type is (WSMsgType.PONG if pings == "yes" else WSMsgType.TEXT)
        numbers = [json.loads(event)["q"] for event in received + await victim.events(20)]
        assert numbers == sorted(numbers)


@pytest.mark.parametrize("code", [1000, 1001, 1008, 1011, 1012, 4000])
async def test_close_with_a_code(code: int) -> None:
    """The connection is closed with this code after exactly the given number of events."""
    frames, end = await struck(f"close:code={code},after=500")
    assert events_in(frames) == 500
    assert (end.type, end.data) == (WSMsgType.CLOSE, code)


async def test_close_without_a_frame() -> None:
    """Code 1006 ends the connection without a close frame, after exactly the given number of events."""
    frames, end = await struck("close:code=1006,after=500")
    assert events_in(frames) == 500
    assert end.type in (WSMsgType.CLOSED, WSMsgType.ERROR)


async def test_close_after_a_time() -> None:
    """`after` may be a time since the subscription."""
    _, end = await struck("close:code=1012,after=100ms")
    assert end.data == 1012


async def test_reset() -> None:
    """The connection ends with RST, which the client's socket reports as such."""
    async with exchange(faults=("reset:after=100",)) as simulator:
        reader, writer = await asyncio.open_connection("127.0.0.1", simulator.port)
        writer.write(
            b"GET /stocks HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        )
        for request in ({"action": "auth", "params": "k"}, {"action": "subscribe", "params": "T.*"}):
            text = json.dumps(request).encode()
            writer.write(bytes([0x81, 0x80 | len(text), 0, 0, 0, 0]) + text)

        async def read_all() -> None:
            while await reader.read(65_536):
                pass

        with pytest.raises(ConnectionResetError):
            await asyncio.wait_for(read_all(), 20)
        writer.close()


async def test_cut_in_the_middle_of_a_frame() -> None:
    """The last frame never becomes whole; all before it are."""
    frames, end = await struck("cut:after=205")
    assert events_in(frames) == 205
    assert end.type in (WSMsgType.CLOSED, WSMsgType.ERROR)


@pytest.mark.parametrize(
    ("fault", "recognise"),
    [
        ("garbage", lambda frame: frame.startswith(b"502 Bad Gateway")),
        ("not-array", lambda frame: frame.startswith(b'{"ev":"T","sym":"NOTARRAY"')),
        ("big-frame", lambda frame: len(frame) == 10 * 1024 * 1024 and json.loads(frame)[0]["sym"] == "BIG"),
    ],
)
async def test_frames_that_come_in_between(tmp_path: Path, fault: str, recognise: Any) -> None:
    """The odd frame comes after exactly the given number of events, as often as asked for, and costs no good event."""
    log = tmp_path / "sent.ndjson"
    async with (
        exchange(faults=(f"{fault}:after=33,times=2",), log_path=log) as simulator,
        client(simulator) as victim,
    ):
        await victim.subscribe("T.*", "Q.*", "LULD.*", "NOI.*", "FMV.*")
        good: list[bytes] = []
        odd_at = []
        while len(good) < 200:
            frame = await victim.next()
            if recognise(frame):
                odd_at.append(len(good))
            else:
                good += split_elements(frame)
    assert odd_at == [33, 66]
    numbers = [json.loads(event).get("q") for event in good]
    first = next(number - place for place, number in enumerate(numbers) if number)
    assert all(number in (None, first + place) for place, number in enumerate(numbers))
    logged = [json.loads(line) for line in log.read_bytes().splitlines()]
    assert [line["fault"] for line in logged if "fault" in line] == ["broken", fault] * 2
    events = [event for line in logged for event in line.get("frame", ())]
    assert events[:200] == [json.loads(event) for event in good[:200]]


@pytest.mark.parametrize(("fault", "odd"), [("bad-element", b"BROKEN"), ("status-in-data", b'"status"')])
async def test_one_odd_element_among_good_ones(tmp_path: Path, fault: str, odd: bytes) -> None:
    """One frame has one element too many; the good ones keep their number, order and bytes."""
    log = tmp_path / "sent.ndjson"
    async with (
        exchange(faults=(f"{fault}:after=47",), log_path=log) as simulator,
        client(simulator) as victim,
    ):
        await victim.subscribe("T.*")
        elements = await victim.events(300)
    odd_ones = [place for place, element in enumerate(elements) if odd in element]
    assert odd_ones == [48]
    good = [element for element in elements if odd not in element]
    logged = [
        event
        for line in log.read_bytes().splitlines()
        if b'"frame":' in line
        for event in split_elements(line.partition(b'"frame":')[2][:-1])
    ]
    assert good == logged[: len(good)]


async def test_faults_of_data_can_be_told_apart_by_connection() -> None:
    """A fault that strikes once costs one connection, the other goes on undisturbed."""
    async with (
        exchange(faults=("close:code=1012,after=50",)) as simulator,
        client(simulator) as first,
        client(simulator) as second,
    ):
        await first.subscribe("T.*")
        assert events_in((await first.rest())[0]) == 50
        await second.subscribe("T.*")
        assert len(await second.events(200)) >= 200


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("stal", "known are .*stall"),
        ("stall:whatever=1", "no option whatever"),
        ("stall:after", "name=value"),
        ("stall:after=soon", "duration such as"),
        ("stall:times=-1", "whole number"),
        ("stall:pings=maybe", "yes or no"),
        ("close:code=99", "1000 to 4999"),
        ("not-authorized", "topics is missing"),
        ("burst:factor=0", "at least 1"),
    ],
)
def test_a_fault_that_makes_no_sense_is_refused(text: str, problem: str) -> None:
    """The error names the fault and says what would be right."""
    with pytest.raises(ConfigError, match=problem):
        parse_fault(text)


def test_every_fault_is_known_by_its_name() -> None:
    """The registry and the classes agree, and each fault has its line of explanation."""
    for name in FAULTS:
        fault = parse_fault(f"{name}:topics=Q" if name == "not-authorized" else name)
        assert fault.name == name
        assert type(fault).__doc__


# --- the exchange itself -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {"clusters": ("bonds",)},
        {"rate": -1},
        {"frame_events": 0},
        {"port": 70_000},
        {"faults": ("nonsense",)},
        {"log_path": Path("/nonexistent/sent.ndjson")},
        {"ticks_path": Path("/nonexistent/ticks.ndjson")},
    ],
)
async def test_settings_that_make_no_sense_are_refused(options: dict[str, Any]) -> None:
    """A wrong option ends the start with an error of the operator."""
    with pytest.raises(ConfigError):
        async with exchange(**options):
            pass


async def test_a_port_in_use_is_an_error_that_names_it() -> None:
    """The second exchange on a port says which one it could not have, and how to have another."""
    async with exchange() as simulator:
        with pytest.raises(
            ConfigError, match=f"{simulator.port}: Address already in use; --port takes another"
        ):
            async with exchange(port=simulator.port):
                pass


async def test_the_exchange_says_what_it_does() -> None:
    """Its representation has address, clusters and counts; ending it drops its clients and leaves no thread."""
    async with exchange(clusters=("stocks",)) as simulator:
        async with client(simulator) as subscriber:
            await subscriber.subscribe("T.*")
            await subscriber.events(10)
            assert f"127.0.0.1:{simulator.port}, stocks, connections=1" in repr(simulator)
            assert "subscribers=1" in repr(simulator.markets["stocks"])
        await eventually(lambda: simulator.stats.connections_open == 0)
        assert simulator.stats.frames_sent >= 1
    assert threading.active_count() < 50
