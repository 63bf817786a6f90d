"""The recipe "a setting", followed on a copy of the project."""

from __future__ import annotations

from pathlib import Path

from recipes.setting import RECIPE

_READ = """
from recorder.settings import load_settings

print(load_settings(require_key=False).settings.bars.windows_max)
"""


def test_a_new_setting_is_read_checked_shown_and_documented(tmp_path: Path) -> None:
    """One file: the part gets the value, a bad one is refused, and config, .env.example and the docs have it."""
    assert len(RECIPE.files) == 1
    copy = RECIPE.applied_in(tmp_path)
    assert "BAR_WINDOWS_MAX=7\t# environment" in copy.recorder("config", BAR_WINDOWS_MAX="7").stdout
    assert copy.python("-c", _READ, BAR_WINDOWS_MAX="7").stdout == "7\n"
    refused = copy.recorder("config", status=78, BAR_WINDOWS_MAX="0")
    assert "BAR_WINDOWS_MAX='0': must be a whole number from 1 to 1000000" in refused.stderr
    copy.python("tests/generated.py")
    assert "#BAR_WINDOWS_MAX=10000" in (copy.root / ".env.example").read_text(encoding="utf-8")
    copy.python(
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "tests/unit/test_settings_docs.py",
        "tests/unit/test_generated.py",
    )
