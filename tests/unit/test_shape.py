"""What is larger than a reader likes has a reason, and the figures of the shape are right."""

from __future__ import annotations

import pytest
from shape import FUNCTION_LINES_MAX, REASONS, all_large, large_of, lines_by_folder, present_files, report


def test_what_is_large_has_a_reason() -> None:
    """A module, a constructor, a function: split it, or write the reason into tests/shape.py."""
    assert [one for one in all_large() if one.name not in REASONS] == []


def test_no_reason_is_left_of_what_is_no_longer_large() -> None:
    """The table names only what is over a limit now."""
    assert set(REASONS) <= {one.name for one in all_large()}


def test_lines_are_counted_by_folder() -> None:
    """Modules directly in the package count as `recorder`, those below it by their part; other files do not count."""
    files = [
        ("recorder/app.py", "a\nb\n"),
        ("recorder/archive/x.py", "a\n"),
        ("recorder/archive/deep/y.py", "a\n"),
        ("tests/unit/z.py", "a\n"),
        ("elsewhere/w.py", "a\n"),
    ]
    assert lines_by_folder(files) == {"recorder": 2, "recorder/archive": 2, "tests": 1}
    assert lines_by_folder(present_files())["recorder/archive"] > 1000


@pytest.mark.parametrize("lines", [FUNCTION_LINES_MAX, FUNCTION_LINES_MAX + 1])
def test_a_function_is_measured_without_its_docstring(lines: int) -> None:
    """Signature and docstring are free, so that nobody saves words."""
    body = "\n".join("        x = 1" for _ in range(lines))
    head = 'class C:\n    async def f(\n        self,\n    ) -> None:\n        """Say.\n\n        More.\n        """\n'
    text = f"{head}{body}\n"
    found = [(one.what, one.name, one.size) for one in large_of("a.py", text)]
    assert found == ([("function", "a.py:C.f", lines)] if lines > FUNCTION_LINES_MAX else [])


def test_constructors_and_modules_are_measured() -> None:
    """Nine parameters besides self, or 401 lines, are named."""
    parameters = ", ".join(f"p{number}" for number in range(8))
    text = f"class C:\n    def __init__(self, {parameters}, *, last): ...\n" + "\n" * 399
    assert [(one.what, one.size) for one in large_of("a.py", text)] == [("module", 401), ("constructor", 9)]
    fewer = text.replace(", *, last", "")
    assert [one.what for one in large_of("a.py", fewer)] == ["module"]


def test_the_report_has_every_figure() -> None:
    """Lines, large things, recipes, time."""
    text = report(None)
    for heading in (
        "Lines of Python",
        "Modules over",
        "Constructors over",
        "Functions over",
        "recipe",
        "make test",
    ):
        assert heading in text
    assert "| recorder/archive |" in text
