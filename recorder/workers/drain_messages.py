"""PURE. What the recording process says to its workers where clients are to go to another recorder."""

from __future__ import annotations

import msgspec


class Refuse(msgspec.Struct, tag=True, frozen=True):
    """New clients are answered with 503 from now on; or, where `new` is false, taken again."""

    new: bool


class Dismiss(msgspec.Struct, tag=True, frozen=True):
    """Every client is to be closed with 1012, the last of them in this time."""

    secs: float
