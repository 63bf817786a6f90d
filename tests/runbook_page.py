"""The text of `recorder/ops/page/runbook.html`: what docs/operations.md says to do, where only the recorder is at hand."""

from __future__ import annotations

import re
from html import escape
from pathlib import Path
from typing import Final

from markdown_it import MarkdownIt
from markdown_it.token import Token

OPERATIONS: Final = Path(__file__).parents[1] / "docs" / "operations.md"
SECTIONS: Final = (
    "When the disk fills",
    "When the disk is full, slow or gone",
    "When a part fails",
    "Messages",
    "Trading sessions and silence",
    "Alerts",
)
_HEAD: Final = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>Runbook \u2013 recorder</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="page.css">
</head>
<body class="text">
<header><p class="name">recorder runbook</p><p class="about"><a href="../">Back to the live page</a></p></header>
<main>
<h1>What to do</h1>
"""
_FOOT: Final = "</main>\n</body>\n</html>\n"


def render_html() -> str:
    """Return the text of the page."""
    parts = {
        part.partition("\n")[0]: part
        for part in re.split(r"^## ", OPERATIONS.read_text(), flags=re.MULTILINE)
    }
    chosen = "".join(f"## {parts[name]}" for name in SECTIONS)
    markdown = MarkdownIt("commonmark", {"html": False}).enable("table")
    tokens = markdown.parse(chosen)
    names = [anchor(tokens[place + 1].content) for place, token in enumerate(tokens) if is_heading(token)]
    for place, token in enumerate(tokens):
        if is_heading(token):
            token.attrSet("id", anchor(tokens[place + 1].content))
        elif token.type == "inline":
            token.children = list(_within(token.children or [], names))
    rows = [
        f'<li><a href="#{anchor(name)}">{escape(name)}</a></li>'
        for name in (*SECTIONS, *re.findall(r"^### (Alert .+)$", chosen, re.MULTILINE))
    ]
    listed = "<ul>\n" + "\n".join(rows) + "\n</ul>\n"
    return _HEAD + listed + markdown.renderer.render(tokens, markdown.options, {}) + _FOOT


def anchor(heading: str) -> str:
    """Return the name under which a heading is linked to, as repositories make it."""
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")


def is_heading(token: Token) -> bool:
    """Return whether a token begins a heading."""
    return token.type == "heading_open"


def _within(tokens: list[Token], names: list[str]) -> list[Token]:
    """Leave out what leads to other pages: the words stay, the links and pictures go."""
    kept = []
    is_dropped = False
    for token in tokens:
        if token.type == "link_open":
            is_dropped = str(token.attrs["href"]).removeprefix("#") not in names
        if token.type == "image" or (is_dropped and token.type in ("link_open", "link_close")):
            continue
        kept.append(token)
    return kept
