"""Docstrings speak in one voice: what a function does is said as a command, "Return …", "Raise …", "Yield …"."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

PACKAGE: Final = Path(__file__).parents[2] / "recorder"
FORBIDDEN: Final = {"Gives", "Give", "Tells", "Tell", "Raises", "Returns"}
"""First words of a function's docstring; a sentence within one does not begin with "Raises" either."""
_SENTENCE: Final = re.compile(r"(?:^|[.;:]\s|\n\s*\n)\s*(\w+)")


def docstrings(source: str) -> Iterator[tuple[int, str]]:
    """Yield the docstrings of functions and methods, with their lines."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and (text := ast.get_docstring(node)):
            yield node.lineno, text


def complaints(source: str) -> list[str]:
    """Return the docstrings that are not in our voice."""
    found = []
    for line, text in docstrings(source):
        first, *others = _SENTENCE.findall(text) or [""]
        if first in FORBIDDEN or {"Raises", "Returns"} & set(others):
            found.append(f"{line}: {text.splitlines()[0]}")
    return found


def test_docstrings_are_commands() -> None:
    """No function "gives", "tells", "returns" or "raises" something in the third person."""
    found = {path.relative_to(PACKAGE): complaints(path.read_text()) for path in PACKAGE.rglob("*.py")}
    assert {path: lines for path, lines in found.items() if lines} == {}


def test_the_check_finds_what_it_forbids() -> None:
    """At the beginning and in a later sentence; what stands within one is no sentence."""
    source = '''
def a():
    """Gives it."""
async def b():
    """Open it. Raises OSError."""
class C:
    def c(self):
        """Open it.

        Raises OSError.
        """
    def d(self):
        """Say what it raises. Raise OSError; return what Returns is."""
'''
    assert complaints(source) == ["2: Gives it.", "4: Open it. Raises OSError.", "7: Open it."]
