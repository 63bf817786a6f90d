"""What is handed out works where nothing else is: wheel and sdist, installed in an empty environment."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from checkouts import clone_into
from first_run import FirstRun


@pytest.mark.timeout(300)
def test_wheel_and_sdist_install_and_the_demo_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As `make dist` does. Native code takes long to compile, and has its tests in test_build.py."""
    monkeypatch.setenv("RECORDER_NATIVE", "no")
    clone = tmp_path / "clone"
    clone_into(clone)
    subprocess.run([sys.executable, "-m", "hatchling", "build"], cwd=clone, check=True, timeout=100)
    tried = FirstRun(tmp_path)
    [wheel], [sdist] = (clone / "dist").glob("*.whl"), (clone / "dist").glob("*.tar.gz")
    assert tried.install(wheel) == "Python alone"
    assert "0 dropped" in tried.demo()
    # Where a wheel was, so that what they both need is there already.
    assert tried.install(sdist) == "Python alone"
