"""PURE. Disk pressure as a ladder: free space and time passed in, the step that recording is to take out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, Final, Literal

from recorder.archive.disk import Space
from recorder.stats import BYTES, EVENTS, counter, gauge, shown

Give = Literal["stop", "sample"]
"""What is given up before recording stops: nothing, or quotes."""

QUOTES_KEPT_ONE_IN: Final = 10
"""At `sample`, of the quotes that would be kept otherwise."""
WORSEN_HOLD_NS: Final = 2_000_000_000
"""A step gets so much time to help before the next one is taken."""
EASE_HOLD_NS: Final = 5_000_000_000
"""A step lasts at least so long before it is undone, and each undoing is so far from the next."""


class Step(IntEnum):
    """What is done about a disk that fills; each step includes those before it."""

    NONE = 0
    WARN = 1
    COMPRESS = 2
    """Active files are rotated, and what waits is compressed."""
    DELETE = 3
    """Retention is applied at once. It deletes what the operator allows it to, and nothing else."""
    SAMPLE = 4
    NO_QUOTES = 5
    STOP = 6

    @property
    def word(self) -> str:
        """Its name in the manifest, the metrics and the log."""
        return self.name.lower()


def _left_out(state: str, about: str) -> Any:
    return counter(
        "polygon_disk_pressure_left_out_total",
        "Events left out because of it, by what they count as in the books: quotes sampled_out, and events dropped "
        "while recording was paused.",
        where={"state": state},
        about=about,
        unit=EVENTS,
    )


@dataclass(slots=True)
class PressureStats:
    """The disk as it fills: what is free, what is done about it, and what that has cost."""

    step: int = gauge(
        "polygon_disk_pressure_step",
        "What is done about a disk that fills: 0 nothing, 1 warn, 2 compress, 3 delete, 4 sample, 5 no_quotes, 6 stop. "
        "From 4 on, data is left out.",
        shown=False,
    )
    word: str = "none"
    """The step's name."""
    free_bytes: int | None = gauge(
        "polygon_disk_free_bytes",
        "Free space for the archive, looked at each second unless NDJSON_MIN_FREE_BYTES is 0.",
        about="Free on the disk; null with NDJSON_MIN_FREE_BYTES=0.",
        unit=BYTES,
        default=None,
    )
    free_inodes: int | None = gauge(
        "polygon_disk_free_inodes",
        "Files that can still be made there, where the file system has a limit.",
        about="Files that can still be made; null where that has no limit.",
        default=None,
    )
    min_free_bytes: int = shown(
        "What recording leaves free: NDJSON_MIN_FREE_BYTES, or what follows from the size of the file system.",
        unit=BYTES,
        default=0,
    )
    needed_bytes: int = shown(
        "Free bytes at which the step is undone; 0 without a step.", unit=BYTES, default=0
    )
    losing: bool = False
    """Whether events are left out at this step."""
    transitions: Counter[str] = counter(
        "polygon_disk_pressure_transitions_total",
        "Changes of that step, by the step they led to.",
        by="step",
        values=[step.word for step in Step],
        shown=False,
    )
    sampled_out: int = _left_out("sampled_out", "Quotes left out because of it.")
    dropped: int = _left_out("dropped", "Events that came while it paused recording.")


_ENTERED_BELOW_PERCENT: Final[Mapping[Step, int]] = {
    Step.WARN: 400,
    Step.COMPRESS: 300,
    Step.DELETE: 250,
    Step.SAMPLE: 200,
    Step.NO_QUOTES: 150,
    Step.STOP: 100,
}
"""Of NDJSON_MIN_FREE_BYTES. A step is undone a fifth above it."""
_ENTERED_BELOW_INODES: Final[Mapping[Step, int]] = {Step.WARN: 1024, Step.DELETE: 512}
"""Fewer records need no fewer files: what helps is deleting. Beyond that the disk refuses, which is a step too."""


MIN_FREE_BYTES: Final = 2**30
"""What recording leaves free on a large file system, where NDJSON_MIN_FREE_BYTES is not set."""
_MIN_FREE_DIVISOR: Final = 20
"""On a smaller one, a part of it: recording to a partition of some 100 MiB must not stop before it begins."""


def min_free_bytes(asked: int | None, capacity_bytes: int) -> int:
    """Return what recording leaves free on a file system of this size; `asked` is NDJSON_MIN_FREE_BYTES."""
    return asked if asked is not None else min(MIN_FREE_BYTES, capacity_bytes // _MIN_FREE_DIVISOR)


def ladder(*, compresses: bool, deletes: bool, give: Give) -> tuple[Step, ...]:
    """Return the steps that can help, under these settings."""
    steps = [Step.NONE, Step.WARN]
    if compresses:
        steps.append(Step.COMPRESS)
    if deletes:
        steps.append(Step.DELETE)
    if give == "sample":
        steps += [Step.SAMPLE, Step.NO_QUOTES]
    return (*steps, Step.STOP)


class Pressure:
    """The step at hand. It goes up and down the ladder one step at a time, each held for its time.

    The first look settles at once: a start on a full disk has nothing to try out. Between the level where a step is
    taken and the one where it is undone nothing changes, so that a level in between never makes it flap.
    """

    def __init__(self, min_free_bytes: int, steps: tuple[Step, ...]) -> None:
        """`min_free_bytes` is what the last step keeps free."""
        self.min_free_bytes = min_free_bytes
        self.steps = steps
        self.step = Step.NONE
        self._since_ns: int | None = None

    def poll(self, space: Space, now_ns: int, *, refused: bool = False) -> Step:
        """Return the step for this much free space; `refused` says that a write found none, whatever is measured."""
        if refused:
            space = space._replace(bytes=0)
        wanted, kept = self.wanted(space), self.kept(space)
        if self._since_ns is None:
            self._since_ns = now_ns
            self.step = wanted
            return wanted
        held_ns = now_ns - self._since_ns
        place = self.steps.index(self.step)
        if wanted > self.step and held_ns >= WORSEN_HOLD_NS:
            self._take(self.steps[place + 1], now_ns)
        elif kept < self.step and held_ns >= EASE_HOLD_NS:
            self._take(self.steps[place - 1], now_ns)
        return self.step

    def entered_below(self, step: Step) -> int:
        """Return the free bytes below which a step is taken."""
        return self.min_free_bytes * _ENTERED_BELOW_PERCENT[step] // 100

    def left_at(self, step: Step) -> int:
        """Return the free bytes at which a step is undone."""
        return self.entered_below(step) * 6 // 5

    def wanted(self, space: Space) -> Step:
        """Return the furthest step that the free space calls for."""
        return self._furthest(space, eased=False)

    def kept(self, space: Space) -> Step:
        """Return the furthest step that would not be undone yet."""
        return self._furthest(space, eased=True)

    def _furthest(self, space: Space, *, eased: bool) -> Step:
        return max(step for step in self.steps if self._calls_for(step, space, eased=eased))

    def _calls_for(self, step: Step, space: Space, *, eased: bool) -> bool:
        if step is Step.NONE:
            return True
        inodes = _ENTERED_BELOW_INODES.get(step, 0)
        if space.inodes is not None and space.inodes < (inodes * 6 // 5 if eased else inodes):
            return True
        return space.bytes < (self.left_at(step) if eased else self.entered_below(step))

    def _take(self, step: Step, now_ns: int) -> None:
        self.step = step
        self._since_ns = now_ns

    @property
    def quotes_kept_one_in(self) -> int:
        """How much is kept of the quotes that would be kept otherwise; 1: all of them, 0: none."""
        if self.step < Step.SAMPLE or Step.SAMPLE not in self.steps:
            return 1
        return QUOTES_KEPT_ONE_IN if self.step is Step.SAMPLE else 0

    def __repr__(self) -> str:
        return f"Pressure({self.step.word}, min_free_bytes={self.min_free_bytes})"


class LoadShedding:
    """What recording leaves out for now. The archive's thread sets it; the loop follows it, and counts."""

    def __init__(self, stats: PressureStats | None = None) -> None:
        self.quotes_kept_one_in = 1
        """1: all of them, 0: none."""
        self.paused = False
        """Whether the archive takes no records."""
        self.stats = stats or PressureStats()

    def follow(self, pressure: Pressure) -> None:
        """Leave out what the step at hand leaves out."""
        self.quotes_kept_one_in = pressure.quotes_kept_one_in
        self.paused = pressure.step is Step.STOP

    def __repr__(self) -> str:
        return f"LoadShedding(quotes_kept_one_in={self.quotes_kept_one_in}, paused={self.paused})"
