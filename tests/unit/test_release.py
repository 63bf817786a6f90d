"""The version stands once, in pyproject.toml; what else names it agrees."""

from __future__ import annotations

import re
from itertools import pairwise
from typing import Final

import yaml
from release import ROOT, VERSION, authors, released_on, releases

SECTIONS: Final = ("Added", "Changed", "Deprecated", "Removed", "Fixed", "Security")
"""Of Keep a Changelog, in the order in which they stand."""


def number(version: str) -> list[int]:
    """Return a version as numbers, which sort."""
    return [int(part) for part in version.split(".")]


def test_the_changelog_begins_with_the_version_of_the_program() -> None:
    """A release without an entry, and an entry without a release, are both a slip."""
    assert releases()[0][0] == VERSION


def test_the_changelog_has_releases_from_new_to_old() -> None:
    """Versions fall and days do not rise, so that a reader reads on until the version that runs."""
    for (newer, newer_day), (older, older_day) in pairwise(releases()):
        assert number(newer) > number(older)
        assert newer_day >= older_day


def test_the_changelog_has_sections_that_readers_know() -> None:
    """Each release has those of the format, each once, in order."""
    _, *entries = re.split(r"^## ", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert len(entries) == len(releases()) + 1
    assert entries[0].startswith("[Unreleased]\n")
    for entry in entries:
        named = re.findall(r"^### (.+)$", entry, re.MULTILINE)
        assert named == [section for section in SECTIONS if section in named], entry.splitlines()[0]


def test_a_citation_names_the_program_its_release_and_nobody_who_does_not_exist() -> None:
    """CITATION.cff is YAML with what its format requires; the authors are those of the licence."""
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert cited.keys() >= {"cff-version", "message", "title", "authors"}
    assert cited["authors"] == [{"name": authors()}]
    assert (cited["version"], cited["date-released"]) == (VERSION, released_on())
