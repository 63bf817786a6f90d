"""Every log call in the package is one of the table of log events, and the table has no other."""

from __future__ import annotations

import ast
import re
import textwrap
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

import pytest

from recorder.log_events import EVENTS, GROUPS, LEVELS, LIBRARIES

PACKAGE: Final = Path(__file__).parents[2] / "recorder"
_CALLS: Final = frozenset({*LEVELS, "exception", "warn", "fatal", "log", "msg"})
_ANY_TARGET: Final = frozenset({"records_dropped"})
"""Events that are logged by what a sink is given, whatever its target."""


@dataclass(frozen=True, slots=True)
class Call:
    """A log call in the source."""

    where: str
    level: str
    names: tuple[str, ...]
    """What it can log; empty if the source does not say."""
    target: str | None
    """That of its logger; None if the logger is handed in."""


def names_in(node: ast.expr | None) -> tuple[str, ...]:
    """Return the texts that an expression can be, if it shows them."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return (node.value,)
    if isinstance(node, ast.IfExp):
        body, orelse = names_in(node.body), names_in(node.orelse)
        return (*body, *orelse) if body and orelse else ()
    return ()


def text_of(node: ast.expr) -> str:
    """Return a name with its dots; empty for any other expression."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute) and (owner := text_of(node.value)):
        return f"{owner}.{node.attr}"
    return ""


def calls_in(source: str, path: str) -> Iterator[Call]:
    """Yield every use of a logger in a module. What is no plain call of it is a call without a name."""
    targets: dict[str, str] = {}
    plain: dict[int, ast.Call] = {}
    uses: list[ast.Attribute] = []
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Assign(targets=[ast.Name(name)], value=ast.Call(func, [ast.Constant(str(target))])):
                if text_of(func).rpartition(".")[2] == "get_logger":
                    targets[name] = target
            case ast.Call(ast.Attribute() as func):
                plain[id(func)] = node
            case ast.Attribute(attr=attr) if attr in _CALLS:
                uses.append(node)
    for use in uses:
        logger = text_of(use.value)
        if logger in targets or re.fullmatch(r"(self\.)?_?log(ger)?", logger):
            call = plain.get(id(use))
            names = names_in(call.args[0]) if call is not None and len(call.args) == 1 else ()
            yield Call(f"{path}:{use.lineno}", use.attr, names, targets.get(logger))


@cache
def package_calls() -> tuple[Call, ...]:
    """Return the log calls of the package."""
    sources = {path: path.read_text(encoding="utf-8") for path in sorted(PACKAGE.rglob("*.py"))}
    return tuple(
        call
        for path, source in sources.items()
        # recorder/log.py hands lines of libraries on; those are in LIBRARIES.
        if path != PACKAGE / "log.py" and re.search(r"recorder\.log import|recorder import .*\blog\b", source)
        for call in calls_in(source, str(path.relative_to(PACKAGE.parent)))
    )


def complaints(calls: Iterable[Call]) -> Iterator[str]:
    """Yield what is wrong with some log calls."""
    group_of = {event.name: group.target for group in GROUPS for event in group}
    for call in calls:
        if not call.names:
            yield f"{call.where}: the event is not a literal name, as in log.{call.level}('name', key=value)"
        for name in call.names:
            if name not in group_of:
                yield f"{call.where}: {name!r} is not in recorder/log_events"
            elif call.level not in EVENTS[name].levels:
                yield f"{call.where}: {name} is logged as {call.level}, declared as {EVENTS[name].levels}"
            elif name not in _ANY_TARGET and call.target not in (None, group_of[name]):
                yield f"{call.where}: {name} is logged to {call.target}, declared for {group_of[name]}"


def test_every_log_call_is_declared() -> None:
    """Its name, its level and its target are those of the table."""
    assert list(complaints(package_calls())) == []


def test_every_declared_event_is_logged_at_each_of_its_levels() -> None:
    """Nobody builds an alert on a line that never comes."""
    logged = {(name, call.level) for call in package_calls() for name in call.names}
    declared = {(event.name, level) for group in GROUPS for event in group for level in event.levels}
    assert declared - logged == set()


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("log.info('no_such_event')", "not in recorder/log_events"),
        ("log.info('archive_fsync_failed')", "is logged as info"),
        ("log.info('started')", "is logged to polygon_archive"),
        ("log.info(f'archive_{x}')", "not a literal name"),
        ("log.info('archive_opened' if x else y)", "not a literal name"),
        ("log.warning('archive_opened', 'and more')", "not a literal name"),
        ("say = log.error", "not a literal name"),
        ("self._log.error('no_such_event')", "not in recorder/log_events"),
    ],
)
def test_a_call_that_is_not_as_declared_is_found(source: str, words: str) -> None:
    """Undeclared names, wrong levels and targets, names that are made at run time, loggers under another name."""
    module = textwrap.dedent(f"""
        log = get_logger("polygon_archive")
        {source}
    """)
    [complaint] = complaints(calls_in(module, "module"))
    assert words in complaint


def test_names_are_stable_words() -> None:
    """Each is in snake case and stands once; none is a sentence."""
    declared = [event.name for group in GROUPS for event in group] + [event.name for event in LIBRARIES]
    assert len(declared) == len(EVENTS)
    assert [name for name in declared if not re.fullmatch(r"[a-z]+(_[a-z]+)*", name)] == []


def test_each_event_says_what_it_is_and_what_to_do() -> None:
    """A message, a meaning; for what is worse than INFO also what to do, unless the recorder has done it."""
    for event in EVENTS.values():
        assert event.message, event
        assert event.meaning.endswith((".", ")")), event
        assert not event.action.endswith("."), event
        assert event.action or event.level != "error", (
            f"{event.name}: an error needs a person, who needs advice"
        )


def test_a_library_line_and_a_lost_line_are_declared() -> None:
    """What recorder/log.py writes itself has its place in the table, too."""
    source = (PACKAGE / "log.py").read_text(encoding="utf-8")
    assert set(re.findall(r'"event": "(\w+)"', source)) == {event.name for event in LIBRARIES}
