"""`recorder top`."""

from __future__ import annotations

import sys
from typing import Final
from urllib.parse import urlsplit

import click

from recorder.cli import Command

_PIPE_COLUMNS: Final = 200
"""How wide the snapshot is where no terminal says how wide it is."""


def _read_urls(context: click.Context, parameter: click.Parameter, urls: tuple[str, ...]) -> object:
    return tuple(dict.fromkeys(map(_read_url, urls)))


def _read_url(url: str) -> str:
    try:
        parts = urlsplit(url if "://" in url else f"http://{url}")
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.port == 0:
            raise ValueError
    except ValueError:
        raise click.BadParameter(f"{url!r} is not an address such as http://127.0.0.1:9898") from None
    return parts._replace(query="", fragment="").geturl()


@click.command("top", cls=Command)
@click.argument("urls", nargs=-1, metavar="[URL]...", callback=_read_urls)
@click.option("--once", is_flag=True, help="Print one snapshot and end, as is done without a terminal.")
def command(urls: tuple[str, ...], once: bool) -> None:
    """Show what a recorder does, each second: its state, feeds, files, losses and clients. Press q to end.

    URL is its METRICS_ADDR, as http://127.0.0.1:9898; default: as set here. Of several recorders each has a line, also one
    that does not answer. Exit status 1: it cannot be asked, or none of several can, and the message says why.
    """
    from rich.console import Console

    from recorder.settings import load_settings
    from recorder.top import TopOptions, own_url, run_top

    is_terminal = sys.stdout.isatty()
    console = Console(width=None if is_terminal else _PIPE_COLUMNS, highlight=False, markup=False)
    asked = urls or (own_url(load_settings(require_key=False).settings),)
    sys.exit(run_top(TopOptions(asked, once or not is_terminal), console))
