"""Programs that tests run beside the recorder; a missing one skips the test, and fails it in CI."""

from __future__ import annotations

import os
import shutil

import pytest


def tool(name: str) -> str:
    """Give the path of a program."""
    found = shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin")
    if found:
        return found
    reason = f"{name} is not installed"
    if os.environ.get("CI"):
        pytest.fail(f"{reason}, and CI must have it")
    pytest.skip(reason)
