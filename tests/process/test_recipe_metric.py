"""The recipe "a metric", followed on a copy of the project."""

from __future__ import annotations

import json
from pathlib import Path

from recipes.metric import RECIPE

_LOOK = """
import sys

sys.path.insert(0, "tests")
import msgspec
from ops_parts import maker_of, observe

from recorder.bars import BarStats
from recorder.ops.metrics import Exposition
from recorder.ops.snapshot_builder import take_snapshot
from recorder.stats import add_up

maker = maker_of("stocks")
maker.flush()
observed = observe("stocks", makers=[maker])
text = Exposition(observed).render("")[0].decode()
[line] = [line for line in text.splitlines() if line.startswith("polygon_bars_closings")]
[made] = msgspec.to_builtins(take_snapshot(observed))["bars"]["made"]
total = BarStats("stocks")
add_up(total, [maker.stats, maker.stats])
print(line, made["closings"], total.closings, sep="|")
"""


def test_a_new_metric_is_served_shown_described_and_added_up(tmp_path: Path) -> None:
    """One file: `/metrics`, `/status`, its schema, both docs and the sum over workers follow from the field."""
    assert len(RECIPE.files) == 1
    copy = RECIPE.applied_in(tmp_path)
    expected = 'polygon_bars_closings_total{feed="stocks"} 1.0|1|2'
    assert copy.python("-c", _LOOK).stdout.strip() == expected
    schema = json.loads(copy.recorder("schema", "status").stdout)
    assert schema["$defs"]["BarsMade"]["properties"]["closings"] == {
        "description": "Times at which windows were due.",
        "type": "integer",
    }
    copy.python("tests/generated.py")
    row = "Times at which windows were due. |"
    metrics, status = (copy.root / "docs" / name for name in ("metrics.md", "status.md"))
    assert f"| `polygon_bars_closings_total` | counter | `feed` | {row}" in metrics.read_text("utf-8")
    assert f"| `closings` | integer |  | {row}" in status.read_text("utf-8")
    copy.python("-m", "pytest", "-q", "tests/unit/test_contract.py", "tests/unit/test_generated.py")
