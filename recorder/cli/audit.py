"""`recorder audit`."""

from __future__ import annotations

import sys
from datetime import date
from typing import Final

import click

from recorder.cli import Command
from recorder.errors import EXIT_FAILURE, EXIT_OK

_PIPE_COLUMNS: Final = 200
"""How wide the table is where no terminal says how wide it is."""


class _Day(click.ParamType[str]):
    name = "YYYY-MM-DD"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        try:
            return date.fromisoformat(value).isoformat()
        except ValueError:
            self.fail(f"{value!r} is no day such as 2026-01-31", param, ctx)


@click.command("audit", cls=Command)
@click.argument("files", metavar="FILE...", nargs=-1, required=True, type=click.Path())
@click.option(
    "--token", metavar="NAME", default="", help="Of this token alone: its name, or its fingerprint."
)
@click.option("--day", type=_Day(), default=None, help="Of this day (UTC) alone.")
@click.option("--json", "form", flag_value="json", help="Print everything as JSON.")
@click.option("--csv", "form", flag_value="csv", help="Print a row for each day and token, as CSV.")
def command(files: tuple[str, ...], token: str, day: str | None, form: str | None) -> None:
    """Show who received what, by day and token, from the files of the access log (ACCESS_LOG_DEST).

    A FILE is plain or compressed; name all that may have lines of the days in question, in any order. Exit status 0: every
    line could be read, and none is missing; 1: otherwise, and standard error names what is wrong; 2: a FILE is none.
    """
    from rich.console import Console

    from recorder.audit import Audit
    from recorder.log import say

    audit = Audit(token, day or "")
    audit.read(files)
    if form == "json":
        click.echo(audit.as_json())
    elif form == "csv":
        click.echo(audit.as_csv())
    else:
        audit.print_table(Console(width=None if sys.stdout.isatty() else _PIPE_COLUMNS))
    for remark in audit.remarks():
        say(remark)
    sys.exit(EXIT_OK if audit.is_whole else EXIT_FAILURE)
