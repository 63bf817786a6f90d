"""The recipe "a metric", followed on a copy of the project."""

from __future__ import annotations

import json
from pathlib import Path

from recipes.metric import RECIPE

_LOOK = """
import sys

sys.path.insert(0, "tests")
import msgspec
from ops_parts import observe

from recorder.ledger import Ledger, SinkStats
from recorder.ops.metrics import Exposition
from recorder.ops.snapshot_builder import take_snapshot
from recorder.stats import add_up

ledger = Ledger()
sink = ledger.sink("zmq")
sink.note_drops(1, "stocks", {"T": 5}, "why")
observed = observe("stocks", ledger=ledger)
text = Exposition(observed).render("")[0].decode()
[line] = [line for line in text.splitlines() if line.startswith("polygon_sink_drop_runs")]
[shown] = msgspec.to_builtins(take_snapshot(observed))["sinks"]
total = SinkStats("zmq")
add_up(total, [sink, sink])
print(line, shown["drop_runs"], total.drop_runs, sep="|")
"""


def test_a_new_metric_is_served_shown_described_and_added_up(tmp_path: Path) -> None:
    """One file: `/metrics`, `/status`, its schema, both docs and the sum over processes follow from the field."""
    assert len(RECIPE.files) == 1
    copy = RECIPE.applied_in(tmp_path)
    assert copy.python("-c", _LOOK).stdout.strip() == 'polygon_sink_drop_runs_total{sink="zmq"} 1.0|1|2'
    schema = json.loads(copy.recorder("schema", "status").stdout)
    assert schema["$defs"]["Sink"]["properties"]["drop_runs"] == {
        "description": "Times at which drops began.",
        "type": "integer",
    }
    copy.python("tests/generated.py")
    row = "Times at which drops began. |"
    metrics, status = (copy.root / "docs" / name for name in ("metrics.md", "status.md"))
    assert f"| `polygon_sink_drop_runs_total` | counter | `sink` | {row}" in metrics.read_text("utf-8")
    assert f"| `drop_runs` | integer |  | {row}" in status.read_text("utf-8")
    copy.python("-m", "pytest", "-q", "tests/unit/test_contract.py", "tests/unit/test_generated.py")
