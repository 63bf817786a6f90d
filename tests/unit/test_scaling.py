"""The arithmetic of docs/scaling.md: what a load takes follows from what was measured, and says what breaks first."""

from __future__ import annotations

import pytest

from benchmarks.scaling import Assumptions, Costs, serving, upstream
from benchmarks.scenario import kept

ASSUMED = Assumptions(share=0.01, usage=0.5, cores=4, memory_gib=8, gbit_per_sec=1, connections=1000)


@pytest.fixture
def costs() -> Costs:
    """Return costs that are easy to reckon with."""
    return Costs(
        record_us=1,
        append_us=1,
        servers_us=1,
        stored_bytes=10,
        pass_on_us=1,
        joined_us=0.01,
        write_us=10,
        passes_per_sec=100,
        client_kib=100,
        event_bytes=100,
        record_bytes=30,
    )


def test_the_costs_are_those_of_the_results() -> None:
    """Each is there, and of the size that a machine of today has."""
    measured = Costs.measured(kept())
    assert 0.1 < measured.record_us < 10
    assert 1 < measured.write_us < 100
    assert 20 < measured.passes_per_sec < 2000
    assert 50 < measured.event_bytes < 300
    assert measured.stored_bytes < measured.record_bytes < measured.event_bytes


def test_a_client_costs_its_writes_or_its_bytes(costs: Costs) -> None:
    """A few events are a write each; many are written together, until the bytes cost more."""
    assert costs.client_us_per_sec(50) == 500
    assert costs.client_us_per_sec(5_000) == 1_000
    assert costs.client_us_per_sec(1_000_000) == 10_000


@pytest.mark.parametrize(
    ("clients", "events_per_sec", "share", "shape", "breaks_first"),
    [
        (100, 10_000, 0.01, "one process", "connections"),
        (1_000, 10_000, 0.01, "3 workers", "connections"),
        (1_600, 5_000, 0.01, "2 tiers", "connections"),
        (10_000, 200_000, 0.001, "12 tiers", "CPU"),
        (100, 50_000, 1.0, "8 tiers", "network"),
        (1_000, 600_000, 0.01, "recorders of a part each", "CPU: each process decodes everything"),
    ],
)
def test_what_serves_a_load(
    costs: Costs, clients: int, events_per_sec: float, share: float, shape: str, breaks_first: str
) -> None:
    """One process, workers, or as many tiers as the resource needs that runs out first."""
    found = serving(costs, ASSUMED, clients, events_per_sec, share)
    assert (found.shape, found.breaks_first) == (shape, breaks_first)


def test_what_the_events_take(costs: Costs) -> None:
    """Cores, megabits, gigabytes; and the recorder's one core is the limit."""
    found = upstream(costs, ASSUMED, 100_000)
    assert (found.recorder_cores, found.servers_cores, found.into_mbit_per_sec) == (0.2, 0.1, 8)
    assert round(found.archive_gb_per_day, 1) == 70.2
    assert found.breaks_first == "nothing"
    assert "more than 50% of its core" in upstream(costs, ASSUMED, 300_000).breaks_first
    assert "divide the clusters" in upstream(costs, ASSUMED, 600_000).breaks_first
