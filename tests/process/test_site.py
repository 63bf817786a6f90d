"""The docs as a site: one slip ends the build, and a browser shows, searches and stays within what was built."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path

import pytest
from browser import Tab, browsing
from checkouts import PROJECT
from commands import clean_environment

ASSETS = {"script": "src", "link": "href", "img": "src", "iframe": "src", "source": "src"}
"""What a browser fetches by itself; links that a person follows may lead anywhere."""
BESIDE = {
    "CHANGELOG.md": "CHANGELOG.md",
    "CODE_OF_CONDUCT.md": "CODE_OF_CONDUCT.md",
    "CONTRIBUTING.md": "CONTRIBUTING.md",
    "SECURITY.md": "reporting.md",
}
"""Documents beside docs/, and their pages."""
RENAMED = {"README.md", "decisions/README.md"}
"""Documents in docs/ whose pages have another name."""


def build(project: Path, into: Path) -> subprocess.CompletedProcess[str]:
    """Build the site of a project as `make site` does."""
    if find_spec("mkdocs") is None:
        pytest.skip("mkdocs is not installed: pip install --group site")
    return subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--site-dir", str(into)],
        cwd=project,
        env=clean_environment(NO_MKDOCS_2_WARNING="1"),
        capture_output=True,
        text=True,
        timeout=100,
    )


def test_a_slip_ends_the_build(tmp_path: Path) -> None:
    """A link to a page, a heading or a file that does not exist, and a page that the navigation leaves out."""
    project = tmp_path / "project"
    (project / "docs").mkdir(parents=True)
    settings = (PROJECT / "mkdocs.yml").read_text().partition("\nnav:\n")[0]
    nav = ", ".join(["index.md", "map.md", *BESIDE.values()])
    (project / "mkdocs.yml").write_text(f"{settings}\nnav: [{nav}]\n")
    shutil.copy(PROJECT / "mkdocs_build.py", project)
    for name in ("README.md", *BESIDE):
        (project / name).write_text("# A heading\n\n[good](Makefile)\n")
    (project / "docs" / "README.md").write_text("# A heading\n\n[good](../Makefile), [good](page.md#this)\n")
    (project / "Makefile").write_text("site:\n")
    slips = "[page](no-such-page.md), [heading](../README.md#no-such-heading), [file](../no-such-file)"
    (project / "docs" / "page.md").write_text(f"# This\n\n[good](../README.md#a-heading), {slips}\n")
    built = build(project, tmp_path / "site")
    assert built.returncode == 1, built.stderr
    warnings = re.findall(r"^WARNING +-  (.*(?:\n  .*)*)", built.stderr, re.MULTILINE)
    for slip in ("no-such-page.md", "#no-such-heading", "no-such-file", "  - page.md"):
        assert any(slip in warning for warning in warnings), f"{slip}: {built.stderr}"
    assert len(warnings) == 4, built.stderr


class _Page(HTMLParser):
    """What a page fetches, and its text, without code and what no one sees."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.text = ""
        self._hidden: list[str] = []
        self.feed(path.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag in ASSETS and (address := given.get(ASSETS[tag])):
            self.fetched.append(address)
        if tag in ("script", "style", "code", "pre"):
            self._hidden.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if self._hidden and self._hidden[-1] == tag:
            self._hidden.pop()

    def handle_data(self, data: str) -> None:
        if not self._hidden:
            self.text += data


def assert_whole(site: Path) -> None:
    """Every document is a page without leftovers of Markdown; what a page fetches is a file of the site."""
    names = {path.relative_to(site).with_suffix(".md").as_posix() for path in site.rglob("*.html")}
    documents = {path.relative_to(PROJECT / "docs").as_posix() for path in (PROJECT / "docs").rglob("*.md")}
    assert {path.name for path in PROJECT.glob("*.md")} == {"README.md", *BESIDE}
    assert names >= (documents - RENAMED) | {"index.md", "map.md", *BESIDE.values()}
    for path in site.rglob("*.html"):
        page = _Page(path)
        assert page.fetched
        for address in page.fetched:
            name = address.partition("?")[0].partition("#")[0]
            assert "//" not in name, f"{path.name}: {address}"
            assert (site / name.lstrip("/") if name.startswith("/") else path.parent / name).exists(), address
        # Fences, links, bold words, items and rows that Python-Markdown does not take as GitHub does.
        left = re.findall(r"```.*|.*\]\(.*|.*\*\*\w.*|^(?:- |\| ).*", page.text, re.MULTILINE)
        assert left == [], path.name


@contextmanager
def serving(site: Path) -> Iterator[str]:
    """Yield where a site is served."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *args: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=os.fspath(site))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def is_shown(tab: Tab) -> bool:
    """Return whether a page and its pictures are loaded."""
    return bool(
        tab.run(
            "document.readyState === 'complete' && document.querySelector('h1') !== null"
            " && [...document.images].every((image) => image.complete && image.naturalWidth > 0)"
        )
    )


def assert_readable(tab: Tab, address: str) -> None:
    """Pictures load; neither on a desk nor on a phone a page is wider than the screen."""
    for page in ("operations", "recipes", "settings", "index"):
        tab.show_as(width=1280, height=800)
        tab.open(f"{address}/{page}.html")
        tab.wait(lambda page=page: tab.run("location.pathname") == f"/{page}.html" and is_shown(tab), page)
        for width in (1280, 360):
            tab.show_as(width=width, height=800)
            assert tab.run("document.documentElement.scrollWidth") <= width, f"{page} at {width}"


def assert_search_finds(tab: Tab) -> None:
    """A word that is typed leads to the sections that have it."""
    tab.show_as(width=1280, height=800)
    tab.run("document.querySelector('.md-search__input').focus()")
    tab.call("Input.insertText", text="VWAP")
    found = tab.wait(lambda: tab.texts(".md-search-result__item"), "results")
    assert any("Daily VWAP" in text for text in found), found


@pytest.mark.timeout(120)
def test_a_browser_shows_what_was_built(tmp_path: Path) -> None:
    """The site has every document, whole; a browser shows it at two sizes and searches it, and asks no other host."""
    site = tmp_path / "site"
    built = build(PROJECT, site)
    assert built.returncode == 0, built.stdout + built.stderr
    assert_whole(site)
    with serving(site) as address, browsing(tmp_path / "chromium") as tab:
        assert_readable(tab, address)
        assert_search_finds(tab)
        asked = {re.sub(r"(//[^/]*)/.*", r"\1", request) for request in tab.requests}
        assert {one for one in asked if not one.startswith("data:")} <= {address, f"blob:{address}"}
        assert tab.complaints == []
