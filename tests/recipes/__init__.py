"""Recipes of CONTRIBUTING.md as data: the edits that add a sink, a source, a channel, a cluster, a setting or a metric.

Each module here holds one `RECIPE`. Its test applies the recipe to a copy of the project and runs the real command:

    # tests/recipes/setting.py
    RECIPE = Recipe("a setting", (Insert("recorder/settings/sections.py", after="class OpsSettings:", text="..."),))

    # tests/process/test_recipe_setting.py
    def test_a_new_setting_is_shown_by_config(tmp_path: Path) -> None:
        copy = RECIPE.applied_in(tmp_path)
        assert "NEW_SETTING=7" in copy.recorder("config", NEW_SETTING="7").stdout
        copy.python("-m", "pytest", "-q", "tests/unit/test_settings_docs.py")

`tests/unit/test_recipes.py` holds CONTRIBUTING.md to these modules: it names each file that a recipe touches and shows
each text that it adds. `make shape` counts the files.
"""

from __future__ import annotations

import importlib
import pkgutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from checkouts import clone_into
from commands import Running, clean_environment, running


@dataclass(frozen=True)
class New:
    """A file that does not exist yet."""

    path: str
    text: str

    def apply(self, root: Path) -> None:
        """Write it; raise AssertionError if there is one already."""
        file = root / self.path
        assert not file.exists(), f"{self.path} exists already"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(self.text, encoding="utf-8")


@dataclass(frozen=True)
class Insert:
    """Text that goes below the only place where `after` occurs, on lines of its own."""

    path: str
    after: str
    text: str

    def apply(self, root: Path) -> None:
        """Put the text below the line in which `after` ends; raise AssertionError unless that line is the only one."""
        file = root / self.path
        before = file.read_text(encoding="utf-8")
        assert before.count(self.after) == 1, (
            f"{self.path}: {self.after!r} occurs {before.count(self.after)} times"
        )
        end = before.index("\n", before.index(self.after) + len(self.after)) + 1
        file.write_text(before[:end] + self.text.rstrip("\n") + "\n" + before[end:], encoding="utf-8")


@dataclass(frozen=True)
class Replace:
    """Text that takes the place of the only occurrence of `old`."""

    path: str
    old: str
    text: str

    def apply(self, root: Path) -> None:
        """Replace it; raise AssertionError unless `old` occurs exactly once."""
        file = root / self.path
        before = file.read_text(encoding="utf-8")
        assert before.count(self.old) == 1, f"{self.path}: {self.old!r} occurs {before.count(self.old)} times"
        file.write_text(before.replace(self.old, self.text), encoding="utf-8")


Edit = New | Insert | Replace


@dataclass(frozen=True)
class Recipe:
    """What a newcomer edits to add one thing. Files that `make docs` writes are not edits."""

    adds: str
    """What is added, as the heading in CONTRIBUTING.md names it: `a setting`."""
    edits: tuple[Edit, ...]

    @property
    def files(self) -> tuple[str, ...]:
        """The files that the recipe touches, each once, in the order in which it does."""
        return tuple(dict.fromkeys(edit.path for edit in self.edits))

    def applied_in(self, folder: Path) -> Copy:
        """Return a copy of the project under `folder` to which the edits have been applied."""
        copy = Copy(folder / "project")
        for edit in self.edits:
            edit.apply(copy.root)
        return copy


class Copy:
    """A copy of the project's files. What runs in it imports the copy, not the project."""

    def __init__(self, root: Path) -> None:
        self.root = root
        clone_into(root)

    def _variables(self, variables: dict[str, str]) -> dict[str, str]:
        path = [str(self.root), *filter(None, [variables.get("PYTHONPATH")])]
        return {**variables, "PYTHONPATH": ":".join(path)}

    def recorder(
        self, *arguments: str, status: int = 0, **variables: str
    ) -> subprocess.CompletedProcess[str]:
        """Run a `recorder` command of the copy to its end; raise AssertionError unless it ends with `status`."""
        return self.python("-m", "recorder", *arguments, status=status, **variables)

    def python(self, *arguments: str, status: int = 0, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run Python in the copy, as for `-m pytest tests/unit/test_docs.py` or a script that writes a document."""
        result = subprocess.run(
            [sys.executable, *arguments],
            cwd=self.root,
            env=clean_environment(**self._variables(variables)),
            capture_output=True,
            text=True,
            timeout=100,
        )
        assert result.returncode == status, (
            f"{arguments}: {result.returncode}\n{result.stdout}{result.stderr}"
        )
        return result

    @contextmanager
    def running(self, *arguments: str, **variables: str) -> Iterator[Running]:
        """A `recorder` command of the copy that runs, as `commands.running` starts it."""
        with running(*arguments, cwd=self.root, **self._variables(variables)) as command:
            yield command


def recipes() -> list[Recipe]:
    """Return the recipe of every module of this package."""
    names = sorted(module.name for module in pkgutil.iter_modules(__path__))
    found = [importlib.import_module(f"{__name__}.{name}").RECIPE for name in names]
    assert all(isinstance(recipe, Recipe) for recipe in found)
    return found
