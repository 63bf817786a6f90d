"""`recorder schema`."""

from __future__ import annotations

import click
import orjson

from recorder import records
from recorder.ops import status_schema


@click.command("schema")
@click.argument("what", type=click.Choice(["record", "status"]), default="record")
def command(what: str) -> None:
    """Print the JSON Schema of a record, or of /status."""
    found = records.json_schema() if what == "record" else status_schema.json_schema()
    click.echo(orjson.dumps(found, option=orjson.OPT_INDENT_2).decode())
