"""A plot as a picture: matplotlib's one home."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from recorder.errors import PackageMissing
from recorder.plugins import installing
from recorder.query.plot import Panel, Plot

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SUFFIXES: Final = (".png", ".svg", ".pdf")
_WIDTH_INCHES: Final = 9.0
_PANEL_INCHES: Final = 3.2
_DPI: Final = 120
_DOTS_MAX: Final = 60
"""Points of a line that are marked."""
_LEVEL_NAMES_MAX: Final = 8
"""So many names of bars have room beside one another."""


def draw(plot: Plot, path: Path, form: str) -> None:
    """Draw a plot into a file; `form` is a suffix without its dot. Raise `PackageMissing`."""
    try:
        import matplotlib as mpl
    except ImportError as error:
        raise PackageMissing(
            f"a picture of a plot needs matplotlib; to install it: {installing('matplotlib')}"
        ) from error
    mpl.use("Agg")
    from matplotlib import pyplot

    count = len(plot.panels)
    figure, axes = pyplot.subplots(
        count,
        figsize=(_WIDTH_INCHES, _PANEL_INCHES * count + 0.6),
        sharex=True,
        squeeze=False,
        layout="constrained",
    )
    for axis, panel in zip(axes[:, 0], plot.panels, strict=True):
        _draw_panel(axis, plot, panel)
    axes[-1, 0].set_xlabel(f"{plot.x_title}, UTC" if plot.is_time else plot.x_title)
    figure.savefig(path, format=form, dpi=_DPI)
    pyplot.close(figure)


def _draw_panel(axis: Axes, plot: Plot, panel: Panel) -> None:
    from matplotlib import dates as untyped

    dates: Any = untyped

    axis.set_ylabel(panel.title)
    axis.grid(visible=True, alpha=0.3)
    if plot.names:
        [line] = panel.lines
        axis.bar(range(len(plot.names)), line.y)
        turned: dict[str, Any] = {"rotation": 90} if len(plot.names) > _LEVEL_NAMES_MAX else {}
        axis.set_xticks(range(len(plot.names)), plot.names, **turned)
        return
    for line in panel.lines:
        x: Any = [datetime.fromtimestamp(at, UTC) for at in line.x] if plot.is_time else line.x
        axis.plot(x, line.y, label=line.label, linewidth=1.2, marker="." if len(x) <= _DOTS_MAX else "")
    if plot.is_time:
        locator = dates.AutoDateLocator(tz=UTC)
        axis.xaxis.set_major_locator(locator)
        axis.xaxis.set_major_formatter(dates.ConciseDateFormatter(locator, tz=UTC))
    if len(panel.lines) > 1:
        axis.legend(fontsize="small", ncols=1 + len(panel.lines) // 7)
