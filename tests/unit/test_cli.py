"""Commands are found without importing them all, and each is listed with the words of its own help."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from command_reference import commands

from recorder import cli
from recorder.cli import COMMANDS

HEAVY = {
    "aiohttp",
    "asyncio",
    "msgspec",
    "orjson",
    "prometheus_client",
    "pydantic",
    "rich",
    "structlog",
    "zstandard",
}


def test_every_module_is_a_command_and_every_command_a_module() -> None:
    """A file in recorder/cli is a command of its name, and is listed."""
    files = {path.stem for path in Path(cli.__file__).parent.glob("*.py")} - {"__init__"}
    assert files == set(COMMANDS)
    assert list(COMMANDS) == sorted(COMMANDS)
    assert [command.name for command in commands()] == list(COMMANDS)


@pytest.mark.parametrize("command", commands(), ids=lambda command: command.name)
def test_a_command_is_listed_with_the_beginning_of_its_help(command: object) -> None:
    """`recorder --help` and `recorder COMMAND --help` say the same."""
    help_text = " ".join((command.help or "").split())  # type: ignore[attr-defined]
    assert help_text.startswith(COMMANDS[command.name].removesuffix("."))  # type: ignore[attr-defined]


def test_help_imports_no_library_but_click() -> None:
    """`recorder --help` lists every command and imports none."""
    code = """
import sys
from recorder.cli import cli
cli.main(["--help"], prog_name="recorder", standalone_mode=False)
print(*sorted(name for name in sys.modules if name.count(".") <= 2), file=sys.stderr)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert all(name in done.stdout for name in COMMANDS)
    imported = set(done.stderr.split())
    assert not imported & HEAVY
    assert {name for name in imported if name.startswith("recorder.")} == {
        "recorder.cli",
        "recorder.errors",
        "recorder.version",
    }


def test_an_unknown_command_is_an_error_of_the_command_line() -> None:
    """Status 2, and no traceback."""
    done = subprocess.run(
        [sys.executable, "-m", "recorder", "recrod"], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 2
    assert "No such command 'recrod'" in done.stderr
