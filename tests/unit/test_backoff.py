"""Waits before reconnecting: how they grow, and how sessions that brought data make them short again."""

from __future__ import annotations

from recorder.backoff import Backoff


def longest(initial_secs: float = 1.0, max_secs: float = 60.0) -> Backoff:
    """Return waits without jitter: each as long as it can be."""
    return Backoff(initial_secs, max_secs, lambda low, high: high)


def test_waits_double_up_to_their_bound() -> None:
    """And stay there."""
    backoff = longest(max_secs=10)
    assert [backoff.next_secs() for _ in range(6)] == [1, 2, 4, 8, 10, 10]
    backoff.reset()
    assert backoff.next_secs() == 1


def test_a_session_that_brought_data_halves_the_wait() -> None:
    """Whatever its length; below the first wait there is none."""
    backoff = longest()
    assert [backoff.next_secs() for _ in range(5)][-1] == 16
    backoff.ease()
    assert backoff.next_secs() == 8
    waits = []
    for _ in range(5):
        backoff.ease()
        waits.append(backoff.next_secs())
    assert waits == [4, 2, 1, 1, 1]
