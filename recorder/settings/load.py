"""Where values come from: the command, the environment, the `.env` file; all that is wrong, at once."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from dotenv.parser import parse_stream
from pydantic import ValidationError

from recorder import log, native
from recorder.errors import ConfigError
from recorder.objects.credentials import STORE_VARIABLES
from recorder.polygon.client import listed
from recorder.settings.keys import read_secret
from recorder.settings.model import EXCHANGE, OPTIONS, VARIABLES, Settings
from recorder.settings.names import Names, Place
from recorder.settings.omissions import omissions
from recorder.settings.relations import REPLACES, contradictions, implications
from recorder.settings.sections import LogSettings
from recorder.settings.without_effect import without_effect
from recorder.words import shortened

COMMAND: Final = "command"
ENVIRONMENT: Final = "environment"
DEFAULT: Final = "default"
NO_EXTENSIONS: Final = "AIOHTTP_NO_EXTENSIONS"
ENV_FILE: Final = "ENV_FILE"
"""Names the file to read instead of `.env`; in the environment only."""

_VALUE_CHARS_MAX: Final = 200
_KEY_FILE_BYTES_MAX: Final = 4096


@dataclass(frozen=True, slots=True)
class Loaded:
    """Settings that can be used."""

    settings: Settings
    origins: Mapping[str, str]
    """Variable to `command`, `environment`, path of the file, `default`, or the variable that implies it."""
    warnings: tuple[str, ...]
    """Warnings: what the operator should know and what does not stop the start."""


class SettingsError(ConfigError):
    """Variables that cannot be used, a line for each."""

    def __init__(self, words: str, log_settings: LogSettings) -> None:
        """`log_settings` is what could be read of them, so that even this is logged as the operator asked for."""
        super().__init__(words)
        self.log_settings = log_settings


@dataclass(frozen=True, slots=True)
class _Source:
    """Somewhere values come from."""

    origin: str
    values: Mapping[str, object]

    @property
    def place(self) -> Place:
        """The names in it, but for those that say where others are."""
        names = self.values.keys() - {ENV_FILE, NO_EXTENSIONS}
        return Place(self.origin, names, is_file=self.origin != ENVIRONMENT)


@dataclass(frozen=True, slots=True)
class _Given:
    """The variables that are set: what to, and where."""

    values: Mapping[str, object]
    origins: Mapping[str, str]

    def line(self, name: str, words: str) -> str:
        """Return a line about one variable, and what it was set to."""
        if name not in self.values:
            return f"{name}: {words}"
        declared = OPTIONS[name]
        value = self.values[name]
        text = value if isinstance(value, str) else declared.show(value)
        shown = log.MASK if declared.secret else repr(log.mask(_without_password(text)))
        origin = self.origins[name]
        where = "" if origin in (COMMAND, ENVIRONMENT) else f" (in {origin})"
        return f"{name}={shortened(shown, _VALUE_CHARS_MAX)}{where}: {words}"


def load_settings(
    environ: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    overrides: Mapping[str, object] | None = None,
    require_key: bool = True,
) -> Loaded:
    """Read all settings.

    `overrides` are the command's options, by variable; None counts as not given. They win over `environ` (the
    process's unless given), which wins over the file `.env` in `cwd` or the one that `ENV_FILE` in `environ`
    names. An empty value counts as not set, except for METRICS_ADDR, where it means no server. Without
    `require_key` a missing key, or one that cannot be read from its file, is no error.

    Raise SettingsError with one line for each variable that cannot be used.
    """
    environ = os.environ if environ is None else environ
    cwd = Path.cwd() if cwd is None else cwd
    command = {name.upper(): value for name, value in (overrides or {}).items() if value is not None}
    file, problems = read_env_file(environ, cwd)
    problems += [f"{name}: is not a variable of this program" for name in command if name not in VARIABLES]
    if environ.get(NO_EXTENSIONS):
        problems.append(
            f"{NO_EXTENSIONS}: must not be set: aiohttp's parser in Python takes what its C one refuses"
        )
    given = _merge(_Source(COMMAND, command), _Source(ENVIRONMENT, environ), file)
    values, wrong = _usable(given.values)
    implied = implications(Settings.of(values, frozenset(values)))
    settings = Settings.of(values | {name: value for name, (value, _) in implied.items()}, frozenset(values))
    bad = frozenset(wrong)
    for contradiction in contradictions(settings):
        # One that involves a bad value may come from the default in its place.
        if bad.isdisjoint(contradiction.variables):
            wrong.setdefault(contradiction.variables[0], contradiction.words)
    names = Names(VARIABLES, frozenset(given.values), settings["FOREIGN_NAMES"])
    places = _Source(ENVIRONMENT, environ).place, file.place
    for place in places:
        problems += [f"{name} ({place.where}) {words}" for name, words in names.slips(place)]
    unread = list(_unread(names, places))
    warnings = [*(words for _, words in unread), *omissions(settings), *without_effect(settings)]

    key, words = _key_of_file(settings, cwd)
    if key:
        implied["POLYGON_API_KEY"] = key, "POLYGON_API_KEY_FILE"
        effective = {**settings.effective, "POLYGON_API_KEY": key}
        settings = settings.model_copy(update={"api_key": key, "effective": effective})
    elif words and not require_key:
        warnings.append(given.line("POLYGON_API_KEY_FILE", words))
    elif words:
        wrong.setdefault("POLYGON_API_KEY_FILE", words)
    elif (
        require_key
        and settings.source == EXCHANGE
        and not settings.api_key
        and "POLYGON_API_KEY_FILE" not in wrong
    ):
        wrong.setdefault("POLYGON_API_KEY", "must be set, or POLYGON_API_KEY_FILE: the exchange asks for it")

    problems += [given.line(name, wrong[name]) for name in VARIABLES if name in wrong]
    problems += [words for variable, words in unread if variable in wrong]
    if problems:
        raise SettingsError(log.mask("\n".join(problems)), settings.log)
    origins = {
        name: implied[name][1] if name in implied else given.origins.get(name, DEFAULT) for name in VARIABLES
    }
    return Loaded(settings, origins, tuple(map(log.mask, warnings)))


def native_wanted(environ: Mapping[str, str] | None = None, cwd: Path | None = None) -> str | None:
    """Return what the environment, else the `.env` file, says of native code, whatever else is in them; None: nothing."""
    environ = os.environ if environ is None else environ
    file, _ = read_env_file(environ, Path.cwd() if cwd is None else cwd)
    said = (str(place.get(native.VARIABLE, "")).strip().lower() for place in (environ, file.values))
    return next(filter(None, said), None)


def environ_without_settings(environ: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the environment for a process of ours that needs no settings, and whose secrets nobody may find there."""
    environ = os.environ if environ is None else environ
    ours = {*VARIABLES, *STORE_VARIABLES}
    return {name: value for name, value in environ.items() if name.upper() not in ours}


def store_environ(environ: Mapping[str, str] | None = None, cwd: Path | None = None) -> dict[str, str]:
    """Return what the environment says, and the `.env` file besides, of object stores and of whoever asks them."""
    environ = os.environ if environ is None else environ
    file, _ = read_env_file(environ, Path.cwd() if cwd is None else cwd)
    places = (file.values, environ)
    return {name: str(place[name]) for place in places for name in STORE_VARIABLES if place.get(name)}


def read_env_file(environ: Mapping[str, str], cwd: Path) -> tuple[_Source, list[str]]:
    """Read the `.env` file as it stands: no `${…}` is filled in, so a key may contain anything.

    Return also what is wrong with the file.
    """
    named = environ.get(ENV_FILE, "").strip()
    path = cwd / (named or ".env")
    found: dict[str, object] = {}
    problems: list[str] = []
    try:
        with path.open(encoding="utf-8-sig") as stream:
            for binding in parse_stream(stream):
                if binding.error:
                    problems.append(f"{path}: line {binding.original.line} is not NAME=value")
                elif binding.key is not None and binding.value is not None:
                    found[binding.key] = binding.value
    except FileNotFoundError:
        if named:
            problems.append(f"{ENV_FILE}={named!r}: must be a file that exists")
    except OSError as error:
        problems.append(f"{path}: cannot be read: {error.strerror}")
    except UnicodeDecodeError:
        problems.append(f"{path}: is not UTF-8 text")
    return _Source(str(path), found), problems


def _merge(command: _Source, *places: _Source) -> _Given:
    """Return each variable's value from the first place that sets it."""
    replaced = {name for given in command.values for name in REPLACES.get(given, ())}
    values: dict[str, object] = {}
    origins: dict[str, str] = {}
    for name in VARIABLES:
        for place in (command,) if name in replaced else (command, *places):
            value = place.values.get(name)
            if value is None or (_is_blank(value) and not OPTIONS[name].takes_empty):
                continue
            values[name] = value
            origins[name] = place.origin
            break
    return _Given(values, origins)


def _is_blank(value: object) -> bool:
    return isinstance(value, str) and not value.strip()


def _usable(given: Mapping[str, object]) -> tuple[dict[str, object], dict[str, str]]:
    """Return the values that can be used, and what is wrong with the others, by variable."""
    assert all(isinstance(value, str) for name, value in given.items() if OPTIONS[name].secret), (
        "a mask is not a key"
    )
    # What is not a text (a command's option) is read as if it were written, so that the same holds for it.
    texts = {
        name: value.strip() if isinstance(value, str) else OPTIONS[name].show(value)
        for name, value in given.items()
    }
    wrong: dict[str, str] = {}
    try:
        Settings.of(texts)
    except ValidationError as error:
        for problem in error.errors(include_url=False, include_input=False):
            name = next(str(part) for part in reversed(problem["loc"]) if part in OPTIONS)
            is_ours = problem["type"] == "bad_value"
            wrong[name] = problem["msg"] if is_ours else f"must be {OPTIONS[name].allowed}"
    return {name: text for name, text in texts.items() if name not in wrong}, wrong


def _key_of_file(settings: Settings, cwd: Path) -> tuple[str, str]:
    """Return the key out of its file, if one is named, and what is wrong with that file."""
    if not settings.api_key_file or settings.api_key:
        return "", ""
    try:
        with (cwd / settings.api_key_file).open("rb") as stream:
            text = stream.read(_KEY_FILE_BYTES_MAX).decode("utf-8", "replace").strip()
    except OSError as error:
        return "", f"cannot be read: {error.strerror}"
    if not text:
        return "", "names a file that holds no key"
    try:
        return read_secret(text), ""
    except ValueError:
        return "", "names a file that must hold one key and nothing else"


def _without_password(text: str) -> str:
    """Return a URL without what may be secret in it; any other text as it is."""
    if "://" not in text:
        return text
    text = re.sub(r"//[^/?#]*@", f"//{log.MASK}@", text)
    return re.sub(r"[?#].*", lambda match: f"{match.group()[0]}{log.MASK}", text, flags=re.DOTALL)


def _unread(names: Names, places: Sequence[Place]) -> Iterator[tuple[str, str]]:
    """Yield a warning for each name of another program that has a successor here, and one for all others of a place.

    With it stands the variable that takes the name's place; empty if none does.
    """
    for place in places:
        for name, successor in names.successions(place):
            words = successor.words.replace("`", "").removesuffix(".")
            yield successor.variable, f"{name} ({place.where}) is not read by this program: {words}"
    for place in places:
        others = names.others(place)
        if others:
            are = "is" if len(others) == 1 else "are"
            yield (
                "",
                f"{listed(others)} ({place.where}) {are} not read by this program; FOREIGN_NAMES silences this",
            )
