"""The text of man/recorder.1, made from the commands, the exit statuses and the settings."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from typing import Final

from command_reference import commands, default_of, options, spelled, usage
from release import PROJECT, VERSION, released_on

from recorder.cli import cli
from recorder.errors import EXIT_STATUSES
from recorder.settings import OPTIONS

_CODE: Final = re.compile(r"`([^`]+)`")
_LINK: Final = re.compile(r"\[([^]]+)\]\([^)]+\)")
_SETTINGS: Final = """\
Settings are environment variables, or lines of the file `.env` in the working directory; `ENV_FILE` names another file.
The environment counts before the file. An empty value counts as not set. A value that cannot be used ends the program
with status 78. `recorder config` prints the values that count, and where each came from.

Lists are separated by commas. Durations take `ms`, `s`, `m`, `h`, `d` and `w`. Sizes take `K`, `M`, `G` and `T`, of 1024,
or `KB`, `MB`, `GB` and `TB`, of 1000."""
_FILES: Final = {
    ".env": "Settings, where the program is started by hand.",
    "/etc/recorder/recorder.env": "Settings of the service; those of an instance `recorder@NAME` are in `NAME.env`.",
    "/etc/recorder/api-key": "The key of the exchange, for the service.",
    "/var/lib/recorder": "The archive of the service.",
}
_EXAMPLES: Final = {
    "recorder demo": "Record a simulated market into `./data` until Ctrl-C: no key, no network.",
    "recorder check": "Look whether all is in place that recording needs.",
    "recorder verify /var/lib/recorder": "Read the archive of the service back.",
    "recorder tail ws://127.0.0.1:8765 T.AAPL,Q.AAPL": "Print trades and quotes as they come.",
}


def render_man() -> str:
    """Return the text of man/recorder.1."""
    return "".join(f"{line}\n" for line in _lines())


def _lines() -> Iterator[str]:
    yield '.\\" Made from the commands by `make docs`.'
    yield f'.TH RECORDER 1 "{released_on()}" "recorder {VERSION}" "User Commands"'
    yield from (".nh", ".ad l")  # what is copied from the page has no hyphen of a line's end in it
    yield ".SH NAME"
    description = PROJECT["description"]
    yield f"recorder \\- {_text(description[:1].lower() + description[1:])}"
    yield ".SH SYNOPSIS"
    yield "\\fBrecorder\\fP [\\fB\\-\\-help\\fP | \\fB\\-\\-version\\fP] \\fICOMMAND\\fP [\\fIARGUMENT\\fP...]"
    yield ".SH DESCRIPTION"
    yield from _paragraphs(cli.help or "")
    yield ".SH COMMANDS"
    for command in commands():
        yield f".SS {_quoted(usage(command))}"
        yield from _paragraphs(command.help or "")
        for option in options(command):
            default = default_of(option)
            yield from _item(spelled(option), f"{option.help}{f' Default: {default}.' if default else ''}")
    yield ".SH EXIT STATUS"
    for status, meaning in EXIT_STATUSES.items():
        yield from _item(str(status), meaning)
    yield ".SH ENVIRONMENT"
    yield from _paragraphs(_SETTINGS)
    for declared in OPTIONS.values():
        default = declared.default_text or _shown(declared.show(declared.default))
        yield from _item(declared.variable, f"{declared.meaning} Default: {default}.")
    yield ".SH FILES"
    for path, meaning in _FILES.items():
        yield from _item(path, meaning)
    yield ".SH EXAMPLES"
    for example, meaning in _EXAMPLES.items():
        yield from _item(example, meaning)


def _shown(value: str) -> str:
    return f"`{value}`" if value else "unset"


def _paragraphs(text: str) -> Iterator[str]:
    for number, paragraph in enumerate(inspect.cleandoc(text).split("\n\n")):
        if number:
            yield ".PP"
        yield _text(" ".join(paragraph.split()))


def _item(term: str, meaning: str) -> Iterator[str]:
    yield ".TP"
    yield f".B {_quoted(term)}"
    yield _text(meaning)


def _text(markdown: str) -> str:
    """Return a line of the page: code is bold, of a link the words stay."""
    words = _LINK.sub(r"\1", markdown).replace("\\*", "*")
    line = "".join(
        f"\\fB{_plain(part)}\\fP" if number % 2 else _plain(part)
        for number, part in enumerate(_CODE.split(words))
    )
    return f"\\&{line}" if line.startswith((".", "'")) else line


def _quoted(words: str) -> str:
    return f'"{_plain(words).replace(chr(34), chr(34) * 2)}"'


def _plain(words: str) -> str:
    """Return words that no formatter changes: what is copied from the page works on a command line."""
    for character, escape in (
        ("\\", "\\e"),
        ("-", "\\-"),
        ("'", "\\(aq"),
        ("`", "\\(ga"),
        ("^", "\\(ha"),
        ("~", "\\(ti"),
    ):
        words = words.replace(character, escape)
    return words
