"""Shows what the trials measured at the end of a run; says how hypothesis searches."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from typing import Any

import pytest
import trials
from hypothesis import HealthCheck, settings

# A machine that is busy says nothing about the code.
settings.register_profile("patient", deadline=None)
# Of `make fuzz`; without it the tests search briefly.
settings.register_profile(
    "fuzz",
    max_examples=5000,
    stateful_step_count=80,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "patient"))

_KEY = "trial_figures"


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Any:
    """Hand the figures of a trial to the process that prints the summary."""
    outcome = yield
    if call.when == "call" and trials.figures:
        result = outcome.get_result()
        result.user_properties += [(_KEY, json.dumps(asdict(figure))) for figure in trials.figures]
        trials.figures.clear()


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print one line a figure."""
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
