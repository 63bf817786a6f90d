"""What an edge's work runs on: a thread with a bell, or whatever a simulation puts in its place."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Protocol


class Strand(Protocol):
    """One line of work beside the loop. `ring` may be called from anywhere, the rest from the work itself."""

    def start(self, work: Callable[[], None]) -> None:
        """Begin to work."""

    def ring(self) -> None:
        """End the present `wait`, or the next one."""

    def pause(self, secs: float) -> None:
        """Let time pass, whoever rings."""

    def wait(self, secs: float) -> None:
        """Return once somebody rings, or after so long; all rings until then are heard."""

    def monotonic_ns(self) -> int:
        """Nanoseconds since some point; never goes back."""

    @property
    def is_held_by_kernel(self) -> bool:
        """Whether the work waits for the kernel, in a way that nothing can end."""


class ThreadStrand:
    """A daemon thread: one that hangs in the kernel does not keep the process."""

    pause = staticmethod(time.sleep)
    monotonic_ns = staticmethod(time.monotonic_ns)

    def __init__(self, name: str) -> None:
        self._name = name
        self._bell: SimpleQueue[None] = SimpleQueue()
        self._thread: threading.Thread | None = None

    def start(self, work: Callable[[], None]) -> None:
        """Begin to work."""
        self._thread = threading.Thread(target=work, name=self._name, daemon=True)
        self._thread.start()

    def ring(self) -> None:
        """End the present `wait`, or the next one."""
        self._bell.put(None)

    def wait(self, secs: float) -> None:
        """Return once somebody rings, or after so long; all rings until then are heard."""
        try:
            self._bell.get(timeout=secs)
            while True:
                self._bell.get_nowait()
        except Empty:
            pass

    @property
    def is_held_by_kernel(self) -> bool:
        """Whether the thread is in uninterruptible sleep; False where the system does not say."""
        if self._thread is None:
            return False
        try:
            stat = Path(f"/proc/self/task/{self._thread.native_id}/stat").read_text()
        except OSError:
            return False
        # proc(5): "pid (comm) state …", and the name may hold anything.
        return stat.rpartition(")")[2].split()[0] == "D"

    def __repr__(self) -> str:
        return f"ThreadStrand({self._name})"
