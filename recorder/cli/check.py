"""`recorder check`."""

from __future__ import annotations

import sys

import click

from recorder.cli import Command, Duration


@click.command("check", cls=Command)
@click.option("--offline", is_flag=True, help="Ask nothing of the exchange: no connection, no key sent.")
@click.option(
    "--connect",
    is_flag=True,
    help="Connect even while a program on this machine is connected; one with the same key loses its connection.",
)
@click.option(
    "--sample-secs",
    type=Duration(0, 600),
    default="5s",
    show_default=True,
    help="How long to measure the rate of the live feed; 0: not at all.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
def command(offline: bool, connect: bool, sample_secs: float, as_json: bool) -> None:
    """Check all that recording needs, before going live: settings, key, topics, clock, disk, limits, ports.

    It changes nothing and leaves nothing behind. The exchange allows one connection for each cluster and key: a recorder
    that runs here is left alone; one that runs elsewhere with the same key loses its connection, unless --offline is given.
    Exit status 0: nothing failed, though there may be warnings; 1: something did; 78: the settings cannot be used.
    """
    from rich.console import Console

    from recorder.checks.command import CheckOptions, run_check

    options = CheckOptions(offline, connect, sample_secs, as_json)
    sys.exit(run_check(options, Console()))
