"""`make test` and `make test-rest` together are the whole suite, and CI skips nothing in silence."""

from __future__ import annotations

import itertools
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Final

from conftest import FIRST, HAVE_NOTHING, SHORT, WITHOUT_NATIVE

PROJECT: Final = Path(__file__).resolve().parents[2]
SKIPPING: Final = """
import pytest

def test_accepted():
    pytest.skip("this machine has no IPv6 loopback")

def test_not_accepted():
    pytest.skip("a program is not installed")

@pytest.fixture
def refused():
    pytest.skip("a program is not installed")

def test_not_accepted_in_its_fixture(refused):
    pass
"""


def test_every_test_runs_in_one_pass_and_no_other() -> None:
    """Each combination of the two markers is selected by exactly one line of the Makefile, and `test-all` runs all lines.

    What fails there is run again from the same line.
    """
    makefile = (PROJECT / "Makefile").read_text()
    passes = re.findall(
        r"-m pytest (?:-n \$\(XDIST\) --dist worksteal )?-m '([a-z ]+)' \$\(PYTEST_ARGS\) \$\(call again,\1\)$",
        makefile,
        re.MULTILINE,
    )
    assert len(passes) == 3
    assert set(HAVE_NOTHING) == {*passes, "without_native"}
    for rest, alone in itertools.product((False, True), repeat=2):
        if alone and not rest:
            continue  # conftest.py gives `rest` to every test that runs alone
        assert [eval(one, {"rest": rest, "alone": alone}) for one in passes].count(True) == 1  # noqa: S307
    assert re.search(
        r"^test: .*\n.* lint types layers .*\\\n\t  && \$\(MAKE\) .*tests &&", makefile, re.MULTILINE
    )
    assert re.search(r"^test-all: test test-rest$", makefile, re.MULTILINE)


def test_what_native_code_does_is_tested_without_it_too() -> None:
    """`make test-rest` has a pass of its own for the list, and nothing on the list is gone."""
    makefile = (PROJECT / "Makefile").read_text()
    assert re.search(
        r"^\texport RECORDER_NATIVE=no; .* -m pytest .* -m without_native \\\n\t  \$\(call again,without_native\)$",
        makefile,
        re.MULTILINE,
    )
    for one in (*WITHOUT_NATIVE, *FIRST):
        file, _, name = one.partition("::")
        assert re.search(
            rf"^(?:async )?def {name or 'test_'}", (PROJECT / "tests" / file).read_text(), re.MULTILINE
        ), one


def test_ci_runs_both() -> None:
    """.ci/run calls the README's command and the rest, with CI set."""
    script = (PROJECT / ".ci" / "run").read_text()
    assert re.search(r"^export CI=true$", script, re.MULTILINE)
    assert [line for line in script.splitlines() if line.startswith("make ")] == [
        "make test",
        "make test-rest",
    ]


def test_the_short_set_exists() -> None:
    """No entry is left of a file that is gone."""
    assert all((PROJECT / "tests" / one).exists() for one in SHORT)


def test_a_skip_fails_in_ci_unless_it_is_accepted(tmp_path: Path) -> None:
    """Elsewhere it says why; in CI a machine without what a test needs is a failure, in the test or in its fixture."""
    (tmp_path / "test_skipping.py").write_text(SKIPPING)

    def outcome(**environment: str) -> str:
        variables = {name: value for name, value in os.environ.items() if name != "CI"}
        # As a plugin, conftest.py also counts for tests that do not lie beside it.
        variables |= {
            "PYTHONPATH": str(PROJECT / "tests"),
            "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
            **environment,
        }
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "conftest",
            "-p",
            "no:cacheprovider",
            "--rootdir=.",
        ]
        done = subprocess.run(
            [*command, str(tmp_path)], cwd=tmp_path, env=variables, capture_output=True, text=True, timeout=60
        )
        return done.stdout.splitlines()[-1]

    assert outcome().startswith("3 skipped")
    assert re.match(r"1 failed, 1 skipped, .*1 error\b", outcome(CI="true"))
