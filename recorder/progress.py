"""Progress bars, where a terminal can show them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.progress import Progress as Bar

Progress = Callable[[int, int], None]
"""Called with the bytes that are done, and with all of them."""
Share = Callable[[float], None]
"""Called with the percent that are done."""


@contextmanager
def bar(what: str, console: Console) -> Iterator[Progress | None]:
    """Yield what moves a bar of bytes; None where `console` is no terminal, and there is no bar."""
    if not console.is_terminal:
        yield None
        return
    columns = (TextColumn(what), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Bar(*columns, console=console, transient=True) as shown:
        task = shown.add_task(what)
        yield lambda done, total: shown.update(task, completed=done, total=total)


@contextmanager
def share_bar(what: str, console: Console) -> Iterator[Share | None]:
    """Yield what moves a bar whose steps are no bytes; None where `console` is no terminal."""
    if not console.is_terminal:
        yield None
        return
    columns = (TextColumn(what), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Bar(*columns, console=console, transient=True) as shown:
        task = shown.add_task(what)
        yield lambda percent: shown.update(task, completed=percent)
