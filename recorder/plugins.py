"""Other packages: sinks and sources, found by their entry points and loaded only where a setting names them; extras."""

from __future__ import annotations

import shlex
import sys
from typing import Any, Final

from recorder.errors import ConfigError

SINKS: Final = "recorder.sinks"
SOURCES: Final = "recorder.sources"
_VARIABLES: Final = {SINKS: "SINK", SOURCES: "SOURCE"}


def installed(group: str) -> tuple[str, ...]:
    """Return the names that installed packages provide, in the order of the alphabet."""
    from importlib.metadata import entry_points  # many packages make this slow, and few commands need it

    return tuple(sorted({entry.name for entry in entry_points(group=group)}))


def installing(package: str) -> str:
    """Return the command that installs a package for the Python that runs this program, wherever that is."""
    return f"{shlex.quote(sys.executable)} -m pip install {package}"


def load(group: str, name: str) -> Any:
    """Return the factory that an installed package provides under a name.

    :raises ConfigError: none does, several do, or it cannot be imported.
    """
    from importlib.metadata import entry_points

    variable = f"{_VARIABLES[group]}={name}"
    found = list(entry_points(group=group, name=name))
    if not found:
        known = ", ".join(installed(group)) or "none"
        raise ConfigError(f"{variable}: no installed package provides it; provided are: {known}")
    packages = sorted({entry.dist.name for entry in found if entry.dist is not None})
    if len(packages) > 1:
        raise ConfigError(
            f"{variable}: several packages provide it: {', '.join(packages)}; uninstall all but one"
        )
    try:
        return found[0].load()
    except Exception as error:  # whatever the other package does when it is imported
        raise ConfigError(
            f"{variable}: the package {', '.join(packages)} cannot be loaded: {type(error).__name__}: {error}"
        ) from error
