"""The text of docs/commands.md, made from the commands themselves."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Final

import click

from recorder.cli import COMMANDS, cli
from recorder.errors import EXIT_STATUSES

_STATUSES: Final = "\n".join(f"| {status} | {meaning} |" for status, meaning in EXIT_STATUSES.items())
_HEAD: Final = f"""\
# Commands

<!-- Made from the commands by `make docs`. -->

This page collects what `recorder COMMAND --help` prints. [Settings](settings.md) control most of the recorder,
not command-line options.

## Exit statuses

| exit status | means |
|---|---|
{_STATUSES}
"""


def commands() -> list[click.Command]:
    """Return all commands, by name."""
    found = [cli.get_command(click.Context(cli), name) for name in sorted(COMMANDS)]
    return [command for command in found if command is not None]


def options(command: click.Command) -> list[click.Option]:
    """Return the options of a command that are shown."""
    return [one for one in command.params if isinstance(one, click.Option) and not one.hidden]


def spelled(option: click.Option) -> str:
    """Return an option as it is typed: `--rate N`, `--bursts / --no-bursts`."""
    names = " / ".join([*option.opts, *option.secondary_opts])
    if option.is_flag:
        return names
    return f"{names} {option.make_metavar(click.Context(cli))}"


def usage(command: click.Command) -> str:
    """Return how a command is called."""
    arguments = [one for one in command.params if isinstance(one, click.Argument)]
    words = [one.make_metavar(click.Context(command)) for one in arguments]
    return " ".join(["recorder", str(command.name), *(["[OPTIONS]"] if options(command) else []), *words])


def render_markdown() -> str:
    """Return the text of docs/commands.md."""
    return "\n".join([_HEAD, *(line for command in commands() for line in _lines(command))])


def _lines(command: click.Command) -> Iterator[str]:
    yield f"## {command.name}\n"
    yield f"`{usage(command)}`\n"
    yield inspect.cleandoc(command.help or "").replace("*", "\\*") + "\n"
    if not options(command):
        return
    yield "| option | default | what it does |"
    yield "|---|---|---|"
    for option in options(command):
        yield f"| `{spelled(option).replace('|', chr(92) + '|')}` | {default_of(option)} | {option.help} |"
    yield ""


def default_of(option: click.Option) -> str:
    """Return the default of an option as Markdown, `""` where its help says it or there is none."""
    if not option.show_default:
        return ""
    if option.is_flag and option.secondary_opts:
        return f"`{option.opts[0] if option.default else option.secondary_opts[0]}`"
    many = option.default if isinstance(option.default, tuple | list) else [option.default]
    return ", ".join(f"`{value}`" for value in many)
