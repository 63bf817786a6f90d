"""`recorder top`."""

from __future__ import annotations

import sys
from typing import Final
from urllib.parse import urlsplit

import click

from recorder.cli import Command

_PIPE_COLUMNS: Final = 200
"""How wide the snapshot is where no terminal says how wide it is."""


def _read_url(context: click.Context, parameter: click.Parameter, url: str | None) -> object:
    if url is None:
        return None
    try:
        parts = urlsplit(url if "://" in url else f"http://{url}")
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.port == 0:
            raise ValueError
    except ValueError:
        raise click.BadParameter(f"{url!r} is not an address such as http://127.0.0.1:9898") from None
    return parts._replace(query="", fragment="").geturl()


@click.command("top", cls=Command)
@click.argument("url", required=False, callback=_read_url)
@click.option("--once", is_flag=True, help="Print one snapshot and end, as is done without a terminal.")
def command(url: str | None, once: bool) -> None:
    """Show what a recorder does, each second: its state, feeds, files, losses and clients. Press q to end.

    URL is its METRICS_ADDR, as http://127.0.0.1:9898; default: as set here. Exit status 1: it cannot be asked, and the
    message says why.
    """
    from rich.console import Console

    from recorder.settings import load_settings
    from recorder.top import TopOptions, own_url, run_top

    is_terminal = sys.stdout.isatty()
    console = Console(width=None if is_terminal else _PIPE_COLUMNS, highlight=False, markup=False)
    asked = url or own_url(load_settings(require_key=False).settings)
    sys.exit(run_top(TopOptions(asked, once or not is_terminal), console))
