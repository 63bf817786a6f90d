"""A plot on a terminal: plotille's one home."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import Any, Final

from rich.bar import Bar
from rich.console import Console
from rich.table import Table
from rich.text import Text

from recorder.errors import PackageMissing
from recorder.plugins import installing
from recorder.query.plot import NotPlotted, Panel, Plot

_COLOURS: Final = ("cyan", "magenta", "green", "yellow", "blue", "red")
_AXIS_COLUMNS: Final = 16
"""What plotille takes for the figures of an axis, and at its other end."""
_TICK_COLUMNS: Final = 10
_TICK_CHARS: Final = 8
"""It writes a text of so many at most to every tick, and has one on every tenth column."""
_WIDTH_MIN: Final = 20
_PANEL_LINES: Final = 14
_DAY_SECS: Final = 86_400
_DOTS_ACROSS: Final = 2
_DOTS_DOWN: Final = 4
"""Of a character."""


def print_plot(plot: Plot, console: Console) -> None:
    """Print a plot as wide as the terminal is. Raise `PackageMissing` or `NotPlotted`."""
    for panel in plot.panels:
        if plot.names:
            _print_bars(plot, panel, console)
        else:
            _print_lines(plot, panel, console)


def _print_bars(plot: Plot, panel: Panel, console: Console) -> None:
    [line] = panel.lines
    table = Table(box=None, header_style="dim", pad_edge=False, expand=True)
    table.add_column(plot.x_title, no_wrap=True, max_width=console.width // 3)
    table.add_column(panel.title, justify="right", no_wrap=True)
    table.add_column("", ratio=1)
    known = [value for value in line.y if not math.isnan(value)]
    low, high = min([0.0, *known]), max([0.0, *known])
    for name, value in zip(plot.names, line.y, strict=True):
        if math.isnan(value):
            table.add_row(Text(name), "", "")
            continue
        bar = Bar(high - low or 1.0, min(0.0, value) - low, max(0.0, value) - low, color=_COLOURS[0])
        table.add_row(Text(name), f"{value:,.10g}", bar)
    console.print(table)


def _print_lines(plot: Plot, panel: Panel, console: Console) -> None:
    try:
        import plotille
    except ImportError as error:
        raise PackageMissing(
            f"a plot on a terminal needs plotille; to install it: {installing('plotille')}. "
            "--plot FILE.png makes a picture, with matplotlib"
        ) from error
    figure: Any = plotille.Figure()
    room = max(_WIDTH_MIN, console.width - _AXIS_COLUMNS)
    figure.width = room - (room - _TICK_CHARS) % _TICK_COLUMNS  # the last tick has room for its text
    figure.height = _PANEL_LINES
    figure.color_mode = "names"
    figure.x_label = "UTC" if plot.is_time else plot.x_title
    figure.with_colors = console.color_system is not None
    x = [at for line in panel.lines for at in line.x]
    y = [value for line in panel.lines for value in line.y]
    if not x:
        console.print(Text(f"{panel.title} has no values", style="bold"))
        return
    if not all(math.isfinite((max(values) - min(values)) * 2) for values in (x, y)):
        raise NotPlotted(
            f"values of {panel.title} are too far apart for a plot; leave out the outermost with WHERE"
        )
    figure.set_x_limits(*_limits(x, figure.width * _DOTS_ACROSS))
    figure.set_y_limits(*_limits(y, figure.height * _DOTS_DOWN))
    is_long = max(x) - min(x) > _DAY_SECS

    def time_text(at: float, *_: object) -> str:
        return datetime.fromtimestamp(at, UTC).strftime("%m-%d %Hh" if is_long else "%H:%M:%S")

    figure.y_ticks_fkt = lambda value, _: f"{value:,.8g}"
    figure.x_ticks_fkt = time_text if plot.is_time else lambda value, _: f"{value:,.6g}"
    for number, line in enumerate(panel.lines):
        if line.x:
            figure.plot(line.x, line.y, lc=_COLOURS[number % len(_COLOURS)])
    shown: str = figure.show()
    day = f", {datetime.fromtimestamp(min(x), UTC):%Y-%m-%d}" if plot.is_time and not is_long else ""
    console.print(
        Text(f"{panel.title} over {plot.x_title}{f', UTC{day}' if plot.is_time else ''}", style="bold")
    )
    # What stands above its axis is a title, which is here already.
    console.print(Text.from_ansi(shown.partition("\n")[2]), no_wrap=True, crop=True)
    if len(panel.lines) > 1:
        legend = Text()
        for number, line in enumerate(panel.lines):
            legend.append("━━ ", style=_COLOURS[number % len(_COLOURS)]).append(f"{line.label}   ")
        console.print(legend)


def _limits(values: list[float], dots: int) -> tuple[float, float]:
    """Return the ends of an axis of so many dots.

    plotille rounds to dots and leaves out what is beyond the last one. So the axis goes on behind the highest value, far
    enough that it is rounded to the last dot.
    """
    low, high = min(values), max(values)
    if low < high:
        return low, high + (high - low) / (2 * dots - 2)
    around = max(1.0, abs(low) * 1e-9)  # a number of 19 digits is the same with one more or less
    return low - around, high + around
