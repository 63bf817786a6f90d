"""`recorder schema`."""

from __future__ import annotations

import click

from recorder.cli import Command


@click.command("schema", cls=Command)
@click.argument("what", type=click.Choice(["record", "status"]), default="record")
def command(what: str) -> None:
    """Print the JSON Schema of a record, or of /status."""
    import orjson

    from recorder.ops.status_schema import json_schema
    from recorder.records import Record

    found = Record.model_json_schema() if what == "record" else json_schema()
    click.echo(orjson.dumps(found, option=orjson.OPT_INDENT_2).decode())
