"""The composition: typical settings become parts in the right order, which start, work and end."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from commands import free_port
from fakes import FakeClock
from oracle import read_manifest
from structlog.testing import capture_logs
from waiting import eventually

from recorder.app import App
from recorder.clock import SystemClock
from recorder.errors import ArchiveConfigError, ConfigError
from recorder.ledger import Ledger
from recorder.ops.stats_log import StatsLog
from recorder.settings import load_settings
from recorder.simulator.exchange import Simulator
from recorder.simulator.settings import SimulatorSettings
from recorder.sources.stats import FeedStats

SERVERS = ("firehose", "filtered", "bars", "resume", "pacer", "last values", "bar timer", "topics on demand")


def app_of(folder: Path, **variables: str) -> App:
    """Build the app of these settings, with every port a free one."""
    overrides = {
        "POLYGON_API_KEY": "key",
        "POLYGON_CLUSTER": "stocks",
        "SUBSCRIPTION": "T.*",
        "SINK": "ndjson",
        "NDJSON_DEST": str(folder / "polygon.ndjson"),
        "NDJSON_MIN_FREE_BYTES": "0",
        "METRICS_ADDR": "127.0.0.1:0",
        "FIREHOSE_PORT": "0",
        "FILTERED_PROXY_PORT": "0",
        "AGGREGATOR_PORT": "0",
        "SESSION_CALENDAR": "off",
        "STATS_INTERVAL_SECS": "0",
        **variables,
    }
    return App(load_settings(environ={}, cwd=Path("/nonexistent"), overrides=overrides).settings)


def names_of(app: App) -> list[str]:
    """Return the names of the parts, in the order of their opening."""
    return [part.name for part in app.supervisor.parts]


@pytest.fixture(autouse=True)
def _signals_as_before() -> Iterator[None]:
    """Leave the handling of signals as it was."""
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)
    before = {number: signal.getsignal(number) for number in numbers}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@asynccontextmanager
async def simulator(*faults: str) -> AsyncIterator[str]:
    """Run a simulator of the stocks cluster; return its URL."""
    exchange = Simulator(
        SimulatorSettings(port=0, clusters=("stocks",), symbols=50, rate=2000, faults=faults), SystemClock()
    )
    task = asyncio.create_task(exchange.run())
    try:
        await exchange.listening.wait()
        yield f"ws://127.0.0.1:{exchange.port}"
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@pytest.mark.parametrize(
    ("variables", "names"),
    [
        ({}, ["ops", *SERVERS[:7], "ndjson", "feed stocks"]),
        (
            {"SINK": "ndjson,stdout,zmq", "STATS_INTERVAL_SECS": "60", "SESSION_CALENDAR": "on"},
            ["ops", "stats log", "market hours", "stdout", "zmq", *SERVERS[:7], "ndjson", "feed stocks"],
        ),
        ({"SERVE_WORKERS": "2"}, ["ops", "workers", "ndjson", "feed stocks"]),
        ({"ROLES": "archive,ops"}, ["ops", "ndjson", "feed stocks"]),
        ({"ROLES": "archive", "NDJSON_DEST": "-"}, ["ndjson", "feed stocks"]),
        (
            {"POLYGON_CLUSTER": "stocks,crypto", "ROLES": "firehose,ops"},
            ["ops", "firehose", "resume", "feed stocks", "feed crypto"],
        ),
    ],
    ids=["defaults", "every sink", "workers", "archive alone", "stdout alone", "two clusters"],
)
def test_settings_become_parts(tmp_path: Path, variables: dict[str, str], names: list[str]) -> None:
    """What watches comes first, then sinks and ports, then the archive, then feeds."""
    assert names_of(app_of(tmp_path, **variables)) == names


async def test_it_starts_works_and_ends(tmp_path: Path) -> None:
    """All parts are up, events are recorded, a stop closes everything, and the exit status is 0."""
    async with simulator() as url:
        app = app_of(tmp_path, POLYGON_WS_URL=url)
        started = asyncio.Event()
        task = asyncio.create_task(app.run(started.set))
        await started.wait()
        await eventually(lambda: app.ledger.totals("ndjson")["recorded"])
        assert {part.state for part in app.supervisor.parts} == {"up"}
        app.stop("enough")
        assert await task == 0
    assert {part.state for part in app.supervisor.parts} == {"closed"}
    [ended] = read_manifest(tmp_path, "run_ended")
    assert ended["reason"] == "enough"


async def test_an_archive_that_cannot_be_used_leaves_no_address_taken(tmp_path: Path) -> None:
    """The error ends the start; the ZMQ endpoint and the ports are free again for the next one."""
    blocker = tmp_path / "file"
    blocker.touch()
    endpoint = f"tcp://127.0.0.1:{free_port()}"
    for _ in range(2):
        app = app_of(blocker, SINK="ndjson,zmq", ZMQ_ENDPOINT=endpoint, ZMQ_BIND="true")
        with pytest.raises(ArchiveConfigError, match="file"):
            await app.run()
        assert app.ops is not None
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", app.ops.port)


async def test_an_archive_that_another_recorder_owns(tmp_path: Path) -> None:
    """The second one is refused, and the first one notices nothing."""
    async with simulator() as url:
        app = app_of(tmp_path, POLYGON_WS_URL=url)
        started = asyncio.Event()
        task = asyncio.create_task(app.run(started.set))
        await started.wait()
        with pytest.raises(ConfigError, match=str(os.getpid())):
            await app_of(tmp_path, POLYGON_WS_URL=url).run()
        app.stop("enough")
        assert await task == 0


async def test_rates_are_of_the_time_that_passed() -> None:
    """A loop that was held up logs late; the rate is that of the longer time, not three times as high."""

    class LateClock(FakeClock):
        async def sleep(self, seconds: float) -> None:
            feed.frames_received += 300
            await super().sleep(3 * seconds)

    feed = FeedStats("stocks", (1,), (1,))
    log = StatsLog([feed], Ledger(), LateClock(), interval_secs=1.0)
    with capture_logs() as lines:
        task = asyncio.create_task(log.run())
        await eventually(lambda: len(lines) >= 2)
        task.cancel()
    assert {line["frames_per_sec"] for line in lines} == {100.0}
