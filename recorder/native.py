"""The one home of `recorder._native`, the C code that does what Python here does too: whether it is there, and is used.

The choice is one for the process. A command that has the settings makes it with `choose`, before any part is made; any
other says with `choose_by` where to look for it once it matters. Both ways of every part give the same bytes: native
code changes speed alone.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Any, Final

from recorder.errors import ConfigError

if TYPE_CHECKING:  # for annotations elsewhere
    from recorder._native import Block as Block
    from recorder._native import Scanner as Scanner

VARIABLE: Final = "RECORDER_NATIVE"
YES: Final = "yes"
NO: Final = "no"
_NAME: Final = "recorder._native"
_CONTENT: Final = ("Block", "Records", "Scanner", "cut", "index", "merge", "split", "tabulate")
"""What is used of it. An editable install keeps what was compiled from older sources, which may lack some."""


def _of_environment() -> str | None:
    return os.environ.get(VARIABLE, "").strip().lower() or None


class _Choice:
    """What this process has chosen."""

    made = False
    module: Any = None
    wanted: Callable[[], str | None] = _of_environment


@cache
def _load() -> tuple[Any, str]:
    """Return the module, or None and why there is none."""
    try:
        module = importlib.import_module(_NAME)
    except ModuleNotFoundError:
        return None, "it was not built when the recorder was installed"
    except ImportError as error:
        return None, f"it cannot be loaded: {error}"
    missing = [name for name in _CONTENT if not hasattr(module, name)]
    return (None, f"it was compiled from older sources, without {missing[0]}") if missing else (module, "")


def choose(wanted: str | None) -> None:
    """Choose for this process: `yes`, `no`, or with None what there is.

    Raise ConfigError if the native code is demanded and not there, or if `wanted` is another word.
    """
    if wanted not in (None, YES, NO):
        raise ConfigError(
            f"{VARIABLE}={wanted!r}: must be {YES} or {NO}; leave it out to use native code where it is"
        )
    module, absent = _load() if wanted != NO else (None, "")
    if wanted == YES and module is None:
        raise ConfigError(
            f"{VARIABLE}={YES}: there is no native code: {absent}; install a C compiler and the headers of Python, then "
            f"reinstall the recorder, or leave {VARIABLE} out"
        )
    _Choice.made, _Choice.module = True, module


def choose_by(wanted: Callable[[], str | None]) -> None:
    """Have `wanted` say what to choose when native code is first looked for, unless the choice is made by then."""
    _Choice.wanted = wanted


def module() -> Any:
    """Return the native code, None where Python does its work. Raise ConfigError if what somebody wants is wrong."""
    if not _Choice.made:
        choose(_Choice.wanted())
    return _Choice.module


def in_use() -> bool:
    """Return whether this process uses the native code."""
    return module() is not None


def word() -> str:
    """Return what logs say of it: `yes` or `no`."""
    return YES if in_use() else NO


def absent() -> str:
    """Return why there is no native code on this machine, in words; `""` where there is."""
    return _load()[1]
