"""Makes the sections of `/status` from what the stats classes declare."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from inspect import get_annotations
from typing import Annotated, Any, Final, TypeVar, cast, get_origin, get_type_hints

import msgspec

from recorder.stats import Declaration, declarations

T = TypeVar("T")

_TEXT_CHARS_MAX: Final = 500
"""Of texts from outside: the wire names channels, and the exchange words its refusals."""
_DIGITS: Final = 6
"""Of fractions: microseconds."""


def section(kind: type[T]) -> type[T]:
    """Turn a subclass of a stats class into a structure of `/status`.

    It has the fields that the stats class declares as shown, and those that the subclass annotates, which are worked
    out when somebody looks. It has no others, and no methods; that it is the subclass is for the type checker, so that
    whoever reads a snapshot is held to its fields.
    """
    hints = get_type_hints(kind, include_extras=True)
    declared = {
        name: Annotated[_shown_type(hints[name]), _meta(declaration)]
        for name, declaration in declarations(kind.__mro__[1]).items()
        if declaration.shown
    }
    worked_out = {name: hints[name] for name in get_annotations(kind)}
    made = msgspec.defstruct(
        kind.__name__,
        [*{**declared, **worked_out}.items()],
        frozen=True,
        kw_only=True,
        module=kind.__module__,
        namespace={"__doc__": kind.__doc__},
    )
    return cast(type[T], made)


def show(kind: type[T], stats: Any, **worked_out: Any) -> T:
    """Return a section with what `stats` holds now, and with the fields that the section adds to it."""
    names: tuple[str, ...] = cast(Any, kind).__struct_fields__
    held = {name: plain(getattr(stats, name)) for name in names if name not in worked_out}
    return kind(**held, **worked_out)


def plain(value: Any) -> Any:
    """Return a value as `/status` has it: texts of bounded length, rounded fractions, copies of what may change."""
    match value:
        case str():
            return value if len(value) <= _TEXT_CHARS_MAX else f"{value[:_TEXT_CHARS_MAX]}…"
        case float():
            return round(value, _DIGITS)
        case Mapping():
            return dict(value)
        case tuple():
            return list(value)
    return value


def _shown_type(hint: Any) -> Any:
    if get_origin(hint) in (Counter, dict):
        return dict[str, int]
    return list[str] if get_origin(hint) is tuple else hint


def _meta(declaration: Declaration) -> msgspec.Meta:
    unit = {"unit": declaration.unit} if declaration.unit else None
    return msgspec.Meta(description=declaration.about, extra_json_schema=unit)
