"""PURE. Positions in what a recorder has received, as it tells them to its clients, other recorders among them."""

from __future__ import annotations

import re
from typing import Final, NamedTuple

_POSITION: Final = re.compile(r"([^:]+):([0-9]{1,18})(?::[0-9]{1,18})?")
"""Behind the number may stand another one, which concerns the recorder alone that told the position."""


class Position(NamedTuple):
    """Everything up to the frame of this number, of one run of the recorder that has the connection to the exchange."""

    epoch: str
    """Names the run."""
    number: int


def parse_position(text: str) -> Position | None:
    """Read a position as it was told; None where it is none."""
    found = _POSITION.fullmatch(text)
    return Position(found[1], int(found[2])) if found is not None else None
