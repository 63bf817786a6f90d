"""Bars behind a cut: asked for from the last ones on, and left out where they came before."""

from __future__ import annotations

import json
from collections.abc import Iterable

from recorder.client.bars import BarMemory, by_time, is_of_bars
from recorder.polygon.events import Decoder
from recorder.polygon.rows import Rows

START_MS = 1_790_000_000_000


def rows_of(*bars: tuple[str, int], length: int = 1000, rev: int = 0) -> Rows:
    """Return bars of symbols and times, with a trade between."""
    made = [
        {"ev": "MB", "sym": symbol, "interval": length, "s": START_MS + at, "e": 0, "rev": rev}
        for symbol, at in bars
    ]
    return Decoder("stocks").decode([json.dumps([*made, {"ev": "T", "sym": "A", "t": START_MS}]).encode()])


def found(rows: Rows) -> list[tuple[str, int]]:
    """Return the bars among rows."""
    events: Iterable[dict[str, int | str]] = map(json.loads, rows.objects)
    return [(str(one["sym"]), int(one["s"]) - START_MS) for one in events if one["ev"] == "MB"]


def test_what_came_before_a_cut_is_left_out_once() -> None:
    """By length, symbol and time; what is new comes, an amended bar too, and whatever comes without a cut."""
    memory = BarMemory()
    assert found(memory.new(rows_of(("A", 0), ("B", 0), ("A", 1000)))) == [("A", 0), ("B", 0), ("A", 1000)]
    memory.cut()
    assert memory.since_ms("1000Ms.*") == START_MS + 1000 - 5000
    again = memory.new(rows_of(("A", 0), ("B", 0), ("A", 1000), ("B", 1000), ("A", 2000)))
    assert found(again) == [("B", 1000), ("A", 2000)]
    assert len(again) == 3, "the trade stays"
    assert found(memory.new(rows_of(("A", 0), rev=1))) == [("A", 0)]
    assert found(memory.new(rows_of(("A", 0)))) == [("A", 0)], "another one: left out once"


def test_little_is_kept() -> None:
    """The last seconds of each length; where time goes back, as in a replay, what comes then."""
    memory = BarMemory()
    for second in range(100):
        memory.new(rows_of(("A", second * 1000)))
    memory.cut()
    assert found(memory.new(rows_of(*(("A", second * 1000) for second in range(94, 100))))) == []
    memory.new(rows_of(("A", 0)))
    assert memory.since_ms("1000Ms.A") == START_MS - 5000
    assert repr(memory) == "BarMemory([1000] ms)"


def test_topics_of_one_length_are_asked_for_together() -> None:
    """Those of which no bar has come have no time."""
    memory = BarMemory()
    memory.new(rows_of(("A", 0)))
    topics = ["1000Ms.A", "100Ms.*", "1000Ms.B", "50Ms.A"]
    assert dict(by_time(topics, memory)) == {
        START_MS - 5000: ["1000Ms.A", "1000Ms.B"],
        None: ["100Ms.*", "50Ms.A"],
    }
    assert [is_of_bars(topic) for topic in ("1000Ms.A", "T.1", "*")] == [True, False, False]
    assert BarMemory().since_ms("9999999999999Ms.A") is None
