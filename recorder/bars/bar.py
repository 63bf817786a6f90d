"""A closed bar."""

from __future__ import annotations

import msgspec


class Bar(msgspec.Struct, frozen=True, gc=False):
    """A closed bar. `data` is what clients get: one compact JSON object; `end_ms` is exclusive."""

    interval_ms: int
    symbol: str
    start_ms: int
    end_ms: int
    data: bytes
    rev: int = 0
    """How often the bar was sent before, where late trades amend it; 0 the first time."""
