"""What dashboards, alerts and readers of `/status` rely on stays: `tests/contract` lists what was published."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from recorder.ops.metrics_table import METRICS
from recorder.ops.status_schema import History, Snapshot

CONTRACT = Path(__file__).parents[1] / "contract"


def published(name: str) -> list[str]:
    """Return the lines of one list."""
    return (CONTRACT / name).read_text(encoding="utf-8").splitlines()


def kind_of(about: dict[str, Any]) -> str:
    """Return the type that a part of a JSON schema describes, in one word."""
    if "anyOf" in about:
        return "|".join(map(kind_of, about["anyOf"]))
    if "$ref" in about:
        return str(about["$ref"].rpartition("/")[2])
    match about["type"]:
        case "array":
            return f"[{kind_of(about['items'])}]"
        case "object":
            return f"{{{kind_of(about['additionalProperties'])}}}"
    return str(about["type"])


def unit_of(about: dict[str, Any]) -> str:
    """Return the unit that a part of a JSON schema names."""
    return next((part["unit"] for part in (about, *about.get("anyOf", [])) if "unit" in part), "")


@pytest.mark.parametrize("line", published("metrics.txt"))
def test_a_published_metric_keeps_its_type_and_labels(line: str) -> None:
    """Queries name the metric and its labels; a rule that finds neither says nothing."""
    known = {" ".join((one.name, one.kind, *one.labels)) for group in METRICS.values() for one in group}
    assert line in known


@pytest.mark.parametrize("structure", [Snapshot, History])
def test_published_fields_of_status_keep_their_types_and_units(structure: type) -> None:
    """A program that reads `/status` finds each field where it was, with the type and unit that it had."""
    definitions = msgspec.json.schema(structure)["$defs"]
    known = {
        f"{name}.{field} {kind_of(about)} {unit_of(about)}".strip()
        for name, definition in definitions.items()
        for field, about in definition["properties"].items()
        if field in definition["required"]
    }
    expected = [line for line in published("status.txt") if line.partition(".")[0] in definitions]
    assert expected
    assert set(expected) <= known
