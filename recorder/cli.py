"""The command line: parse, call, exit status; no logic."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import NoReturn

import click
import orjson
from rich.console import Console
from rich.table import Table

from recorder import log
from recorder.app import run_forever
from recorder.archive.record import Record
from recorder.demo import DemoOptions, run_demo
from recorder.errors import EXIT_FAILURE, EXIT_OK, RecorderError
from recorder.polygon.clusters import CLUSTERS
from recorder.settings import Loaded, load_settings, render_effective
from recorder.version import VERSION

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
    "--metrics-addr",
    default="127.0.0.1:9898",
    show_default=True,
    help="Where /metrics, /health and /ready are served; port 0 takes any free one.",
)
def demo(
    folder: Path, clusters: tuple[str, ...], rate: int, seed: int, seconds: float | None, metrics_addr: str
) -> None:
    """Record a simulated market: no key, no network, one command."""
    options = DemoOptions(folder, clusters, rate, seed, seconds, metrics_addr)
    sys.exit(run_demo(options, click.echo))


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


@cli.command()
def schema() -> None:
    """Print the JSON Schema of a record."""
    click.echo(orjson.dumps(Record.model_json_schema(), option=orjson.OPT_INDENT_2).decode())


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
        sys.stdout = None  # type: ignore[assignment]
        sys.exit(EXIT_OK)
    sys.exit(EXIT_OK)
