"""PURE. Positions in what a recorder has received, as it tells them to its clients, other recorders among them."""

from __future__ import annotations

import re
from typing import Final, NamedTuple

_POSITION: Final = re.compile(r"([^:]+):([0-9]{1,18})(?::[0-9]{1,18})?")
"""Behind the number may stand another one, which concerns the recorder alone that told the position."""
_NUMBER: Final = "(0|[1-9][0-9]{0,17})"
_TOLD: Final = re.compile(
    f"([^:]{{1,64}}):(?:{_NUMBER}(?::{_NUMBER})?|:{_NUMBER})(?:@[a-z0-9_=,]+)?", re.DOTALL
)
"""What may stand behind is about bars (`bar_request`)."""


class Position(NamedTuple):
    """Everything up to the frame of this number, of one run of the recorder that has the connection to the exchange."""

    epoch: str
    """Names the run."""
    number: int


class Told(NamedTuple):
    """A position, all of it: `EPOCH:NUMBER`, `EPOCH:NUMBER:RECORD`, or `EPOCH::RECORD` of what comes from an archive."""

    epoch: str
    number: int | None
    record: int | None

    @property
    def text(self) -> str:
        """The position as it was told."""
        number = "" if self.number is None else self.number
        return f"{self.epoch}:{number}" if self.record is None else f"{self.epoch}:{number}:{self.record}"


def parse_position(text: str) -> Position | None:
    """Read a position as it was told; None where it is none."""
    found = _POSITION.fullmatch(text)
    return Position(found[1], int(found[2])) if found is not None else None


def parse_told(text: str) -> Told | None:
    """Read all of a position as it was told; None where it is none."""
    found = _TOLD.fullmatch(text)
    if found is None:
        return None
    epoch, number, record, record_alone = found.groups()
    record = record or record_alone
    return Told(epoch, None if number is None else int(number), None if record is None else int(record))
