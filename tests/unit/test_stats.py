"""Stats that declare themselves: what follows from a declaration, and what adding one up means."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import pytest

from recorder.archive.pressure import PressureStats
from recorder.archive.stats import ActiveSegment, ArchiveStats
from recorder.bars import BarStats
from recorder.ledger import SinkStats
from recorder.part import PartStats
from recorder.servers.stats import RelayStats, ReplayStats, ServerStats
from recorder.sources.stats import FeedStats
from recorder.stats import Histogram, add_up, counter, declarations, gauge, histogram, label, shown
from recorder.workers.stats import WorkerStats

CLASSES = [
    PartStats,
    RelayStats,
    ReplayStats,
    ActiveSegment,
    ArchiveStats,
    BarStats,
    FeedStats,
    PressureStats,
    ServerStats,
    SinkStats,
    WorkerStats,
]


@dataclass(slots=True)
class KitchenStats:
    """Something that cooks in several processes."""

    kitchen: str = label("kitchen", "Name of the kitchen.")
    meals: int = counter("test_meals_total", "Meals served.")
    burnt: Counter[str] = counter(
        "test_burnt_total", "Meals burnt, by reason.", by="reason", values=("late",)
    )
    guests: int = gauge("test_guests", "Guests at the tables.")
    queue_max: int = gauge("test_queue_max", "The longest queue.", over_workers="max")
    mood: str = shown("How the cook feels.", default="good")
    newest_order: int = shown("When the newest order came.", default=0, over_workers="newest")
    cooking_seconds: Histogram = histogram("test_cooking_seconds", "How long a meal took.", (1, 10))
    secret: int = 0


def kitchen(meals: int, guests: int) -> KitchenStats:
    """Return what one process counted."""
    stats = KitchenStats("main", meals=meals, guests=guests, queue_max=guests)
    stats.burnt["late"] = stats.newest_order = meals
    stats.cooking_seconds.observe(5, meals)
    return stats


def test_counters_add_up_and_extremes_do_not() -> None:
    """Counters, gauges and histograms are sums over processes; what is declared as `max` is the greatest."""
    total = KitchenStats("main")
    add_up(total, [kitchen(10, 1), kitchen(20, 2)])
    assert (total.meals, total.guests, total.queue_max, total.burnt["late"]) == (30, 3, 2, 30)
    assert (total.cooking_seconds.counts, total.cooking_seconds.sum) == ([0, 30, 0], 150.0)
    assert (total.kitchen, total.mood, total.newest_order, total.secret) == ("main", "good", 20, 0)


def test_a_gauge_ends_with_its_process() -> None:
    """A gauge needs no list of names to be left out: that it is one is declared with it."""
    before = KitchenStats("main")
    add_up(before, [before, kitchen(10, 1)], ended=True)
    add_up(before, [before, kitchen(5, 4)], ended=True)
    assert (before.meals, before.burnt["late"], before.cooking_seconds.count) == (15, 15, 15)
    assert (before.guests, before.queue_max, before.newest_order) == (0, 0, 10)


def test_a_stats_object_is_plain() -> None:
    """Counting is an addition to a slot: no dict, no descriptor of ours."""
    stats = KitchenStats("main")
    assert not hasattr(stats, "__dict__")
    assert type(KitchenStats.meals) is type(KitchenStats.secret)
    assert type(stats.meals) is int


@pytest.mark.parametrize("kind", CLASSES)
def test_declarations_are_sound(kind: type) -> None:
    """Each says what it is in words that end, and counters end in `_total`, and only they."""
    for name, declared in declarations(kind).items():
        assert declared.about.endswith("."), name
        if declared.metric is not None:
            assert declared.metric.help.endswith("."), name
            assert declared.metric.name.endswith("_total") == (declared.metric.kind == "counter"), name
