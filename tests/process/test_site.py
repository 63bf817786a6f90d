"""The docs as a site: `make site` builds it without a warning, and a browser shows, searches and stays within it."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from browser import Tab, browsing
from checkouts import PROJECT, clone_into
from commands import clean_environment

ASSETS = {"script": "src", "link": "href", "img": "src", "iframe": "src", "source": "src"}
"""What a browser fetches by itself; links that a person follows may lead anywhere."""


def build(project: Path) -> subprocess.CompletedProcess[str]:
    """Build the site of a checkout as `make site` does. With `--quiet`, mkdocs would not count its warnings."""
    return subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict"],
        cwd=project,
        env=clean_environment(NO_MKDOCS_2_WARNING="1"),
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout with its site."""
    folder = tmp_path_factory.mktemp("site") / "recorder"
    clone_into(folder)
    built = build(folder)
    assert built.returncode == 0, built.stdout + built.stderr
    return folder


class _Assets(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag in ASSETS and (address := given.get(ASSETS[tag])):
            self.found.append(address)


def test_every_document_is_a_page_with_its_own_pictures(project: Path) -> None:
    """Nothing is left out, everything that a page shows is a file of the site, and no other host is asked."""
    site = project / "build" / "site"
    pages = {path.relative_to(site).with_suffix(".md").as_posix() for path in site.rglob("*.html")}
    documents = {path.relative_to(PROJECT / "docs").as_posix() for path in (PROJECT / "docs").rglob("*.md")}
    renamed = {"README.md", "decisions/README.md"}  # both are the index of their folder
    assert pages - {"404.md"} >= (documents - renamed) | {"index.md", "CHANGELOG.md", "CONTRIBUTING.md"}
    for path in site.rglob("*.html"):
        parser = _Assets()
        parser.feed(path.read_text())
        assert parser.found
        for address in parser.found:
            name = address.partition("?")[0].partition("#")[0]
            assert "//" not in name, f"{path.name}: {address}"
            assert (site / name.lstrip("/") if name.startswith("/") else path.parent / name).exists(), address


@pytest.mark.parametrize(
    "link", ["[gone](records.md#no-such-heading)", "[gone](no-such-page.md)", "[gone](../no-such-file)"]
)
def test_a_broken_link_ends_the_build(project: Path, link: str, tmp_path: Path) -> None:
    """A page, a heading or a file that does not exist."""
    copy = tmp_path / "recorder"
    shutil.copytree(project, copy, ignore=shutil.ignore_patterns("build"))
    with (copy / "docs" / "zmq.md").open("a") as page:
        page.write(f"\n{link}\n")
    built = build(copy)
    assert built.returncode != 0
    assert "zmq.md" in built.stdout + built.stderr


@pytest.fixture(scope="module")
def address(project: Path) -> Iterator[str]:
    """Where the site is served."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *args: object) -> None:
            """Say nothing."""

    handler = partial(Quiet, directory=str(project / "build" / "site"))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
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


@pytest.mark.timeout(240)
def test_a_browser_shows_it_on_a_desk_and_on_a_phone(address: str, tmp_path: Path) -> None:
    """Pictures load, the search finds, no page is wider than a phone, and no request leaves the site."""
    with browsing(tmp_path / "chromium") as tab:
        for width in (1280, 360):
            tab.show_as(width=width, height=800)
            for page in ("index", "operations", "recipes", "performance", "settings"):
                tab.open(f"{address}/{page}.html")
                tab.wait(lambda: is_shown(tab), f"{page} and its pictures")
                assert tab.run("document.documentElement.scrollWidth") <= width, f"{page} at {width}"
        tab.show_as(width=1280, height=800)
        tab.open(f"{address}/index.html")
        tab.wait(lambda: is_shown(tab), "the first page")
        tab.run("document.querySelector('.md-search__input').focus()")
        tab.call("Input.insertText", text="VWAP")
        found = tab.wait(lambda: tab.texts(".md-search-result__item"), "results")
        assert any("Daily VWAP" in text for text in found), found
        asked = {re.sub(r"(//[^/]*)/.*", r"\1", request) for request in tab.requests}
        assert {one for one in asked if not one.startswith("data:")} <= {address, f"blob:{address}"}
        assert tab.complaints == []
