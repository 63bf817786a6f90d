"""Stops of this process: a timer that is late shows them."""

from __future__ import annotations

from recorder.sources.exchange.stops import StopDetector

SECOND = 1_000_000_000


def test_a_look_in_time_shows_no_stop() -> None:
    """While looks come when they are due, nothing is missing before the last data."""
    stops = StopDetector()
    stops.sleep(10 * SECOND, 1.0)
    assert stops.late_ns(11 * SECOND) == 0
    assert stops.data_until_ns(11 * SECOND, 1011 * SECOND, 1010 * SECOND) == 1010 * SECOND


def test_what_is_read_right_behind_a_stop_may_be_old() -> None:
    """Nothing is missing until the last look before the stop; ten seconds later the process has caught up."""
    stops = StopDetector()
    stops.sleep(10 * SECOND, 1.0)
    assert stops.late_ns(15 * SECOND) == 4 * SECOND
    stops.sleep(15 * SECOND, 1.0)
    assert stops.data_until_ns(16 * SECOND, 1016 * SECOND, 1016 * SECOND) == 1010 * SECOND
    stops.sleep(26 * SECOND, 1.0)
    assert stops.data_until_ns(27 * SECOND, 1027 * SECOND, 1027 * SECOND) == 1027 * SECOND


def test_a_stop_shows_before_anybody_looked() -> None:
    """The end of a session behind a stop is judged by the look that was due, though it has not come yet."""
    stops = StopDetector()
    stops.sleep(10 * SECOND, 1.0)
    assert stops.data_until_ns(20 * SECOND, 1020 * SECOND, 1019 * SECOND) == 1010 * SECOND
