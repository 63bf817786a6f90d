"""All scenarios, in the order of their numbers."""

from __future__ import annotations

from benchmarks.scenario import Scenario
from benchmarks.scenarios import record

SCENARIOS: dict[str, Scenario] = {module.SCENARIO.name: module.SCENARIO for module in (record,)}
