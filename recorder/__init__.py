"""Records Polygon.io (Massive.com) real-time market data into rotating NDJSON archives.

What programs use of it: `follow`, what it yields, and the errors by which it ends. docs/clients.md has examples.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from recorder.client.follower import Follower, follow
    from recorder.client.parts import Event, LeftOut, Lost
    from recorder.errors import KeyRefused, RecorderError, TlsFailed, TopicsRefused

__all__ = [
    "Event",
    "Follower",
    "KeyRefused",
    "LeftOut",
    "Lost",
    "RecorderError",
    "TlsFailed",
    "TopicsRefused",
    "follow",
]

_HOMES = {
    "recorder.client.follower": ("Follower", "follow"),
    "recorder.client.parts": ("Event", "LeftOut", "Lost"),
    "recorder.errors": ("KeyRefused", "RecorderError", "TlsFailed", "TopicsRefused"),
}


def __getattr__(name: str) -> object:
    """Import what a program asks for when it does: the commands start without it."""
    for home, names in _HOMES.items():
        if name in names:
            return getattr(import_module(home), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
