"""CONTRIBUTING.md with the recipes written out: its prose is its own, its steps are those of tests/recipes/."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path
from typing import Final

from recipes import Edit, Insert, New, Recipe, recipes

PAGE: Final = Path(__file__).parents[1] / "CONTRIBUTING.md"
_BLOCK: Final = re.compile(r"<!-- recipe: (.+?) -->\n.*?<!-- end of recipe -->\n", re.DOTALL)
_LANGUAGES: Final = {".py": "python", ".toml": "toml", ".md": "markdown"}


def named() -> list[str]:
    """Return what the page has recipes for, in its order."""
    return _BLOCK.findall(PAGE.read_text(encoding="utf-8"))


def render_markdown() -> str:
    """Return the page, with each recipe as it is now. Raise KeyError for one that does not exist."""
    by_name = {recipe.adds: recipe for recipe in recipes()}
    page = PAGE.read_text(encoding="utf-8")
    return _BLOCK.sub(lambda found: _block(by_name[found[1]]), page)


def _block(recipe: Recipe) -> str:
    steps = "\n".join(_step(number, edit) for number, edit in enumerate(recipe.edits, start=1))
    return f"<!-- recipe: {recipe.adds} -->\n\n{steps}\n<!-- end of recipe -->\n"


def _step(number: int, edit: Edit) -> str:
    language = _LANGUAGES.get(Path(edit.path).suffix, "")
    match edit:
        case New():
            where = f"New file `{edit.path}`:"
        case Insert():
            where = f"`{edit.path}`, below `{_telling(edit.after)}`:"
        case _:
            where = f"`{edit.path}`, instead of `{_telling(edit.old)}`:"
    code = textwrap.dedent(edit.text).strip("\n").splitlines()
    return "\n".join(
        [
            f"{number}. {where}",
            "",
            f"   ```{language}",
            *(f"   {line}".rstrip() for line in code),
            "   ```",
            "",
        ]
    )


def _telling(place: str) -> str:
    """Return the line by which a reader finds a place."""
    return max((line.strip() for line in place.splitlines()), key=len)
