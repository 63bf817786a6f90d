"""How a section declares its variables: one `option` for each field, which the model, the docs and the checks follow."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import Field, dataclass, field, fields, is_dataclass, replace
from typing import Any

from recorder.settings.kinds import Kind


@dataclass(frozen=True, slots=True)
class Option:
    """One variable."""

    variable: str
    kind: Kind
    default: Any
    meaning: str
    group: str = ""
    default_text: str | None = None
    """What the docs say in place of a default that is not a value."""
    older_name_of: str = ""
    """The variable that this is the older name of."""


def option(
    variable: str,
    kind: Kind,
    default: Any,
    meaning: str,
    *,
    group: str = "",
    default_text: str | None = None,
    older_name: str = "",
) -> Any:
    """Declare the field of a section that a variable sets; without `group` it has that of the section."""
    declared = [Option(variable, kind, default, meaning, group, default_text)]
    if older_name:
        words = f"Older name of `{variable}`."
        declared.append(Option(older_name, kind, None, words, group, older_name_of=variable))
    metadata = {"options": tuple(declared)}
    if isinstance(default, dict):
        return field(default_factory=lambda: default, repr=not kind.secret, metadata=metadata)
    return field(default=default, repr=not kind.secret, metadata=metadata)


def option_of_each(keys: Iterable[str], variable: str, kind: Kind, meaning: str, *, group: str = "") -> Any:
    """Declare a field that maps each key to the value of a variable of its own; `{}` in the texts is the key."""
    declared = {
        key: Option(variable.format(key.upper()), kind, None, meaning.format(key), group) for key in keys
    }
    return field(
        default_factory=dict, metadata={"options": tuple(declared.values()), "keys": tuple(declared)}
    )


def same_as(variable: str, default: Any) -> Any:
    """Declare a field that has the value of a variable of another section, whose default is `default`."""
    return field(default=default, metadata={"same_as": variable})


def options_of(section: type) -> Iterator[Option]:
    """Yield what a section declares, and the sections in it, in order."""
    for each in fields(section):
        nested = _nested(each)
        if nested is not None:
            yield from options_of(nested)
        for declared in each.metadata.get("options", ()):
            yield declared if declared.group else replace(declared, group=section.group)  # type: ignore[attr-defined]


def arguments_of(section: type, values: Mapping[str, object]) -> dict[str, Any]:
    """Return the arguments that make a section of the values of all variables."""
    return {
        each.name: _argument(each, values)
        for each in fields(section)
        if each.metadata or _nested(each) is not None
    }


def _argument(each: Field[Any], values: Mapping[str, object]) -> object:
    nested = _nested(each)
    if nested is not None:
        return nested(**arguments_of(nested, values))
    if "same_as" in each.metadata:
        return values[each.metadata["same_as"]]
    declared = each.metadata["options"]
    if "keys" in each.metadata:
        return {key: values[one.variable] for key, one in zip(each.metadata["keys"], declared, strict=True)}
    return values[declared[0].variable]


def _nested(each: Field[Any]) -> type | None:
    made_by: object = each.default_factory
    return made_by if isinstance(made_by, type) and is_dataclass(made_by) else None
