"""Programs that tests run beside the recorder; a missing one skips the test."""

from __future__ import annotations

import shutil

import pytest


def tool(name: str) -> str:
    """Return the path of a program; skip the test where it is not installed."""
    found = shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin")
    if not found:
        pytest.skip(f"{name} is not installed")
    return found
