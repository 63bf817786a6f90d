"""`recorder replay`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, Literal

import click

from recorder.cli import ArchivePath, Command, Duration, Moment

_RATE_MAX = 1_000_000.0


class Rate(click.ParamType[float]):
    """How many times faster than it was recorded; 0 stands for as fast as possible."""

    name = "rate"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return the rate; `max` is 0. Anything else that is no number above 0 is a usage error."""
        if isinstance(value, float):
            return value
        if value == "max":
            return 0.0
        try:
            rate = float(value)
        except ValueError:
            rate = -1.0
        if not 0 < rate <= _RATE_MAX:
            self.fail(f"{value!r} must be a number above 0, such as 10, or max", param, ctx)
        return rate


@click.command("replay", cls=Command)
@click.argument("paths", nargs=-1, required=True, metavar="PATH...", type=ArchivePath())
@click.option(
    "--speed",
    type=Rate(),
    default="1",
    show_default=True,
    help="Times faster than recorded, or max: as clients take it.",
)
@click.option(
    "--from", "start", type=Moment(), default=None, help="Begin here: Unix ms, or 2026-11-21T14:30:00Z."
)
@click.option("--to", "end", type=Moment(), default=None, help="End before this time.")
@click.option(
    "--duration",
    type=Duration(0.001),
    default=None,
    help="How much from --from on, or from the first record, as 90s or 15m; in the place of --to.",
)
@click.option(
    "--topics", default="", help="Only these, comma-separated: T.AAPL, Q.*, T:ES*. Default: everything."
)
@click.option("--start-paused", is_flag=True, help="Wait for POST /replay/play on METRICS_ADDR.")
@click.option("--loop", "loops", is_flag=True, help="Begin again at the end.")
@click.option(
    "--skip-gaps",
    type=Duration(),
    default=None,
    help="Skip silence longer than this, such as nights with 5m.",
)
@click.option(
    "--catch-up",
    type=click.Choice(["burst", "shift"]),
    default="burst",
    show_default=True,
    help="Behind its time: send at once what is overdue, or let the clock of the replay be late.",
)
@click.option(
    "--shift",
    type=click.Choice(["now"]),
    default=None,
    help="Move the times of all events to now; every other byte stays.",
)
@click.option(
    "--wait-for-clients",
    type=click.IntRange(0),
    default=0,
    help="Begin once so many clients have subscribed.",
)
@click.option(
    "--delay", type=Duration(), default=0.0, help="Wait so long before it begins, as 10s; behind the clients."
)
@click.option(
    "--linger",
    type=Duration(),
    default=0.0,
    help="Go on serving so long behind the end, as 10s.",
)
@click.option(
    "--key", default=None, help="The token of clients. Default: as in the settings, else `replay-token`."
)
@click.option("--free-ports", is_flag=True, help="Use any free ports instead of those of the settings.")
@click.option("--skip-damaged", is_flag=True, help="Play archives of which something is missing or damaged.")
def command(
    paths: tuple[Path, ...],
    speed: float,
    start: int | None,
    end: int | None,
    duration: float | None,
    topics: str,
    start_paused: bool,
    loops: bool,
    skip_gaps: float | None,
    catch_up: Literal["burst", "shift"],
    shift: str | None,
    wait_for_clients: int,
    delay: float,
    linger: float,
    key: str | None,
    free_ports: bool,
    skip_damaged: bool,
) -> None:
    """Serve what was recorded once more, as if it were live: the same ports, the same protocol, the same bytes.

    A PATH is an archive: its folder, its manifest, its NDJSON_DEST, or a URL as s3://bucket/prefix. At the end every client
    gets a status `replay_complete` and is closed with 1000. Exit status 0: all was played, or it was stopped; 1: a file
    cannot be read or was altered; 78: the settings cannot be used.
    """
    from recorder.polygon.topics import parse_pattern
    from recorder.replay import ReplayOptions, run_replay
    from recorder.sources.replay.options import PlayOptions

    try:
        patterns = tuple(parse_pattern(text) for text in topics.split(",") if text.strip())
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--topics") from error
    if duration is not None and end is not None:
        raise click.UsageError("--duration stands in the place of --to: name one of them")
    start_ms = start or 0
    duration_ms = int(duration * 1000) if duration is not None else None
    if duration_ms is not None and start is not None:
        end, duration_ms = start_ms + duration_ms, None
    if end is not None and end <= start_ms:
        raise click.UsageError("--to must be later than --from")
    play = PlayOptions(
        rate=speed or None,
        is_paused=start_paused,
        loops=loops,
        skip_secs=skip_gaps,
        catch_up=catch_up,
        shifts=shift is not None,
        clients_min=wait_for_clients,
        delay_secs=delay,
        linger_secs=linger,
    )
    options = ReplayOptions(
        paths,
        play,
        start_ms,
        1 << 62 if end is None else end,
        duration_ms,
        patterns,
        key,
        free_ports,
        skip_damaged,
    )
    sys.exit(run_replay(options, click.echo))
