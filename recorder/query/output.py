"""The forms of an answer: a table, CSV, JSON lines."""

from __future__ import annotations

import csv
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
_ROWS_BELOW_MAX: Final = 20
"""Rows that are shown below one another."""
_CELL_CHARS_MAX: Final = 32
"""So wide a column is, at most, when it is asked whether all of them fit; what is longer has several lines."""
_BETWEEN: Final = 2


def print_table(answer: Answer, console: Console) -> None:
    """Print the first rows as a table, or one below another if it is too wide, and say whether there are more."""
    rows = [row for block in islice(answer.rows, 1) for row in block]
    cells = [
        ["" if value is None else printable(str(value)) for value in row] for row in rows[:_ROWS_SHOWN_MAX]
    ]
    names = [printable(name) for name in answer.columns]
    widths = [
        min(_CELL_CHARS_MAX, max(map(len, column))) + _BETWEEN for column in zip(names, *cells, strict=True)
    ]
    shown_max = _ROWS_SHOWN_MAX
    if sum(widths) <= console.width:
        numbers = [
            any(isinstance(row[place], int | float | Decimal) for row in rows[:_ROWS_SHOWN_MAX])
            for place in range(len(names))
        ]
        _print_rows(names, cells, numbers, console)
    else:
        shown_max = _ROWS_BELOW_MAX
        _print_below(names, cells[:shown_max], console)
    if not rows:
        console.print("No rows.", style="dim")
    elif len(rows) > shown_max:
        console.print(f"The first {shown_max} rows; --csv and --json print all of them.", style="dim")


def _print_rows(names: list[str], cells: list[list[str]], numbers: list[bool], console: Console) -> None:
    table = Table(box=None, header_style="dim", pad_edge=False, padding=(0, _BETWEEN, 0, 0))
    for name, is_number in zip(names, numbers, strict=True):
        table.add_column(name, justify="right" if is_number else "left", overflow="fold")
    for row in cells:
        table.add_row(*map(Text, row))
    console.print(table)


def _print_below(names: list[str], cells: list[list[str]], console: Console) -> None:
    """Print a line for each column of each row that has a value."""
    for number, row in enumerate(cells, 1):
        console.rule(Text(f"row {number}"), align="left", style="dim")
        table = Table(box=None, show_header=False, pad_edge=False, padding=(0, _BETWEEN, 0, 0))
        table.add_column(style="dim", no_wrap=True)
        table.add_column(overflow="fold")
        for name, cell in zip(names, row, strict=True):
            if cell:
                table.add_row(Text(name), Text(cell))
        console.print(table)


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
    """Print the views, with their records and columns."""
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
        return orjson.dumps(_digits(row), default=_plain).decode() + "\n"


def _digits(value: Any) -> Any:
    """Return a value whose integers orjson takes, however long they are."""
    if isinstance(value, dict):
        return {str(key): _digits(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_digits(one) for one in value]
    return orjson.Fragment(str(value)) if type(value) is int else value


def _plain(value: object) -> object:
    return orjson.Fragment(str(value)) if isinstance(value, Decimal) and value.is_finite() else str(value)
