"""`recorder demo`."""

from __future__ import annotations

import os
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
    "--free-ports", is_flag=True, help="Use any free ports instead of the usual 8765, 8767, 8768 and 9898."
)
def command(
    folder: Path, clusters: tuple[str, ...], rate: int, seed: int, seconds: float | None, free_ports: bool
) -> None:
    """Record and serve a simulated market: no key, no network, one command."""
    from recorder.demo import DemoOptions, run_demo

    options = DemoOptions(folder, clusters, rate, seed, seconds, free_ports, _own_name())
    sys.exit(run_demo(options, click.echo))


def _own_name() -> str:
    """Return the words that called this command, for texts that say what to type next."""
    path = Path(sys.argv[0])
    if path.name == "__main__.py":
        return "python -m recorder"
    return os.path.relpath(path) if path.is_absolute() and shutil.which(path.name) is None else path.name
