"""Which tests are `make test`, which are the rest; what a skip means; what the trials measured, at the end of a run."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
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
    if item.get_closest_marker("alone"):
        return True
    return not any(item.path.is_relative_to(_HERE / one) for one in SHORT)


def _names(item: pytest.Item) -> set[str]:
    """Return the names that a list here may have for a test: its file's, and its own."""
    file = os.path.relpath(item.path, _HERE)
    return {file, f"{file}::{getattr(item, 'originalname', item.name)}"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the rest, and what runs without native code, too."""
    for item in items:
        if is_rest(item):
            item.add_marker("rest")
        if _names(item) & set(WITHOUT_NATIVE) and not item.get_closest_marker("alone"):
            item.add_marker("without_native")


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
