"""The clock of a replay: where it stands in the time of its data, by one anchor instead of a sleep for each gap."""

from __future__ import annotations

from collections.abc import Callable


class Pace:
    """Maps time that passes here to time of the data, nanoseconds both.

    An anchor says which time of the data it was at one moment; from there both run on, the data's `rate` times as fast.
    Whatever changes the pace sets a new anchor, so that no error adds up. `rate` None stands for as fast as possible: then
    everything is due.
    """

    def __init__(self, monotonic_ns: Callable[[], int], rate: float | None = 1.0) -> None:
        """The clock stands still at 0 until `seek` and `play`."""
        self._monotonic_ns = monotonic_ns
        self._rate = rate
        self._is_paused = True
        self._anchor_ns = monotonic_ns()
        self._data_ns = 0

    @property
    def rate(self) -> float | None:
        """How many times faster than it was recorded; None: as fast as clients take it."""
        return self._rate

    @property
    def is_paused(self) -> bool:
        """Whether the data's time stands still."""
        return self._is_paused

    @property
    def position_ns(self) -> int:
        """The data's time now. While there is no limit to the rate, it is where `reach` has put it."""
        if self._is_paused or self._rate is None:
            return self._data_ns
        return self._data_ns + int((self._monotonic_ns() - self._anchor_ns) * self._rate)

    def is_due(self, data_ns: int) -> bool:
        """Return whether the data's time has come to a moment."""
        return not self._is_paused and (self._rate is None or self.position_ns >= data_ns)

    def wait_secs(self, data_ns: int) -> float | None:
        """Return how long it takes until a moment is due; None: for ever, at this pace."""
        if self._is_paused:
            return None
        if self._rate is None:
            return 0.0
        due_ns = self._anchor_ns + (data_ns - self._data_ns) / self._rate
        return max(0.0, (due_ns - self._monotonic_ns()) / 1e9)

    def play(self) -> None:
        """Let the data's time run."""
        self._anchor_at(self.position_ns)
        self._is_paused = False

    def pause(self) -> None:
        """Let the data's time stand still."""
        self._anchor_at(self.position_ns)
        self._is_paused = True

    def set_rate(self, rate: float | None) -> None:
        """Go on from here, this many times faster than it was recorded; None: as fast as possible."""
        self._anchor_at(self.position_ns)
        self._rate = rate

    def seek(self, data_ns: int) -> None:
        """Go on from a moment of the data, earlier or later."""
        self._anchor_at(data_ns)

    def reach(self, data_ns: int) -> None:
        """Note that everything until a moment has been played, where the rate has no limit or time stands still."""
        if self._is_paused or self._rate is None:
            self._anchor_at(max(self._data_ns, data_ns))

    def _anchor_at(self, data_ns: int) -> None:
        self._anchor_ns = self._monotonic_ns()
        self._data_ns = data_ns

    def __repr__(self) -> str:
        rate = "max" if self._rate is None else f"{self._rate:g}x"
        return f"Pace({rate}{', paused' if self._is_paused else ''}, at {self.position_ns // 1_000_000} ms)"
