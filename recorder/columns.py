"""Tables that fit a terminal: where it is narrow, whole columns go before any figure is cut."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from rich.table import Table
from rich.text import Text

GAP: Final = 2
"""Blank characters between two columns."""


@dataclass(frozen=True, slots=True)
class Column:
    """A column: its heading, and what becomes of it where there is little room."""

    head: str
    is_number: bool = False
    goes: int = 0
    """The column with the highest number goes first; 0: it stays."""
    chars_min: int = 0
    """How short its texts may be cut before another column goes; 0: they are shown whole."""


class Grid:
    """Rows under columns. `fit` makes a table of them that is as wide as asked, at most."""

    def __init__(self, columns: Sequence[Column], rows: Sequence[Sequence[Text]]) -> None:
        self._columns = columns
        self._rows = rows
        self._widths = [
            max([len(column.head), *(row[place].cell_len for row in rows)])
            for place, column in enumerate(columns)
        ]

    @property
    def width(self) -> int:
        """Characters that all of it takes."""
        return _total(self._widths)

    def fit(self, width: int) -> Table:
        """Return the table, without the columns for which there is no room."""
        shown = list(range(len(self._columns)))
        while _total([self._least(place) for place in shown]) > width:
            first = max(shown, key=lambda place: self._columns[place].goes)
            if not self._columns[first].goes:
                break
            shown.remove(first)
        widths = self._cut(shown, width)
        table = Table(box=None, header_style="dim", pad_edge=False, padding=(0, GAP, 0, 0))
        for place in shown:
            column = self._columns[place]
            table.add_column(
                column.head,
                justify="right" if column.is_number else "left",
                width=widths[place],
                no_wrap=True,
                overflow="ellipsis",
            )
        for row in self._rows:
            table.add_row(*(row[place] for place in shown))
        return table

    def _least(self, place: int) -> int:
        wanted = self._columns[place].chars_min
        return min(self._widths[place], wanted) if wanted else self._widths[place]

    def _cut(self, shown: Sequence[int], width: int) -> dict[int, int]:
        """Return the width of each column: the widest text that may be cut gives way first."""
        widths = {place: self._widths[place] for place in shown}
        while _total(list(widths.values())) > width:
            spare = [place for place in shown if widths[place] > self._least(place)]
            if not spare:
                break
            widths[max(spare, key=lambda place: widths[place])] -= 1
        return widths


def _total(widths: Sequence[int]) -> int:
    return sum(widths) + GAP * max(0, len(widths) - 1)
