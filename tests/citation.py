"""The text of CITATION.cff, made from what pyproject.toml, CHANGELOG.md and LICENSE say of the program."""

from __future__ import annotations

import json

from release import PROJECT, VERSION, authors, released_on


def render_cff() -> str:
    """Return the text of CITATION.cff, in version 1.2.0 of its format."""
    keywords = [f"  - {json.dumps(word)}" for word in PROJECT["keywords"]]
    return "\n".join(
        [
            "# Made by `make docs`.",
            "cff-version: 1.2.0",
            "message: If you publish results from data that this program recorded, please cite it as below.",
            "type: software",
            "title: recorder",
            f"abstract: {json.dumps(PROJECT['description'])}",
            "authors:",
            f"  - name: {json.dumps(authors())}",
            f"version: {VERSION}",
            f"date-released: {json.dumps(released_on())}",
            f"license: {PROJECT['license']}",
            "keywords:",
            *keywords,
            "",
        ]
    )
