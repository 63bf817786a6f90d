"""`python -m benchmarks [SCENARIO …]`: measure, print tables, keep the results as JSON."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from benchmarks.harness import LOAD_CPU
from benchmarks.peers.option import FORM, Peer
from benchmarks.scenario import RECORDER, RESULTS, Plan, measure, save
from benchmarks.scenarios import SCENARIOS
from benchmarks.tables import show
from recorder import log

_QUICK_RESULTS = Path("build/benchmarks")
_PIPE_WIDTH = 160


class PeerType(click.ParamType[Peer]):
    """A peer as an option has it."""

    name = "peer"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Peer:
        """Return the peer; a text that is none is a usage error."""
        try:
            peer = Peer.parse(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)
        if peer.name == RECORDER:
            self.fail(f"{RECORDER!r} is the name of our own rows; choose another one", param, ctx)
        return peer


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("names", nargs=-1, type=click.Choice(list(SCENARIOS)), metavar="[SCENARIO]...")
@click.option("--runs", type=click.IntRange(1), default=None, help="Runs of each case; default: 3, quick 1.")
@click.option("--seconds", type=float, default=None, help="Measured time of a run; default: 10, quick 1.")
@click.option(
    "--quick", is_flag=True, help="Short and small: shows that it works; kept in build/benchmarks instead."
)
@click.option("--results", type=click.Path(path_type=Path), default=None, help="Folder of the results.")
@click.option("--folder", type=click.Path(path_type=Path), default=None, help="Folder for archives.")
@click.option(
    "--peer",
    "peers",
    type=PeerType(),
    multiple=True,
    metavar="NAME=COMMAND",
    help=f"A program to measure beside ours, {FORM}; docs/performance.md says what it must do.",
)
def main(
    names: tuple[str, ...],
    runs: int | None,
    seconds: float | None,
    quick: bool,
    results: Path | None,
    folder: Path | None,
    peers: tuple[Peer, ...],
) -> None:
    """Measure the recorder beside its peers. SCENARIO is one of those in benchmarks/scenarios; default: all.

    Exit status 1: something was dropped, or somebody cut; a figure with drops is no figure.
    """
    os.sched_setaffinity(0, {LOAD_CPU})
    log.configure({"": "warning"}, "console")
    plan = Plan(
        runs=runs or (1 if quick else 3),
        seconds=seconds or (1.0 if quick else 10.0),
        quick=quick,
        folder=folder,
        peers=peers,
    )
    kept_in = results or (_QUICK_RESULTS if quick else RESULTS)
    console = Console(width=None if sys.stdout.isatty() else _PIPE_WIDTH)
    progress = Console(stderr=True)
    failed = False
    for name in names or SCENARIOS:
        result = measure(
            SCENARIOS[name], plan, lambda line: progress.print(line, style="dim", highlight=False)
        )
        save(result, kept_in)
        show(result, console)
        failed = failed or any(row["failures"] for row in result["rows"])
    sys.exit(failed)


if __name__ == "__main__":
    main()
