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


def test_a_new_channel_is_read_named_and_documented(tmp_path: Path) -> None:
    """One file: symbol, time and file word come from the row, and so does the page of the docs."""
    assert len(RECIPE.files) == 1
    copy = RECIPE.applied_in(tmp_path)
    assert copy.python("-c", _READ).stdout.split() == ["AUC", "AAPL", "1790000000123", "auctions"]
    copy.python("tests/generated.py")
    assert "| `AUC` | notice | `auctions` | `ticker` | `at` `t` |" in (
        copy.root / "docs/channels.md"
    ).read_text(encoding="utf-8")
