"""Where the sample data stands, beside the project; tests that need it skip where it is absent, except in CI."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[2] / "shared"


def shared_file(name: str) -> Path:
    """Give the path of a file of `../shared`, or skip the test with the reason."""
    path = SHARED / name
    if not path.exists():
        reason = f"../shared/{name} is not beside the project"
        if os.environ.get("CI"):
            pytest.fail(f"{reason}, and CI must have it")
        pytest.skip(reason)
    return path
