"""Finds a place in plain lines without reading those before it: records of one file stand in the order of their numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import BinaryIO, Final

import msgspec

from recorder.archive.record import UNREADABLE, RecordHeader

NEAR_BYTES: Final = 1 << 20
"""A place is found up to so many bytes: reading these costs less than looking further."""
_LOOK_BYTES: Final = 1 << 16
"""What is read at once where a line begin is looked for."""
_LOOKS_MAX: Final = 64
"""More are not needed to halve any file; a file that is altered meanwhile must not be looked at for ever."""


def bytes_before(
    file: BinaryIO, offset: int, size_bytes: int, is_before: Callable[[RecordHeader], bool]
) -> int:
    """Return how many bytes behind `offset` can be left out: whole lines, all of whose records are `is_before`.

    `is_before` must hold for records up to some place, and for none behind it. What cannot be read as a record is never
    left out. Raise `OSError` where the file cannot be read.
    """
    low, high = 0, size_bytes
    for _ in range(_LOOKS_MAX):
        if high - low <= NEAR_BYTES:
            break
        middle = (low + high) // 2
        file.seek(offset + middle)
        look = file.read(min(_LOOK_BYTES, high - middle))
        begin = look.find(b"\n") + 1
        end = look.find(b"\n", begin)
        if not begin or end < 0:
            high = middle  # a line that is longer than a look
            continue
        try:
            header = msgspec.json.decode(look[begin:end], type=RecordHeader)
        except UNREADABLE:
            return 0
        if is_before(header):
            low = middle + begin
        else:
            high = middle
    return low
