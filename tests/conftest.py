"""Which tests are `make test`, which are the rest; what a skip means; what the trials measured, at the end of a run."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any, Final

import pytest
import trials
from hypothesis import HealthCheck, settings

from recorder.log import forget_secrets

SHORT: Final = (
    "unit",
    "integration",
    "process/test_errors.py",
    "process/test_readme.py",
    "process/test_recording.py",
    "process/test_trial_00_verify.py",
    "process/test_trial_01_kill.py",
    "process/test_trial_03_stop.py",
    "process/test_trial_07_damage.py",
    "process/test_trial_08_rotation.py",
    "process/test_trial_09_handshake.py",
    "process/test_trial_09_upstream.py",
    "process/test_trial_16_simulation.py",
)
"""Folders and files under tests/ that `make test` runs, for a person who waits.

Every other test, and every test that must run alone, gets the marker `rest`, and `make test-rest` runs it.
"""
WITHOUT_NATIVE: Final = (
    "integration/test_app.py",
    "integration/test_archive_sink.py",
    "integration/test_bar_source.py::test_bars_equal_those_computed_from_the_archive",
    "integration/test_feed.py",
    "process/test_recording.py",
    "process/test_workers.py::test_bars_are_the_same_at_every_worker",
    "process/test_workers.py::test_clients_of_all_workers_get_everything_once",
    "unit/test_bar_deliveries.py",
    "unit/test_bars.py",
    "unit/test_bus.py",
    "unit/test_channels.py",
    "unit/test_events.py",
    "unit/test_fuzz_claims.py",
    "unit/test_recording.py",
    "unit/test_replay_reader.py",
)
"""Files, and single tests, that `make test-rest` runs a second time with `RECORDER_NATIVE=no`.

They reach what native code does: frames are split, decoded, made into lines and bars, and lines are read back. All
other tests do without, or never ask which of the two ways is taken.
"""
FIRST: Final = (
    "process/test_container.py",
    "process/test_trial_22_pair.py::test_a_partition",
    "process/test_deb.py",
    "process/test_trial_04_pressure.py",
    "process/test_dist.py",
    "process/test_nats.py::test_three_servers_of_which_the_leader_is_killed",
    "process/test_new_user.py::test_the_whole_path",
    "process/test_trial_15_systemd.py::test_a_hung_disk_is_no_reason_to_kill",
    "process/test_install.py",
    "process/test_trial_09_handshake.py::test_slow_and_missing_answers",
    "process/test_trial_03_stop.py::test_what_was_received_before_a_stop_is_on_disk",
    "process/test_trial_01_kill.py::test_a_kill_at_random",
)
"""Files, and single tests, that a pass begins with, in this order: those that take longest.

Begun late, one of them would run on when all else is done. One process has them all, so that what computes for a minute
comes in turns with what waits, and never beside its like.
"""
MAY_SKIP: Final = (
    "this machine has no IPv6",
    "this machine has no turns of a process's own",
    "this Python has no _testcapi",
)
"""How the reason of a skip begins that CI accepts. Any other skip fails there: CI has all that the tests need."""

# A machine that is busy, on which even plain data takes long to generate, says nothing about the code.
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
# Of `make fuzz`; without it the tests search briefly.
settings.register_profile(
    "fuzz",
    max_examples=5000,
    stateful_step_count=80,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
# Of a build of the module that is slow, and only has to be reached everywhere.
settings.register_profile(
    "brief", max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "patient"))

_HERE: Final = Path(__file__).parent
_KEY: Final = "trial_figures"


def is_rest(item: pytest.Item) -> bool:
    """Whether a test is left to `make test-rest`."""
    return item.get_closest_marker("alone") is not None or not _is_short(item.path)


def _is_short(path: Path) -> bool:
    return any(path.is_relative_to(_HERE / one) for one in SHORT)


@cache
def _marks(path: Path, marker: str) -> bool:
    """Return whether a file gives a marker to some of its tests itself."""
    return f"mark.{marker}" in path.read_text(encoding="utf-8")


HAVE_NOTHING: Final[Mapping[str, Callable[[Path], bool]]] = {
    "not rest": lambda path: not _is_short(path),
    "rest and not alone": lambda path: _is_short(path) and not _marks(path, "rest"),
    "rest and alone": lambda path: not _marks(path, "alone"),
    "without_native": lambda path: not any(path == _HERE / one.partition("::")[0] for one in WITHOUT_NATIVE),
}
"""Of which files each pass of the Makefile runs no test. Importing them would take each of its processes seconds."""


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave out the files of which this pass runs nothing, unless the command line names them."""
    has_nothing = HAVE_NOTHING.get(config.option.markexpr)
    if has_nothing is None or collection_path.suffix != ".py" or not collection_path.is_relative_to(_HERE):
        return None
    return has_nothing(collection_path) or None


def _names(item: pytest.Item) -> set[str]:
    """Return the names that a list here may have for a test: its file's, and its own."""
    file = os.path.relpath(item.path, _HERE)
    return {file, f"{file}::{getattr(item, 'originalname', item.name)}"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the rest, and what runs without native code, too; put what takes longest first."""
    items.sort(key=_turn)
    for item in items:
        if is_rest(item):
            item.add_marker("rest")
        if _names(item) & set(WITHOUT_NATIVE) and not item.get_closest_marker("alone"):
            item.add_marker("without_native")
        # Every file is imported by one pass at least, so what another one would leave out by mistake comes to light.
        assert not HAVE_NOTHING[_pass_of(item)](item.path), (
            f"{item.nodeid} would run in no pass of the Makefile"
        )


def _turn(item: pytest.Item) -> int:
    return next((turn for turn, one in enumerate(FIRST) if one in _names(item)), len(FIRST))


def _pass_of(item: pytest.Item) -> str:
    if item.get_closest_marker("alone"):
        return "rest and alone"
    return "rest and not alone" if item.get_closest_marker("rest") else "not rest"


def pytest_runtest_teardown() -> None:
    """Forget the secrets of a test, which would be masked in the texts that the next one looks at."""
    forget_secrets()


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
    """Let a skip fail in CI; hand the figures of a trial to the process that prints the summary."""
    outcome = yield
    report = outcome.get_result()
    if report.skipped and os.environ.get("CI") and isinstance(report.longrepr, tuple):
        reason = report.longrepr[2].removeprefix("Skipped: ")
        if not reason.startswith(MAY_SKIP):
            report.outcome = "failed"
            report.longrepr = f"skipped, and CI must run every test: {reason}"
    if call.when == "call" and trials.figures:
        report.user_properties += [(_KEY, json.dumps(asdict(figure))) for figure in trials.figures]
        trials.figures.clear()


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print a line for each figure."""
    found = [
        json.loads(value)
        for outcome in ("passed", "failed")
        for result in terminalreporter.stats.get(outcome, [])
        for key, value in result.user_properties
        if key == _KEY
    ]
    if found:
        terminalreporter.section("trials")
    for figure in sorted(found, key=lambda one: one["number"]):
        terminalreporter.write_line(f"{figure['number']:>2}  {figure['fault']}: {figure['figure']}")
