"""`recorder demo`."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from pathlib import Path

import click

from recorder.cli import Command, Duration
from recorder.polygon.clusters import CLUSTERS


@click.command("demo", cls=Command)
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
    "--rate", type=click.IntRange(1), default=5000, show_default=True, help="Events per second and cluster."
)
@click.option("--seed", type=int, default=1, show_default=True, help="The market's seed.")
@click.option(
    "--seconds",
    type=Duration(0.1),
    default=None,
    help="Stop after this time, as 20 or 10m. Default: run until Ctrl-C.",
)
@click.option(
    "--free-ports",
    is_flag=True,
    help="Use any free ports instead of 8765, 8767, 8768 and 9898, or those of the environment.",
)
def command(
    folder: Path, clusters: tuple[str, ...], rate: int, seed: int, seconds: float | None, free_ports: bool
) -> None:
    """Record and serve a simulated market: no key, no network, one command.

    METRICS_ADDR, FIREHOSE_PORT, FILTERED_PROXY_PORT and AGGREGATOR_PORT count as for `run`; no other setting does. The
    newest 2 GiB of the archive are kept.
    """
    from recorder.demo import DemoOptions, run_demo

    options = DemoOptions(folder, clusters, rate, seed, seconds, free_ports, _own_name())
    sys.exit(run_demo(options, click.echo))


def _own_name() -> str:
    """Return what to type to call this program again, in this folder and from this shell."""
    path = Path(sys.argv[0])
    if path.name == "__main__.py":
        return f"{_typed(Path(sys.executable))} -m recorder"
    return _typed(path)


def _typed(program: Path) -> str:
    """Return the bare name of a program where the shell finds that one by it; else its path."""
    place = program.absolute()
    found = shutil.which(program.name)
    if found is not None and Path(found).absolute() == place:
        return program.name
    near = os.path.relpath(place)
    shown = min(near if os.sep in near else f".{os.sep}{near}", str(place), key=len)
    return shlex.quote(shown)
