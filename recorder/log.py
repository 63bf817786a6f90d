"""Logs: events of one table, as JSON lines or for people; levels by target, secrets masked, warnings limited."""

from __future__ import annotations

import atexit
import json
import logging
import re
import sys
import threading
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final, TextIO, cast
from urllib.parse import quote

import orjson
import structlog
from structlog.typing import EventDict, FilteringBoundLogger, WrappedLogger

from recorder.log_events import LEVELS, Level, Target, message_of
from recorder.log_output import LogWriter, Output, StreamOutput

FORMATS: Final = ("auto", "json", "console")
MASK: Final = "***"

DRAIN_SECS: Final = 1.0
"""How long the end of the process waits for the reader of the log."""
_STDERR_FD: Final = 2

_NUMBERS: Final[Mapping[str, int]] = {level: 10 * place for place, level in enumerate(LEVELS, start=1)}
_LIBRARIES_LEVEL: Final = "warning"
_SHORT_SECRET_CHARS: Final = 8
"""Shorter secrets are masked as whole values only: a key `key` must not shred `key_refused` or `/etc/key/a`."""


class _Secrets:
    """Secrets that must never be written, in each spelling in which they can turn up."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._spellings: set[str] = set()
        self._pattern: re.Pattern[str] | None = None
        """Made when it is next needed: hundreds of tokens may be added in a row."""

    def add(self, secret: str) -> None:
        # The environment holds bytes that are not UTF-8 as lone surrogates.
        in_url = (quote(secret, safe=safe, errors="surrogatepass") for safe in ("/", ""))
        with self._lock:
            self._spellings |= {secret, json.dumps(secret)[1:-1], *in_url} - {""}
            self._pattern = None

    def clear(self) -> None:
        with self._lock:
            self._spellings.clear()
            self._pattern = None

    def mask(self, text: str) -> str:
        if not self._spellings:
            return text
        return (self._pattern or self._make_pattern()).sub(MASK, text)

    def _make_pattern(self) -> re.Pattern[str]:
        with self._lock:
            longest_first = sorted(self._spellings, key=len, reverse=True)
            self._pattern = re.compile("|".join(map(_spelling_pattern, longest_first)) or "(?!)")
            return self._pattern


def _spelling_pattern(spelling: str) -> str:
    pattern = re.escape(spelling)
    if len(spelling) >= _SHORT_SECRET_CHARS:
        return pattern
    # Neither part of a word nor of a path. A full stop ends a sentence unless something follows it.
    return rf"(?<![\w./-]){pattern}(?![\w/-]|\.\w)"


_secrets = _Secrets()


def register_secret(secret: str) -> None:
    """Write `***` for this text from now on, wherever a log would show it: in a URL, in an exception."""
    _secrets.add(secret)


def forget_secrets() -> None:
    """Mask nothing any more."""
    _secrets.clear()


def mask(text: str) -> str:
    """Return the text with `***` for every registered secret in it."""
    return _secrets.mask(text)


class RateLimited:
    """Lets one warning through per interval, and counts those that it holds back."""

    def __init__(self, interval_secs: float) -> None:
        """An interval of 0 lets everything through."""
        self._interval_ns = int(interval_secs * 1e9)
        self._next_ns: int | None = None
        self.suppressed = 0

    def ready(self, now_ns: int) -> int | None:
        """Return how many were held back since the last one if this one may be written, else None.

        `now_ns` is monotonic nanoseconds.
        """
        if self._next_ns is not None and now_ns < self._next_ns:
            self.suppressed += 1
            return None
        self._next_ns = now_ns + self._interval_ns
        suppressed, self.suppressed = self.suppressed, 0
        return suppressed

    def __repr__(self) -> str:
        return f"RateLimited({self._interval_ns / 1e9:g} s, suppressed={self.suppressed})"


_stderr: LogWriter | None = None
"""Made with the first configuration that writes to the standard error of the process, and kept."""


def lines_dropped() -> int:
    """Return the number of log lines that nobody took, since the process began."""
    return _stderr.dropped if _stderr is not None else 0


def drain(secs: float = DRAIN_SECS) -> None:
    """Wait for the lines that were logged to be written, for `secs` at most."""
    if _stderr is not None:
        _stderr.drain(secs)


def say(line: str) -> None:
    """Write a plain line to stderr, behind what was logged."""
    if _stderr is not None:
        _stderr.msg(line)
    else:
        StreamOutput(sys.stderr).msg(line)


def _output_to(stream: TextIO) -> Output:
    """Return what writes to a stream: for the standard error of the process its thread, which is made once."""
    global _stderr
    try:
        fd = stream.fileno()
    except (OSError, ValueError):
        fd = -1
    if fd != _STDERR_FD:
        return StreamOutput(stream)
    if _stderr is None:
        _stderr = LogWriter(fd)
        atexit.register(drain)
    return _stderr


class _Format:
    """One event to one line."""

    def __init__(self, *, console: bool, colors: bool, fields: Mapping[str, object]) -> None:
        self._fields = fields
        self._console = (
            structlog.dev.ConsoleRenderer(
                colors=colors, sort_keys=False, exception_formatter=structlog.dev.plain_traceback
            )
            if console
            else None
        )

    def __call__(self, logger: WrappedLogger, level: str, event: EventDict) -> str:
        event = structlog.processors.format_exc_info(logger, level, event)
        name = event.pop("event", "")
        head: EventDict = {
            "timestamp": datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z"),
            "level": level if self._console else level.upper(),
            "target": event.pop("target", ""),
            "event": name,
            "message": event.pop("message", None) or message_of(name),
        }
        line = cast("dict[str, Any]", _plain({**event, **self._fields, **head}))
        ordered = {key: line.pop(key) for key in head} | line
        if self._console is None:
            return _json(ordered)
        # The renderer's own keys: it begins with `event` and shows `logger` behind it.
        ordered["logger"] = f"{ordered.pop('target')} {ordered.pop('event')}"
        ordered["event"] = ordered.pop("message")
        return str(self._console(logger, level, ordered))


class _TargetLevels:
    """Drops what is below the level of its target."""

    def __init__(self, levels: Mapping[str, str]) -> None:
        self._root = _NUMBERS[levels.get("", "info")]
        self._targets = {target: _NUMBERS[level] for target, level in levels.items() if target}
        self.lowest = min(self._root, *self._targets.values()) if self._targets else self._root
        self.libraries = max(self._root, _NUMBERS[_LIBRARIES_LEVEL])

    def enabled(self, target: str, level: str) -> bool:
        return _NUMBERS[level] >= self._targets.get(target, self._root)

    def __call__(self, logger: WrappedLogger, level: str, event: EventDict) -> EventDict:
        if not self.enabled(event.get("target", ""), level):
            raise structlog.DropEvent
        return event


class _LibraryLogs(logging.Handler):
    """Writes in our format what libraries log through the standard library; the logger is the target."""

    def __init__(self, write: Output, form: _Format) -> None:
        super().__init__()
        self._write = write
        self._form = form

    def emit(self, record: logging.LogRecord) -> None:
        try:
            level = next((name for name in reversed(LEVELS) if record.levelno >= _NUMBERS[name]), "debug")
            event: EventDict = {"target": record.name, "event": "library_log", "message": record.getMessage()}
            if record.exc_info:
                event["exc_info"] = record.exc_info
            self._write.msg(self._form(None, level, event))
        except Exception:  # a library's bad log call must not stop the library, as with logging's own
            self.handleError(record)


_levels = _TargetLevels({})


def configure(
    levels: Mapping[str, str],
    log_format: str = "auto",
    stream: TextIO | None = None,
    fields: Mapping[str, object] | None = None,
) -> None:
    """Set up all logs of this process; what came before is replaced.

    `levels` maps a target to its level, and `""` to the level of the rest. `log_format` is one of `FORMATS`;
    `auto` is `console` where the stream is a terminal, else `json`. `stream` is stderr unless given. `fields` are in
    every line.
    """
    global _levels
    stream = sys.stderr if stream is None else stream
    terminal = stream.isatty()
    console = terminal if log_format == "auto" else log_format == "console"
    form = _Format(console=console, colors=terminal, fields=fields or {})
    output = _output_to(stream)
    if isinstance(output, LogWriter):
        output.notice = lambda missing: form(None, "error", {"event": "log_lines_dropped", "lines": missing})
    _levels = _TargetLevels(levels)
    structlog.configure(
        processors=[_levels, form],
        wrapper_class=structlog.make_filtering_bound_logger(_levels.lowest),
        logger_factory=lambda *_: output,
        cache_logger_on_first_use=False,
    )
    root = logging.getLogger()
    for handler in list(root.handlers):
        if isinstance(handler, _LibraryLogs):
            root.removeHandler(handler)
    root.addHandler(_LibraryLogs(output, form))
    root.setLevel(_levels.libraries)


Logger = FilteringBoundLogger


def get_logger(target: Target) -> Logger:
    """Return the logger of a target. It may be taken before `configure`, which it follows."""
    return cast(FilteringBoundLogger, structlog.get_logger(target=target))


def enabled(target: Target, level: Level = "info") -> bool:
    """Return whether an event of this target and level would be written, before making it."""
    return _levels.enabled(target, level)


def _plain(value: object) -> object:
    """Return the value in JSON types, every text in it masked."""
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, str):
        return mask(value)
    if isinstance(value, Mapping):
        return {mask(str(key)): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(item) for item in value]
    if isinstance(value, bytes | bytearray):
        return mask(bytes(value).decode("utf-8", "backslashreplace"))
    return mask(str(value))


def _json(event: dict[str, Any]) -> str:
    try:
        return orjson.dumps(event).decode()
    except (TypeError, orjson.JSONEncodeError):  # an integer beyond 64 bits, a lone surrogate
        return json.dumps(event)
