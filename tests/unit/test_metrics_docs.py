"""docs/metrics.md is what the catalog says."""

from __future__ import annotations

from pathlib import Path

from recorder.ops.catalog import METRICS
from recorder.ops.reference import render_markdown

DOCS = Path(__file__).parents[2] / "docs" / "metrics.md"


def test_docs_are_the_catalog() -> None:
    """The file is its rendering; after a change write `recorder.ops.reference.render_markdown()` to it."""
    assert DOCS.read_text(encoding="utf-8") == render_markdown()


def test_docs_name_every_metric() -> None:
    """Each metric has one row, with its type and labels."""
    rows = [line for line in render_markdown().splitlines() if line.startswith("| `polygon_")]
    expected = [definition for group in METRICS.values() for definition in group]
    assert len(rows) == len(expected)
    for row, definition in zip(rows, expected, strict=True):
        assert row.startswith(f"| `{definition.name}` | {definition.kind} |")
        assert all(f"`{label}`" in row for label in definition.labels)
