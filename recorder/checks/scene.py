"""What the checks examine and share: settings, options, the running recorder, measured rates."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import NamedTuple, TypeVar

from recorder.archive.manifest_index import ManifestIndex
from recorder.archive.policy import FileNames
from recorder.checks.running import RunningRecorder, archive_of
from recorder.clock import Clock
from recorder.settings import Settings

T = TypeVar("T")


class Rate(NamedTuple):
    """How fast records come for all clusters together."""

    bytes_per_sec: float
    """Of plain lines."""
    kept_share: float | None
    """How much of a plain byte stays once files are compressed; None: not known."""
    source: str
    """In words."""


@dataclass(slots=True)
class Scene:
    """One run of the command."""

    settings: Settings
    warnings: tuple[str, ...]
    clock: Clock
    offline: bool = False
    connect_anyway: bool = False
    sample_secs: float = 5.0
    say: Callable[[str], None] = lambda text: None
    """Speaks to the operator at once, beside the report."""
    recorder: RunningRecorder | None = None
    """The one that runs with these settings."""
    strangers: Mapping[str, str] = field(default_factory=dict)
    """Who else on this machine is connected to a cluster's address, in words, by cluster."""
    rate: Rate | None = None
    """Measured on the live feed, once that check is over."""
    index: ManifestIndex | None = None
    """What the manifest says, once that check is over; None where there is none, or it cannot be read."""
    names: FileNames | None = field(init=False)
    """None where no files are written."""

    def __post_init__(self) -> None:
        self.names = archive_of(self.settings)


async def in_thread(function: Callable[[], T]) -> T:
    """Call what may block. The command's end does not wait for a call that hangs, as one on a dead disk does."""
    running = asyncio.get_running_loop()
    future: asyncio.Future[T] = running.create_future()

    def settle(result: T | None, error: BaseException | None) -> None:
        if future.done():
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)  # type: ignore[arg-type]

    def work() -> None:
        outcome: tuple[T | None, BaseException | None]
        try:
            outcome = function(), None
        except Exception as error:
            outcome = None, error
        with suppress(RuntimeError):  # nobody waits any more, and the loop is closed
            running.call_soon_threadsafe(settle, *outcome)

    threading.Thread(target=work, daemon=True).start()
    return await future
