"""`recorder schema`."""

from __future__ import annotations

import click

from recorder.cli import Command


@click.command("schema", cls=Command)
@click.argument("what", type=click.Choice(["record", "status", "access"]), default="record")
def command(what: str) -> None:
    """Print the JSON Schema of a record, of /status, or of a line of the access log."""
    import orjson

    from recorder.access_log import record as access
    from recorder.ops.status_schema import json_schema
    from recorder.records import Record

    schemas = {"record": Record.model_json_schema, "status": json_schema, "access": access.json_schema}
    click.echo(orjson.dumps(schemas[what](), option=orjson.OPT_INDENT_2).decode())
