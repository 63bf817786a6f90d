"""The recipe "a channel", followed on a copy of the project."""

from __future__ import annotations

from pathlib import Path

from recipes.channel import RECIPE

_READ = """
from recorder.archive.policy import type_word
from recorder.polygon.events import Decoder

frame = b'[{"ev":"AUC","ticker":"AAPL","at":1790000000123}]'
(header,) = Decoder("stocks").decode([frame]).headers()
print(*header, type_word("AUC"))
"""
_WRITE = """
from pathlib import Path
from recorder.polygon.reference import render_markdown

Path("docs/channels.md").write_text(render_markdown(), encoding="utf-8")
"""


def test_a_new_channel_is_read_named_and_documented(tmp_path: Path) -> None:
    """One file: symbol, time and file word come from the row, and so does the page of the docs."""
    assert len(RECIPE.files) == 1
    copy = RECIPE.applied_in(tmp_path)
    assert copy.python("-c", _READ).stdout.split() == ["AUC", "AAPL", "1790000000123", "auctions"]
    copy.python("-c", _WRITE)
    assert "| `AUC` | notice | `auctions` | `ticker` | `at` `t` |" in (
        copy.root / "docs/channels.md"
    ).read_text(encoding="utf-8")
