"""What pydantic does not know of how values are written: spellings with their words, sizes with units, lists."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from itertools import pairwise
from typing import Annotated, Any, Final

from pydantic import BeforeValidator, Field, GetCoreSchemaHandler
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from recorder.plugins import installed
from recorder.units import duration_text, exact_size_text, read_duration, read_size


class BadValueError(ValueError):
    """A value that cannot be used; the message says what is wrong with it, or what must be there instead."""


def shown(value: object) -> str:
    """Return a value as it is written."""
    match value:
        case bool():
            return str(value).lower()
        case float():
            return repr(value).removesuffix(".0")
        case tuple():
            return ",".join(map(shown, value))
        case _:
            return str(value)


@dataclass(frozen=True, slots=True)
class Spelling:
    """How a value is written; stands in the `Annotated` type of a field.

    `read` takes a text and raises ValueError if it cannot be used: BadValueError to say what is wrong with it, any other
    where `allowed` says enough. `show` returns a text that `read` takes. What is not a text is left to pydantic.
    """

    read: Callable[[str], object]
    allowed: str
    show: Callable[[Any], str] = shown
    takes_empty: bool = False
    """Whether an empty text is a value; for all others it means that the variable is not set."""
    show_bound: Callable[[float], str] | None = None
    """How the docs write the bounds of a field; None: `allowed` says all."""

    def value(self, text: str) -> object:
        """Return what the text means. Raise BadValueError."""
        try:
            return self.read(text)
        except BadValueError:
            raise
        except ValueError as error:
            raise BadValueError(f"must be {self.allowed}") from error

    def __get_pydantic_core_schema__(self, source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        def validate(given: object) -> object:
            try:
                return self.read(given) if isinstance(given, str) else given
            except BadValueError as error:
                raise PydanticCustomError("bad_value", "{words}", {"words": str(error)}) from error

        return core_schema.no_info_before_validator_function(validate, handler(source))


ANY_CASE: Final = BeforeValidator(lambda given: given.lower() if isinstance(given, str) else given)
"""For a Literal of words in lower case."""


def _whole(number: Decimal, noun: str) -> int:
    if number != int(number):
        raise BadValueError(f"must be a whole number of {noun}")
    return int(number)


SIZE: Final = Spelling(
    lambda text: _whole(read_size(text), "bytes"),
    "a size such as 1048576, 64MiB, 64M or 1GB",
    exact_size_text,
    show_bound=lambda size: exact_size_text(int(size)),
)
"""A number of bytes. It shows in the unit that makes its exact text shortest."""

_SECONDS: Final = "a duration such as 90, 90s, 15m or 1h (without a unit: seconds)"
DURATION: Final = Spelling(lambda text: float(read_duration(text)), _SECONDS, show_bound=duration_text)
"""Seconds. It shows as a number of them."""
WHOLE_DURATION: Final = Spelling(
    lambda text: _whole(read_duration(text), "seconds"), _SECONDS, show_bound=duration_text
)
"""Whole seconds."""
MILLIS: Final = Spelling(
    lambda text: _whole(read_duration(text, "ms") * 1000, "milliseconds"),
    "a duration such as 500, 500ms, 2s or 1m (without a unit: milliseconds)",
    show_bound=lambda millis: duration_text(Decimal(str(millis)) / 1000),
)
"""Whole milliseconds. It shows as a number of them."""

DAY_SECS: Final = 86_400
Size = Annotated[int, SIZE, Field(ge=1)]
Seconds = Annotated[float, DURATION, Field(ge=0, le=DAY_SECS)]
Timeout = Annotated[float, DURATION, Field(ge=0.01, le=DAY_SECS)]
Backoff = Annotated[float, DURATION, Field(ge=0.001, le=DAY_SECS)]
WholeSeconds = Annotated[int, WHOLE_DURATION, Field(ge=1)]
Millis = Annotated[int, MILLIS, Field(ge=0, le=1000 * DAY_SECS)]
PositiveMillis = Annotated[int, MILLIS, Field(ge=1, le=1000 * DAY_SECS)]
Count = Annotated[int, Field(ge=1, le=1_000_000)]
Batches = Annotated[int, Field(ge=1, le=10_000_000)]
Many = Annotated[int, Field(ge=1, le=1_000_000_000)]


def word_of(allowed: Sequence[str], plugins: str) -> Spelling:
    """One of a few words, any case, or one that installed packages provide under the entry points `plugins`."""

    def read(text: str) -> str:
        _require_known([text.lower()], allowed, plugins)
        return text.lower()

    return Spelling(read, one_of(allowed) + _PROVIDED)


def choices(allowed: Sequence[str], alone: str = "", plugins: str = "") -> Spelling:
    """Several of a few words, each once, or those of `plugins`; the word `alone` only by itself."""

    def read(text: str) -> tuple[str, ...]:
        words = tuple(item.lower() for item in items_in(text))
        if not words:
            raise ValueError
        _require_known(words, allowed, plugins)
        if len(set(words)) < len(words):
            raise BadValueError("names a value twice")
        if alone in words and len(words) > 1:
            raise BadValueError(f"{alone} excludes the others")
        return words

    provided = _PROVIDED if plugins else ""
    return Spelling(read, f"one or several of {', '.join(allowed)}{provided}, comma-separated")


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


def each_of(read_one: Callable[[str], str], allowed: str) -> Spelling:
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

    return Spelling(read, f"{allowed}, comma-separated")


def _read_buckets(text: str) -> tuple[float, ...]:
    bounds = tuple(float(read_duration(item)) for item in items_in(text))
    if (
        not bounds
        or not bounds[0] > 0
        or math.isinf(bounds[-1])
        or not all(a < b for a, b in pairwise(bounds))
    ):
        raise ValueError
    return bounds


Buckets = Annotated[
    tuple[float, ...],
    Spelling(
        _read_buckets,
        "positive durations such as 0.5, 500ms or 1m (without a unit: seconds), "
        "each greater than the one before, comma-separated",
    ),
]
"""The upper bounds of a histogram."""


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
