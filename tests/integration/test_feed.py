"""The upstream feed against real servers: the simulator with its faults, and a scripted exchange."""

from __future__ import annotations

import asyncio
import gc
import ssl
import subprocess
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from aiohttp import WSMsgType, web
from exchange import sending, shake_hands, status
from fakes import CollectingConsumer
from feeds import TRADE, Braking, Fixture, Longest, following, running, scripted, simulator
from front import front, hang_up, reset, stay_silent
from ops_parts import HeldClock
from serving import in_production_loop
from structlog.testing import capture_logs
from tools import tool
from waiting import eventually

from recorder import native
from recorder.bus import Batch, Bus, SessionClosed, SessionOpened, Watermark
from recorder.errors import KeyRefused
from recorder.frames import PING
from recorder.frames import frame as wire_frame
from recorder.log import forget_secrets, register_secret
from recorder.sources.exchange.context import FeedContext
from recorder.sources.exchange.feed import Feed, Keys
from recorder.sources.exchange.watch import Watch
from recorder.sources.exchange.web_socket import (
    WebSocket,
    close_web_socket,
    http_session,
    open_web_socket,
)

RESETS = 20


def self_signed(folder: Path) -> tuple[Path, Path]:
    """Make a key and a certificate that nobody vouches for."""
    key, certificate = folder / "k.pem", folder / "c.pem"
    curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]
    files = ["-nodes", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(
        [tool("openssl"), "req", "-x509", *curve, "-days", "2", *files, "-subj", "/CN=localhost"],
        check=True,
        capture_output=True,
    )
    return key, certificate


async def test_it_streams_and_says_so() -> None:
    """Connected, subscribed, data: frames arrive untouched, the session is announced before its first batch ends."""
    frames = [TRADE, b'[{"ev":"Q","sym":"A"},{"ev":"T","sym":"B"}]']
    async with scripted(sending(frames)) as port, following(port) as fixture:
        await eventually(lambda: fixture.events == 3)
        assert fixture.consumer.frames == frames
        stats = fixture.stats
        assert (stats.state, stats.connected, stats.subscribed, stats.reason) == ("streaming", True, True, "")
        assert (stats.topics_wanted, stats.topics_acknowledged) == (2, 2)
        assert stats.frames_since_subscribed == 2
        assert stats.last_event_ms == 1760375617662 or stats.last_event_ms == 0
        assert isinstance(fixture.consumer.changes[0], SessionOpened)


async def test_another_key_ends_the_wait_after_a_refusal() -> None:
    """An operator who has put a good key into the file need not wait for the next attempt."""
    async with simulator(keys=("NEXT-0123456789",)) as exchange:
        fixture, clock, keys = Fixture(exchange.port), HeldClock(), Keys()
        Feed(fixture.context, keys=keys)  # of another cluster, and never refused: so there is hope
        feed = Feed(replace(fixture.context, clock=clock), keys=keys)
        async with running(feed):
            await eventually(clock.asleep.is_set, "the wait after the refusal")
            assert not fixture.stats.sessions
            feed.use_key("NEXT-0123456789")
            await eventually(lambda: fixture.stats.sessions == 1, "a session")


@pytest.mark.parametrize("fault", ["refuse-auth", "no-access"])
async def test_a_refused_key_at_start_ends_the_feed(fault: str) -> None:
    """Only an operator can help; the message says what to check, and the key is not in it."""
    async with simulator(fault) as exchange:
        fixture = Fixture(exchange.port)
        with pytest.raises(KeyRefused, match="POLYGON_API_KEY") as refused:
            await fixture.feed.run()
        assert fixture.settings.api_key not in str(refused.value)


async def test_a_key_that_only_some_feeds_are_refused_is_tried_again_slowly() -> None:
    """While one cluster is accepted, another that is refused waits, says why, and ends nothing."""
    keys = Keys()
    async with simulator("refuse-auth:times=2") as refusing, simulator() as exchange:
        good, bad = Fixture(exchange.port), Fixture(refusing.port)
        good.feed = Feed(good.context, keys=keys)
        bad.feed = Feed(bad.context, keys=keys)
        async with running(good.feed), running(bad.feed):
            await eventually(lambda: bad.stats.ended_by["key_refused"] == 2)
            await eventually(lambda: bad.stats.sessions == 1)
        assert min(bad.clock.slept[:2]) >= 60


async def test_a_key_that_every_feed_is_refused_ends_them() -> None:
    """The last refusal is the one that ends the recorder, until when each refused feed waits and says why."""
    keys = Keys()
    async with simulator("refuse-auth") as exchange:
        first, second = Fixture(exchange.port), Fixture(exchange.port)
        first.feed = Feed(first.context, keys=keys)
        second.feed = Feed(second.context, keys=keys)
        async with running(first.feed):
            await eventually(lambda: first.stats.ended_by["key_refused"])
            assert "POLYGON_API_KEY" in first.stats.reason
            assert not first.stats.subscribed
            with pytest.raises(KeyRefused, match="POLYGON_API_KEY"):
                await second.feed.run()


async def test_a_key_that_is_refused_later_is_tried_again_slowly() -> None:
    """Once the key was good, a refusal is waited out, a minute at least."""
    connections = 0

    async def script(socket: web.WebSocketResponse, request: web.Request) -> None:
        nonlocal connections
        connections += 1
        if connections == 2:
            await socket.send_str(status("connected", "Connected Successfully"))
            await socket.receive()
            await socket.send_str(status("auth_failed", "authentication failed"))
            return
        await shake_hands(socket)
        if connections == 3:
            await socket.receive()

    async with scripted(script) as port, following(port) as fixture:
        await eventually(lambda: fixture.stats.sessions == 2)
        assert fixture.stats.ended_by["key_refused"] == 1
        assert fixture.clock.slept[0] <= 1.0
        assert 60 <= fixture.clock.slept[1] <= 90


async def test_a_twin_with_the_same_key_does_not_start_a_kill_loop() -> None:
    """`max_connections` in mid-stream: a clear line, and a minute's wait or more, growing."""
    with capture_logs() as logs:
        async with (
            simulator("max-connections:after=50,times=3") as exchange,
            following(exchange.port) as fixture,
        ):
            await eventually(lambda: fixture.stats.sessions == 4)
            waits = fixture.clock.slept
            assert fixture.stats.ended_by["max_connections"] == 3
            assert waits[0] >= 60
            assert waits[1] >= 120
            assert waits[2] >= 240
    [line, *_] = [entry for entry in logs if entry["event"] == "disconnected"]
    assert line["reason"] == "max_connections"
    assert "same key" in line["advice"]


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("close:code=1006,after=50", "disconnected"),
        ("close:code=1001,after=50", "disconnected"),
        ("close:code=1011,after=50", "disconnected"),
        ("close:code=1008,after=50", "server_disconnect"),
        ("reset:after=50", "disconnected"),
        ("cut:after=50", "disconnected"),
    ],
)
async def test_every_end_is_typed_and_followed_by_a_new_session(fault: str, reason: str) -> None:
    """The end has its reason, the wait is short, the topics are asked for again, and the gap is announced."""
    async with simulator(fault) as exchange, following(exchange.port) as fixture:
        await eventually(lambda: fixture.stats.sessions == 2 and fixture.events > 100)
        assert fixture.stats.ended_by == {reason: 1}
        assert fixture.stats.topics_acknowledged == 2
        assert fixture.stats.reconnect_successes == 1
        assert fixture.clock.slept[0] <= 1.0
        opened, closed, again = fixture.consumer.changes[:3]
        assert isinstance(opened, SessionOpened)
        assert isinstance(closed, SessionClosed)
        assert closed.reason == reason
        assert 0 < closed.last_received_ns <= closed.at_ns
        assert isinstance(again, SessionOpened)


@pytest.mark.parametrize("fault", ["garbage", "not-array", "bad-element", "status-in-data", "big-frame"])
async def test_odd_frames_do_not_end_the_session(fault: str) -> None:
    """Whatever comes among the data, the connection stays and the good events continue."""
    async with simulator(f"{fault}:after=50") as exchange, following(exchange.port) as fixture:
        await eventually(lambda: fixture.events > 200)
        assert fixture.stats.sessions == 1
        assert not fixture.stats.ended_by
        rejects = [reject for batch in fixture.consumer.batches for reject in batch.rows.rejects]
        symbols = [symbol for batch in fixture.consumer.batches for symbol in batch.rows.symbols]
        assert bool(rejects) == (fault in ("garbage", "not-array", "bad-element"))
        assert ("BIG" in symbols) == (fault == "big-frame")


async def test_after_ten_minutes_of_session_a_twin_is_waited_for_briefly_again() -> None:
    """The waits after `max_connections` grow until a session lasts too long for a twin to end it each minute."""
    lasts_secs = [1, 599, 601, 1]
    sessions = 0

    async def script(socket: web.WebSocketResponse, request: web.Request) -> None:
        nonlocal sessions
        await shake_hands(socket)
        await eventually(lambda: fixture.stats.subscribed)
        fixture.clock.ahead_secs += lasts_secs[min(sessions, len(lasts_secs) - 1)]
        sessions += 1
        await socket.send_str(status("max_connections", "too many"))
        async for _ in socket:
            pass

    async with scripted(script) as port:
        fixture = Fixture(port, rng=Longest())
        async with running(fixture.feed):
            await eventually(lambda: len(fixture.clock.slept) >= len(lasts_secs))
    assert fixture.clock.slept[: len(lasts_secs)] == [90, 180, 90, 180]


async def test_a_pong_says_how_far_time_has_come() -> None:
    """Everything in front of the pong is passed on first; the time is that of the question, not of the answer."""

    async def script(socket: web.WebSocketResponse, request: web.Request) -> None:
        await shake_hands(socket)
        async for message in socket:
            assert message.type is WSMsgType.PING
            await socket.send_frame(TRADE, 1)  # type: ignore[arg-type]
            await socket.pong(message.data)

    async with scripted(script, autoping=False) as port, following(port) as fixture:
        await eventually(lambda: fixture.stats.subscribed)
        asked_ns = fixture.clock.monotonic_ns()
        fixture.feed.ask_time()
        sent_ns = fixture.clock.monotonic_ns()
        await eventually(lambda: fixture.consumer.watermarks)
        *_, batch, watermark = fixture.consumer.arrivals
        assert isinstance(batch, Batch)
        assert isinstance(watermark, Watermark)
        assert batch.frames == [TRADE]
        assert asked_ns <= watermark.until_ns <= sent_ns <= batch.read_ns
        assert fixture.stats.heartbeats_sent == 1


async def test_pongs_that_answer_nothing_say_nothing() -> None:
    """Unsolicited pongs, and pongs to heartbeats, move no time; a client that does not wait for time causes no ping."""
    async with (
        simulator("stall:after=50") as exchange,
        following(exchange.port, heartbeat_interval_secs=0.05) as fixture,
    ):
        await eventually(lambda: fixture.stats.heartbeats_sent >= 3)
        assert not fixture.consumer.watermarks


async def test_without_a_connection_time_is_assumed() -> None:
    """Nobody answers: after the bound the question counts as answered."""
    fixture = Fixture(1, silence_max_ms=50)
    asked_ns = fixture.clock.monotonic_ns()
    fixture.feed.ask_time()
    latest_ns = fixture.clock.monotonic_ns()
    await eventually(lambda: fixture.consumer.watermarks)
    assert asked_ns <= fixture.consumer.watermarks[0].until_ns <= latest_ns
    assert fixture.clock.monotonic_ns() - asked_ns >= 50_000_000


async def test_since_when_it_is_as_it_is_shown() -> None:
    """`since_ns` is the time at which the session began, and once it has ended the time at which it ended."""
    async with simulator() as exchange, following(exchange.port) as fixture:
        await eventually(lambda: fixture.stats.subscribed)
        began_ns = fixture.stats.since_ns
        await eventually(lambda: fixture.events > 50)
        assert fixture.stats.since_ns == began_ns > 0
    assert not fixture.stats.subscribed
    assert fixture.stats.since_ns > began_ns


async def test_what_the_settings_ask_for_is_never_given_back() -> None:
    """Clients that leave release what they wanted, and not what is recorded."""
    async with simulator() as exchange, following(exchange.port, topics=("T.AAPL",)) as fixture:
        await eventually(lambda: fixture.stats.topics_acknowledged == 1)
        fixture.feed.subscribe(["T.AAPL", "T.MSFT"])
        await eventually(lambda: fixture.stats.topics_acknowledged == 2)
        fixture.feed.unsubscribe(["T.AAPL", "T.MSFT"])
        assert fixture.stats.topics_wanted == 1
        await eventually(lambda: fixture.stats.topics_acknowledged == 1)


async def test_the_front_is_where_aiohttp_has_its_reader() -> None:
    """The installed aiohttp has the names that the front reader and the pauses hang on."""
    async with scripted(sending([])) as port, http_session() as http:
        socket = await open_web_socket(http, f"ws://127.0.0.1:{port}/stocks")
        assert socket.front is not None
        assert isinstance(socket.transport, asyncio.ReadTransport)
        greeting = await socket.receive()
        assert b"Connected" in greeting.data
        taken: list[bytes] = []
        socket.front.begin(lambda payloads, size_bytes, wire: taken.extend(payloads))
        await socket.send_str('{"action":"auth","params":"KEY"}')
        await eventually(lambda: taken)
        assert b"authenticated" in taken[0]
        await close_web_socket(socket)


async def test_where_aiohttp_has_other_names_it_reads_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the front every frame comes all the same, in order, with pongs between them."""
    monkeypatch.delattr(WebSocket, "_parser")
    frames = [TRADE.replace(b'"s":1', b'"s":%d' % number) for number in range(500)]
    async with scripted(sending(frames)) as port, following(port, heartbeat_interval_secs=0.05) as fixture:
        await eventually(lambda: fixture.events == len(frames))
        assert fixture.consumer.frames == frames
        assert WebSocket.front is None


async def test_what_was_not_read_comes_after_the_pause() -> None:
    """TCP holds what the exchange sends while a consumer has the feed wait; all of it comes, in order."""
    sent = [TRADE.replace(b'"s":1', b'"s":%d' % number) for number in range(20_000)]
    async with scripted(sending(sent)) as port:
        fixture = Fixture(port)
        full = Braking()
        fixture.bus.attach(full)
        async with running(fixture.feed):
            await eventually(lambda: fixture.stats.reading_paused_secs > 0.2)
            assert len(fixture.consumer.frames) < len(sent)
            full.full = False
            await eventually(lambda: fixture.stats.frames_since_subscribed == len(sent))
        assert fixture.consumer.frames == sent


async def test_the_frames_of_one_read_are_one_batch() -> None:
    """Frames that arrive together are passed on together, and no batch has more than CHANNEL_CAP frames."""

    async def script(socket: web.WebSocketResponse, request: web.Request) -> None:
        await shake_hands(socket)
        transport = request.transport
        assert transport is not None
        transport.write((b"\x81" + bytes([len(TRADE)]) + TRADE) * 100)
        await socket.receive()

    async with scripted(script) as port, following(port, channel_cap=30) as fixture:
        await eventually(lambda: fixture.events == 100)
        sizes = [len(batch.data_frames) for batch in fixture.consumer.batches if batch.data_frames]
        assert max(sizes) == 30
        assert len(sizes) <= 6
        assert fixture.stats.cap_reached >= 3


@pytest.mark.parametrize("channel_cap", [30, 1024])
async def test_a_batch_has_what_was_read(channel_cap: int) -> None:
    """All of it, byte for byte, or nothing: with pings, binary frames and a cap in between, in reads of any size."""
    text, ping, binary = wire_frame(TRADE), wire_frame(b"beat", PING), wire_frame(TRADE, 2)
    sent = text * 100 + ping + text * 10 + binary + text * 10 + ping + text * 100

    async def script(socket: web.WebSocketResponse, request: web.Request) -> None:
        await shake_hands(socket)
        transport = request.transport
        assert transport is not None
        for at in range(0, len(sent), 1000):
            transport.write(sent[at : at + 1000])
            await asyncio.sleep(0)
        await eventually(lambda: fixture.events == 221)
        transport.write(text * 20)  # fewer than either cap
        await socket.receive()

    async with scripted(script) as port, following(port, channel_cap=channel_cap) as fixture:
        await eventually(lambda: fixture.events == 241)
        batches = [batch for batch in fixture.consumer.batches if batch.data_frames]
        assert fixture.consumer.frames == [TRADE] * 241
        for batch in batches:
            assert batch.wire in (b"", b"".join(map(wire_frame, batch.frames)))
        assert native.in_use() == any(batch.wire for batch in batches)


async def test_the_log_says_subscribed_once_all_topics_are_answered() -> None:
    """Data flows from the first acknowledgement on; one that comes later is no refusal, and is waited for."""
    go_on = asyncio.Event()

    async def script(socket: web.WebSocketResponse, request: web.Request) -> None:
        await shake_hands(socket, acknowledge=False)
        await socket.send_str(status("success", "subscribed to: T.*"))
        await socket.send_bytes(TRADE)
        await go_on.wait()
        await socket.send_str(status("success", "subscribed to: Q.*"))
        await socket.receive()

    with capture_logs() as logs:

        def said() -> list[tuple[int, int]]:
            entries = [entry for entry in logs if entry["event"] == "subscribed"]
            return [(entry["acknowledged"], entry["topics"]) for entry in entries]

        async with scripted(script) as port, following(port) as fixture:
            await eventually(lambda: fixture.events == 1)
            assert fixture.stats.subscribed
            assert said() == []
            go_on.set()
            await eventually(said)
    assert said() == [(2, 2)]


async def test_a_session_of_a_minute_starts_the_waits_anew() -> None:
    """Sessions that end at once are followed by longer and longer waits; one that lasted lets the next wait be short."""
    lasts_secs = [1, 1, 1, 59, 61, 1, 1]
    sessions = 0

    async def script(socket: web.WebSocketResponse, request: web.Request) -> None:
        nonlocal sessions
        await shake_hands(socket)
        await eventually(lambda: fixture.stats.subscribed)
        fixture.clock.ahead_secs += lasts_secs[min(sessions, len(lasts_secs) - 1)]
        sessions += 1

    async with scripted(script) as port:
        fixture = Fixture(port, rng=Longest())
        async with running(fixture.feed):
            await eventually(lambda: len(fixture.clock.slept) >= len(lasts_secs))
    assert fixture.clock.slept[: len(lasts_secs)] == [1, 2, 4, 8, 1, 2, 4]


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("ws://127.0.0.1:9/stocks", "127.0.0.1:9"),
        ("ws://no-such-host.invalid/stocks", "no-such-host.invalid"),
    ],
)
async def test_no_connection_is_said_with_its_address(url: str, words: str) -> None:
    """Refused TCP connections and names that do not resolve are tried for ever, with growing full jitter."""
    async with following(0, url=url) as fixture:
        await eventually(lambda: len(fixture.clock.slept) >= 6)
        assert fixture.stats.ended_by["connect_failed"] >= 6
        assert words in fixture.stats.reason
        bounds = [1, 2, 4, 8, 8, 8]
        assert all(0 <= wait <= bound for wait, bound in zip(fixture.clock.slept, bounds, strict=False))
        assert fixture.stats.reconnect_failures >= 5


async def test_a_page_instead_of_a_websocket() -> None:
    """A server that answers with a page is named with its status."""

    async def serve(request: web.Request) -> web.Response:
        return web.Response(status=404)

    app = web.Application()
    app.router.add_get("/{path:.*}", serve)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        async with following(runner.addresses[0][1]) as fixture:
            await eventually(lambda: "404" in fixture.stats.reason)
    finally:
        await runner.cleanup()


async def test_a_peer_that_hangs_up_in_the_tls_handshake_is_named() -> None:
    """The error that this leaves has no words of its own; the operator gets some."""
    with front(hang_up) as door:
        async with following(0, url=f"wss://127.0.0.1:{door.port}/stocks") as fixture:
            await eventually(lambda: fixture.stats.ended_by["connect_failed"] >= 1)
            assert fixture.stats.reason.endswith("the connection was closed in the handshake")


@in_production_loop
async def test_a_reset_before_the_handshake_leaves_no_socket_that_closes_a_descriptor_again() -> None:
    """The loop has closed the descriptor: an object that did so once more would close whatever has the number by then."""
    with front(*[reset] * RESETS, stay_silent) as door:
        async with following(0, url=f"wss://127.0.0.1:{door.port}/stocks") as fixture:
            await eventually(lambda: fixture.stats.connects > RESETS)
            assert fixture.stats.ended_by["connect_failed"] == RESETS
            # What is collected unclosed is a ResourceWarning, which is an error in tests.
            gc.collect()


async def test_a_key_that_the_exchange_says_back_is_masked() -> None:
    """The reason is in /status and /ready, where a key has no business."""

    async def script(socket: web.WebSocketResponse, request: web.Request) -> None:
        await socket.send_str(status("connected", "Connected Successfully"))
        await socket.receive()
        await socket.send_str(status("max_connections", "too many for KEY-0123456789"))

    register_secret("KEY-0123456789")
    try:
        async with scripted(script) as port, following(port) as fixture:
            await eventually(lambda: fixture.stats.ended_by["max_connections"] >= 1)
            assert fixture.stats.reason == "too many for ***"
    finally:
        forget_secrets()


async def test_tls_is_verified(tmp_path: Path) -> None:
    """A certificate that nobody vouches for ends the attempt; no key is sent."""
    heard: list[str] = []

    async def script(socket: web.WebSocketResponse, request: web.Request) -> None:
        await socket.send_str(status("connected", "Connected Successfully"))
        heard.extend([message.data async for message in socket if message.type is WSMsgType.TEXT])

    key, certificate = self_signed(tmp_path)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    async with (
        scripted(script, context) as port,
        following(0, url=f"wss://127.0.0.1:{port}/stocks") as fixture,
    ):
        await eventually(lambda: fixture.stats.ended_by["connect_failed"] >= 1)
        assert "certificate" in fixture.stats.reason.lower()
    assert not heard


async def test_stopping_passes_on_what_was_read() -> None:
    """Cancelled at any moment, a feed has published every frame that it took from the socket."""
    async with simulator(rate=20000.0) as exchange:
        fixture = Fixture(exchange.port)
        task = asyncio.create_task(fixture.feed.run())
        await eventually(lambda: fixture.events > 1000)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        assert fixture.stats.frames_received == sum(len(batch.frames) for batch in fixture.consumer.batches)
        assert fixture.stats.state == "stopped"
        last = fixture.consumer.changes[-1]
        assert isinstance(last, SessionClosed)
        assert last.reason == "shutdown"


async def test_stopping_while_the_connection_breaks_stops() -> None:
    """A feed that is stopped in the very moment in which its connection ends does not reconnect."""

    async def script(socket: web.WebSocketResponse, request: web.Request) -> None:
        await shake_hands(socket)
        await socket.send_frame(TRADE, 1)  # type: ignore[arg-type]
        await socket.close()

    class Stopping(CollectingConsumer):
        def accept(self, batch: Batch) -> None:
            super().accept(batch)
            if batch.data_frames:
                task.cancel()

    async with scripted(script) as port:
        fixture = Fixture(port)
        fixture.bus.attach(Stopping())
        task = asyncio.create_task(fixture.feed.run())
        with pytest.raises(asyncio.CancelledError):
            await task
    assert fixture.stats.connects == 1


async def test_a_defect_that_ends_a_connection_is_no_shutdown(monkeypatch: pytest.MonkeyPatch) -> None:
    """The manifest is told that a defect ended the session; the gap behind it is open until the next, with that reason."""

    async def break_down(*_: object) -> None:
        await eventually(lambda: fixture.events)
        raise ZeroDivisionError

    async with scripted(sending([TRADE])) as port:
        fixture = Fixture(port)
        with monkeypatch.context() as patch:
            patch.setattr(Watch, "run", break_down)
            with pytest.raises(ZeroDivisionError):
                await fixture.feed.run()
        [_, closed] = fixture.consumer.changes
        assert isinstance(closed, SessionClosed)
        assert closed.reason == "defect"
        assert fixture.stats.gap_since == closed.last_received_ns // 1_000_000
        async with running(fixture.feed):
            await eventually(lambda: fixture.stats.sessions == 2)
        assert [gap.reason for gap in fixture.stats.recent_gaps] == ["defect"]
        assert fixture.stats.gap_since == 0


async def test_a_task_of_the_connection_that_something_cancels_is_a_disconnection() -> None:
    """A cancellation that came from outside leaves no error behind; the feed reconnects."""
    async with scripted(sending([TRADE])) as port, following(port) as fixture:
        await eventually(lambda: fixture.events)
        [watch] = [task for task in asyncio.all_tasks() if task.get_name() == "watch stocks"]
        watch.cancel()
        await eventually(lambda: fixture.stats.sessions == 2)
        assert fixture.stats.ended_by == {"disconnected": 1}


async def test_a_defective_consumer_costs_nobody_else_a_batch() -> None:
    """A consumer that raises is counted and logged; the others get every batch."""

    class Defective:
        def accept(self, batch: object) -> None:
            raise ZeroDivisionError

        def session_changed(self, change: object) -> None:
            raise ZeroDivisionError

    async with scripted(sending([TRADE] * 5)) as port:
        fixture = Fixture(port)
        bus = Bus()
        bus.attach(Defective())
        bus.attach(fixture.consumer)
        feed = Feed(FeedContext(fixture.settings, bus, fixture.stats, fixture.clock))
        with capture_logs() as logs:
            task = asyncio.create_task(feed.run())
            await eventually(lambda: fixture.events == 5)
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        assert bus.failures >= 2
        assert any("ZeroDivisionError" in str(entry.get("error")) for entry in logs)


@pytest.mark.parametrize("firehose", [True, False])
async def test_a_status_amid_the_data_of_a_firehose_is_not_for_us(firehose: bool) -> None:
    """A firehose passes on what the exchange told the other recorder; only a frame of statuses alone is its own word."""
    mixed = b"[" + TRADE[1:-1] + b',{"ev":"status","status":"max_connections","message":"too many"}]'
    script = sending([mixed, TRADE, TRADE])
    async with scripted(script) as port, following(port, topics=("*",), firehose=firehose) as fixture:
        await eventually(lambda: fixture.events >= 3)
        if firehose:
            assert fixture.stats.statuses_received == len(["greeting", "key accepted", "topic acknowledged"])
            assert (fixture.stats.sessions, fixture.stats.ended_by) == (1, {})
        else:
            await eventually(lambda: fixture.stats.ended_by["max_connections"] >= 1)


async def test_a_gap_is_logged_and_counted() -> None:
    """Between two sessions there is a gap, from the last data on; the first session has none before it."""
    with capture_logs() as logs:
        async with simulator("close:code=1006,after=50") as exchange, following(exchange.port) as fixture:
            await eventually(lambda: fixture.stats.sessions == 1)
            assert fixture.stats.gaps == 0
            await eventually(lambda: fixture.stats.sessions == 2)
            assert fixture.stats.gaps == 1
    [gap] = [entry for entry in logs if entry["event"] == "gap"]
    assert (gap["log_level"], gap["cluster"], gap["reason"]) == ("warning", "stocks", "disconnected")
    assert gap["to_ms"] - gap["from_ms"] == pytest.approx(1000 * fixture.stats.gap_secs, abs=2)
    assert fixture.stats.recent_gaps == ((gap["from_ms"], gap["to_ms"], "disconnected"),)
    assert gap["to_ms"] <= fixture.stats.since_ns // 1_000_000


async def test_every_error_of_the_exchange_is_logged() -> None:
    """Several error statuses in one read are all in the log and in the count, not the last alone."""
    errors = [status("error", "not authorized"), status("error", "no such thing")]
    with capture_logs() as logs:
        async with (
            scripted(sending([error.encode() for error in errors])) as port,
            following(port) as fixture,
        ):
            await eventually(lambda: fixture.stats.errors == 2)
    said = [message for entry in logs if entry["event"] == "exchange_error" for message in entry["messages"]]
    assert said == ["error: not authorized", "error: no such thing"]


class Patient(CollectingConsumer):
    """A consumer that nobody waits behind, and that notes what it was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = 0

    def is_awaited(self) -> bool:
        self.asked += 1
        return False


@in_production_loop
async def test_frames_that_share_a_pass_are_all_there_in_order() -> None:
    """Where nobody waits for them the socket rests between passes; every frame comes once, and so does the close."""
    sent = [b'[{"ev":"T","sym":"A","t":1760375617662,"q":%d}]' % number for number in range(2000)]

    async def script(ws: web.WebSocketResponse, number: int) -> None:
        await shake_hands(ws)
        for place, frame in enumerate(sent):
            await ws.send_bytes(frame)
            if not place % 10:
                await asyncio.sleep(0)
        await ws.close(code=1001)

    consumer = Patient()
    async with scripted(script) as port, following(port, consumer=consumer) as fixture:
        await eventually(lambda: fixture.stats.ended_by.total() >= 1)
        frames = consumer.frames[: len(sent)]
    assert frames == sent
    assert consumer.asked
