"""Hooks of mkdocs: pages from outside docs/, and links that leave docs/, so that the repository's own files are the site."""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Final

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT: Final = Path(__file__).parent
PAGES: Final = {"README.md": "index.md", "CHANGELOG.md": "CHANGELOG.md", "CONTRIBUTING.md": "CONTRIBUTING.md"}
"""Files beside docs/ that are pages, and their names in the site."""
MAP: Final = "docs/README.md"
"""The repository's table of contents. The site has its navigation instead."""
_LINK: Final = re.compile(r"(?<=\]\()([^)\s#]+)")
_SHOWN: Final = re.compile(r'(?<=src=")([^"#]+)')


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are not in docs/, and every file of the repository that a page links to."""
    listed = files.get_file_from_path("README.md")
    if listed is not None:
        files.remove(listed)
    for path, name in PAGES.items():
        files.append(File.generated(config, name, content=(ROOT / path).read_text(encoding="utf-8")))
    for page in list(files.documentation_pages()):
        for link in _LINK.findall(page.content_string):
            target = _in_repository(page.src_uri, link)
            name = _in_site(target)
            if name.startswith("files/") and files.get_file_from_path(name) is None:
                files.append(File.generated(config, name, abs_src_path=str(ROOT / target)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Return a page whose links lead to where their targets are in the site."""
    source = page.file.src_uri

    def moved(match: re.Match[str]) -> str:
        if re.match(r"[a-z]+:", match[1]):
            return match[1]
        target = _in_repository(source, match[1])
        if not (ROOT / target).exists():
            return match[1]  # a link that is broken stays so, and ends the build
        return posixpath.relpath(_in_site(target), posixpath.dirname(source) or ".")

    if source == "CONTRIBUTING.md":
        # Code below the items of its lists is indented by 3, which is enough for GitHub; Python-Markdown wants 4.
        markdown = re.sub(r"^   (?=.)", "    ", markdown, flags=re.MULTILINE)
    return _SHOWN.sub(moved, _LINK.sub(moved, markdown))


def _in_repository(source: str, link: str) -> str:
    """Return the path in the repository that a page's link names."""
    folder = "" if source in PAGES.values() else posixpath.join("docs", posixpath.dirname(source))
    return posixpath.normpath(posixpath.join(folder, link))


def _in_site(target: str) -> str:
    """Return where a file of the repository is in the site."""
    if target in PAGES:
        return PAGES[target]
    if target == MAP:
        return "index.md"
    if target.startswith("docs/"):
        return target.removeprefix("docs/")
    return f"files/{target}" if (ROOT / target).is_file() else target
