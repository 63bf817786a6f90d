"""The docs tell the truth: links lead somewhere; commands, settings, metrics and alerts are as the code has them."""

from __future__ import annotations

import re
import subprocess
from functools import cache
from pathlib import Path
from typing import Final

import pytest
from command_reference import commands, options, render_markdown, spelled

from recorder.log_events import TARGETS
from recorder.ops.metrics_table import METRICS
from recorder.settings import VARIABLES
from recorder.settings.names import FORMER_NAMES

ROOT: Final = Path(__file__).parents[2]
_FENCED: Final = re.compile(r"^ *```.*?^ *```$", re.DOTALL | re.MULTILINE)
_LINK: Final = re.compile(r"\]\(([^)\s]+)\)")
_HEADING: Final = re.compile(r"^#{1,6} +(.+?)\s*$", re.MULTILINE)
_ANCHOR: Final = re.compile(r'<a (?:id|name)="([^"]+)"')
_SUFFIXES: Final = ("_bucket", "_sum", "_count", "_created")


@cache
def documents() -> tuple[Path, ...]:
    """Return every Markdown file of the project."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.md"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return tuple(ROOT / name for name in listed.stdout.splitlines() if (ROOT / name).exists())


def prose(path: Path) -> str:
    """Return a document without its fenced blocks."""
    return _FENCED.sub("", path.read_text(encoding="utf-8"))


def own_words(path: Path) -> str:
    """Return a document; of CONTRIBUTING.md only what is not code, which adds what does not exist."""
    return prose(path) if path.name == "CONTRIBUTING.md" else path.read_text(encoding="utf-8")


@cache
def anchors(path: Path) -> frozenset[str]:
    """Return what a link can name in a document, by the rules of GitHub."""
    found: list[str] = []
    for heading in _HEADING.findall(prose(path)):
        words = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).replace("`", "")
        slug = re.sub(r"[^\w\- ]", "", words.lower()).replace(" ", "-")
        found.append(f"{slug}-{found.count(slug)}" if slug in found else slug)
    return frozenset([*found, *_ANCHOR.findall(prose(path))])


@pytest.mark.parametrize("path", documents(), ids=lambda path: str(path.relative_to(ROOT)))
def test_every_link_leads_somewhere(path: Path) -> None:
    """Files exist, and so do the headings in them that a link names."""
    for link in _LINK.findall(prose(path)):
        if re.match(r"[a-z]+:", link):
            continue
        name, _, anchor = link.partition("#")
        target = (path.parent / name).resolve() if name else path
        assert target.exists(), link
        if anchor:
            assert anchor in anchors(target), f"{link}: {sorted(anchors(target))}"


def test_the_map_has_every_document() -> None:
    """docs/README.md leads to each file of docs/."""
    linked = {link.partition("#")[0] for link in _LINK.findall((ROOT / "docs" / "README.md").read_text())}
    assert linked >= {path.name for path in (ROOT / "docs").glob("*.md")} - {"README.md"}


def test_the_site_has_every_document() -> None:
    """The navigation of mkdocs.yml leads to each file of docs/: a build of the site refuses what it leaves out."""
    led_to = set(re.findall(r"^ *- (\S+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE))
    files = {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")}
    assert led_to >= files - {"README.md"}


def test_every_command_and_option_is_explained() -> None:
    """Each has words, and a row of its own."""
    text = render_markdown()
    for command in commands():
        assert command.help, command.name
        for option in options(command):
            assert option.help, f"{command.name} {option.name}"
            assert f"| `{spelled(option)}".partition(" [")[0] in text


def test_commands_in_the_docs_exist() -> None:
    """No document tells to run a `recorder` command, or an option of one, that does not exist."""
    known = {command.name: command for command in commands()}
    for path in documents():
        text = path.read_text(encoding="utf-8")
        if path.name == "CHANGELOG.md":
            continue
        for name, rest in re.findall(r"(?:`|bin/|^)recorder ([a-z]+)([^`\n|;)]*)", text, re.MULTILINE):
            assert name in known, f"{path.name}: recorder {name}"
            given = {flag for option in options(known[name]) for flag in option.opts + option.secondary_opts}
            for flag in re.findall(r"(?<!\S)(--[a-z-]+)", rest.partition(" #")[0]):
                assert flag in given | {"--help"}, f"{path.name}: recorder {name} {flag}"


def test_settings_in_the_docs_exist() -> None:
    """No document names a variable that the settings do not know."""
    prefixes = {variable.partition("_")[0] for variable in VARIABLES if "_" in variable}
    for path in documents():
        if path.name == "CHANGELOG.md":
            continue
        for name in re.findall(r"\b[A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+\b", own_words(path)):
            if name.partition("_")[0] in prefixes:
                assert name in VARIABLES or name in FORMER_NAMES, f"{path.name}: {name}"


def test_metrics_in_the_docs_exist() -> None:
    """No document names a metric that is not in the catalog."""
    metrics = {definition.name for group in METRICS.values() for definition in group}
    for path in documents():
        for name in re.findall(r"\bpolygon_[a-z_]+[a-z]\b(?!\*|\.)", own_words(path)):
            bare = next((name.removesuffix(end) for end in _SUFFIXES if name.endswith(end)), name)
            known = metrics | {*TARGETS, "polygon_api_key"}  # a file of secrets has this name
            assert name in known or bare in known, f"{path.name}: {name}"


def test_every_alert_has_a_runbook() -> None:
    """Each rule names a heading of docs/operations.md, and no heading is for an alert that is gone."""
    rules = (ROOT / "prometheus" / "recorder.rules.yml").read_text(encoding="utf-8")
    alerts = re.findall(r"^\s*- alert: (\w+)$", rules, re.MULTILINE)
    books = re.findall(r"^\s*runbook_url: .*operations\.md.*#([\w-]+)'$", rules, re.MULTILINE)
    assert alerts
    assert len(alerts) == len(set(alerts)) == len(books)
    operations = ROOT / "docs" / "operations.md"
    assert set(books) <= anchors(operations)
    headings = {anchor for anchor in anchors(operations) if anchor.startswith("alert-")}
    assert headings <= set(books)
