"""Whether native code is used is one choice of the process, made by the settings, or by the environment without them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fakes import FakeClock

from recorder import native
from recorder.bars.kinds import are_compiled
from recorder.checks.configured import check_native
from recorder.checks.findings import Level
from recorder.checks.scene import Scene
from recorder.errors import ConfigError
from recorder.settings import Settings, load_settings
from recorder.settings.load import native_wanted

ROOT = Path(__file__).parents[2]
BUILT = object()
"""Stands for the module."""


@pytest.fixture(autouse=True)
def _undo() -> Iterator[None]:
    """Leave the choice of this process as it was."""
    made, module, wanted = native._Choice.made, native._Choice.module, native._Choice.wanted
    native._Choice.made = False
    yield
    native._Choice.made, native._Choice.module = made, module
    native.choose_by(wanted)


def let_there_be(monkeypatch: pytest.MonkeyPatch, module: object, absent: str = "") -> None:
    """Let the extension be there, or be absent, whatever was built here."""
    monkeypatch.setattr(native, "_load", lambda: (module, absent))
    monkeypatch.delenv(native.VARIABLE, raising=False)


@pytest.mark.parametrize(("wanted", "used"), [(None, True), ("yes", True), ("no", False)])
def test_native_code_that_was_built_is_used_unless_it_is_not_wanted(
    monkeypatch: pytest.MonkeyPatch, wanted: str | None, used: bool
) -> None:
    """Without a word it is used."""
    let_there_be(monkeypatch, BUILT)
    native.choose(wanted)
    assert native.in_use() is used
    assert native.module() is (BUILT if used else None)
    assert native.word() == ("yes" if used else "no")


def test_without_native_code_python_works_unless_it_is_demanded(monkeypatch: pytest.MonkeyPatch) -> None:
    """`yes` is for a machine on which being slow is a fault; the error says what to do."""
    let_there_be(monkeypatch, None, "it was not built")
    for wanted in (None, "no"):
        native.choose(wanted)
        assert not native.in_use()
        assert native.word() == "no"
    with pytest.raises(ConfigError, match=r"RECORDER_NATIVE=yes: .*it was not built; install a C compiler"):
        native.choose("yes")


@pytest.mark.parametrize(("value", "used"), [("no", False), (" NO ", False), ("Yes", True), ("", True)])
def test_where_nobody_has_chosen_the_environment_counts(
    monkeypatch: pytest.MonkeyPatch, value: str, used: bool
) -> None:
    """Commands that read no settings have the same choice."""
    let_there_be(monkeypatch, BUILT)
    monkeypatch.setenv(native.VARIABLE, value)
    assert native.in_use() is used


def test_another_word_is_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """It is named, with what may stand there, by the settings and by a command without them."""
    let_there_be(monkeypatch, BUILT)
    monkeypatch.setenv(native.VARIABLE, "perhaps")
    with pytest.raises(ConfigError, match="RECORDER_NATIVE='perhaps': must be yes or no"):
        native.module()
    with pytest.raises(ConfigError, match="RECORDER_NATIVE='perhaps': must be yes or no"):
        load_settings({"RECORDER_NATIVE": "perhaps"}, tmp_path, require_key=False)


def test_a_command_without_settings_looks_where_it_is_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The environment, else the `.env` file, whatever else is in it; and nothing is read before it matters."""
    let_there_be(monkeypatch, BUILT)
    (tmp_path / ".env").write_text("RECORDER_NATIVE=No\nCHANNEL_CAP=none\n")
    native.choose_by(lambda: native_wanted({"RECORDER_NATIVE": " "}, tmp_path))
    assert native.in_use() is False
    assert native_wanted({"RECORDER_NATIVE": "YES"}, tmp_path) == "yes"
    assert native_wanted({}, tmp_path / "elsewhere") is None


def test_the_settings_know_it_from_everywhere(tmp_path: Path) -> None:
    """The environment, and the `.env` file, in any case of letters."""
    assert load_settings({}, tmp_path, require_key=False).settings.native is None
    assert load_settings({"RECORDER_NATIVE": "NO"}, tmp_path, require_key=False).settings.native == "no"
    (tmp_path / ".env").write_text("RECORDER_NATIVE=yes\n")
    assert load_settings({}, tmp_path, require_key=False).settings.native == "yes"


def test_an_extension_that_cannot_be_loaded_is_none_and_says_why(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As one that was built for another C library."""

    def refuse(name: str) -> Any:
        raise ImportError("undefined symbol: puts2")

    native._load.cache_clear()
    monkeypatch.setattr(native.importlib, "import_module", refuse)
    try:
        assert native.absent() == "it cannot be loaded: undefined symbol: puts2"
        native.choose(None)
        assert not native.in_use()
    finally:
        native._load.cache_clear()


def test_an_extension_of_older_sources_is_none_and_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    """An editable install keeps what was compiled before."""
    old = SimpleNamespace(split=len, index=len)
    native._load.cache_clear()
    monkeypatch.setattr(native.importlib, "import_module", lambda name: old)
    try:
        assert native.absent() == "it was compiled from older sources, without Block"
        native.choose(None)
        assert not native.in_use()
    finally:
        native._load.cache_clear()


@pytest.mark.parametrize(
    ("module", "wanted", "level", "text"),
    [
        (BUILT, None, Level.OK, "it is there"),
        (BUILT, "no", Level.SKIPPED, "RECORDER_NATIVE is no"),
        (None, None, Level.SKIPPED, "Python does its work: it was not built"),
        (None, "yes", Level.FAILURE, "there is no native code"),
    ],
)
async def test_the_check_says_which_is_used(
    monkeypatch: pytest.MonkeyPatch, module: object, wanted: str | None, level: Level, text: str
) -> None:
    """And what to do where it is missing."""
    let_there_be(monkeypatch, module, "" if module else "it was not built")
    settings = Settings.of({"RECORDER_NATIVE": wanted} if wanted else {})
    [finding] = await check_native(Scene(settings, (), FakeClock(), offline=True))
    assert finding.level is level
    assert text in finding.text
    if level is Level.OK:
        assert ("bars are made with compiled windows" in finding.text) is are_compiled()
        assert ("bars are made by Python" in finding.text) is not are_compiled()
    assert bool(finding.advice) is (module is None)


def test_a_command_that_is_told_nonsense_says_so(tmp_path: Path) -> None:
    """`recorder run` ends with the status of a bad setting."""
    environ = {**os.environ, "ENV_FILE": os.devnull, "RECORDER_NATIVE": "perhaps", "POLYGON_API_KEY": "k"}
    done = subprocess.run(
        [sys.executable, "-m", "recorder", "run"],
        env=environ,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 78
    assert "RECORDER_NATIVE='perhaps': must be yes or no" in done.stderr


def test_native_code_was_built() -> None:
    """CI, where a skip is a failure, tests both ways; elsewhere Python may be the only one."""
    if native.absent():
        pytest.skip(f"no native code: {native.absent()}")
    native.choose(native.YES)
    assert native.in_use()


def test_the_extension_has_one_home() -> None:
    """No other module of the recorder imports it."""
    found = [
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "recorder").rglob("*.py")
        if re.search(r"(import .*\b|\")(recorder\.)?_native\b", path.read_text(encoding="utf-8"))
    ]
    assert found == ["recorder/native.py"]
