"""What the columns of a table have to say of an event, by the standard library alone: one cell at a time, slow and plain."""

from __future__ import annotations

import json
import re
from fractions import Fraction
from typing import Any

from recorder.polygon.typed_columns import PAYLOAD_COLUMNS, Shape

NUMBER = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]+)?", re.ASCII)


class Spelled(str):
    """A number as it is spelled."""


def cells_of(code: str, payload: bytes) -> dict[str, Any]:
    """Return what each column of a channel says of an event; None for null."""
    event = json.loads(payload, parse_int=Spelled, parse_float=Spelled)
    return {
        column.name: cell_of(event.get(column.field), column.shape)
        for column in PAYLOAD_COLUMNS.get(code, ())
    }


def cell_of(value: Any, shape: Shape) -> Any:
    """Return what one value is in a column of a shape."""
    match shape:
        case "text":
            return value if isinstance(value, str) and is_unicode(value) else None
        case "real":
            return real(value)
        case "integer":
            return integer(value)
        case "time":
            return time_ms(value)
        case "integers":
            return every([integer(one) for one in (value if isinstance(value, list) else [value])])
        case "flag":
            return value if isinstance(value, bool) else None
        case "levels":
            if not isinstance(value, list) or not all(isinstance(level, list) for level in value):
                return None
            return every([every([real(one) for one in level]) for level in value])


def real(value: Any) -> float | None:
    """Return the double that is nearest."""
    if not is_number(value):
        return None
    number = float(json.loads(value)) if abs(exact(value)) < 2**1024 else float(value)
    return number if abs(number) != float("inf") else None


def integer(value: Any) -> int | None:
    """Return a whole number of 64 bits."""
    whole = exact(value) if is_number(value) else None
    return int(whole) if whole is not None and whole.denominator == 1 and -(2**63) <= whole < 2**63 else None


def time_ms(value: Any) -> int | None:
    """Return Unix ms, its unit known by its magnitude."""
    if not is_number(value):
        return None
    time = exact(value)
    if time < 10**11:
        time *= 1000
    elif time >= 10**17:
        time /= 10**6
    elif time >= 10**14:
        time /= 1000
    ms = time.numerator // time.denominator
    return ms if 0 < ms < 2**63 else None


def exact(value: str) -> Fraction:
    """Return what a number says, digit by digit."""
    return Fraction(str(value))


def is_number(value: Any) -> bool:
    """Whether it is a number, or a string that says one and nothing else."""
    return isinstance(value, str) and NUMBER.fullmatch(value) is not None


def is_unicode(text: str) -> bool:
    """Whether UTF-8 has it: half a character that is written as an escape is none."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def every(values: list[Any]) -> list[Any] | None:
    """Return the list if nothing in it is missing."""
    return None if None in values else values
