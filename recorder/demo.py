"""The demo: a simulated exchange and the recorder in one process, with a friendly line each second."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from recorder import log, loop
from recorder.app import App
from recorder.clock import SystemClock
from recorder.errors import EXIT_OK, ConfigError
from recorder.polygon.clusters import CLUSTERS
from recorder.settings import Settings, load_settings
from recorder.simulator.exchange import Simulator
from recorder.simulator.settings import SimulatorSettings
from recorder.words import size_text

_SEGMENT_BYTES = "16MiB"
_KEPT_BYTES = "2 GiB"
"""A demo that is forgotten fills no disk."""
_TOKEN = "demo"  # noqa: S105 - the demo's key is no secret
_FREE_PORTS = {
    "METRICS_ADDR": "127.0.0.1:0",
    "FIREHOSE_PORT": "0",
    "FILTERED_PROXY_PORT": "0",
    "AGGREGATOR_PORT": "0",
}
"""The only settings that the environment may change, and what they are with `--free-ports`."""


@dataclass(frozen=True, slots=True)
class DemoOptions:
    """The options of the command."""

    folder: Path
    clusters: tuple[str, ...]
    rate: int
    seed: int
    seconds: float | None
    free_ports: bool
    command: str
    """What to type to call this program, for a shell."""


def run_demo(options: DemoOptions, say: Callable[[str], None]) -> int:
    """Run the demo until its time is over or a signal comes. Return the exit status. Raise RecorderError."""
    log.configure({"": "warning"})
    return loop.run(_run(options, say))


async def _run(options: DemoOptions, say: Callable[[str], None]) -> int:
    clock = SystemClock()
    simulator = Simulator(
        SimulatorSettings(
            host="127.0.0.1", port=0, clusters=options.clusters, seed=options.seed, rate=options.rate
        ),
        clock,
    )
    exchange = asyncio.create_task(simulator.run(), name="simulator")
    try:
        listening = asyncio.create_task(simulator.listening.wait())
        await asyncio.wait({exchange, listening}, return_when=asyncio.FIRST_COMPLETED)
        listening.cancel()
        if exchange.done():
            exchange.result()
        return await _record(App(_settings(options, simulator.port), clock), options, say)
    finally:
        exchange.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await exchange


async def _record(app: App, options: DemoOptions, say: Callable[[str], None]) -> int:
    tellers: list[asyncio.Task[None]] = []

    def started() -> None:
        _introduce(app, options, say)
        tellers.append(asyncio.create_task(_tell(app, say, options.seconds), name="teller"))

    try:
        status = await app.run(started=started)
    except ConfigError as error:
        cause = error.__cause__
        if isinstance(cause, OSError) and cause.errno == errno.EADDRINUSE and not options.free_ports:
            raise ConfigError(f"{error}; --free-ports takes free ones") from error
        raise
    finally:
        for teller in tellers:
            teller.cancel()
        await asyncio.gather(*tellers, return_exceptions=True)
    _conclude(app, options, say, status)
    return status


def _settings(options: DemoOptions, port: int) -> Settings:
    """The demo is the same everywhere: of the environment, only the ports count."""
    environ = {name: os.environ[name] for name in _FREE_PORTS if name in os.environ}
    overrides = {
        "POLYGON_API_KEY": _TOKEN,
        "POLYGON_WS_URL": f"ws://127.0.0.1:{port}",
        "POLYGON_CLUSTER": ",".join(options.clusters),
        "SINK": "ndjson",
        "NDJSON_DEST": str(options.folder / "polygon.ndjson"),
        "NDJSON_SPLIT_PER_TYPE": "true",
        "NDJSON_MAX_BYTES": _SEGMENT_BYTES,
        "NDJSON_COMPRESSION": "zstd",
        "NDJSON_RETAIN_BYTES": _KEPT_BYTES.replace(" ", ""),
        **(_FREE_PORTS if options.free_ports else {}),
        "STATS_INTERVAL_SECS": "0",
        "SESSION_CALENDAR": "off",  # this market never closes
        "CLIENTS_MAX": "1000",
        **{f"SUBSCRIPTION_{cluster.upper()}": _topics(cluster) for cluster in options.clusters},
    }
    return load_settings(environ=environ, cwd=Path("/nonexistent"), overrides=overrides).settings


def _topics(cluster: str) -> str:
    """Return the topics of what most users record."""
    return ",".join(f"{code}.*" for code in CLUSTERS[cluster].codes("trade", "quote", "aggregate", "value"))


def _introduce(app: App, options: DemoOptions, say: Callable[[str], None]) -> None:
    say(
        f"Recording a simulated market ({', '.join(options.clusters)}) into {options.folder}/ "
        f"(the newest {_KEPT_BYTES} are kept); Ctrl-C ends."
    )
    command = options.command
    if app.ops is not None:
        base = f"http://{app.ops.address}"
        say(f"  look     {base}/   in a terminal: {command} top {base}")
        say(f"  ask      {base}/ready   {base}/status   {base}/metrics")
    addresses = app.serving.addresses if app.serving is not None else {}
    if addresses:
        listed = "   ".join(f"{name} ws://{address}" for name, address in addresses.items())
        say(f"  connect  {listed}   (the token is {_TOKEN})")
    if "filtered" in addresses:
        topics = ",".join(f"{_first_channel(cluster)}.*" for cluster in options.clusters)
        say(f"  follow   {command} tail ws://{addresses['filtered']} {shlex.quote(topics)} --token {_TOKEN}")


def _first_channel(cluster: str) -> str:
    """Return the channel that a newcomer wants to see: trades, or what the cluster has instead."""
    return CLUSTERS[cluster].codes("trade", "quote", "value")[0]


async def _tell(app: App, say: Callable[[str], None], seconds: float | None) -> None:
    """Print each second what happened in it."""
    now = asyncio.get_running_loop().time
    began = now()
    received = 0
    ticks = 0
    while seconds is None or now() - began < seconds:
        ticks += 1
        due = began + ticks
        if seconds is not None:
            due = min(due, began + seconds)
        await asyncio.sleep(max(0.0, due - now()))
        total = app.ledger.totals("ndjson")["received"]
        books = app.ledger.sink("ndjson")
        archive = app.archive_stats
        segments = sum(archive.rotations.values()) if archive is not None else 0
        active = len(archive.active) if archive is not None else 0
        say(
            f"{total - received:>9,} events/s  {total:>12,} events  {active} files open, {segments} rotated  "
            f"{size_text(books.bytes_written):>9} written  {size_text(books.pending_bytes)} pending"
        )
        received = total
    app.stop("the demo's time is over")


def _conclude(app: App, options: DemoOptions, say: Callable[[str], None], status: int) -> None:
    totals = app.ledger.totals("ndjson")
    files = sorted(
        path
        for path in options.folder.glob("polygon*.ndjson*")
        if path.is_file() and ".manifest." not in path.name
    )
    word = "Done" if status == EXIT_OK else f"Failed with status {status}, the messages above say why"
    say(
        f"{word}: {totals['received']:,} events received, {totals['recorded']:,} recorded, {totals['dropped']:,} dropped; "
        f"{len(files)} files in {options.folder}/."
    )
    plain = [path for path in files if path.suffix == ".ndjson" and path.stat().st_size]
    shown = [*(path for path in plain if path.name == "polygon.trades.ndjson"), *plain]
    if shown:
        say(f"Try:  head -n1 {shlex.quote(str(shown[0]))} | jq")
    if files:
        say(f"      {options.command} verify {shlex.quote(str(options.folder))}")
