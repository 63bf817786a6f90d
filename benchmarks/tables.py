"""Results as tables on a terminal."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text


def cells(result: dict[str, Any], row: dict[str, Any]) -> list[str]:
    """Return the cells of a row; empty where a program has no such figure."""
    return [
        format(row["median"][column["figure"]], column["form"]) if column["figure"] in row["median"] else ""
        for column in result["columns"]
    ]


def verdict(target: dict[str, Any]) -> str:
    """Say whether a target is met."""
    if target["met"] is None:
        return "not measured"
    if target["failed"]:
        return "failed run"
    return "met" if target["met"] else "not met"


def show(result: dict[str, Any], console: Console) -> None:
    """Print a result."""
    shown = Table(
        title=f"{result['number']} {result['scenario']}: {result['question']}", title_justify="left"
    )
    shown.add_column("work", no_wrap=True)
    shown.add_column("who", no_wrap=True)
    for column in result["columns"]:
        shown.add_column(column["heading"], justify="right")
    for row in result["rows"]:
        shown.add_row(row["work"], row["who"], *cells(result, row))
    console.print(shown)
    for row in result["rows"]:
        for failure in row["failures"]:
            console.print(Text(f"FAILED: {row['work']}, {row['who']}: {failure}", style="bold red"))
    if result["targets"]:
        targets = Table("target", "measured", "", box=None)
        for target in result["targets"]:
            style = "" if target["met"] else "bold"
            targets.add_row(target["text"], target["measured"] or "–", Text(verdict(target), style=style))
        console.print(targets)
