"""Which windows a bar maker works with: compiled ones where these were built and native code is in use, else Python.

`recorder.bars._windows` is `windows.py`, compiled by mypyc under a name of its own, so that both can be imported. They
do the same. Objects of the two do not mix: a maker takes all its kinds from here, once.
"""

from __future__ import annotations

import hashlib
import importlib
from functools import cache
from pathlib import Path
from typing import Any, Final, NamedTuple

from recorder import native
from recorder.bars import windows

_NAME: Final = "recorder.bars._windows"


class Kinds(NamedTuple):
    """The classes that one maker's windows are made of."""

    windows: type[windows.Windows]
    series: type[windows.BarSeries]
    window: type[windows.Window]


PYTHON: Final = Kinds(windows.Windows, windows.BarSeries, windows.Window)


@cache
def compiled() -> Kinds | None:
    """Return the compiled kinds; None if they were not built, or of other sources than those that are here."""
    try:
        module: Any = importlib.import_module(_NAME)
    except ImportError:
        return None
    # An editable install keeps what was compiled before windows.py was changed.
    source = hashlib.sha256(Path(windows.__file__).read_bytes()).hexdigest()
    return Kinds(module.Windows, module.BarSeries, module.Window) if source == module.SOURCE else None


def are_compiled() -> bool:
    """Return whether this process makes bars with compiled windows."""
    return kinds() is not PYTHON


def kinds() -> Kinds:
    """Return what this process makes bars with."""
    return (compiled() if native.in_use() else None) or PYTHON
