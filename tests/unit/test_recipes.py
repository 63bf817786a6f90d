"""The harness of the recipes: edits land where they say, once, and the copy is what runs; CONTRIBUTING.md has them all."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from contributing import PAGE, named
from recipes import Insert, New, Recipe, Replace, recipes


def test_an_edit_applies_where_it_says_and_nowhere_else(tmp_path: Path) -> None:
    """Insert goes below its line, Replace takes a text's place, New makes folders; a wrong place fails."""
    (tmp_path / "a.py").write_text("x = 1\nclass A:\n    y = 2\n")
    Insert("a.py", after="class A:", text="    z = 3").apply(tmp_path)
    Replace("a.py", old="x = 1", text="x = 4").apply(tmp_path)
    New("b/c.py", "w = 5\n").apply(tmp_path)
    assert (tmp_path / "a.py").read_text() == "x = 4\nclass A:\n    z = 3\n    y = 2\n"
    assert (tmp_path / "b/c.py").read_text() == "w = 5\n"
    for wrong in (
        Insert("a.py", after="class B:", text=""),
        Replace("a.py", old=" = ", text=""),
        New("a.py", ""),
    ):
        with pytest.raises(AssertionError):
            wrong.apply(tmp_path)


def test_a_recipe_changes_the_copy_that_runs(tmp_path: Path) -> None:
    """The command of the copy is the changed one; each file counts once."""
    recipe = Recipe(
        "a version",
        (
            New("recorder/edition.py", '"""The edition."""\n\nEDITION = "9.9.9"\n'),
            Replace("recorder/version.py", old="try:", text="from recorder.edition import EDITION\n\ntry:"),
            Replace("recorder/version.py", old='version("polygon-recorder")', text="EDITION"),
        ),
    )
    assert recipe.files == ("recorder/edition.py", "recorder/version.py")
    copy = recipe.applied_in(tmp_path)
    assert "9.9.9" in copy.recorder("--version").stdout


def test_every_recipe_is_in_contributing_and_followed_by_a_test() -> None:
    """The page has a block for each, and names the test; that its steps are the recipe's, test_generated.py holds."""
    assert sorted(named()) == sorted(recipe.adds for recipe in recipes())
    page = PAGE.read_text(encoding="utf-8")
    for recipe in recipes():
        test = f"tests/process/test_recipe_{recipe.adds.split()[-1]}.py"
        assert f"### Add {recipe.adds}\n" in page
        assert f"Test: `{test}`." in page
        assert (PAGE.parent / test).exists()
        assert f"from recipes.{recipe.adds.split()[-1]} import RECIPE" in (PAGE.parent / test).read_text()


def test_the_table_of_folders_is_complete() -> None:
    """Each folder of the package has its row in CONTRIBUTING.md, and each row is there."""
    table = PAGE.read_text(encoding="utf-8").partition("## Where things go")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| `([^|]+)` \|", table, re.MULTILINE)
    paths = [path.strip("` ") for row in rows for path in row.split(",")]
    folders = {f"recorder/{path.parent.name}/" for path in (PAGE.parent / "recorder").glob("*/__init__.py")}
    assert {path for path in paths if path.startswith("recorder/") and path.endswith("/")} == folders
    modules = {path.name for path in (PAGE.parent / "recorder").glob("*.py")}
    assert {Path(path).name for path in paths if path.endswith(".py")} <= modules
