"""docs/dependencies.md is of the packages that are locked, and each licence in it has been accepted."""

from __future__ import annotations

import re
import tomllib
from typing import Any

import pytest
from dependencies import PAGE, ROOT, licence_of, locked, render_markdown
from packaging.requirements import Requirement

BILL: dict[str, Any] = {
    "components": [
        {"name": "Ze_bra", "version": "2", "licenses": [{"license": {"id": "MIT"}}]},
        {"name": "ape", "version": "1", "licenses": [{"expression": "MPL-2.0 AND (Apache-2.0 OR MIT)"}]},
    ]
}


def test_the_page_has_what_is_locked() -> None:
    """After `make lock` comes `make sbom`: each package that the program imports, in its version, and no other."""
    table = PAGE.read_text(encoding="utf-8").partition("|---|---|---|\n")[2]
    rows = re.findall(r"^\| ([\w-]+) \| (\S+) \| [\w.,() -]+ \|$", table, re.MULTILINE)
    assert len(rows) == table.count("\n")
    assert dict(rows) == {name: version for name, (version, _) in locked().items()}


def test_what_builds_the_program_is_not_handed_on() -> None:
    """Of the lock file it is what pyproject.toml names, and what that needs; no tool of the build."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    named = {
        Requirement(text).name
        for extra in ("zmq", "nats", "kafka", "s3")
        for text in [*project["dependencies"], *project["optional-dependencies"][extra]]
    }
    assert named <= set(locked())
    assert set(locked()).isdisjoint({"hatchling", "mypy", "setuptools", "pip"})
    assert {"yarl", "typing-extensions"} <= set(locked())


def test_the_page_is_sorted_by_name() -> None:
    """Whatever the order in the bill, and however names are written."""
    rows = render_markdown(BILL).splitlines()[-2:]
    assert rows == ["| ape | 1 | MPL-2.0 AND (Apache-2.0 OR MIT) |", "| ze-bra | 2 | MIT |"]


@pytest.mark.parametrize(
    ("licenses", "spdx"),
    [
        ([{"license": {"id": "BSD-3-Clause"}}], "BSD-3-Clause"),
        ([{"license": {"name": "MIT License"}}], "MIT"),
        ([{"license": {"name": "License :: OSI Approved :: Apache Software License"}}], "Apache-2.0"),
        ([{"license": {"name": "MIT License"}}, {"license": {"id": "Apache-2.0"}}], "Apache-2.0, MIT"),
        ([{"license": {"name": "MIT License"}}, {"license": {"id": "MIT"}}], "MIT"),
    ],
    ids=["SPDX", "a name", "a classifier", "two", "twice"],
)
def test_a_licence_by_any_of_its_names(licenses: list[dict[str, Any]], spdx: str) -> None:
    """SPDX has one name for it, and the page has that."""
    assert licence_of({"name": "a", "version": "1", "licenses": licenses}) == spdx


@pytest.mark.parametrize(
    ("licenses", "words"),
    [
        ([{"license": {"id": "GPL-3.0-only"}}], "a 1 is under GPL-3.0-only: whether"),
        ([{"expression": "MIT AND AGPL-3.0-only"}], "a 1 is under MIT AND AGPL-3.0-only: whether"),
        ([], "a 1 is under no licence: whether"),
    ],
    ids=["one", "part of an expression", "none"],
)
def test_a_licence_that_nobody_has_accepted_is_an_error(licenses: list[dict[str, Any]], words: str) -> None:
    """A new dependency does not bring its duties unseen."""
    with pytest.raises(ValueError, match=words):
        licence_of({"name": "a", "version": "1", "licenses": licenses})
