"""How the text of a variable becomes its value: what a kind is, and the kinds of numbers, words and lists of them."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from itertools import pairwise
from typing import Any, Final, TypeVar

from recorder.plugins import installed

_N = TypeVar("_N", int, float)

_WHOLE: Final = re.compile(r"[+-]?[0-9]{1,18}")
_NUMBER: Final = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)(e[+-]?[0-9]{1,3})?", re.IGNORECASE)
_SIZE: Final = re.compile(r"([0-9]{1,19}(?:\.[0-9]{1,18})?)\s*([a-z]*)", re.IGNORECASE)
_DECIMAL: Final = {"KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_BINARY: Final = {"KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}
_UNITS: Final = {name.lower(): size for name, size in {"": 1, "B": 1, **_DECIMAL, **_BINARY}.items()}
_FLAGS: Final = {
    **dict.fromkeys(("1", "true", "yes", "on"), True),
    **dict.fromkeys(("0", "false", "no", "off"), False),
}


class BadValueError(ValueError):
    """A value that cannot be used; the message says what is wrong with it, or what must be there instead."""


@dataclass(frozen=True, slots=True)
class Kind:
    """One sort of value.

    `read` takes the text of the variable and raises ValueError if it cannot be used. `show` returns a text that `read`
    takes. What is not a text (a command's option) is shown and then read, so that bounds hold for it too.
    """

    read: Callable[[str], object]
    allowed: str
    show: Callable[[Any], str] = str
    takes_empty: bool = False
    """Whether an empty text is a value; for all others it means that the variable is not set."""
    secret: bool = False

    def value(self, given: object) -> object:
        """Return the value of what was given. Raise BadValueError."""
        assert isinstance(given, str) or not self.secret, "a mask would be read as the secret"
        text = given.strip() if isinstance(given, str) else self.show(given)
        try:
            return self.read(text)
        except BadValueError:
            raise
        except ValueError as error:
            raise BadValueError(f"must be {self.allowed}") from error


def flag() -> Kind:
    """Yes or no."""

    def read(text: str) -> bool:
        if text.lower() not in _FLAGS:
            raise ValueError
        return _FLAGS[text.lower()]

    return Kind(read, "1, true, yes or on; or 0, false, no or off", lambda value: str(value).lower())


def whole(at_least: int, at_most: int | None = None) -> Kind:
    """A whole number."""

    def read(text: str) -> int:
        if not _WHOLE.fullmatch(text):
            raise ValueError
        return _within(int(text), at_least, at_most)

    return Kind(read, f"a whole number {_span(at_least, at_most)}")


def seconds(at_least: float, at_most: float) -> Kind:
    """A time, fractions allowed."""

    def read(text: str) -> float:
        if not _NUMBER.fullmatch(text):
            raise ValueError
        return _within(float(text), at_least, at_most)

    return Kind(read, f"a number of seconds {_span(at_least, at_most)}", _show_number)


def size(at_least: int = 1) -> Kind:
    """A number of bytes: KB, MB, GB, TB are powers of 1000, KiB, MiB, GiB, TiB powers of 1024."""

    def read(text: str) -> int:
        match = _SIZE.fullmatch(text)
        if match is None:
            raise ValueError
        number, unit = match.groups()
        if unit.lower() not in _UNITS:
            raise ValueError
        count = Decimal(number) * _UNITS[unit.lower()]
        if count != int(count):
            raise BadValueError("must be a whole number of bytes")
        return _within(int(count), at_least, None)

    floor = f", at least {_show_size(at_least)}" if at_least > 1 else ""
    return Kind(read, f"a size such as 1048576, 64MiB or 1GB{floor}", _show_size)


def choice(*allowed: str, plugins: str = "") -> Kind:
    """One of a few words, any case, or one that installed packages provide under the entry points `plugins`."""

    def read(text: str) -> str:
        word = text.lower()
        _require_known([word], allowed, plugins)
        return word

    return Kind(read, one_of(allowed) + (_PROVIDED if plugins else ""))


def choices(allowed: Sequence[str], alone: str = "", plugins: str = "") -> Kind:
    """Several of a few words, each once, or those of `plugins`; the word `alone` only by itself."""

    def read(text: str) -> tuple[str, ...]:
        words = tuple(item.lower() for item in items_in(text))
        if not words:
            raise ValueError
        _require_known(words, allowed, plugins)
        if len(set(words)) < len(words):
            raise BadValueError("names one twice")
        if alone in words and len(words) > 1:
            raise BadValueError(f"{alone} excludes the others")
        return words

    provided = _PROVIDED if plugins else ""
    return Kind(read, f"one or several of {', '.join(allowed)}{provided}, comma-separated", ",".join)


_PROVIDED: Final = ", or what an installed package provides"


def _require_known(words: Sequence[str], allowed: Sequence[str], group: str) -> None:
    """Raise where a word is not known; packages are looked at only if it has to be one of theirs."""
    unknown = [word for word in words if word not in allowed]
    if unknown and not group:
        raise ValueError
    provided = installed(group) if unknown else ()
    wrong = [word for word in unknown if word not in provided]
    if wrong:
        known = ", ".join(dict.fromkeys([*allowed, *provided]))
        raise BadValueError(f"{wrong[0]} is not known; known are {known}")


def buckets() -> Kind:
    """The upper bounds of a histogram."""

    def read(text: str) -> tuple[float, ...]:
        items = items_in(text)
        if not items or not all(map(_NUMBER.fullmatch, items)):
            raise ValueError
        bounds = tuple(map(float, items))
        if bounds[0] <= 0 or math.isinf(bounds[-1]) or any(a >= b for a, b in pairwise(bounds)):
            raise ValueError
        return bounds

    return Kind(
        read,
        "positive numbers of seconds, each greater than the one before, comma-separated",
        lambda bounds: ",".join(map(_show_number, bounds)),
    )


def each_of(read_one: Callable[[str], str], allowed: str) -> Kind:
    """Several of what `read_one` reads, each kept once, in order; all that is wrong with them is said at once."""

    def read(text: str) -> tuple[str, ...]:
        found: list[str] = []
        wrong: list[str] = []
        for item in items_in(text):
            try:
                found.append(read_one(item))
            except ValueError as error:
                wrong.append(str(error))
        if wrong:
            raise BadValueError("; ".join(wrong))
        if not found:
            raise ValueError
        return tuple(dict.fromkeys(found))

    return Kind(read, f"{allowed}, comma-separated", ",".join)


def ascii_word(text: str) -> str:
    """Return a text of printable ASCII without spaces. Raise ValueError for any other."""
    if not text.isascii() or not text.isprintable() or " " in text:
        raise ValueError
    return text


def items_in(text: str) -> list[str]:
    """Return the items of a comma-separated list."""
    return [item.strip() for item in text.split(",") if item.strip()]


def one_of(words: Iterable[str]) -> str:
    """Return the words as an enumeration: `a, b or c`."""
    *first, last = words
    return f"{', '.join(first)} or {last}" if first else last


def _show_number(value: float) -> str:
    return repr(float(value)).removesuffix(".0")


def _show_size(value: int) -> str:
    units = {"": 1, **_BINARY, **_DECIMAL}
    return min((f"{value // unit}{name}" for name, unit in units.items() if value % unit == 0), key=len)


def _within(number: _N, at_least: float, at_most: float | None) -> _N:
    if number < at_least or (at_most is not None and number > at_most):
        raise ValueError
    return number


def _span(at_least: float, at_most: float | None) -> str:
    low = _show_number(at_least)
    return f"of {low} or more" if at_most is None else f"from {low} to {_show_number(at_most)}"
