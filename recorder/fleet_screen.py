"""Several recorders for a terminal, a line each: what `recorder top URL URL` shows."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console, Group, RenderableType
from rich.text import Text

from recorder.columns import Column, Grid
from recorder.ops.lines import NO_ANSWER, Line
from recorder.screen import duration_text
from recorder.words import printable

_COLUMNS = (
    Column("recorder", chars_min=12),
    Column("state"),
    Column("does", goes=4, chars_min=10),
    Column("clusters", goes=3, chars_min=8),
    Column("rate", is_number=True),
    Column("last data", is_number=True, goes=1),
    Column("late by", is_number=True, goes=5),
    Column("gaps", is_number=True, goes=2),
    Column("clients", is_number=True),
)


def draw_lines(
    lines: Sequence[Line], console: Console, *, height: int | None = None, hint: str = ""
) -> RenderableType:
    """Return what to print. Where not all have room, those that are well are left out first, and it is said how many."""
    well = sum(line.is_well for line in lines)
    head = Text.assemble(
        ("recorders", "bold"),
        f"  {well:,} of {len(lines):,} are ready",
        style="" if well == len(lines) else "red",
    )
    room = max(1, (height or 100_000) - 2 - bool(hint))
    shown = list(lines)
    if len(lines) > room:
        shown = sorted(lines, key=lambda line: line.is_well)[: max(1, room - 1)]
    parts: list[RenderableType] = [
        head,
        Grid(_COLUMNS, [_row(line) for line in shown]).fit(console.width),
    ]
    room -= len(shown)
    if len(shown) < len(lines) and room:
        parts.append(Text(f"and {len(lines) - len(shown):,} more", "dim"))
        room -= 1
    reasons = [text for line in lines if not line.is_well for text in _reasons(line, console)]
    parts += reasons[:room]
    if hint:
        parts.append(Text(hint, "dim"))
    return Group(*parts)


def _row(line: Line) -> list[Text]:
    name = Text(printable(line.name), "bold")
    state = Text(printable(line.state), "green" if line.is_well else "red")
    if line.state == NO_ANSWER:
        return [name, state, *(Text("") for _ in _COLUMNS[2:])]
    is_counted = line.events_per_sec is not None
    rate = line.events_per_sec if line.events_per_sec is not None else line.frames_per_sec
    age = "none yet" if line.data_age_secs is None else f"{duration_text(line.data_age_secs)} ago"
    return [
        name,
        state,
        Text(printable(line.does)),
        Text(printable(", ".join(line.clusters))),
        Text(f"{rate:,.0f}/s" if is_counted else f"{rate:,.0f} frames/s"),
        Text("now" if line.data_age_secs is not None and line.data_age_secs < 1.5 else age),
        Text(f"{line.lag_secs * 1000:,.1f} ms", "yellow" if line.lag_secs > 1 else ""),
        Text(f"{line.gaps:,}", "yellow" if line.gaps else ""),
        Text(f"{line.clients:,}"),
    ]


def _reasons(line: Line, console: Console) -> list[Text]:
    """Return why a recorder is not well, in as many lines as that needs."""
    found = []
    for reason in line.reasons:
        text = Text(printable(f"{line.name}: {reason}"), "red" if line.state == NO_ANSWER else "yellow")
        found += list(text.wrap(console, console.width))
    return found
