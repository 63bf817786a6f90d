"""Commands are found without importing them all, and each is listed with the words of its own help."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import click
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


def imported_by(*arguments: str) -> tuple[str, set[str]]:
    """Return what `recorder` prints with these arguments, and the modules that it has imported when it ends."""
    code = """
import atexit, sys
atexit.register(lambda: print(*sorted(sys.modules), sep="\\n", file=sys.stderr))
from recorder.cli import main
main()
"""
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=60, check=False
    )
    return done.stdout, set(done.stderr.splitlines())


@pytest.mark.parametrize("option", ["--help", "--version"])
def test_help_and_version_import_no_library_but_click(option: str) -> None:
    """`recorder --help` lists every command and imports none."""
    printed, imported = imported_by(option)
    assert option == "--version" or all(name in printed for name in COMMANDS)
    assert "click" in imported
    assert not imported & HEAVY
    assert {name for name in imported if name.startswith("recorder.")} == {
        "recorder.cli",
        "recorder.errors",
        "recorder.units",
        "recorder.version",
    }


@pytest.mark.parametrize("arguments", [("--help",), ("--no-such-option",)], ids=["help", "slip"])
@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_imports_what_it_does_when_it_runs(name: str, arguments: tuple[str, ...]) -> None:
    """Help and a slip on the command line come at once: no large library is imported for them, the log neither."""
    printed, imported = imported_by(name, *arguments)
    assert arguments != ("--help",) or printed.startswith(f"Usage: recorder {name}")
    assert f"recorder.cli.{name}" in imported
    assert not imported & HEAVY


def test_completion_imports_no_library_but_click() -> None:
    """A shell that completes an option runs the recorder at each press of the tab key."""
    code = """
import os, sys
os.environ |= {"_RECORDER_COMPLETE": "bash_complete", "COMP_WORDS": "recorder demo --se", "COMP_CWORD": "2"}
from recorder.cli import cli
try:
    cli.main(prog_name="recorder")
finally:
    print(*sys.modules, file=sys.stderr)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert {"plain,--seed", "plain,--seconds"} <= set(done.stdout.split())
    imported = set(done.stderr.split())
    assert "recorder.cli.demo" in imported
    assert not imported & HEAVY


@pytest.mark.parametrize(
    ("arguments", "unused"),
    [
        (("config",), {"aiohttp", "isal", "msgspec", "prometheus_client", "psutil", "zmq", "zstandard"}),
        (("schema",), {"aiohttp", "confluent_kafka", "nats", "prometheus_client", "psutil", "zmq"}),
        (("simulate", "--fault", "help"), {"prometheus_client", "psutil", "pydantic", "zmq", "zstandard"}),
        (
            ("tail", "ws://127.0.0.1:1", ","),
            {"aiohttp", "isal", "prometheus_client", "psutil", "zmq", "zstandard"},
        ),
        (("top", "http://127.0.0.1:1", "--once"), {"prometheus_client", "psutil", "zmq"}),
        (("verify", "no-such-archive"), {"aiohttp", "dotenv", "prometheus_client", "psutil", "zmq"}),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_a_command_that_runs_imports_only_what_it_uses(arguments: tuple[str, ...], unused: set[str]) -> None:
    """To read an archive takes no HTTP library, and to show the settings takes no codec."""
    _, imported = imported_by(*arguments)
    assert f"recorder.cli.{arguments[0]}" in imported
    assert not imported & unused


@pytest.mark.parametrize(
    ("name", "arguments", "values"),
    [
        ("check", [], {"sample_secs": 5.0}),
        ("check", ["--sample-secs", "500ms"], {"sample_secs": 0.5}),
        ("demo", ["--seconds", "1m30s"], {"seconds": 90.0}),
        ("replay", ["a", "--duration", "15m", "--skip-gaps", "5m"], {"duration": 900.0, "skip_gaps": 300.0}),
        ("replay", ["a", "--linger", "500ms"], {"linger": 0.5, "duration": None}),
        ("simulate", [], {"pending_bytes_max": 64 * 2**20}),
        ("simulate", ["--pending-bytes-max", "1G"], {"pending_bytes_max": 2**30}),
    ],
)
def test_options_take_units(name: str, arguments: list[str], values: dict[str, float]) -> None:
    """Durations and sizes of the command line are written as those of the settings."""
    command = cli.cli.get_command(click.Context(cli.cli), name)
    assert command is not None
    context = command.make_context(name, arguments)
    assert {option: context.params[option] for option in values} == values


@pytest.mark.parametrize(
    ("name", "arguments", "words"),
    [
        ("check", ["--sample-secs", "1h"], "1h must be at least 0s and at most 10m."),
        ("check", ["--sample-secs", "soon"], "'soon' is not a duration such as 90, 90s, 15m or 1h."),
        ("demo", ["--seconds", "0"], "0 must be at least 100ms."),
        ("replay", ["a", "--duration", "0"], "0 must be at least 1ms."),
        ("simulate", ["--pending-bytes-max", "1Gb/s"], "not a size such as 1048576, 64M, 64MiB or 1GB."),
        (
            "simulate",
            ["--pending-bytes-max", "10000"],
            "10000 must be a whole number of bytes, at least 1MiB.",
        ),
    ],
)
def test_an_option_out_of_bounds_is_a_slip_of_the_command_line(
    name: str, arguments: list[str], words: str
) -> None:
    """The message says what was given and what may be."""
    command = cli.cli.get_command(click.Context(cli.cli), name)
    assert command is not None
    with pytest.raises(click.BadParameter) as refused:
        command.make_context(name, arguments)
    assert words in refused.value.message


def test_an_unknown_command_is_an_error_of_the_command_line() -> None:
    """Status 2, and no traceback."""
    done = subprocess.run(
        [sys.executable, "-m", "recorder", "recrod"], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 2
    assert "No such command 'recrod'" in done.stderr
