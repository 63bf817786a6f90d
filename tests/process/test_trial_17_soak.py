"""Trial 17: load with rotation, reconnects and client churn; the long form is `make soak HOURS=n`."""

from __future__ import annotations

from pathlib import Path

import pytest
import soak

pytestmark = [pytest.mark.trial, pytest.mark.alone]


def test_a_soak_of_seconds(tmp_path: Path) -> None:
    """Memory and file descriptors stay flat, books balance, and the client that stays gets every event."""
    soaked = soak.soak(25 / 3600, tmp_path)
    assert soaked.sessions >= soak.RECONNECTS - 1
    assert soaked.clients_served > soak.CLIENTS
    assert soaked.slow_cut > 0
    soak.tell(soaked)
