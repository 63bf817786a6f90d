"""The forms of an answer: a table, CSV, JSON lines."""

from __future__ import annotations

import csv
import json
from decimal import Decimal
from itertools import islice
from typing import Any, Final, TextIO

import orjson
from rich.console import Console
from rich.table import Table
from rich.text import Text

from recorder.query.session import Answer
from recorder.tables.sealed import Sealed
from recorder.tables.views import TYPES, view_columns
from recorder.words import printable

_ROWS_SHOWN_MAX: Final = 200
_LINES: Final = 10_000


def print_table(answer: Answer, console: Console) -> None:
    """Print the first rows as a table, and say where there are more."""
    table = Table(box=None, header_style="dim", pad_edge=False, padding=(0, 2, 0, 0))
    rows = [row for block in islice(answer.rows, 1) for row in block]
    for place, column in enumerate(answer.columns):
        is_number = any(isinstance(row[place], int | float | Decimal) for row in rows[:_ROWS_SHOWN_MAX])
        table.add_column(printable(column), justify="right" if is_number else "left", overflow="fold")
    for row in rows[:_ROWS_SHOWN_MAX]:
        table.add_row(*(Text("" if value is None else printable(str(value))) for value in row))
    console.print(table)
    if len(rows) > _ROWS_SHOWN_MAX:
        console.print(f"The first {_ROWS_SHOWN_MAX} rows; --csv and --json print all of them.", style="dim")


def write_csv(answer: Answer, file: TextIO) -> None:
    """Write all rows as CSV, with a head; what is null is empty."""
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(answer.columns)
    for rows in answer.rows:
        writer.writerows(rows)


def write_json(answer: Answer, file: TextIO) -> None:
    """Write an object a row, each on a line of its own."""
    for rows in answer.rows:
        file.writelines(_json_line(dict(zip(answer.columns, row, strict=True))) for row in rows)


def print_views(sealed: Sealed, console: Console) -> None:
    """Print which views there are, with their records and columns."""
    table = Table(box=None, header_style="dim", pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("view")
    table.add_column("records", justify="right")
    table.add_column("columns", overflow="fold")
    for name in sealed.views():
        columns = [f"{column.name} {TYPES[column.shape]}" for column in view_columns(name)]
        table.add_row(name, f"{sealed.count(name):,}", ", ".join([*columns, "payload VARCHAR"]))
    console.print(table)


def _json_line(row: dict[str, Any]) -> str:
    try:
        return orjson.dumps(row, default=_plain).decode() + "\n"
    except TypeError:  # sums of many digits
        return json.dumps(row, default=str) + "\n"


def _plain(value: object) -> object:
    return orjson.Fragment(str(value)) if isinstance(value, Decimal) and value.is_finite() else str(value)
