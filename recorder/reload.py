"""What changes without a restart: read again on SIGHUP and when a file changes, and taken where it can be used."""

from __future__ import annotations

import asyncio
import stat
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from recorder.clock import Clock
from recorder.errors import ConfigError
from recorder.log import get_logger, mask
from recorder.reload_answer import Answer
from recorder.servers.access import Rules
from recorder.servers.tls import Pem, make_context
from recorder.servers.tokens import Tokens
from recorder.settings import Settings, SettingsSource
from recorder.settings.changes import differing, merged
from recorder.stats import counter, gauge
from recorder.words import moment_text

POLL_SECS: Final = 1.0
"""Time between looks at the files. A change counts once two looks in a row have found the same."""
SIGHUP: Final = "SIGHUP"
SUBJECTS: Final = ("settings", "key", "tokens", "certificate")

_NAMES_SHOWN: Final = 20

log = get_logger("polygon_config")


@dataclass(slots=True)
class ReloadStats:
    """What was read again."""

    changes: Counter[str] = counter(
        "polygon_reload_changes_total",
        "Changes taken without a restart, by what changed: limits, origins and hosts of the settings, the upstream key, "
        "tokens of clients, the certificate.",
        by="subject",
        values=SUBJECTS,
        shown=False,
    )
    failures: Counter[str] = counter(
        "polygon_reload_failures_total",
        "Readings that could not be used; what was read before stays in use.",
        by="subject",
        values=SUBJECTS,
        shown=False,
    )
    refused: int = gauge(
        "polygon_reload_refused",
        "Of settings, key, tokens and certificate, how many cannot be used as they stand in their files now. The former "
        "ones stay in use; a restart would fail.",
        shown=False,
    )
    problems: dict[str, str] = field(default_factory=dict)
    """What is wrong with these, in words."""

    @property
    def warnings(self) -> list[str]:
        """What `/ready` warns of."""
        return [
            f"reload: {problem}; what was read before stays in use, and a restart would fail"
            for problem in self.problems.values()
        ]


@dataclass(frozen=True, slots=True)
class _Reading:
    """What the files hold now; for what cannot be used, what was read before."""

    settings: Settings
    rules: Rules | None
    waiting: list[str]
    """Variables that differ and that only a restart takes."""
    problems: dict[str, str]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of reading everything again."""

    facts: Mapping[str, Mapping[str, Any]]
    """What is new, by subject, as the log has it."""
    problems: Mapping[str, str]
    """What is refused, by subject, and why."""
    waiting: Sequence[str]
    """Variables that only a restart takes."""
    taken_before: str
    """The last change before this reading, in words."""
    failure: str = ""
    """Why nothing was read; empty where everything was."""

    @property
    def is_whole(self) -> bool:
        """Whether everything is as the files say, but for what waits for a restart."""
        return not (self.problems or self.failure)

    @property
    def lines(self) -> list[str]:
        """All of it for people, a line each."""
        if self.failure:
            return [self.failure]
        new = [_TAKEN[subject](facts) for subject, facts in self.facts.items()]
        refused = [
            f"refused: {words}. What was read before stays in use, and a restart would fail: mend it; it is read again by "
            "itself"
            for words in self.problems.values()
        ]
        waiting = [f"waits for a restart: {_names(self.waiting)}"] if self.waiting else []
        return [*new, *refused, *waiting] or [f"nothing is new{self.taken_before}"]


_NOT_READ: Final = Outcome(
    {}, {}, (), "", "the files were not read again, by a defect, which the log names: report it"
)
_TAKEN: Final[Mapping[str, Callable[[Mapping[str, Any]], str]]] = {
    "settings": lambda facts: f"taken: {_names(facts['variables'])}",
    "key": lambda _: "taken: the key, from the next connection upstream on",
    "tokens": lambda facts: (
        f"taken: tokens; {_names(facts['tokens_added'])} added, {_names(facts['tokens_removed'])} removed"
    ),
    "certificate": lambda facts: (
        f"taken: the certificate {facts['certificate']}, from the next connection of a client on"
    ),
}


class Reloader:
    """Keeps tokens, certificate, limits, origins and the key as they stand in their files.

    It looks at the files each second, by stat alone and in a thread: a link to another file, as certbot makes, is a
    change, too. Each thing is taken whole or not at all: where the new one cannot be used, the former stays, and
    `ReloadStats.warnings` says so until that is mended. Nothing upstream notices: a key is for the next connection.
    """

    def __init__(
        self,
        source: SettingsSource,
        settings: Settings,
        rules: Rules | None,
        stats: ReloadStats,
        use_rules: Callable[[Rules], None],
        use_key: Callable[[str], None],
        clock: Clock,
    ) -> None:
        """`rules` is None where no client needs a token; `use_rules` is not called then."""
        self._source = source
        self._settings = settings
        self._rules = rules
        self._stats = stats
        self._use_rules = use_rules
        self._use_key = use_key
        self._clock = clock
        self._asked = asyncio.Event()
        self._askers: list[asyncio.Future[Outcome]] = []
        self._waiting: list[str] = []
        self._read = self._seen = self._look()
        """The marks of the files at the last reading, and at the last look."""
        self._taken = " since the start"
        """The last change that was taken, in words."""

    def ask(self) -> asyncio.Future[Outcome]:
        """Have everything read again, even if no file has changed; the result comes when that is done."""
        done: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        self._askers.append(done)
        self._asked.set()
        return done

    async def run(self) -> None:
        """Work until cancelled."""
        while True:
            try:
                async with asyncio.timeout(POLL_SECS):
                    await self._asked.wait()
            except TimeoutError:
                if await asyncio.to_thread(self._has_changed):
                    await self._reload("files")
                continue
            self._asked.clear()
            askers, self._askers = self._askers, []
            outcome = _NOT_READ
            try:
                outcome = await self._reload(SIGHUP)
            finally:
                for asker in askers:
                    if not asker.done():
                        asker.set_result(outcome)

    async def _reload(self, trigger: str) -> Outcome:
        reading = await asyncio.to_thread(self._read_all)
        is_asked = trigger == SIGHUP
        stats = self._stats
        mended = sorted(set(stats.problems) - set(reading.problems))
        for subject, words in reading.problems.items():
            if is_asked or stats.problems.get(subject) != words:
                stats.failures[subject] += 1
                log.error("reload_refused", subject=subject, error=words)
        stats.problems = reading.problems
        stats.refused = len(reading.problems)
        if reading.waiting and (is_asked or reading.waiting != self._waiting):
            log.warning("restart_needed", variables=reading.waiting)
        self._waiting = reading.waiting
        facts = self._take(reading)
        stats.changes.update(facts.keys())
        if is_asked or facts or mended:
            details = {name: value for each in facts.values() for name, value in each.items()}
            log.info("reloaded", trigger=trigger, changed=list(facts), mended=mended, **details)
        outcome = Outcome(facts, reading.problems, reading.waiting, self._taken)
        if facts:
            at = moment_text(self._clock.wall_ns() // 1_000_000)
            self._taken = f" since {at}, when {_names(list(facts))} had changed"
        return outcome

    def _take(self, reading: _Reading) -> dict[str, dict[str, Any]]:
        """Use what was read; return, by subject, the facts of what is new."""
        facts: dict[str, dict[str, Any]] = {}
        old, self._settings = self._settings, reading.settings
        variables = [name for name in differing(old, reading.settings) if name != "POLYGON_API_KEY"]
        if variables:
            facts["settings"] = {"variables": variables}
        if reading.settings.api_key != old.api_key:
            facts["key"] = {}
            self._use_key(reading.settings.api_key)
        before, self._rules = self._rules, reading.rules
        if before is None or reading.rules is None:
            return facts
        was, now = before.tokens.names, reading.rules.tokens.names
        if now != was:
            facts["tokens"] = {
                "tokens_added": [name for digest, name in now.items() if digest not in was],
                "tokens_removed": [name for digest, name in was.items() if digest not in now],
            }
        if reading.rules.pem is not None and reading.rules.pem != before.pem:
            facts["certificate"] = {"certificate": reading.rules.pem.cert_file}
        if facts:
            self._use_rules(reading.rules)
        return facts

    def _read_all(self) -> _Reading:
        """Read everything. In a thread: a file may be on a server that hangs."""
        self._read = self._seen = self._look()
        problems: dict[str, str] = {}
        settings, waiting = self._settings, self._waiting
        try:
            loaded = self._source.load(require_key=False)
            settings = merged(self._settings, loaded.settings)
            waiting = [name for name in differing(settings, loaded.settings) if name != "POLYGON_API_KEY"]
            if self._settings.api_key and not loaded.settings.api_key:
                about = [line for line in loaded.warnings if line.startswith("POLYGON_API_KEY_FILE")]
                problems["key"] = (about or ["POLYGON_API_KEY: is not set any more"])[0]
        except ConfigError as error:
            problems["settings"] = _line(error)
        if self._rules is None:
            return _Reading(settings, None, waiting, problems)
        tokens, pem = self._rules.tokens, self._rules.pem
        try:
            tokens = Tokens.from_settings(settings.servers, settings.api_key)
        except ConfigError as error:
            problems["tokens"] = _line(error)
        try:
            found = Pem.read(settings.servers.tls_cert_file, settings.servers.tls_key_file)
            if found is not None and found != pem:
                make_context(found)
            pem = found
        except ConfigError as error:
            problems["certificate"] = _line(error)
        return _Reading(settings, Rules(tokens, settings.servers, pem), waiting, problems)

    def _has_changed(self) -> bool:
        """Return whether a file is another than at the last reading, and has been so for a whole look."""
        before, self._seen = self._seen, self._look()
        return self._seen != self._read and self._seen == before

    def _look(self) -> dict[Path, tuple[int, ...] | None]:
        """Return what tells the present files from others; None for one that is not there."""
        servers = self._settings.servers
        named = [self._settings.api_key_file]
        if self._rules is not None:
            named += [servers.tokens_file, servers.tls_cert_file, servers.tls_key_file]
        paths = [self._source.file, *(Path(name) for name in named if name)]
        return {path: _mark(path) for path in paths}

    def __repr__(self) -> str:
        return f"Reloader({list(self._read)}, refused={list(self._stats.problems)})"


def answer_of(asked_ns: int, reopened: Mapping[str, str], outcome: Outcome | None) -> Answer:
    """Return what is said of a reload that was asked for at this monotonic time.

    `reopened` has what was to be opened again, each with why it could not be, or nothing. `outcome` is None for a
    recorder that reads no file again.
    """
    opened = [name for name, failure in reopened.items() if not failure]
    lines = [
        *([f"reopened: {', '.join(opened)}"] if opened else []),
        *(outcome.lines if outcome is not None else []),
        *(f"{name}: {failure}; it is tried again by itself" for name, failure in reopened.items() if failure),
    ]
    is_whole = len(opened) == len(reopened) and (outcome is None or outcome.is_whole)
    return Answer(asked_ns, tuple(lines), is_whole)


def _mark(path: Path) -> tuple[int, ...] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    if not stat.S_ISREG(found.st_mode):  # `/dev/null`, which has no content that could change
        return ()
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _names(names: Sequence[str]) -> str:
    """Return the first few of them as a phrase."""
    shown = ", ".join(names[:_NAMES_SHOWN]) or "none"
    return shown if len(names) <= _NAMES_SHOWN else f"{shown} and {len(names) - _NAMES_SHOWN} more"


def _line(error: ConfigError) -> str:
    return mask("; ".join(str(error).splitlines()))
