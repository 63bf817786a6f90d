"""The command line: parse, call, exit status; no logic."""

from __future__ import annotations

import inspect
import os
import shutil
import sys
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import urlsplit

import click
import orjson
from rich.console import Console
from rich.table import Table

from recorder import log, report
from recorder.app import run_forever
from recorder.archive.record import Record
from recorder.checks.command import CheckOptions, run_check
from recorder.demo import DemoOptions, run_demo
from recorder.errors import EXIT_FAILURE, EXIT_OK, ConfigError, RecorderError
from recorder.ops.status_schema import json_schema
from recorder.polygon.clusters import CLUSTERS
from recorder.settings import Loaded, load_settings, render_effective
from recorder.settings.values import websocket_url
from recorder.simulator import SimulatorSettings
from recorder.simulator.command import run_simulator
from recorder.simulator.faults import FAULTS
from recorder.tail import TailOptions, run_tail
from recorder.top import TopOptions, run_top
from recorder.version import VERSION

_PIPE_WIDTH = 200
"""Columns of tables where there is no terminal to ask."""

config_log = log.get_logger("polygon_config")


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(VERSION, prog_name="recorder")
def cli() -> None:
    """Record Polygon.io (Massive.com) real-time market data into rotating NDJSON archives.

    Settings are environment variables, or lines of a .env file; `recorder config` shows them all.
    """


@cli.command()
def run() -> None:
    """Follow the clusters of POLYGON_CLUSTER and record, until told to stop.

    SIGTERM and SIGINT drain and end, SIGHUP opens the files again, SIGUSR1 rotates them.
    Exit status 0: stopped as told; 1: failed; 78: the settings, the key or the archive's place must be changed.
    """
    loaded = load_settings()
    _set_up_logs(loaded)
    sys.exit(run_forever(loaded.settings))


@cli.command()
@click.option(
    "--dir",
    "folder",
    type=click.Path(path_type=Path),
    default=Path("data"),
    show_default=True,
    help="Folder of the archive.",
)
@click.option(
    "--cluster",
    "clusters",
    type=click.Choice(CLUSTERS),
    multiple=True,
    default=("stocks", "crypto"),
    show_default=True,
    help="Cluster to simulate and record; may be given several times.",
)
@click.option(
    "--rate", type=click.IntRange(1), default=5000, show_default=True, help="Events a second and cluster."
)
@click.option("--seed", type=int, default=1, show_default=True, help="The market's seed.")
@click.option(
    "--seconds",
    type=click.FloatRange(min=0, min_open=True),
    default=None,
    help="End after so long; without it, on Ctrl-C.",
)
@click.option(
    "--free-ports", is_flag=True, help="Take any free ports instead of the usual 8765, 8767, 8768 and 9898."
)
def demo(
    folder: Path, clusters: tuple[str, ...], rate: int, seed: int, seconds: float | None, free_ports: bool
) -> None:
    """Record and serve a simulated market: no key, no network, one command."""
    options = DemoOptions(folder, clusters, rate, seed, seconds, free_ports, _own_name())
    sys.exit(run_demo(options, click.echo))


@cli.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port", type=click.IntRange(0, 65535), default=8775, show_default=True, help="0 takes any free one."
)
@click.option(
    "--cluster",
    "clusters",
    type=click.Choice(CLUSTERS),
    multiple=True,
    default=tuple(CLUSTERS),
    help="Cluster to serve; may be given several times. Default: all.",
)
@click.option("--seed", type=int, default=1, show_default=True, help="Equal seeds make equal markets.")
@click.option(
    "--symbols",
    type=click.IntRange(1),
    default=None,
    help="Symbols of each cluster; default: about as many as in reality.",
)
@click.option(
    "--rate",
    type=click.FloatRange(0),
    default=None,
    help="Events a second and cluster, aggregates on top; 0: as fast as they are read. Default: 5000, or as the ticks.",
)
@click.option(
    "--frame-events",
    type=click.IntRange(1),
    default=100,
    show_default=True,
    help="Events in a frame, at most.",
)
@click.option(
    "--bursts/--no-bursts",
    default=True,
    show_default=True,
    help="Let the rate rise tenfold for moments, exact on average.",
)
@click.option(
    "--session-open/--no-session-open",
    default=False,
    help="Begin at three times the rate, exact over a minute.",
)
@click.option(
    "--market-start",
    type=click.Choice(["process", "subscriber"]),
    default=None,
    help="When the market opens; default: with the process, ticks with the first subscriber.",
)
@click.option(
    "--start-ms",
    type=int,
    default=None,
    help="Unix ms at which the market opens: with it, equal seeds give equal bytes.",
)
@click.option(
    "--ticks",
    "ticks_path",
    type=click.Path(path_type=Path),
    default=None,
    help='Play this file (.gz or plain) of lines {"at_us":…,"m":{event}} instead.',
)
@click.option(
    "--speed",
    type=float,
    default=1.0,
    show_default=True,
    help="How much faster than in reality ticks are played.",
)
@click.option("--loop", is_flag=True, help="Begin the ticks again at their end, with times moved on.")
@click.option("--key", "keys", multiple=True, help="Accepted key; may be given several times. Default: any.")
@click.option(
    "--connections-max",
    type=click.IntRange(1),
    default=None,
    help="Connections of one key to one cluster; one more costs the oldest.",
)
@click.option(
    "--pending-bytes-max",
    type=int,
    default=64 * 1024 * 1024,
    show_default=True,
    help="A reader that leaves more unread is cut.",
)
@click.option(
    "--log",
    "log_path",
    type=click.Path(path_type=Path),
    default=None,
    help="Write every data frame here, as sent.",
)
@click.option(
    "--fault",
    "faults",
    multiple=True,
    help="What goes wrong, as stall:after=1000,for=5s; --fault help lists them.",
)
def simulate(faults: tuple[str, ...], keys: tuple[str, ...], **options: Any) -> None:
    """Be a Polygon-compatible exchange: a seeded market or recorded ticks, with faults on demand."""
    if "help" in faults:
        for name, fault in FAULTS.items():
            click.echo(f"{name:16} {inspect.getdoc(fault)}")
        click.echo(
            "Options of every fault: after=EVENTS or after=5s until it strikes, times=N how often (0: always)."
        )
        return
    run_simulator(SimulatorSettings(faults=faults, keys=keys or None, **options), click.echo)


def _read_url(context: click.Context, parameter: click.Parameter, url: str) -> object:
    try:
        return websocket_url("ws://127.0.0.1:8765").value(url)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


def _read_topics(
    context: click.Context, parameter: click.Parameter, texts: tuple[str, ...]
) -> tuple[str, ...]:
    topics = tuple(dict.fromkeys(topic for text in texts for topic in text.replace(",", " ").split()))
    if not topics:
        raise click.BadParameter("must name a topic, such as T.AAPL")
    return topics


@cli.command("tail")
@click.argument("url", callback=_read_url)
@click.argument("topics", nargs=-1, required=True, callback=_read_topics)
@click.option(
    "--token", default=None, help="Other users of the machine can see it here; default: POLYGON_API_KEY."
)
@click.option("--raw", is_flag=True, help="JSON lines also on a terminal.")
@click.option("--count", type=click.IntRange(1), default=None, help="End after so many events.")
@click.option(
    "--since", type=click.IntRange(0), default=None, help="Unix ms: bars of a recorder from then on, first."
)
def tail_command(
    url: str, topics: tuple[str, ...], token: str | None, raw: bool, count: int | None, since: int | None
) -> None:
    """Follow TOPICS, as T.AAPL or 100Ms.*, at URL: a table on a terminal, JSON lines, as they came, in a pipe.

    URL is a recorder's, as ws://127.0.0.1:8765 or ws://127.0.0.1:8765/stocks, or the exchange's with a cluster. What
    the server says goes to stderr. A connection that ends is made again. Exit status 1: every topic is refused; 78: the
    token is.
    """
    if token is None:
        token = _token_of_settings()
    options = TailOptions(url, topics, token, raw or not sys.stdout.isatty(), count, since)
    sys.exit(run_tail(options, sys.stdout.fileno()))


def _token_of_settings() -> str:
    key = load_settings(require_key=False).settings.polygon_api_key
    if key is None:
        raise ConfigError("no token: give one with --token, or set POLYGON_API_KEY")
    return key.get_secret_value()


@cli.command("check")
@click.option("--offline", is_flag=True, help="Ask nothing of the exchange: no connection, no key sent.")
@click.option(
    "--connect",
    is_flag=True,
    help="Connect even while a program on this machine is connected; one with the same key loses its connection.",
)
@click.option(
    "--sample-secs",
    type=click.FloatRange(0, 600),
    default=5.0,
    show_default=True,
    help="How long the rate of the live feed is measured; 0: not at all.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
def check_command(offline: bool, connect: bool, sample_secs: float, as_json: bool) -> None:
    """Look at all that recording needs, before going live: settings, key, topics, clock, disk, limits, ports.

    Nothing is changed, taken or left behind. The exchange allows one connection a cluster and key: a recorder that runs
    here is left alone, one elsewhere with the same key loses its connection unless --offline is given.
    Exit status 0: nothing failed, though there may be warnings; 1: something did; 78: the settings cannot be used.
    """
    options = CheckOptions(offline, connect, sample_secs, as_json)
    sys.exit(run_check(options, Console()))


@cli.command()
@click.option("--show-defaults/--only-set", default=True, help="Leave out what has its default value.")
def config(show_defaults: bool) -> None:
    """Show the effective settings, secrets as ***, and where each came from."""
    loaded = load_settings(require_key=False)
    for warning in loaded.warnings:
        click.echo(f"warning: {warning}", err=True)
    rows = [row for row in render_effective(loaded) if show_defaults or row[2] != "default"]
    if not sys.stdout.isatty():
        for name, value, origin in rows:
            click.echo(f"{name}={value}\t# {origin}")
        return
    table = Table("variable", "value", "from", box=None, header_style="bold")
    for row in rows:
        table.add_row(*row)
    Console().print(table)


def _read_ops_url(context: click.Context, parameter: click.Parameter, url: str | None) -> object:
    if url is None:
        return None
    try:
        parts = urlsplit(url if "://" in url else f"http://{url}")
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.port == 0:
            raise ValueError
    except ValueError:
        raise click.BadParameter(f"{url!r} is no address such as http://127.0.0.1:9898") from None
    return parts._replace(query="", fragment="").geturl()


@cli.command("top")
@click.argument("url", required=False, callback=_read_ops_url)
@click.option("--once", is_flag=True, help="Print one snapshot and end; so it does without a terminal, too.")
def top_command(url: str | None, once: bool) -> None:
    """Show what a recorder does, each second: its state, feeds, files, losses and clients. Ends with q.

    URL is its METRICS_ADDR, as http://127.0.0.1:9898; default: as set here. Exit status 1: it cannot be asked, and the
    message says why.
    """
    is_terminal = sys.stdout.isatty()
    console = Console(width=None if is_terminal else _PIPE_WIDTH, highlight=False, markup=False)
    sys.exit(run_top(TopOptions(url or _ops_url_of_settings(), once or not is_terminal), console))


def _ops_url_of_settings() -> str:
    ops = load_settings(require_key=False).settings.ops
    if ops is None:
        raise ConfigError("METRICS_ADDR is empty, so there is nothing to ask: give an address")
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(ops.host, ops.host)  # noqa: S104 - asked for, not listened on
    return f"http://[{host}]:{ops.port}" if ":" in host else f"http://{host}:{ops.port}"


@cli.command()
@click.argument("what", type=click.Choice(["record", "status"]), default="record")
def schema(what: str) -> None:
    """Print the JSON Schema of a record, or of /status."""
    found = Record.model_json_schema() if what == "record" else json_schema()
    click.echo(orjson.dumps(found, option=orjson.OPT_INDENT_2).decode())


@cli.command("verify")
@click.argument("paths", nargs=-1, required=True, type=click.Path())
@click.option("--json", "as_json", is_flag=True, help="Print the whole report as JSON.")
@click.option("--jobs", type=click.IntRange(1), default=None, help="Processes; default: one a core.")
def verify_command(paths: tuple[str, ...], as_json: bool, jobs: int | None) -> None:
    """Read archives back: every line, count and checksum, the manifest's chain, the sequence numbers.

    A PATH is a folder, a manifest, or a file; its recorder may be running. Exit status 0: all is well; 1: damage was
    found, or something could not be read.
    """
    found = report.verify_with_progress(list(paths), Console(stderr=True), jobs)
    if as_json:
        click.echo(report.as_json(found))
    else:
        report.print_report(found, Console(width=None if sys.stdout.isatty() else _PIPE_WIDTH))
    sys.exit(EXIT_OK if found.ok else EXIT_FAILURE)


def _own_name() -> str:
    """Give the words that called this command, for texts that tell what to type next."""
    path = Path(sys.argv[0])
    if path.name == "__main__.py":
        return "python -m recorder"
    return os.path.relpath(path) if path.is_absolute() and shutil.which(path.name) is None else path.name


def _set_up_logs(loaded: Loaded) -> None:
    settings = loaded.settings
    if settings.polygon_api_key is not None:
        log.register_secret(settings.polygon_api_key.get_secret_value())
    log.configure(settings.log.levels, settings.log.format)
    for warning in loaded.warnings:
        config_log.warning(warning)


def main() -> NoReturn:
    """Run a command; a known failure is a line on stderr for each problem and its exit status, never a traceback."""
    log.configure({"": "info"})
    try:
        cli.main(prog_name="recorder", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except click.exceptions.Abort:
        sys.exit(EXIT_FAILURE)
    except RecorderError as error:
        for line in log.mask(str(error)).splitlines():
            click.echo(f"recorder: {line}", err=True)
        sys.exit(error.exit_status)
    except BrokenPipeError:
        # The reader of our output has all it wanted, as in `recorder config | head`.
        sys.stdout = None
        sys.exit(EXIT_OK)
    sys.exit(EXIT_OK)
