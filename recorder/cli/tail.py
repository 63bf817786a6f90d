"""`recorder tail`."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from recorder.cli import Command
from recorder.errors import ConfigError
from recorder.polygon.manner import INTERVAL_MS_MAX, INTERVAL_MS_MIN, SLOW_WAYS


def _read_url(context: click.Context, parameter: click.Parameter, url: str) -> object:
    from recorder.settings.values import websocket_url

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


@click.command("tail", cls=Command)
@click.argument("url", callback=_read_url)
@click.argument("topics", nargs=-1, required=True, callback=_read_topics)
@click.option(
    "--token", default=None, help="Other users of the machine can see it here. Default: POLYGON_API_KEY."
)
@click.option(
    "--cafile",
    "ca_file",
    type=click.Path(exists=True, dir_okay=False, readable=True),
    default=None,
    help="PEM file of the certificate to trust, or of the CA that signed it, for wss://. Default: whom this machine trusts.",
)
@click.option("--raw", is_flag=True, help="Print JSON lines on a terminal, too.")
@click.option("--count", type=click.IntRange(1), default=None, help="Stop after this many events.")
@click.option(
    "--since",
    type=click.IntRange(0),
    default=None,
    help="Unix ms; what a recorder has received since then, and its bars from then on, come first.",
)
@click.option(
    "--after",
    default=None,
    metavar="POSITION",
    help="What a recorder has received behind this position comes first.",
)
@click.option(
    "--resume",
    "resume_file",
    type=click.Path(dir_okay=False, path_type=Path),
    default=None,
    help="Keep the position of a recorder in this file, and go on from there when this program is started again.",
)
@click.option(
    "--amend", is_flag=True, help="A bar of a recorder comes again, with rev, when late trades change it."
)
@click.option(
    "--snapshot",
    is_flag=True,
    help="The last trade, quote and aggregate of each symbol come first from a recorder.",
)
@click.option(
    "--interval",
    "interval_ms",
    type=click.IntRange(INTERVAL_MS_MIN, INTERVAL_MS_MAX),
    default=None,
    metavar="MS",
    help="Of each symbol the newest quote and aggregate of a recorder, at most so often: 10 to 60000 ms.",
)
@click.option(
    "--slow",
    type=click.Choice(SLOW_WAYS),
    default=None,
    help="What a recorder does where events are not read in time: end the connection (default), leave some out, or leave "
    "out those that newer ones replace.",
)
def command(
    url: str,
    topics: tuple[str, ...],
    token: str | None,
    ca_file: str | None,
    raw: bool,
    count: int | None,
    since: int | None,
    amend: bool,
    after: str | None,
    resume_file: Path | None,
    snapshot: bool,
    interval_ms: int | None,
    slow: str | None,
) -> None:
    """Follow topics of a recorder, or of the exchange: a table on a terminal, in a pipe JSON lines as they came.

    TOPICS are as T.AAPL or 100Ms.*. URL is a recorder's, as ws://127.0.0.1:8765 or ws://127.0.0.1:8765/stocks, or the
    exchange's with a cluster. What the server says goes to stderr. When a connection ends, it reconnects, and a recorder
    sends what came meanwhile. Exit status 1: every topic is refused; 78: the token is refused, or TLS cannot work with
    this address and certificate.
    """
    from recorder.tail import TailOptions, run_tail

    if after is not None and since is not None:
        raise click.UsageError("--after and --since: name one of them")
    if token is None:
        token = _token_of_settings()
    is_raw = raw or not sys.stdout.isatty()
    options = TailOptions(
        url,
        topics,
        token,
        is_raw,
        count,
        since,
        ca_file,
        amend,
        after,
        resume_file,
        snapshot,
        interval_ms,
        slow,
    )
    sys.exit(run_tail(options, sys.stdout.fileno()))


def _token_of_settings() -> str:
    from recorder.settings import load_settings

    key = load_settings(require_key=False).settings.api_key
    if not key:
        raise ConfigError("no token: give one with --token, or set POLYGON_API_KEY")
    return key
