"""Durations and sizes as people write them: one reader for each, for every setting and every option."""

from __future__ import annotations

import re
from decimal import Decimal, InvalidOperation
from typing import Final

DURATION_UNITS: Final = {
    "ms": Decimal("0.001"),
    "s": Decimal(1),
    "m": Decimal(60),
    "h": Decimal(3600),
    "d": Decimal(86_400),
    "w": Decimal(604_800),
}
"""Seconds of each unit, from the shortest to the longest."""
_PART: Final = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,9})?)\s*([a-z]+)\s*")
_DURATION: Final = re.compile(rf"(?:{_PART.pattern})+")
_DIGITS_MAX: Final = 18

BINARY_UNITS: Final = {"KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}
DECIMAL_UNITS: Final = {"KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_LETTERS: Final = {unit[0]: size for unit, size in BINARY_UNITS.items()}
"""A letter alone is binary, as in systemd's units and in logrotate's files."""
_SIZES: Final = {
    unit.lower(): size for unit, size in {"": 1, "B": 1, **_LETTERS, **BINARY_UNITS, **DECIMAL_UNITS}.items()
}
_SIZE: Final = re.compile(r"([0-9]{1,19}(?:\.[0-9]{1,18})?)\s*([a-z]*)", re.IGNORECASE)


def read_duration(text: str, bare_unit: str = "s") -> Decimal:
    """Return the seconds of a duration such as `90s`, `1.5h` or `1h30m`; a number without a unit has `bare_unit`.

    Raise ValueError for any other text.
    """
    text = text.strip()
    parts = _PART.findall(text) if _DURATION.fullmatch(text) else [(_number(text), bare_unit)]
    units = [unit for _, unit in parts]
    if not DURATION_UNITS.keys() >= set(units) or len(set(units)) < len(units):
        raise ValueError("a duration has each unit once, out of ms, s, m, h, d, w")
    return sum((Decimal(number) * DURATION_UNITS[unit] for number, unit in parts), Decimal(0))


def _number(text: str) -> str:
    """Return a text that is a finite number, as it is. Raise ValueError for any other."""
    try:
        number = Decimal(text if text.isascii() else "")
    except InvalidOperation:
        raise ValueError("not a duration") from None
    # A huge exponent would become an integer of as many digits.
    if not number.is_finite() or abs(number.adjusted()) > _DIGITS_MAX:
        raise ValueError("not a duration")
    return text


def duration_text(secs: Decimal | float) -> str:
    """Return a duration with the longest unit of which it is a whole number: `90s`, `15m`, `1d`; exact from 1 ms on."""
    exact = Decimal(str(secs))
    for unit, size in reversed(DURATION_UNITS.items()):
        if unit != "w" and exact and exact % size == 0:
            return f"{int(exact / size)}{unit}"
    return f"{exact.normalize():f}s"


def read_size(text: str) -> Decimal:
    """Return the bytes of a size such as `1048576`, `64MiB`, `64M` or `1.5GB`. Raise ValueError for any other text."""
    match = _SIZE.fullmatch(text.strip())
    if match is None or match[2].lower() not in _SIZES:
        raise ValueError("not a size")
    return Decimal(match[1]) * _SIZES[match[2].lower()]


def exact_size_text(size_bytes: int) -> str:
    """Return the shortest text that `read_size` reads as exactly these bytes, and that names its unit in full."""
    units = {"": 1, **BINARY_UNITS, **DECIMAL_UNITS}
    return min(
        (f"{size_bytes // unit}{name}" for name, unit in units.items() if size_bytes % unit == 0), key=len
    )
