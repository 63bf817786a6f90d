"""The command line: a file for each command, imported when its command is called; here what they share.

The file of a command imports what its options need. What the command does, and with it every large library, is imported
when it runs: help, a slip on the command line and the completion of a shell wait for none of it.
"""

from __future__ import annotations

import importlib
import math
import select
import sys
from pathlib import Path
from typing import Any, Final, NoReturn

import click

from recorder.errors import EXIT_INTERRUPTED, EXIT_OK, RecorderError
from recorder.units import duration_text, exact_size_text, read_duration, read_size
from recorder.version import VERSION

COMMANDS: Final = {
    "audit": "Show who received what, by day and token, from the files of the access log.",
    "check": "Check all that recording needs, before going live.",
    "clickhouse": "Send an archive to a ClickHouse server: a table for each kind of file, each record once.",
    "compact": "Make an archive of few large files of one that has many small ones.",
    "compare": "Compare two archives: the same events, in the same order, with the same bytes.",
    "config": "Show the effective settings, secrets as ***, and where each came from.",
    "demo": "Record and serve a simulated market: no key, no network, one command.",
    "export": "Write archives as Parquet files, typed columns beside the exact payload.",
    "fetch": "Download the files of an archive from a bucket, byte for byte.",
    "gaps": "Show how complete each day of an archive is within market hours, and list the gaps.",
    "merge": "Make one archive of two recordings of one feed: each event once, and what each of them lacked.",
    "query": "Query an archive in SQL: a view for each kind of file, with typed columns and the exact payload.",
    "reload": "Have a running recorder reopen its files and take what changed, and say what it took.",
    "replay": "Serve what was recorded once more, as if it were live.",
    "run": "Follow the clusters of POLYGON_CLUSTER and record until stopped.",
    "schema": "Print the JSON Schema of a record, of /status, or of a line of the access log.",
    "simulate": "Run a Polygon-compatible exchange: a seeded market or recorded ticks, with faults on demand.",
    "tail": "Follow topics of a recorder, or of the exchange.",
    "top": "Show what a recorder does, each second.",
    "verify": "Read archives back: every line, count and checksum.",
}
"""What `recorder --help` says of each command. The command itself is `command` in the module of its name."""


class Command(click.Command):
    """A command that logs: the log is set up when it runs, and not for its help."""

    def invoke(self, ctx: click.Context) -> Any:
        from recorder import log, native

        log.configure({"": "info"})
        native.choose_by(_native_wanted)
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            if not _reader_is_gone():
                raise
            # It had all it wanted, as in `recorder query … | head`; click would make a failure of that.
            sys.stdout = None
            ctx.exit(EXIT_OK)


def _reader_is_gone() -> bool:
    """Return whether nobody reads our output any more."""
    try:
        poll = select.poll()
        poll.register(sys.stdout, 0)
        return bool(poll.poll(0))
    except (OSError, ValueError):  # it is no file
        return False


def _native_wanted() -> str | None:
    from recorder.settings.load import native_wanted

    return native_wanted()


class Duration(click.ParamType):  # type: ignore[type-arg]  # click 8.2 has no generic one
    """An option that takes `90`, `90s`, `15m` or `1h`, and is seconds; between two bounds, in seconds, that count in."""

    name = "duration"

    def __init__(self, secs_min: float = 0, secs_max: float = math.inf) -> None:
        self._secs_min, self._secs_max = secs_min, secs_max

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if not isinstance(value, str):
            return float(value)
        try:
            secs = float(read_duration(value))
        except ValueError:
            self.fail(f"{value!r} is not a duration such as 90, 90s, 15m or 1h.", param, ctx)
        if not self._secs_min <= secs <= self._secs_max:
            most = "" if math.isinf(self._secs_max) else f" and at most {duration_text(self._secs_max)}"
            self.fail(f"{value} must be at least {duration_text(self._secs_min)}{most}.", param, ctx)
        return secs


class Size(click.ParamType):  # type: ignore[type-arg]  # click 8.2 has no generic one
    """An option that takes `1048576`, `64M`, `64MiB` or `1GB`, and is bytes; at least `bytes_min`."""

    name = "size"

    def __init__(self, bytes_min: int = 0) -> None:
        self._bytes_min = bytes_min

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if not isinstance(value, str):
            return int(value)
        try:
            size_bytes = read_size(value)
        except ValueError:
            self.fail(f"{value!r} is not a size such as 1048576, 64M, 64MiB or 1GB.", param, ctx)
        if size_bytes < self._bytes_min or size_bytes != int(size_bytes):
            least = exact_size_text(self._bytes_min)
            self.fail(f"{value} must be a whole number of bytes, at least {least}.", param, ctx)
        return int(size_bytes)


class Moment(click.ParamType):  # type: ignore[type-arg]  # click 8.2 has no generic one
    """A time: Unix ms, or ISO 8601, UTC unless it says otherwise."""

    name = "time"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        from recorder.words import read_moment

        if isinstance(value, int):
            return value
        try:
            return read_moment(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


class ArchivePath(click.Path):
    """An argument that names an archive: a path, or the URL of a bucket as `s3://bucket/prefix`."""

    def __init__(self) -> None:
        super().__init__(path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        from recorder.objects.path import ObjectPath, to_path

        found = to_path(value)
        return found if isinstance(found, ObjectPath) else super().convert(value, param, ctx)


class _Commands(click.Group):
    """The commands of COMMANDS, each imported when it is needed."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(f"{__name__}.{cmd_name}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        # click would import every command to ask it for its first sentence.
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(
    cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110}
)
@click.version_option(VERSION, prog_name="recorder")
def cli() -> None:
    """Record Polygon.io (Massive.com) real-time market data into rotating NDJSON archives.

    Begin with `recorder demo`, which needs no key. With a key, `recorder check` says what is missing, and `recorder run`
    records. Settings are environment variables, or lines of a .env file; `recorder config` shows them all.
    """


def main() -> NoReturn:
    """Run a command; a known failure is a line on stderr for each problem and its exit status, never a traceback."""
    try:
        cli.main(prog_name="recorder", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except click.exceptions.Abort:  # Ctrl-C, where a command has nothing to end in order
        sys.exit(EXIT_INTERRUPTED)
    except RecorderError as error:
        from recorder.log import mask, say

        for line in mask(str(error)).splitlines():
            say(f"recorder: {line}")
        sys.exit(error.exit_status)
    except BrokenPipeError:
        # The reader of our output has all it wanted, as in `recorder config | head`.
        sys.stdout = None
        sys.exit(EXIT_OK)
    sys.exit(EXIT_OK)
