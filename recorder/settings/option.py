"""How a section declares its variables, and what the loader and the docs know of each: all of it from its field."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache, reduce
from itertools import pairwise
from typing import Any, ClassVar, Literal, cast, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field
from pydantic.fields import FieldInfo

from recorder import log
from recorder.settings.kinds import Spelling, one_of, shown


class Section(BaseModel):
    """What one part is told. Fields that a variable sets are declared with `option`."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        validate_by_name=True,
        validate_by_alias=True,
        hide_input_in_errors=True,
    )
    group: ClassVar[str] = ""

    def __init_subclass__(cls, group: str = "", **config: Any) -> None:
        """Let `group` be the chapter of the docs."""
        super().__init_subclass__(**config)
        cls.group = group or cls.group


def option(
    variable: str,
    default: Any,
    *,
    meaning: str | None = None,
    group: str = "",
    default_text: str = "",
    secret: bool = False,
    **bounds: float,
) -> Any:
    """Declare the field of a section that a variable sets. Its docstring is what the docs say of the variable.

    `meaning` takes the place of a docstring that must be computed. `group` is the chapter of the docs if it is not that
    of the section, `default_text` what they say in place of the default. `bounds` are pydantic's `ge` and `le`.
    """
    extra: dict[str, Any] = {"group": group, "default_text": default_text, "secret": secret}
    return Field(
        default,
        validation_alias=variable,
        description=meaning,
        repr=not secret,
        json_schema_extra=extra,
        **cast("dict[str, Any]", bounds),
    )


def same_as(variable: str, default: Any) -> Any:
    """Declare a field that has the value of a variable of another section. Its type must be the same."""
    return Field(default, validation_alias=variable)


@dataclass(frozen=True, slots=True)
class Option:
    """One variable, as its field declares it."""

    variable: str
    group: str
    """The chapter of the docs."""
    default: Any
    field: str
    section: type[Section]
    """Where it is declared, under the name `field`."""
    allowed: str
    """What it may be, in words."""
    spelling: Spelling | None
    """None: as pydantic reads it."""
    default_text: str
    secret: bool

    @property
    def meaning(self) -> str:
        """What it is for. Only the docs ask, so the source is not read at each start."""
        said = self.section.model_fields[self.field].description
        if said is None:
            said = next(filter(None, (_docstrings(one).get(self.field) for one in self.section.__mro__)), "")
        return " ".join(said.split())

    @property
    def takes_empty(self) -> bool:
        """Whether an empty text is a value; for all others it means that the variable is not set."""
        return self.spelling is not None and self.spelling.takes_empty

    def show(self, value: object) -> str:
        """Return a value as it is written, `""` for none."""
        if value is None or value in ("", ()):
            return ""
        if self.secret:
            return log.MASK
        return self.spelling.show(value) if self.spelling is not None else shown(value)


def options_of(section: type[Section]) -> Iterator[Option]:
    """Yield what a section and the sections in it declare, in order."""
    for owner, path, field in _fields(section):
        if field.json_schema_extra is not None:
            yield _option(owner, path[-1], field)


@cache
def _docstrings(section: type) -> dict[str, str]:
    """Return the text below each field of a section, as its source has it."""
    if not issubclass(section, Section) or section is Section:
        return {}
    [declared] = ast.parse(inspect.cleandoc("\n" + inspect.getsource(section))).body
    assert isinstance(declared, ast.ClassDef)
    return {
        field.target.id: str(text.value.value)
        for field, text in pairwise(declared.body)
        if isinstance(field, ast.AnnAssign)
        and isinstance(field.target, ast.Name)
        and isinstance(text, ast.Expr)
        and isinstance(text.value, ast.Constant)
    }


def _option(section: type[Section], name: str, field: FieldInfo) -> Option:
    extra = cast("dict[str, Any]", field.json_schema_extra)
    kinds = [one for one in (field.annotation, *get_args(field.annotation)) if one is not type(None)]
    metadata = [*field.metadata, *(each for one in kinds for each in getattr(one, "__metadata__", ()))]
    metadata += [each for one in metadata if isinstance(one, FieldInfo) for each in one.metadata]
    spelling = next((one for one in metadata if isinstance(one, Spelling)), None)
    words = next((get_args(one) for one in kinds if get_origin(one) is Literal), ())
    # Of the bounds of a type and those of its field the narrower ones hold.
    low = max((float(one.ge) for one in metadata if hasattr(one, "ge")), default=0.0)
    high = min((float(one.le) for one in metadata if hasattr(one, "le")), default=0.0)
    if spelling is not None:
        allowed = spelling.allowed
        if spelling.show_bound is not None and high:
            allowed += f", from {spelling.show_bound(low)} to {spelling.show_bound(high)}"
        elif spelling.show_bound is not None and low > 1:
            allowed += f", at least {spelling.show_bound(low)}"
    elif words:
        allowed = one_of(words)
    elif field.annotation is bool:
        allowed = "1, true, yes or on; or 0, false, no or off"
    else:
        allowed = f"a whole number from {shown(low)} to {shown(high)}"
    return Option(
        variable=str(field.validation_alias),
        group=extra["group"] or section.group,
        default=field.default,
        field=name,
        section=section,
        allowed=allowed,
        spelling=spelling,
        default_text=extra["default_text"],
        secret=extra["secret"],
    )


def arguments_of(section: type[Section], values: Mapping[str, object]) -> dict[str, Any]:
    """Return what a section is validated from, of the values of variables."""
    found: dict[str, Any] = {}
    for _, path, field in _fields(section):
        if field.validation_alias in values:
            place = found
            for name in path[:-1]:
                place = place.setdefault(name, {})
            place[str(field.validation_alias)] = values[str(field.validation_alias)]
    return found


def values_of(section: Section) -> dict[str, Any]:
    """Return the value of every variable of a section and the sections in it."""
    return {
        str(field.validation_alias): reduce(getattr, path, section)
        for _, path, field in _fields(type(section))
    }


def _fields(
    section: type[Section], path: tuple[str, ...] = ()
) -> Iterator[tuple[type[Section], tuple[str, ...], FieldInfo]]:
    """Yield the owner, the path of names and the field of all that variables set, in a section and those in it."""
    for name, field in section.model_fields.items():
        made_by = field.default_factory
        if isinstance(made_by, type) and issubclass(made_by, Section):
            yield from _fields(made_by, (*path, name))
        elif field.validation_alias is not None:
            yield section, (*path, name), field
