"""`recorder config`."""

from __future__ import annotations

import sys

import click

from recorder.cli import Command


@click.command("config", cls=Command)
@click.option("--show-defaults/--only-set", default=True, help="Show settings that have their default value.")
def command(show_defaults: bool) -> None:
    """Show the effective settings, secrets as ***, and where each came from."""
    from rich.console import Console
    from rich.table import Table

    from recorder.settings import load_settings, render_effective

    loaded = load_settings(require_key=False)
    for warning in loaded.warnings:
        click.echo(f"warning: {warning}", err=True)
    rows = [row for row in render_effective(loaded) if show_defaults or row[2] != "default"]
    if not sys.stdout.isatty():
        for name, value, origin in rows:
            click.echo(f"{name}={value}\t# {origin}")
        return
    table = Table("variable", "value", "from", box=None, header_style="bold")
    for row in rows:
        table.add_row(*row)
    Console(markup=False).print(table)
