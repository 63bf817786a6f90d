"""What the settings look like: the effective values, `.env.example`, and the page of the docs."""

from __future__ import annotations

import textwrap

from recorder import log
from recorder.settings.changes import RELOADED
from recorder.settings.load import Loaded
from recorder.settings.model import OPTIONS
from recorder.settings.names import FORMER_NAMES
from recorder.settings.option import Option
from recorder.settings.sections import GROUPS

_HEAD = """\
# Settings

<!-- Made from the settings by `make docs`. -->

Settings are environment variables. They are read from the process environment and then from the file `.env` in the
working directory; `ENV_FILE` in the environment names another file. `recorder config` prints the values that
count and where each came from; secrets show as `***`.

A value that cannot be used stops the program at start with exit status 78 and one line for each bad variable.
An empty value counts as not set, except for `METRICS_ADDR`, where it means no server, and `NDJSON_DEST`, which must
not be empty. Lists are separated by commas. `~` at the beginning of a path is the home folder.

A name that is almost that of a variable, or part of one (`ROTATE_SECS`), stops the program too, since what it sets
would silently not happen; the line says which variable is meant. `FOREIGN_NAMES` lists names that belong to other
programs. Other names in `.env` that this program does not read are listed in one warning.

Variables with ↻ change [without a restart](operations.md#change-without-a-restart).

## Durations and sizes

Both take a unit, here and in the options of commands:

- A duration is a number and `ms`, `s`, `m`, `h`, `d` or `w`, or several of these: `90s`, `15m`, `1h30m`, `30d`. A number
  alone is what the end of the variable's name says, seconds (`_SECS`) or milliseconds (`_MS`).
- A size is a number and a unit of powers of 1024, `K M G T` or in full `KiB MiB GiB TiB`, or of powers of 1000, `KB MB GB
  TB`: `64M` and `64MiB` are 67,108,864 bytes, `64MB` is 64,000,000. A number alone is bytes.

`recorder config` shows each duration as the number that its variable's name says, and each size as the shortest text that
is exact: `NDJSON_ROTATE_SECS=1h` shows as `3600`, `NDJSON_MAX_BYTES=64M` as `64MiB`.
"""

_FORMER_HEAD = """\
## Names of other programs

Names that the programs before this one read, or those beside it. They are not read here. A start warns of one while
the variable that takes its place is not set.

| name | what to set instead |
|---|---|"""

_ENV_HEAD = """\
# Settings of recorder; docs/settings.md says more. Copy to .env and remove the # before what you change.
# Made from the settings by `make docs`.
# Durations take a unit: 500ms, 90s, 15m, 1h, 30d; without one they are what the end of the name says, _SECS or _MS.
# Sizes do too: 64M and 64MiB are 64 * 1024 * 1024 bytes, 64MB is 64 * 1000 * 1000 bytes.
"""


def render_effective(loaded: Loaded) -> list[tuple[str, str, str]]:
    """Return name, value and origin of every variable, in the order of the docs; no value shows as empty."""
    settings = loaded.settings
    return [
        (name, log.mask(declared.show(settings[name])), loaded.origins[name])
        for name, declared in OPTIONS.items()
    ]


def render_env_example() -> str:
    """Return the text of `.env.example`: every variable with its meaning and default, commented out."""
    lines = [_ENV_HEAD]
    for group in GROUPS:
        lines.append(f"# --- {group} ---\n")
        for declared in _options(group):
            comments = [declared.meaning, f"Allowed: {declared.allowed}."]
            if declared.default_text:
                comments.append(f"Default: {declared.default_text}.")
            for comment in comments:
                lines += [f"# {line}" for line in textwrap.wrap(comment.replace("`", ""), 108)]
            lines.append(f"#{declared.variable}={declared.show(declared.default)}\n")
    return "\n".join(lines)


def render_markdown() -> str:
    """Return the text of `docs/settings.md`: one table for each group."""
    lines = [_HEAD]
    for group in GROUPS:
        lines += [f"## {group}", "", "| variable | default | meaning | allowed |", "|---|---|---|---|"]
        for declared in _options(group):
            allowed = declared.allowed.replace("*", "\\*")
            mark = "↻ " if declared.variable in RELOADED else ""
            lines.append(
                f"| `{declared.variable}` | {_default(declared)} | {mark}{declared.meaning} | {allowed} |"
            )
        lines.append("")
    lines += [_FORMER_HEAD]
    lines += [f"| `{name}` | {successor.words} |" for name, successor in FORMER_NAMES.items()]
    return "\n".join([*lines, ""])


def _options(group: str) -> list[Option]:
    return [declared for declared in OPTIONS.values() if declared.group == group]


def _default(declared: Option) -> str:
    if declared.default_text:
        return declared.default_text
    text = declared.show(declared.default)
    return f"`{text}`" if text else "unset"
