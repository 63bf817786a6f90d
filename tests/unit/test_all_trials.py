"""`make trials` loses no figure: not by a trial that fails, nor by a run that is cut."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from all_trials import PROJECT, Trials

TRIALS = f"""
import sys
sys.path.insert(0, {str(PROJECT / "tests")!r})
from pathlib import Path

import pytest
from trials import report, scale

pytestmark = pytest.mark.trial

@pytest.mark.parametrize("way", ["by day", "by night"])
def test_one(way):
    report(1, fault=way, injected="", holds="", figure=scale("short", "long"))

def test_that_fails():
    assert Path("mended").exists()
    report(2, fault="mended", injected="", holds="", figure="1")

def test_that_skips():
    pytest.skip("no such machine")
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with four trials and a test that is not a trial."""
    monkeypatch.setenv(
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1"
    )  # these trials need no plugin, which take time to import
    (tmp_path / "test_trial_01_x.py").write_text(TRIALS)
    (tmp_path / "test_other.py").write_text("def test_no_trial():\n    pass\n")
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers =\n    trial\n")
    return tmp_path


def test_a_run_goes_on_where_it_was_cut_and_failures_come_last(project: Path) -> None:
    """Each trial has its outcome and hands on its figures at once; what passed is not run again, what failed is."""
    taken: list[dict[str, Any]] = []
    trials = Trials(project, project / "state", taken.extend)
    names = trials.collect()
    assert [name.partition("::")[2] for name in names] == [
        "test_one[by day]",
        "test_one[by night]",
        "test_that_fails",
        "test_that_skips",
    ]
    assert trials.left(names) == names
    assert trials.run(names[2]) == "failed"
    assert trials.run(names[0]) == "passed"
    assert [(figure["fault"], figure["figure"], figure["form"]) for figure in taken] == [
        ("by day", "long", "long")
    ]

    # Another process, after the first was cut.
    trials = Trials(project, project / "state", taken.extend)
    assert trials.left(names) == [names[1], names[3], names[2]]
    (project / "mended").touch()
    assert [trials.run(name) for name in trials.left(names)] == ["passed", "skipped", "passed"]
    assert [figure["fault"] for figure in taken] == ["by day", "by night", "mended"]
    assert trials.left(names) == []
    lines = (project / "state" / "outcomes.ndjson").read_text().splitlines()
    assert [json.loads(line)["outcome"] for line in lines] == [
        "failed",
        "passed",
        "passed",
        "skipped",
        "passed",
    ]
