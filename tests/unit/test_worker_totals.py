"""What all workers counted together."""

from __future__ import annotations

from collections import Counter

import msgspec
from ops_parts import observe

from recorder.bars import BarStats
from recorder.log import lines_dropped
from recorder.ops.metrics import Exposition
from recorder.servers.stats import ReplayStats, ServerStats
from recorder.workers.stats import WorkerStats
from recorder.workers.totals import Totals
from recorder.workers.wire import Report


def report(events: int, clients: int, *, pending: int = 0, bars: int = 0, replays: int = 0) -> Report:
    """Return what one worker reports of one port."""
    server = ServerStats("filtered", clients=clients, events_delivered=events, pending_bytes_max=pending)
    server.evictions = Counter(slow_consumer=events)
    made = BarStats("stocks", event_time=events, bars=bars, open_windows=clients)
    return Report([server], {"stocks": made}, ReplayStats(replays), clients, clients, 0.0, 0.0, 0, 0, 0, [])


def totals() -> Totals:
    """Return the sums of a recorder with one port."""
    return Totals(["filtered"], ["stocks"], makes_bars=True)


def test_numbers_are_added_up_and_extremes_are_not() -> None:
    """Counts and clients are sums; of what the slowest client holds, the greatest counts."""
    made = totals()
    [shown] = made.servers
    made.update([report(10, 1, pending=5, bars=2, replays=1), report(20, 2, pending=3, bars=3)])
    assert (shown.events_delivered, shown.clients, shown.pending_bytes_max) == (30, 3, 5)
    assert shown.evictions == {"slow_consumer": 30}
    assert shown.port == "filtered"
    assert made.makers["stocks"].stats == BarStats("stocks", event_time=20, bars=5, open_windows=3)
    assert made.bars is not None
    assert made.bars.stats.replays == 1


def test_counters_do_not_fall_when_a_worker_ends() -> None:
    """What it counted stays, its clients and open windows do not."""
    made = totals()
    [shown] = made.servers
    gone, stays = report(10, 1, bars=2, replays=1), report(20, 2)
    made.update([gone, stays])
    made.retire(gone)
    made.update([stays])
    assert (shown.events_delivered, shown.clients) == (30, 2)
    assert made.makers["stocks"].stats == BarStats("stocks", event_time=20, bars=2, open_windows=2)
    made.update([stays, report(1, 1)])
    assert (shown.events_delivered, shown.clients) == (31, 3)
    assert made.bars is not None
    assert made.bars.stats.replays == 1


def test_without_workers_there_is_what_was() -> None:
    """All are down: no client, the counts as they were."""
    made = totals()
    made.retire(report(10, 4))
    made.update([])
    assert (made.servers[0].events_delivered, made.servers[0].clients) == (10, 0)


def test_no_bars_are_shown_where_none_are_made() -> None:
    """Another recorder makes them, or nobody does."""
    made = Totals(["filtered"], ["stocks"], makes_bars=False)
    assert not made.makers
    assert made.bars is None


def test_defects_and_lost_lines_of_the_log_are_counted_over_all_lives_of_a_worker() -> None:
    """A worker that is replaced begins at 0; the number of the worker goes on, and its lines are among those of /metrics."""
    first, second = WorkerStats(1), WorkerStats(2)
    lives = [[(1, 10), (2, 15)], [(0, 5), (3, 5)]]
    for life in lives:
        before = None
        for failures, lines in life:
            said = msgspec.structs.replace(report(1, 2), consumer_failures=failures, log_lines_dropped=lines)
            first.note(said, before)
            before = said
        assert first.connections == 2
        first.note_end("ended")
        assert (first.connections, first.clients, first.state) == (0, {}, "down")
    second.note(msgspec.structs.replace(report(1, 2), log_lines_dropped=4), None)
    assert (first.consumer_failures, first.log_lines_dropped) == (5, 20)
    text = Exposition(observe("stocks", workers=[first, second])).render("")[0].decode()
    assert f"polygon_log_lines_dropped_total {lines_dropped() + 24:.1f}\n" in text
