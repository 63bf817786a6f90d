"""The ZMQ sink against real subscribers; what it shares with all sinks is in test_sinks."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import pytest
from commands import Running, clean_environment
from fakes import FakeClock, batch_of, recording_bus
from ops_parts import observe
from sink_benches import in_secs
from structlog.testing import capture_logs
from subscribers import Subscriber, reached, zmq_settings
from waiting import eventually

from recorder.bus import Batch
from recorder.clock import Clock, SystemClock
from recorder.errors import EXIT_CONFIG, ConfigError
from recorder.ledger import Ledger
from recorder.log import get_logger
from recorder.ops.metrics import Exposition
from recorder.settings import ZmqSettings
from recorder.sinks.sink import Drops
from recorder.sinks.zmq import ALONE_SECS, Output, ZmqPublisher, ZmqSink

EXAMPLE = Path(__file__).parents[2] / "examples" / "zmq_sub.py"
ANY_PORT = "tcp://127.0.0.1:*"


class Publishing:
    """A running sink on a bus."""

    def __init__(self, settings: ZmqSettings) -> None:
        self.ledger = Ledger()
        self.sink = ZmqSink(settings, self.ledger, SystemClock())
        self.bus = recording_bus(self.ledger, self.sink)

    @property
    def endpoint(self) -> str:
        return self.sink.publisher.endpoint


@asynccontextmanager
async def publishing(settings: ZmqSettings) -> AsyncIterator[Publishing]:
    """Yield a running sink; close it at the end, if the test has not."""
    bench = Publishing(settings)
    await bench.sink.open()
    task = asyncio.create_task(bench.sink.run())
    try:
        yield bench
    finally:
        if not task.done():
            await bench.sink.close(in_secs(0))
        await task


@contextmanager
def subscribing(folder: Path, *arguments: str, **variables: str) -> Iterator[Running]:
    """Yield the example while it runs; end it if the test has not."""
    example = Running([sys.executable, str(EXAMPLE), *arguments], clean_environment(**variables), folder)
    try:
        yield example
    finally:
        example.stop()
        for stream in (example.process.stdout, example.process.stderr):
            stream.close()


def trades(first: int, count: int, symbol: str = "AAPL") -> Batch:
    """Return a batch of trades that carry their number."""
    events = [
        b'{"ev":"T","sym":"%b","t":1760375617662,"q":%d}' % (symbol.encode(), n)
        for n in range(first, first + count)
    ]
    return batch_of(b"[" + b",".join(events) + b"]")


def numbers(subscriber: Subscriber) -> list[int]:
    """Return the numbers of the trades that have arrived."""
    return [json.loads(line)["payload"]["q"] for line in subscriber.lines]


def alone(settings: ZmqSettings, clock: Clock) -> ZmqPublisher:
    """Return an open publisher without a thread."""
    drops = Drops(Ledger().sink("zmq"), clock, get_logger("polygon_clients"), 5.0)
    publisher = ZmqPublisher(settings, drops, clock)
    publisher.open()
    return publisher


def output(count: int) -> Output:
    """Return some records for a publisher."""
    return Output("stocks", b"{}\n" * count, ["T"] * count, ["A"] * count, {"T": count})


async def test_a_message_is_topic_and_record() -> None:
    """Two frames: prefix and `type:symbol`; the record's line as the archive has it, without the line end."""
    async with publishing(zmq_settings(ANY_PORT, topic_prefix="md.")) as bench:
        subscriber = Subscriber(bench.endpoint, b"md.T:A", b"md.Q:", prefix=b"md.")
        await reached(bench.sink, subscriber)
        frame = (
            b'[{"ev":"T","sym":"BRK.B","p":1},{"ev":"T","sym":"AAPL","p":150.2500},'
            b'{"ev":"Q","sym":"BRK.B","bp":1},{"ev":"LULD","T":"AAPL"}]'
        )
        bench.bus.publish(batch_of(frame))
        await reached(bench.sink, subscriber)
        subscriber.close()
    [(first, trade), (second, quote)] = subscriber.messages
    assert (first, second) == (b"md.T:AAPL", b"md.Q:BRK.B")
    assert b'"payload":{"ev":"T","sym":"AAPL","p":150.2500},' in trade
    assert (json.loads(trade)["seq"], json.loads(quote)["seq"]) == (2, 3)
    assert not trade.endswith(b"\n")


async def test_a_slow_subscriber_costs_nobody_else_a_record(tmp_path: Path) -> None:
    """One that stops reading misses records; they count as dropped, a warning says so, the other one gets them all."""
    with capture_logs() as logs:
        async with publishing(zmq_settings(f"ipc://{tmp_path}/zmq", snd_hwm=2000)) as bench:
            quick = Subscriber(bench.endpoint)
            slow = Subscriber(bench.endpoint, rcvhwm=100)
            await reached(bench.sink, quick, slow)
            slow.block()
            for turn in range(200):
                bench.bus.publish(trades(turn * 100, 100))
                if turn % 10 == 9:
                    await reached(bench.sink, quick)
            slow.unblock()
            await reached(bench.sink, quick, slow)
            totals = bench.ledger.totals("zmq")
            quick.close()
            slow.close()
    assert numbers(quick) == [*range(20_000)]
    missed = 20_000 - len(slow.messages)
    assert 0 < totals["dropped"] <= missed
    assert totals["recorded"] + totals["dropped"] == totals["received"] == 20_000
    [warning] = [entry for entry in logs if entry["event"] == "zmq_subscriber_slow"]
    assert (warning["snd_hwm"], warning["peers"]) == (2000, 2)


async def test_a_subscriber_that_binds_may_go_and_come_back() -> None:
    """The recorder finds a peer that it connects to again; what was published meanwhile is lost to that peer alone."""
    first = Subscriber(ANY_PORT, bind=True)
    async with publishing(zmq_settings(first.endpoint, bind=False)) as bench:
        await reached(bench.sink, first)
        bench.bus.publish(trades(0, 10))
        await reached(bench.sink, first)
        assert bench.bus.is_awaited(), "a peer waits"
        first.close()
        await eventually(lambda: bench.sink.stats.peers == 0)
        assert not bench.bus.is_awaited()
        bench.bus.publish(trades(10, 10))
        await eventually(lambda: bench.sink.queue.pending_bytes == 0)
        second = Subscriber(first.endpoint, bind=True)
        await reached(bench.sink, second)
        assert bench.sink.stats.peers == 1
        bench.bus.publish(trades(20, 10))
        await bench.sink.close(in_secs(10))
        assert second.disconnected.wait(30)
        second.close()
    assert numbers(first) == [*range(10)]
    assert numbers(second) == [*range(20, 30)]
    assert bench.ledger.differences("zmq") == {}
    assert bench.ledger.totals("zmq")["dropped"] == 0


async def test_closing_waits_for_what_subscribers_have_not_taken() -> None:
    """All that was accepted arrives although the subscriber reads only after the end has begun."""
    async with publishing(zmq_settings(ANY_PORT)) as bench:
        subscriber = Subscriber(bench.endpoint, rcvhwm=10)
        await reached(bench.sink, subscriber)
        subscriber.block()
        big = b'[{"ev":"T","sym":"A","q":%d,"text":"' + b"x" * 10_000 + b'"}]'
        for n in range(2000):
            bench.bus.publish(batch_of(big % n))
        await eventually(lambda: bench.sink.queue.pending_bytes == 0)
        closing = asyncio.create_task(bench.sink.close(in_secs(30)))
        await asyncio.sleep(0)
        subscriber.unblock()
        await closing
        assert await asyncio.to_thread(subscriber.disconnected.wait, 30)
        subscriber.close()
    assert numbers(subscriber) == [*range(2000)]
    assert bench.sink.stats.recorded["stocks", "T"] == 2000


async def test_closing_gives_up_on_a_subscriber_that_takes_nothing() -> None:
    """It returns at its deadline, and the log says that not all was taken."""
    async with publishing(zmq_settings(ANY_PORT)) as bench:
        subscriber = Subscriber(bench.endpoint, rcvhwm=10)
        await reached(bench.sink, subscriber)
        subscriber.block()
        big = b'[{"ev":"T","sym":"A","text":"' + b"x" * 100_000 + b'"}]'
        for _ in range(400):
            bench.bus.publish(batch_of(big))
        await eventually(lambda: bench.sink.queue.pending_bytes == 0)
        started = time.monotonic()
        with capture_logs() as logs:
            await bench.sink.close(in_secs(0.2))
        assert time.monotonic() - started < 5
        subscriber.close()
    assert [entry["endpoint"] for entry in logs if entry["event"] == "zmq_records_unread"] == [bench.endpoint]


async def test_what_was_never_published_is_dropped() -> None:
    """Records that the edge refuses or gives up on count as dropped, with a warning, and the books balance."""
    with capture_logs() as logs:
        async with publishing(zmq_settings(ANY_PORT, buffer_bytes=1000)) as bench:
            bench.bus.publish(trades(0, 100))
            bench.bus.publish(trades(0, 1))
            await eventually(lambda: bench.sink.queue.pending_bytes == 0)
    assert bench.ledger.totals("zmq")["dropped"] == 100
    assert bench.ledger.totals("zmq")["recorded"] == 1
    assert bench.ledger.differences("zmq") == {}
    [warning] = [entry for entry in logs if entry["event"] == "records_dropped"]
    assert warning["dropped_total"] == 100


async def test_peers_are_those_that_speak_zmq() -> None:
    """The gauge follows subscribers that come and go; a connection of something else never counts."""
    async with publishing(zmq_settings(ANY_PORT)) as bench:
        books = bench.sink.stats
        assert books.peers == 0
        host, port = bench.endpoint.removeprefix("tcp://").split(":")
        with socket.create_connection((host, int(port))) as stranger:
            stranger.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            subscribers = [Subscriber(bench.endpoint) for _ in range(3)]
            await reached(bench.sink, *subscribers)
            await eventually(lambda: books.peers == 3)
        subscribers.pop().close()
        await eventually(lambda: books.peers == 2)
        for subscriber in subscribers:
            subscriber.close()
        await eventually(lambda: books.peers == 0)


@pytest.mark.parametrize(("bind", "words"), [(True, "no subscriber"), (False, "the subscriber must bind")])
def test_publishing_to_nobody_is_told(tmp_path: Path, bind: bool, words: str) -> None:
    """After ten seconds of records for nobody, one warning a minute says so; silence where nothing is published."""
    clock = FakeClock()
    publisher = alone(zmq_settings(f"ipc://{tmp_path}/zmq", bind=bind), clock)

    def warnings(after_secs: float) -> list[str]:
        clock.advance(after_secs)
        with capture_logs() as logs:
            publisher.tick()
        assert {entry["event"] for entry in logs} <= {"zmq_subscriber_absent"}
        return [entry["message"] for entry in logs]

    assert warnings(ALONE_SECS) == []
    publisher.write(output(1))
    [warning] = warnings(0)
    assert words in warning
    assert warnings(60) == []
    publisher.write(output(1))
    assert len(warnings(0)) == 1
    publisher.write(output(1))
    assert warnings(59) == []
    publisher.close(0)


def test_a_warning_waits_ten_seconds(tmp_path: Path) -> None:
    """A peer may take its time at the start."""
    clock = FakeClock()
    publisher = alone(zmq_settings(f"ipc://{tmp_path}/zmq"), clock)
    publisher.write(output(1))
    clock.advance(ALONE_SECS - 0.1)
    with capture_logs() as logs:
        publisher.tick()
        assert logs == []
        clock.advance(0.2)
        publisher.tick()
    assert len(logs) == 1
    publisher.close(0)


def test_an_endpoint_in_use_stops_the_start() -> None:
    """Status 78, and the message names variable, endpoint and reason."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        endpoint = f"tcp://127.0.0.1:{other.getsockname()[1]}"
        with pytest.raises(ConfigError) as caught:
            alone(zmq_settings(endpoint), FakeClock())
    assert caught.value.exit_status == EXIT_CONFIG
    begun = f"ZMQ_ENDPOINT: cannot bind {endpoint}: {os.strerror(errno.EADDRINUSE)}; "
    assert str(caught.value) == f"{begun}stop the program that has it, or choose another"


def test_metrics_of_the_sink() -> None:
    """Sent, dropped and peers stand in /metrics under their names; without the sink there is no gauge of peers."""
    ledger = Ledger()
    assert "polygon_zmq_peers " not in Exposition(observe("stocks", ledger=ledger)).render("")[0].decode()
    books = ledger.sink("zmq")
    books.recorded.update({("stocks", "T"): 5, ("stocks", "Q"): 2, ("crypto", "XT"): 100})
    books.dropped["stocks", "T"] = 3
    books.peers = 4
    ledger.sink("ndjson").recorded["stocks", "T"] = 1000
    text = Exposition(observe("stocks", ledger=ledger)).render("")[0].decode().splitlines()
    assert 'polygon_zmq_sent_total{feed="stocks"} 7.0' in text
    assert 'polygon_zmq_drops_total{feed="stocks"} 3.0' in text
    assert "polygon_zmq_peers 4.0" in text


def test_the_recorder_runs_without_pyzmq() -> None:
    """Who does not publish need not install the extra."""
    code = "import sys; sys.modules['zmq'] = None; import recorder.cli, recorder.app"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


@pytest.mark.parametrize("side", ["bind", "connect"])
async def test_the_example_prints_records(side: str, tmp_path: Path) -> None:
    """examples/zmq_sub.py shows the topics asked for, whole names not as prefixes, and ends after `--count`."""
    endpoint = f"ipc://{tmp_path}/zmq"
    arguments = ["--endpoint", endpoint, "--count", "20", *(["--connect"] if side == "connect" else [])]
    with subscribing(tmp_path, *arguments, "T:A", "Q:*") as example:
        async with publishing(zmq_settings(endpoint, bind=side == "connect")) as bench:

            def ended() -> bool:
                bench.bus.publish(trades(0, 2, "AAPL"))
                bench.bus.publish(batch_of(b'[{"ev":"T","sym":"A","q":1},{"ev":"Q","sym":"AAPL","bp":1}]'))
                return example.process.poll() is not None

            await eventually(ended)
        assert example.wait() == 0
    topics = [json.loads(line)["topic"] for line in example.out]
    assert len(topics) == 20
    assert set(topics) == {"T:A", "Q:AAPL"}
    assert example.lines == []


async def test_the_example_reads_its_endpoint(tmp_path: Path) -> None:
    """From ZMQ_SUB_ENDPOINT, unless `--endpoint` is given."""
    endpoint = f"ipc://{tmp_path}/zmq"
    with subscribing(tmp_path, "--count", "1", ZMQ_SUB_ENDPOINT=endpoint) as example:
        async with publishing(zmq_settings(endpoint, bind=False)) as bench:

            def ended() -> bool:
                bench.bus.publish(trades(0, 2, "AAPL"))
                return example.process.poll() is not None

            await eventually(ended)
        assert example.wait() == 0


async def test_the_example_tells_of_losses(tmp_path: Path) -> None:
    """Who subscribes to everything sees a hole in `seq`; interrupted, the example ends quietly."""
    endpoint = f"ipc://{tmp_path}/zmq"
    with subscribing(tmp_path, "--endpoint", endpoint) as example:
        async with publishing(zmq_settings(endpoint, bind=False)) as bench:

            def shown() -> bool:
                bench.bus.publish(trades(0, 1))
                return bool(example.out)

            await eventually(shown)
            bench.bus.stage.seq += 1000
            bench.bus.publish(trades(0, 1))
            [told] = await eventually(lambda: example.lines)
            last = bench.bus.stage.seq
        assert example.stop(signal.SIGTERM) == 0
    assert told == f"lost: seq {last - 1000} to {last - 1}"
    assert example.lines == [told]
