"""The recipe "a cluster", followed on a copy of the project."""

from __future__ import annotations

from pathlib import Path

from recipes.cluster import RECIPE

_READ = """
from recorder.polygon.events import Decoder

(header,) = Decoder("bonds").decode([b'[{"ev":"T","sym":"B:US912828","t":1790000000123}]']).headers()
print(*header)
"""
_HOURS = ("-m", "recorder.market_hours", "2026-11-27", "2026-11-30", "bonds")


def test_a_new_cluster_is_followed_read_and_has_hours(tmp_path: Path) -> None:
    """Two files: settings accept it and know its topics and its variable, events are read, its market has hours."""
    assert len(RECIPE.files) <= 2
    copy = RECIPE.applied_in(tmp_path)
    shown = copy.recorder("config", POLYGON_CLUSTER="bonds", SUBSCRIPTION_BONDS="Q.*").stdout
    assert "POLYGON_CLUSTER=bonds" in shown
    assert "SUBSCRIPTION_BONDS=Q.*" in shown
    assert copy.python("-c", _READ).stdout.split() == ["T", "B:US912828", "1790000000123"]
    # What is not simulated is no market of `recorder simulate`, which goes on with the others.
    assert "bonds" not in copy.recorder("simulate", "--help").stdout
    # A Friday and a Monday, from 08:00 to 17:00 in New York.
    assert copy.python(*_HOURS).stdout.strip() == (
        '{"bonds": [[1795784400000000000, 1795816800000000000], [1796043600000000000, 1796076000000000000]]}'
    )
