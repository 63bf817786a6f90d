"""Draws what the results say is to be drawn: `python -m benchmarks.plots`; from the JSON alone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import click

from benchmarks.page import IMAGES
from benchmarks.scenario import RESULTS, kept

_SIZE_INCHES: Final = (8, 4.5)
_DPI: Final = 100
_LINES: Final = ("-", "--", ":", "-.")

Line = tuple[str, list[float], list[float]]
"""What the legend calls it; x and y of its points."""


def lines(result: dict[str, Any], plot: dict[str, Any]) -> Iterator[Line]:
    """Yield the lines of a plot; rows without the figures have no points in it, failed ones neither."""
    rows = [row for row in result["rows"] if not row["failures"]]
    if plot["series_of"]:
        for row in rows:
            if row["work"] == plot["series_of"]:
                series = row["runs"][0]["series"]
                for figure, label in plot["y"].items():
                    yield label, series[plot["x"]], series[figure]
        return
    groups: dict[tuple[str, str], list[dict[str, float]]] = {}
    for row in rows:
        separate = {**row["median"], "work": row["work"]}.get(plot["per"], "")
        groups.setdefault(
            (row["who"], f"{separate:g}" if isinstance(separate, float) else separate), []
        ).append(row["median"])
    for (who, separate), medians in groups.items():
        for figure, label in plot["y"].items():
            points = sorted(
                (median[plot["x"]], median[figure])
                for median in medians
                if plot["x"] in median and figure in median
            )
            if points:
                yield ", ".join(filter(None, (who, separate, label))), *map(list, zip(*points, strict=True))


def draw(result: dict[str, Any], plot: dict[str, Any], path: Path) -> None:
    """Draw one plot."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot
    from matplotlib.ticker import FuncFormatter

    figure, axis = pyplot.subplots(figsize=_SIZE_INCHES, layout="constrained")
    drawn = list(lines(result, plot))
    styles = len(plot["y"])
    for number, (label, x, y) in enumerate(drawn):
        axis.plot(
            *(x, y),
            label=label,
            color=f"C{number // styles}",
            linestyle=_LINES[number % styles % len(_LINES)],
            marker="" if plot["series_of"] else "o",
        )
    axis.set(title=plot["title"], xlabel=plot["x_label"], ylabel=plot["y_label"])
    if plot["x_log"]:
        axis.set_xscale("log")
    if plot["y_log"]:
        axis.set_yscale("log")
    else:
        axis.set_ylim(bottom=0)
    for side in (axis.xaxis, axis.yaxis):
        side.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
    axis.grid(visible=True, which="both", alpha=0.25)
    if any(label for label, _, _ in drawn) and len(drawn) > 1:
        axis.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=_DPI, facecolor="white", metadata={"Software": None})
    pyplot.close(figure)


@click.command()
@click.option("--results", type=click.Path(path_type=Path), default=RESULTS, help="Folder of the results.")
@click.option("--images", type=click.Path(path_type=Path), default=IMAGES, help="Folder of the pictures.")
def main(results: Path, images: Path) -> None:
    """Draw all plots."""
    for result in kept(results):
        for plot in result["plots"]:
            draw(result, plot, images / f"{plot['file']}.png")


if __name__ == "__main__":
    main()
