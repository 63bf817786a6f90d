"""Makes the sections of `/status` from what the stats classes declare."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from inspect import get_annotations
from typing import Annotated, Any, Final, Literal, TypeVar, cast, get_origin, get_type_hints

import msgspec

from recorder.stats import Declaration, declarations
from recorder.words import shortened

T = TypeVar("T")

_TEXT_CHARS_MAX: Final = 500
"""Of texts from outside: the wire names channels, and the exchange words its refusals."""
_DIGITS: Final = 6
"""Of fractions: microseconds."""


_held: dict[type, tuple[tuple[str, Callable[[Any], Any] | None], ...]] = {}
"""Of each section the fields that are copied from the stats, and what makes of a value the one that is shown."""


def section(kind: type[T]) -> type[T]:
    """Turn a subclass of a stats class into a structure of `/status`.

    It has the fields that the stats class declares as shown, and those that the subclass annotates, which are worked
    out when somebody looks. It has no others, and no methods; that it is the subclass is for the type checker, so that
    whoever reads a snapshot is held to its fields.
    """
    hints = get_type_hints(kind, include_extras=True)
    worked_out = {name: hints[name] for name in get_annotations(kind)}
    held = {
        name: declaration
        for name, declaration in declarations(kind.__mro__[1]).items()
        if declaration.shown and name not in worked_out
    }
    made = msgspec.defstruct(
        kind.__name__,
        [
            *((name, Annotated[_shown_type(hints[name]), _meta(each)]) for name, each in held.items()),
            *worked_out.items(),
        ],
        frozen=True,
        kw_only=True,
        module=kind.__module__,
        namespace={"__doc__": kind.__doc__},
    )
    _held[made] = tuple((name, _MAKE_PLAIN.get(get_origin(hints[name]) or hints[name])) for name in held)
    return cast(type[T], made)


def show(kind: type[T], stats: Any, **worked_out: Any) -> T:
    """Return a section with what `stats` holds now, and with the fields that the section adds to it."""
    held = {
        name: getattr(stats, name) if make is None else make(getattr(stats, name))
        for name, make in _held[kind]
    }
    return kind(**held, **worked_out)


def plain(value: Any) -> Any:
    """Return a value as `/status` has it: texts of bounded length, rounded fractions, copies of what may change."""
    make = _MAKE_PLAIN.get(type(value))
    return value if make is None else make(value)


def _cut(text: str) -> str:
    return shortened(text, _TEXT_CHARS_MAX)


_MAKE_PLAIN: Final[Mapping[Any, Callable[[Any], Any]]] = {
    str: _cut,
    float: lambda fraction: round(fraction, _DIGITS),
    Counter: dict,
    dict: dict,
    tuple: list,
}


def _shown_type(hint: Any) -> Any:
    shown: Mapping[Any, Any] = {Counter: dict[str, int], dict: dict[str, int], tuple: list[str], Literal: str}
    return shown.get(get_origin(hint), hint)


def _meta(declaration: Declaration) -> msgspec.Meta:
    unit = {"unit": declaration.unit} if declaration.unit else None
    return msgspec.Meta(description=declaration.about, extra_json_schema=unit)
