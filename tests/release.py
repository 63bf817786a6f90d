"""What the present release is called: the version stands in pyproject.toml, the day in CHANGELOG.md."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).parents[1]
PROJECT: Final[dict[str, Any]] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))[
    "project"
]
VERSION: Final[str] = PROJECT["version"]


def releases() -> list[tuple[str, str]]:
    """Return the versions that CHANGELOG.md has, each with its day, the newest first."""
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    return re.findall(r"^## \[(\d+\.\d+\.\d+)\] - (\d{4}-\d{2}-\d{2})$", text, re.MULTILINE)


def released_on() -> str:
    """Return the day of the newest release that CHANGELOG.md has."""
    return releases()[0][1]


def authors() -> str:
    """Return who the authors are, as LICENSE names them."""
    [name] = re.findall(
        r"^Copyright \(c\) \d{4} (.+)$", (ROOT / "LICENSE").read_text(encoding="utf-8"), re.MULTILINE
    )
    return name
