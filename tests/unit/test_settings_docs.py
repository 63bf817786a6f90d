"""The docs of the settings explain each of them, once."""

from __future__ import annotations

from pathlib import Path

import pytest

from recorder.settings import OPTIONS, VARIABLES, Settings, load_settings, render_env_example, render_markdown


def test_every_variable_is_in_both_once() -> None:
    """No variable is missing or told twice."""
    for variable in VARIABLES:
        assert render_env_example().count(f"\n#{variable}=") == 1
        assert render_markdown().count(f"\n| `{variable}` | ") == 1


def test_every_variable_is_explained() -> None:
    """Each has a sentence."""
    for name, declared in OPTIONS.items():
        assert declared.meaning.endswith("."), name


@pytest.mark.parametrize("take_away", ["", "#"])
def test_the_example_is_a_file_with_all_defaults(tmp_path: Path, take_away: str) -> None:
    """As it stands and with every variable switched on, it changes nothing and warns of nothing."""
    lines = render_env_example().splitlines()
    switched_on = [line[1:] if take_away and not line.startswith("# ") else line for line in lines]
    (tmp_path / ".env").write_text("\n".join(switched_on), encoding="utf-8")
    loaded = load_settings({}, tmp_path, require_key=False)
    assert loaded.settings.public_dict() == Settings.of().public_dict()
    assert {loaded.origins["NDJSON_DEST"]} == {str(tmp_path / ".env") if take_away else "default"}
