"""Open files: which numbers are not for clients."""

from __future__ import annotations

import resource
import sys

import pytest

from recorder import descriptors


@pytest.mark.parametrize(
    ("limit", "numbers"),
    [
        (10_256, (10_192, 10_224)),
        (192, (128, 160)),
        (40, (27, 34)),
        (3, (2, 3)),
        (0, (0, 0)),
        (resource.RLIM_INFINITY, (sys.maxsize, sys.maxsize)),
    ],
)
def test_the_last_numbers_below_the_limit_are_not_for_clients(
    monkeypatch: pytest.MonkeyPatch, limit: int, numbers: tuple[int, int]
) -> None:
    """At most 64, a third of a small limit; half of them may be used to say so to a client."""
    monkeypatch.setattr(resource, "getrlimit", lambda _: (limit, limit))
    assert descriptors.reserved() == numbers
