"""Hooks of mkdocs: pages from outside docs/, links that leave docs/, and what GitHub reads otherwise than mkdocs.

So the files of the repository, as they are, are the site.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Final

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT: Final = Path(__file__).parent
PAGES: Final = {
    "README.md": "index.md",
    "docs/README.md": "map.md",
    "CHANGELOG.md": "CHANGELOG.md",
    "CONTRIBUTING.md": "CONTRIBUTING.md",
    "SECURITY.md": "reporting.md",  # beside security.md, from which not every file system tells it apart
    "CODE_OF_CONDUCT.md": "CODE_OF_CONDUCT.md",
}
"""Files that have another place in the site than below docs/, and that place."""
_SOURCES: Final = {name: path for path, name in PAGES.items()}
_FENCED: Final = re.compile(r"(^ *```.*?^ *```$)", re.DOTALL | re.MULTILINE)
_LINK: Final = re.compile(r"(?<=\]\()([^)\s#]+)")
_SHOWN: Final = re.compile(r'(?<=src=")([^"#]+)')
_ROW: Final = re.compile(r"^\|.*$", re.MULTILINE)
_CODE: Final = re.compile(r"`[^`]+`")
_PARAGRAPH: Final = re.compile(r"(\n\n(?: {4}\S.*\n)+)(?=[-*] |\d+\. )")
"""A paragraph below the item of a list, where the next item follows."""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are not in docs/, and every other file of the repository that a page links to."""
    readme = files.get_file_from_path("README.md")
    if readme is not None:
        files.remove(readme)  # mkdocs would make it the first page, which is the README of the repository
    for path, name in PAGES.items():
        files.append(File.generated(config, name, content=(ROOT / path).read_text(encoding="utf-8")))
    for page in list(files.documentation_pages()):
        for prose in _FENCED.split(page.content_string)[::2]:
            for link in _LINK.findall(prose):
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

    pieces = _FENCED.split(markdown)
    pieces[::2] = [_SHOWN.sub(moved, _LINK.sub(moved, _ROW.sub(_plain_row, prose))) for prose in pieces[::2]]
    return "".join(map(_as_item, pieces))


def _as_item(piece: str) -> str:
    """Return prose, or one fenced block, whose parts below the item of a list are indented by 4.

    That is what Python-Markdown wants; for GitHub the width of the item's mark is enough, 2 or 3. It also wants a blank
    line between such a paragraph and the next item.
    """
    if not piece.lstrip().startswith("```"):
        return _PARAGRAPH.sub(r"\1\n", re.sub(r"^ {2,3}(?=\S)", " " * 4, piece, flags=re.MULTILINE))
    indent = len(piece) - len(piece.lstrip())
    return re.sub(r"^(?=.)", " " * (4 - indent), piece, flags=re.MULTILINE) if indent in (2, 3) else piece


def _plain_row(row: re.Match[str]) -> str:
    r"""Return a row of a table without the `\` that GitHub wants before a `|` in code, and Python-Markdown shows."""
    return _CODE.sub(lambda code: code[0].replace("\\|", "|"), row[0])


def _in_repository(page: str, link: str) -> str:
    """Return the path in the repository that a page's link names."""
    source = _SOURCES.get(page, f"docs/{page}")
    return posixpath.normpath(posixpath.join(posixpath.dirname(source), link))


def _in_site(target: str) -> str:
    """Return where a file of the repository is in the site."""
    if target in PAGES:
        return PAGES[target]
    if target.startswith("docs/"):
        return target.removeprefix("docs/")
    return f"files/{target}" if (ROOT / target).is_file() else target
