"""Open files: which numbers each kind of connection may use."""

from __future__ import annotations

import resource
import sys

import pytest

from recorder import descriptors


@pytest.mark.parametrize(
    ("limit", "numbers"),
    [
        (10_256, (10_192, 10_224, 10_235)),
        (192, (128, 160, 171)),
        (40, (27, 34, 36)),
        (3, (2, 3, 3)),
        (0, (0, 0, 0)),
        (resource.RLIM_INFINITY, (sys.maxsize, sys.maxsize, sys.maxsize)),
    ],
)
def test_the_last_numbers_below_the_limit_are_not_for_clients(
    monkeypatch: pytest.MonkeyPatch, limit: int, numbers: tuple[int, int, int]
) -> None:
    """At most 64, a third of a small limit: half to tell clients so, a sixth for the ops server, a third for files."""
    monkeypatch.setattr(resource, "getrlimit", lambda _: (limit, limit))
    assert descriptors.fd_budget() == numbers
