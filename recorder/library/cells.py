"""PURE. What one value of an event is in its column (polygon/typed_columns.py), however oddly it is spelled.

Whoever fills many cells at once says the same of values of the usual form, and leaves the others to these.
"""

from __future__ import annotations

import re
from decimal import MAX_EMAX, MIN_EMIN, Context, Decimal, InvalidOperation
from math import isfinite
from typing import Any, Final

import msgspec

from recorder.archive.record import UNREADABLE
from recorder.polygon.careful import MS_END, MS_MIN
from recorder.polygon.typed_columns import Shape

_NUMBER: Final = re.compile(r"-?(?:0|[1-9][0-9]*)(?P<rest>(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?)", re.ASCII)
_INTEGER_MIN: Final = -(1 << 63)
_INTEGER_END: Final = 1 << 63
_INTEGER_DIGITS_MAX: Final = 19
_US_END: Final = 100_000_000_000_000_000
_TIME_DIGITS_MAX: Final = 25
"""Of a time that is 64 bits of milliseconds, in nanoseconds."""


def value_of(raw: bytes, shape: Shape) -> Any:
    """Return a value of valid JSON as its column has it; None where it does not fit, or is not there."""
    try:
        match shape:
            case "text":
                return _text(raw)
            case "real":
                return real_of(number_text(raw))
            case "integer":
                return integer_of(number_text(raw))
            case "time":
                return time_ms_of(number_text(raw))
            case "integers" if raw.startswith(b"["):
                return _whole([integer_of(number_text(bytes(one))) for one in _decode_list(raw)])
            case "integers":
                return _whole([integer_of(number_text(raw))])
            case "levels":
                levels = [
                    _whole([real_of(number_text(bytes(one))) for one in level])
                    for level in _decode_lists(raw)
                ]
                return _whole(levels)
            case "flag":
                return {b"true": True, b"false": False}.get(raw)
    except UNREADABLE:
        return None


def number_text(raw: bytes) -> str:
    """Return how a number is spelled that a value is, or that is all of a string; what else there is fits no number."""
    return _text(raw) or ""


def real_of(text: str) -> float | None:
    """Return what a JSON number says, as a double."""
    match = _NUMBER.fullmatch(text)
    if match is None:
        return None
    number = float(text)
    # An integer has no zero with a sign.
    return (number if number or match["rest"] else 0.0) if isfinite(number) else None


def integer_of(text: str) -> int | None:
    """Return the same as an integer of 64 bits; it may be spelled 3.0 or 3e2."""
    number, context = _decimal(text)
    if number is None or (number and number.adjusted() >= _INTEGER_DIGITS_MAX):
        return None
    if number != number.to_integral_value(context=context):
        return None
    return fitting(int(number))


def time_ms_of(text: str) -> int | None:
    """Return it as a time in Unix milliseconds, its unit known by its magnitude; what is not positive is none."""
    number, context = _decimal(text)
    if number is None or number <= 0 or number.adjusted() > _TIME_DIGITS_MAX:
        return None
    if number < MS_MIN:
        number = number.scaleb(3, context)
    elif number >= MS_END:
        number = number.scaleb(-3 if number < _US_END else -6, context)
    return fitting(int(number)) or None


def fitting(number: int) -> int | None:
    """Return an integer that 64 bits hold, None for every other."""
    return number if _INTEGER_MIN <= number < _INTEGER_END else None


def _decimal(text: str) -> tuple[Decimal | None, Context]:
    """Return what a JSON number says exactly, and the context in which it stays exact."""
    context = Context(prec=len(text) + _TIME_DIGITS_MAX, Emin=MIN_EMIN, Emax=MAX_EMAX)
    try:
        return (Decimal(text) if _NUMBER.fullmatch(text) else None), context
    except InvalidOperation:  # its exponent is beyond all bounds
        return None, context


def _text(raw: bytes) -> str | None:
    if raw.startswith(b'"'):
        return str(_decode_text(raw))
    text = raw.decode()
    return text if _NUMBER.fullmatch(text) else None


def _whole(values: list[Any]) -> list[Any] | None:
    return None if None in values else values


_decode_text: Final = msgspec.json.Decoder(str).decode
_decode_list: Final = msgspec.json.Decoder(list[msgspec.Raw]).decode
_decode_lists: Final = msgspec.json.Decoder(list[list[msgspec.Raw]]).decode
