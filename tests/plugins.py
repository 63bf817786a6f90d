"""Packages with sinks and sources, installed for a test."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def install(package: Path, folder: Path) -> Path:
    """Have pip build and install a package into a folder, for PYTHONPATH; return the folder.

    It needs no network: the recorder, on which the package depends, is here, and so is the package's build backend.
    """
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-input"),
            *("--no-index", "--no-deps", "--no-build-isolation", "--target", str(folder), str(package)),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder
