"""Open files: which numbers each kind of connection may use."""

from __future__ import annotations

import gc
import os
import resource
import socket
import sys
from pathlib import Path

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


ADDRESS = (socket.AF_INET, socket.SOCK_STREAM, 0, "", ("127.0.0.1", 0))


@pytest.mark.parametrize("end", ["close", "collect"])
def test_a_socket_whose_descriptor_was_closed_elsewhere_closes_nothing(tmp_path: Path, end: str) -> None:
    """The number may be that of a file by then, which stays open."""
    made = descriptors.own_socket(ADDRESS)
    number = made.fileno()
    os.close(number)
    with (tmp_path / "polygon.ndjson").open("wb") as file:
        assert file.fileno() == number
        if end == "close":
            made.close()
        del made
        gc.collect()
        file.write(b"a record")
        file.flush()


def test_a_socket_closes_its_own_descriptor() -> None:
    """As any does: when it is told to, and else, with a warning, when it is collected."""
    made = descriptors.own_socket(ADDRESS)
    number = made.fileno()
    made.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(number)
    made = descriptors.own_socket(ADDRESS)
    number = made.fileno()
    with pytest.warns(ResourceWarning, match="unclosed"):
        del made
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(number)
