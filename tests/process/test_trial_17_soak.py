"""Trial 17: load with rotation, reconnects and client churn; the long form is `make soak HOURS=n`."""

from __future__ import annotations

from pathlib import Path

import pytest
import soak

pytestmark = [pytest.mark.trial, pytest.mark.alone]


def test_a_soak_of_seconds(tmp_path: Path) -> None:
    """Memory and file descriptors stay flat, books balance, and the client that stays gets every event."""
    # Twice the time between two clients that never read: the quarters that are compared have as much of them.
    soaked = soak.soak(2 * soak.SLOW_SECS / 3600, tmp_path)
    assert soaked.sessions >= soak.RECONNECTS - 1
    assert soaked.clients_served > soak.CLIENTS
    assert soaked.slow_cut > 0
    soak.tell(soaked)
