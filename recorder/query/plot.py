"""What a plot shows of an answer: which column is x, which are y, and which tell lines apart."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time
from decimal import Decimal
from itertools import islice
from typing import Any, Final, Literal, NamedTuple

from recorder.errors import EXIT_USAGE, RecorderError
from recorder.query.session import Answer
from recorder.words import printable, shortened

POINTS_MAX: Final = 200_000
BARS_MAX: Final = 50
LINES_MAX: Final = 12
"""Lines of one column."""
PANELS_MAX: Final = 4
_FLATTER_MAX: Final = 4
"""Columns stand in one panel where that makes none of them flatter than this."""
_LABEL_CHARS_MAX: Final = 40
_UNIX_MS: Final = re.compile(r"(?:.*_)?ts")
"""Names of columns whose whole numbers are Unix ms."""

Kind = Literal["time", "number", "text", "other"]


class NotPlotted(RecorderError):
    """A plot cannot show this answer."""

    exit_status = EXIT_USAGE


class Line(NamedTuple):
    """Points from left to right, or bars from the first one on."""

    label: str
    x: list[float]
    """Unix seconds, where x is a time; nothing for bars."""
    y: list[float]
    """Of a bar that is missing it is no number."""


@dataclass(slots=True)
class Panel:
    """Lines that share an axis."""

    title: str
    lines: list[Line] = field(default_factory=list)


@dataclass(slots=True)
class Plot:
    """What is drawn."""

    x_title: str
    is_time: bool
    panels: list[Panel]
    names: list[str]
    """Those of the bars; empty where lines are drawn."""
    notes: list[str]
    """What is left out."""


@dataclass(slots=True)
class _Column:
    name: str
    kind: Kind
    values: list[Any]
    """Unix seconds, numbers, texts; None where there is none."""


def plot_of(answer: Answer) -> Plot:
    """Return what a plot shows of an answer. Raise `NotPlotted` where that is nothing, or too much.

    x is the first time, or where no column is a time the texts, or else the first number. Every other number is y. Beside a
    time, texts tell lines apart.
    """
    columns = _columns(answer)
    numbers = [column for column in columns if column.kind == "number"]
    texts = [column for column in columns if column.kind == "text" and _is_telling(column)]
    x = next((column for column in columns if column.kind == "time"), None)
    if x is None and texts and numbers and len(set(_labels(texts))) == len(texts[0].values):
        return _bars(texts, numbers)
    if x is None and len(numbers) > 1:
        x = numbers.pop(0)
    if not numbers:
        has = ", ".join(f"{column.name} ({column.kind})" for column in columns)
        raise NotPlotted(
            f"a plot needs a column of numbers beside the time or the names; this answer has {has}"
        )
    return _lines(x, texts, numbers)


def _columns(answer: Answer) -> list[_Column]:
    """Return the columns of an answer, all of their values."""
    rows: list[tuple[Any, ...]] = []
    for block in answer.rows:
        rows += block
        if len(rows) > POINTS_MAX:
            raise NotPlotted(
                f"the answer has more than the {POINTS_MAX:,} rows that a plot shows; group it, as bars(INTERVAL 1 MINUTE) "
                "does with trades, or choose less of it with WHERE or LIMIT"
            )
    if not rows:
        raise NotPlotted("the answer has no rows, so there is nothing to plot")
    return [
        _column(name, list(values))
        for name, values in zip(answer.columns, zip(*rows, strict=True), strict=True)
    ]


def _column(name: str, values: list[Any]) -> _Column:
    shown = printable(name)
    kinds = {_kind(value) for value in values if value is not None}
    if kinds == {"time"}:
        return _Column(shown, "time", [None if value is None else _unix_secs(value) for value in values])
    if kinds == {"number"}:
        found = [None if value is None else float(value) for value in values]
        numbers = [value if value is not None and math.isfinite(value) else None for value in found]
        if _UNIX_MS.fullmatch(name.lower()) and all(isinstance(value, int | None) for value in values):
            return _Column(shown, "time", [None if value is None else value / 1000 for value in numbers])
        return _Column(shown, "number", numbers)
    if kinds == {"text"}:
        return _Column(shown, "text", [None if value is None else str(value) for value in values])
    return _Column(shown, "other", values)


def _kind(value: object) -> Kind:
    if isinstance(value, date):  # a datetime is one, too
        return "time"
    if isinstance(value, int | float | Decimal) and not isinstance(value, bool):
        return "number"
    return "text" if isinstance(value, str | bool | time) else "other"


def _unix_secs(value: date) -> float:
    moment = value if isinstance(value, datetime) else datetime.combine(value, time())
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def _is_telling(column: _Column) -> bool:
    """Return whether the texts of a column differ at all."""
    return len(set(column.values)) > 1 or len(column.values) == 1


def _labels(texts: Sequence[_Column]) -> list[str]:
    """Return what the texts of each row are together."""
    rows = zip(*(column.values for column in texts), strict=True)
    return [
        shortened(printable(" ".join(str(text) for text in row if text is not None)), _LABEL_CHARS_MAX)
        for row in rows
    ]


def _bars(texts: Sequence[_Column], numbers: Sequence[_Column]) -> Plot:
    """Return a bar for each row, in the order of the rows."""
    labels = _labels(texts)
    notes = [f"the first {BARS_MAX} of {len(labels):,} rows are drawn"] if len(labels) > BARS_MAX else []
    panels = [
        Panel(column.name, [Line("", [], [math.nan if value is None else value for value in shown])])
        for column in numbers
        for shown in [column.values[:BARS_MAX]]
    ]
    return Plot(
        " ".join(column.name for column in texts), False, _first(panels, notes), labels[:BARS_MAX], notes
    )


def _lines(x: _Column | None, texts: Sequence[_Column], numbers: Sequence[_Column]) -> Plot:
    """Return a line for each column of numbers, and for each text that occurs."""
    notes: list[str] = []
    # A text that is another one almost everywhere, such as a payload, names no line.
    texts = [column for column in texts if len(set(column.values)) <= max(LINES_MAX, len(column.values) // 2)]
    labels = _labels(texts) if texts else [""] * len(numbers[0].values)
    if len(set(labels)) == 1:
        labels = [""] * len(labels)
    shown = list(dict.fromkeys(labels))
    if len(shown) > LINES_MAX:
        notes.append(
            f"the first {LINES_MAX} of {len(shown):,} lines are drawn; a condition on {texts[0].name} chooses others"
        )
        shown = shown[:LINES_MAX]
    panels = [
        Panel(
            ", ".join(column.name for column in group),
            [
                _line(column, label or column.name, x, rows)
                for column in group
                for label, rows in _rows_of(labels, shown)
            ],
        )
        # Lines of several texts are compared with each other, those of one text with its other columns.
        for group in (_together(numbers) if len(shown) == 1 else [[column] for column in numbers])
    ]
    return Plot(
        x.name if x is not None else "row",
        x is not None and x.kind == "time",
        _first(panels, notes),
        [],
        notes,
    )


def _rows_of(labels: Sequence[str], shown: Iterable[str]) -> Iterable[tuple[str, list[int]]]:
    """Return the rows of each label."""
    found: dict[str, list[int]] = {label: [] for label in shown}
    for row, label in enumerate(labels):
        if label in found:
            found[label].append(row)
    return found.items()


def _line(column: _Column, label: str, x: _Column | None, rows: Iterable[int]) -> Line:
    points = [(float(row + 1) if x is None else x.values[row], column.values[row]) for row in rows]
    known = sorted((at, value) for at, value in points if at is not None and value is not None)
    return Line(label, [at for at, _ in known], [value for _, value in known])


def _together(numbers: Sequence[_Column]) -> list[list[_Column]]:
    """Return which columns share a panel: those of like sizes, such as the prices of a bar."""
    groups: list[tuple[list[_Column], float, float]] = []
    for column in numbers:
        known = [value for value in column.values if value is not None]
        low, high = min(known, default=0.0), max(known, default=0.0)
        for place, (group, group_low, group_high) in enumerate(groups):
            both_low, both_high = min(low, group_low), max(high, group_high)
            flattest = min(high - low, group_high - group_low)
            if both_high - both_low <= _FLATTER_MAX * flattest:
                groups[place] = ([*group, column], both_low, both_high)
                break
        else:
            groups.append(([column], low, high))
    return [group for group, _, _ in groups]


def _first(panels: list[Panel], notes: list[str]) -> list[Panel]:
    if len(panels) > PANELS_MAX:
        left_out = ", ".join(panel.title for panel in islice(panels, PANELS_MAX, None))
        notes.append(f"{left_out} is left out: a plot has {PANELS_MAX} panels; name fewer columns")
    return panels[:PANELS_MAX]
