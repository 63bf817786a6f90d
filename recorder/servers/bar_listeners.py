"""Where bars go once they are closed: to the ports that serve them."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Sequence
from typing import Final

from recorder.bars import Bar
from recorder.log import RateLimited, get_logger

_WARN_SECS: Final = 5.0

Listener = Callable[[str, Sequence[Bar]], None]
"""Takes a cluster and bars of it."""

log = get_logger("polygon_bars")


class BarListeners:
    """Hands bars to every listener in turn, as the bus does with batches: one that raises loses these bars alone."""

    def __init__(self) -> None:
        self._listeners: list[Listener] = []
        self.failures = 0
        """Calls in which a listener raised."""
        self._warning = RateLimited(_WARN_SECS)

    def attach(self, listener: Listener) -> None:
        """Add a listener behind the present ones."""
        self._listeners.append(listener)

    def send(self, cluster: str, bars: Sequence[Bar]) -> None:
        """Pass bars on."""
        for listener in self._listeners:
            try:
                listener(cluster, bars)
            except Exception as error:
                self.failures += 1
                if self._warning.ready(time.monotonic_ns()) is not None:
                    log.error(
                        "bar_listener_failed",
                        listener=repr(listener),
                        error="".join(traceback.format_exception(error)),
                        failures=self.failures,
                    )

    def __repr__(self) -> str:
        return f"BarListeners({len(self._listeners)}, failures={self.failures})"
