"""`recorder query --plot`: which columns become which axis, what is left out, and both forms of a plot."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from recorder.errors import EXIT_USAGE
from recorder.query.plot import BARS_MAX, LINES_MAX, PANELS_MAX, POINTS_MAX, NotPlotted, Plot, plot_of
from recorder.query.plot_picture import draw
from recorder.query.plot_text import print_plot
from recorder.query.session import Answer

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)


def answer(columns: str, *rows: tuple[Any, ...]) -> Answer:
    """Return rows as DuckDB hands them over: in blocks."""
    blocks: Iterator[list[tuple[Any, ...]]] = iter([list(rows[:2]), list(rows[2:])])
    return Answer(columns.split(), blocks)


def shown(plot: Plot) -> dict[str, list[tuple[str, list[float], list[float]]]]:
    """Return panels by their titles."""
    return {panel.title: [tuple(line) for line in panel.lines] for panel in plot.panels}


def test_time_is_x_and_texts_tell_lines_apart() -> None:
    """Wherever the time stands; what is missing or not finite is no point, and points go from left to right."""
    rows = [
        ("stocks", "A", datetime(2026, 11, 23, 12, 1), Decimal("2.5"), 7),
        ("stocks", "A", datetime(2026, 11, 23, 12, 0), 1.5, 9),
        ("stocks", "B", datetime(2026, 11, 23, 12, 0), None, 5),
        ("stocks", "B", None, 3.0, 5),
        ("stocks", "B", datetime(2026, 11, 23, 12, 2), float("inf"), 6),
    ]
    plot = plot_of(answer("feed symbol start price volume", *rows))
    noon = NOON.timestamp()
    assert (plot.x_title, plot.is_time, plot.names, plot.notes) == ("start", True, [], [])
    assert shown(plot) == {
        "price": [("A", [noon, noon + 60], [1.5, 2.5]), ("B", [], [])],
        "volume": [("A", [noon, noon + 60], [9, 7]), ("B", [noon, noon + 120], [5, 6])],
    }


def test_unix_ms_are_a_time_by_their_names() -> None:
    """So are dates; a number of another name is a number."""
    noon_ms = int(NOON.timestamp() * 1000)
    plot = plot_of(answer("ingest_ts price", (noon_ms, 1.0), (noon_ms + 500, 2.0)))
    assert (plot.is_time, shown(plot)["price"][0][1]) == (True, [NOON.timestamp(), NOON.timestamp() + 0.5])
    plot = plot_of(answer("price day", (1, date(2026, 11, 23)), (2, date(2026, 11, 24))))
    assert (plot.x_title, shown(plot)["price"][0][1][0]) == ("day", NOON.timestamp() - 43_200)
    plot = plot_of(answer("ms price", (noon_ms, 1.0), (noon_ms + 500, 2.0)))
    assert (plot.is_time, plot.x_title) == (False, "ms")


def test_names_make_bars() -> None:
    """Together where several texts differ; texts that repeat beside two numbers are lines; one number has rows as x."""
    plot = plot_of(
        answer("feed type symbol n", ("s", "T", "A", 3), ("s", "Q", "A", 4), ("s", "Q", "B", None))
    )
    assert (plot.x_title, plot.names) == ("type symbol", ["T A", "Q A", "Q B"])
    assert repr(shown(plot)) == repr({"n": [("", [], [3.0, 4.0, math.nan])]})
    plot = plot_of(answer("symbol hour n", ("A", 9, 1), ("A", 10, 2), ("B", 9, 3), ("B", 10, 4)))
    assert (plot.x_title, shown(plot)) == ("hour", {"n": [("A", [9, 10], [1, 2]), ("B", [9, 10], [3, 4])]})
    assert shown(plot_of(answer("n", (5,), (6,)))) == {"n": [("n", [1, 2], [5, 6])]}


def test_like_sizes_share_a_panel() -> None:
    """Prices of a bar stand together, its volume alone; of what is too much the first is drawn, and a note says so."""
    rows = [(n, 100 + n, 101 + n, 99.5 + n, 1e6 * n) for n in range(5)]
    assert list(shown(plot_of(answer("n open high low volume", *rows)))) == ["open, high, low", "volume"]
    rows = [(n, *(10.0**k * n for k in range(0, 12, 2))) for n in range(5)]
    plot = plot_of(answer("n a b c d e f", *rows))
    assert len(plot.panels) == PANELS_MAX
    assert plot.notes == ["e, f is left out: a plot has 4 panels; name fewer columns"]
    crowd = [(f"S{n % 40}", k, n) for k, n in enumerate(range(200))]
    plot = plot_of(answer("symbol k n", *crowd))
    assert len(plot.panels[0].lines) == LINES_MAX
    assert plot.notes == ["the first 12 of 40 lines are drawn; a condition on symbol chooses others"]
    plot = plot_of(answer("symbol n", *((f"S{n}", n) for n in range(BARS_MAX + 1))))
    assert len(plot.names) == BARS_MAX
    assert plot.notes == ["the first 50 of 51 rows are drawn"]


@pytest.mark.parametrize(
    ("columns", "rows", "words"),
    [
        ("n", [], "no rows"),
        ("symbol other", [("A", [1])], r"symbol \(text\), other \(other\)"),
        ("n", [(1,)] * (POINTS_MAX + 1), "more than the 200,000 rows"),
    ],
)
def test_what_is_no_plot(columns: str, rows: list[tuple[Any, ...]], words: str) -> None:
    """It is refused, with what to do."""
    with pytest.raises(NotPlotted, match=words) as caught:
        plot_of(answer(columns, *rows))
    assert caught.value.exit_status == EXIT_USAGE


@pytest.mark.parametrize(
    ("columns", "rows"),
    [
        ("start symbol price volume", [(NOON, "A", 1.0, 500), (NOON.replace(hour=13), "B\x1b", 2.0, 100)]),
        ("symbol volume", [("A[red]", 5), ("B", -3), ("C", None)]),
        ("n", [(7,)]),
        ("n", [(1_790_000_000_000_123_456,)]),
    ],
)
def test_both_forms(tmp_path: Path, columns: str, rows: list[tuple[Any, ...]]) -> None:
    """A terminal of 80 columns has it in 80, and nothing that came from outside steers it; a picture is a picture."""
    console = Console(file=io.StringIO(), width=80, record=True, force_terminal=True)
    print_plot(plot_of(answer(columns, *rows)), console)
    lines = console.export_text().splitlines()
    assert max(map(len, lines)) <= 80
    text = "\n".join(lines)
    assert "\x1b" not in text
    assert all(str(row[columns.split().index("symbol")])[0] in text for row in rows if "symbol" in columns)
    path = tmp_path / "plot"
    draw(plot_of(answer(columns, *rows)), path, "png")
    assert path.read_bytes().startswith(b"\x89PNG")


def test_what_is_at_the_upper_end_is_drawn_on_a_terminal() -> None:
    """The line of the symbol that is dearest is as high as its axis, and has its last point."""
    console = Console(file=io.StringIO(), width=80, record=True, force_terminal=True)
    rows = [
        (NOON.replace(minute=n), symbol, price)
        for n in range(3)
        for symbol, price in (("A", 1.0), ("B", 9.0))
    ]
    print_plot(plot_of(answer("start symbol price", *rows)), console)
    drawn = [line.partition("|")[2].strip("\u2800 ") for line in console.export_text().splitlines()]
    lines = [line for line in drawn if any("\u2801" <= char <= "\u28ff" for char in line)]
    assert len(lines) == 2
    assert len(lines[0]) == len(lines[1])


def test_values_that_no_axis_spans_are_refused() -> None:
    """Their distance is no number."""
    with pytest.raises(NotPlotted, match="too far apart"):
        print_plot(plot_of(answer("n", (1e308,), (-1e308,))), Console(file=io.StringIO(), width=80))
