"""How long to wait before the next attempt to connect: a generator, so that the rule is in one place."""

from __future__ import annotations

from collections.abc import Callable, Iterator

STABLE_SECS = 60.0
"""A session that lasts this long resets the backoff."""
LIMITED_SECS_MIN = 60.0
"""The least wait after the exchange said that the key has too many connections, or refused it.

A new connection ends the older one of the same key. Two recorders that reconnect at once would go on killing
each other's session.
"""
LIMITED_SECS_MAX = 900.0


def full_jitter(
    initial_secs: float, max_secs: float, uniform: Callable[[float, float], float]
) -> Iterator[float]:
    """Yield waits in seconds, each drawn from zero to a bound that doubles from `initial_secs` up to `max_secs`.

    Full jitter, as in "Exponential Backoff And Jitter" (AWS Architecture Blog, 2015): many recorders that lost
    the same exchange at the same moment do not come back at the same moment.
    """
    bound = initial_secs
    while True:
        yield uniform(0.0, min(bound, max_secs))
        bound = min(bound * 2, max_secs)


class Backoff:
    """Waits before reconnecting, with full jitter: the bound doubles with each, and falls with each good session."""

    def __init__(
        self, initial_secs: float, max_secs: float, uniform: Callable[[float, float], float]
    ) -> None:
        self._initial_secs = initial_secs
        self._max_secs = max_secs
        self._uniform = uniform
        self._bound_secs = initial_secs

    def next_secs(self) -> float:
        """Return the next wait."""
        bound_secs = min(self._bound_secs, self._max_secs)
        self._bound_secs = min(bound_secs * 2, self._max_secs)
        return self._uniform(0.0, bound_secs)

    def ease(self) -> None:
        """Let the next bound be half of the last one, which was doubled since: a session brought data."""
        self._bound_secs = max(self._initial_secs, self._bound_secs / 4)

    def reset(self) -> None:
        """Begin again with the first wait."""
        self._bound_secs = self._initial_secs

    def __repr__(self) -> str:
        return f"Backoff(below {self._bound_secs:g} s)"


def limited(uniform: Callable[[float, float], float]) -> Iterator[float]:
    """Yield waits of `LIMITED_SECS_MIN` and more, doubling up to `LIMITED_SECS_MAX`, with up to half as much again."""
    bound = LIMITED_SECS_MIN
    while True:
        yield uniform(bound, bound * 1.5)
        bound = min(bound * 2, LIMITED_SECS_MAX)
