"""What the settings look like: the effective values, `.env.example`, and the page of the docs."""

from __future__ import annotations

import textwrap
from typing import Any, cast

from recorder import log
from recorder.settings.load import Loaded
from recorder.settings.model import GROUPS, KINDS, Settings

_HEAD = """\
# Settings

<!-- Made by recorder.settings.render_markdown(); a test holds this file against it. -->

Settings are environment variables, read from the process environment and then from the file `.env` in the
working directory; `ENV_FILE` in the environment names another file. `recorder config` prints the values that
count and where each came from; secrets show as `***`.

A value that cannot be used stops the program at start with exit status 78 and one line for each bad variable.
An empty value counts as not set, except for `METRICS_ADDR`, where it means no server. Lists are separated by
commas. Sizes are bytes, or have a unit: `KB MB GB TB` are powers of 1000, `KiB MiB GiB TiB` of 1024.
A name that looks like one of these and is none is a warning that tells the nearest one.
"""

_ENV_HEAD = """\
# Settings of recorder; docs/settings.md says more. Copy to .env and take away the # of what you change.
# Made by recorder.settings.render_env_example(); a test holds this file against it.
"""


def render_effective(loaded: Loaded) -> list[tuple[str, str, str]]:
    """Give name, value and origin of every variable, in the order of the docs; no value shows as empty."""
    settings = loaded.settings
    return [
        (field.upper(), log.mask(_text(field, settings.effective(field))), loaded.origins[field.upper()])
        for field in KINDS
    ]


def render_env_example() -> str:
    """Give the text of `.env.example`: every variable with its meaning and default, commented out."""
    lines = [_ENV_HEAD]
    for group in GROUPS:
        lines.append(f"# --- {group} ---\n")
        for field in _fields(group):
            info = Settings.model_fields[field]
            comments = [info.description or "", f"Allowed: {KINDS[field].allowed}."]
            if default_text := _extra(field)["default_text"]:
                comments.append(f"Default: {default_text}.")
            for comment in comments:
                lines += [f"# {line}" for line in textwrap.wrap(comment.replace("`", ""), 108)]
            lines.append(f"#{field.upper()}={_text(field, info.default)}\n")
    return "\n".join(lines)


def render_markdown() -> str:
    """Give the text of `docs/settings.md`: one table for each group."""
    lines = [_HEAD]
    for group in GROUPS:
        lines += [f"## {group}", "", "| variable | default | meaning | allowed |", "|---|---|---|---|"]
        for field in _fields(group):
            meaning = Settings.model_fields[field].description or ""
            allowed = KINDS[field].allowed.replace("*", "\\*")
            lines.append(f"| `{field.upper()}` | {_default(field)} | {meaning} | {allowed} |")
        lines.append("")
    return "\n".join(lines)


def _fields(group: str) -> list[str]:
    return [field for field in KINDS if _extra(field)["group"] == group]


def _extra(field: str) -> dict[str, Any]:
    return cast("dict[str, Any]", Settings.model_fields[field].json_schema_extra)


def _text(field: str, value: object) -> str:
    return "" if value is None else KINDS[field].show(value)


def _default(field: str) -> str:
    if default_text := _extra(field)["default_text"]:
        return str(default_text)
    text = _text(field, Settings.model_fields[field].default)
    return f"`{text}`" if text else "unset"
