"""`recorder simulate`."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import click

from recorder.cli import Command, Size
from recorder.simulator.listings import SIMULATED


@click.command("simulate", cls=Command)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port", type=click.IntRange(0, 65535), default=8775, show_default=True, help="0 takes any free port."
)
@click.option(
    "--cluster",
    "clusters",
    type=click.Choice(SIMULATED),
    multiple=True,
    default=SIMULATED,
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
    help="Events per second and cluster, aggregates on top; 0: as fast as they are read. Default: 5000, or as the ticks.",
)
@click.option(
    "--frame-events",
    type=click.IntRange(1),
    default=100,
    show_default=True,
    help="Most events in one frame.",
)
@click.option(
    "--bursts/--no-bursts",
    default=True,
    show_default=True,
    help="Let the rate rise tenfold for moments; the average stays exact.",
)
@click.option(
    "--session-open/--no-session-open",
    default=False,
    help="Begin at three times the rate; the average over a minute stays exact.",
)
@click.option(
    "--market-start",
    type=click.Choice(["process", "subscriber"]),
    default=None,
    help="When the market opens. Default: with the process; with ticks, at the first subscription.",
)
@click.option(
    "--start-ms",
    type=int,
    default=None,
    help="Unix ms at which the market opens; with it, equal seeds give equal bytes.",
)
@click.option(
    "--ticks",
    "ticks_path",
    type=click.Path(path_type=Path),
    default=None,
    help='Play this instead: an archive, or a file (.gz or plain) of lines {"at_us":…,"m":{event}}.',
)
@click.option(
    "--speed",
    type=float,
    default=1.0,
    show_default=True,
    help="How many times faster than in reality ticks are played.",
)
@click.option("--loop", is_flag=True, help="Play the ticks again when they end, with their times moved on.")
@click.option("--key", "keys", multiple=True, help="Accepted key; may be given several times. Default: any.")
@click.option(
    "--connections-max",
    type=click.IntRange(1),
    default=None,
    help="Most connections of one key to one cluster; another one ends the oldest.",
)
@click.option(
    "--pending-bytes-max",
    type=Size(2**20),
    default="64MiB",
    show_default=True,
    help="Disconnect a reader that leaves more than this unread.",
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
def command(faults: tuple[str, ...], keys: tuple[str, ...], **options: Any) -> None:
    """Run a Polygon-compatible exchange: a seeded market or recorded ticks, with faults on demand."""
    from recorder.simulator.command import run_simulator
    from recorder.simulator.faults import FAULTS
    from recorder.simulator.settings import SimulatorSettings

    if "help" in faults:
        for name, fault in FAULTS.items():
            click.echo(f"{name:16} {inspect.getdoc(fault)}")
        click.echo(
            "Options of every fault: after=EVENTS or after=5s until it strikes, times=N how often (0: always)."
        )
        return
    run_simulator(SimulatorSettings(faults=faults, keys=keys or None, **options), click.echo)
