"""The hours of the markets: over holidays, early closes and changes of summer time; and the part that keeps them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import date, datetime
from functools import cache
from zoneinfo import ZoneInfo

import pytest
from fakes import FakeClock
from ops_parts import make_ready, observe

from recorder.errors import ConfigError
from recorder.market_hours import keeper
from recorder.market_hours.hours import LEAD_NS, UNKNOWN, ClusterHours, without
from recorder.market_hours.keeper import CalendarError, MarketHours, Spans, compute_apart
from recorder.ops.health import pauses
from recorder.polygon.clusters import CLUSTERS
from recorder.settings import MarketHoursSettings

SECOND_NS = 1_000_000_000
HOUR_NS = 3600 * SECOND_NS
FIRST, LAST = date(2026, 2, 20), date(2027, 1, 10)
AUTO = MarketHoursSettings(data_timeout_secs=120.0)
URL = "wss://socket.polygon.io/stocks"


@cache
def computed() -> Spans:
    """The hours of every cluster as the real process gives them."""
    return asyncio.run(compute_apart(tuple(CLUSTERS), FIRST, LAST))


def ns(text: str, zone: str = "America/New_York") -> int:
    """Return a local time, `2026-11-27 10:00`, in Unix nanoseconds."""
    moment = datetime.strptime(text, "%Y-%m-%d %H:%M").replace(tzinfo=ZoneInfo(zone))
    return int(moment.timestamp()) * SECOND_NS


def hours_of(cluster: str, *, delay_secs: float = 0.0) -> ClusterHours:
    """Return the hours of a cluster over the whole time that is computed."""
    hours = ClusterHours(delay_secs=delay_secs, grace_secs=120)
    hours.learn(computed()[cluster], ns("2026-02-20 00:00"), ns("2027-01-10 00:00"))
    return hours


@pytest.mark.parametrize(
    ("cluster", "opens", "closes"),
    [
        ("stocks", "2026-11-23 04:00", "2026-11-23 20:00"),
        ("stocks", "2026-11-27 04:00", "2026-11-27 17:00"),  # the day after Thanksgiving
        ("stocks", "2026-12-24 04:00", "2026-12-24 17:00"),
        ("stocks", "2026-03-06 04:00", "2026-03-06 20:00"),  # before and after summer time begins
        ("stocks", "2026-03-09 04:00", "2026-03-09 20:00"),
        ("stocks", "2026-10-30 04:00", "2026-10-30 20:00"),  # and ends
        ("stocks", "2026-11-02 04:00", "2026-11-02 20:00"),
        ("options", "2026-11-23 09:30", "2026-11-23 16:00"),
        ("options", "2026-11-27 09:30", "2026-11-27 13:00"),
        ("indices", "2026-11-24 09:30", "2026-11-24 16:00"),
        (
            "futures",
            "2026-11-22 18:00",
            "2026-11-23 17:00",
        ),  # Sunday evening, with the hour's break behind it
        ("futures", "2026-11-25 18:00", "2026-11-26 13:00"),  # Thanksgiving: until noon in Chicago
        ("forex", "2026-11-22 17:00", "2026-11-27 17:00"),  # Thanksgiving is none of its holidays
        ("forex", "2026-03-08 17:00", "2026-03-13 17:00"),  # opens on the day summer time begins
        ("forex", "2026-12-20 17:00", "2026-12-24 17:00"),
        ("forex", "2026-12-27 17:00", "2026-12-31 17:00"),
    ],
)
def test_a_session_opens_and_closes_to_the_second(cluster: str, opens: str, closes: str) -> None:
    """Closed just before, open from the opening on, closed from the close on; each knows the next change."""
    hours = hours_of(cluster)
    begin, end = ns(opens), ns(closes)
    assert hours.at(begin - SECOND_NS).state == "closed"
    assert hours.at(begin - SECOND_NS).until_ns == begin
    assert hours.at(begin) == ("open", begin, end)
    assert hours.at(end - SECOND_NS) == ("open", begin, end)
    assert hours.at(end).state == "closed"
    assert hours.open_secs(begin + 90 * SECOND_NS) == 90
    assert hours.open_secs(end) == 0


@pytest.mark.parametrize(
    ("cluster", "moment"),
    [
        ("stocks", "2026-11-26 10:00"),  # Thanksgiving
        ("stocks", "2026-11-28 10:00"),  # Saturday
        ("stocks", "2026-11-23 03:00"),
        ("options", "2026-11-23 09:00"),
        ("options", "2026-11-27 14:00"),
        ("indices", "2026-07-03 12:00"),  # Independence Day observed
        ("futures", "2026-11-23 17:30"),  # the break
        ("futures", "2026-11-21 12:00"),
        ("forex", "2026-11-22 16:59"),
        ("forex", "2026-12-25 10:00"),
        ("forex", "2027-01-01 10:00"),
    ],
)
def test_closed_hours(cluster: str, moment: str) -> None:
    """Nights, weekends, holidays, breaks: closed, and nothing is wanted of the feed."""
    hours = hours_of(cluster)
    assert hours.at(ns(moment)).state == "closed"
    assert not hours.wants_data(ns(moment))


def test_crypto_never_closes() -> None:
    """Not at night, not on Christmas."""
    hours = hours_of("crypto")
    for moment in ("2026-11-21 03:00", "2026-12-25 03:00", "2026-03-08 02:30"):
        assert hours.at(ns(moment)).state == "open"


def test_a_delayed_feed_is_open_later() -> None:
    """The vendor's delayed hosts bring the opening a quarter of an hour after it, and the close too."""
    hours = MarketHours(AUTO, {"options": "wss://delayed.polygon.io/options"}, FakeClock()).hours["options"]
    hours.learn(computed()["options"], ns("2026-02-20 00:00"), ns("2027-01-10 00:00"))
    assert hours.at(ns("2026-11-23 09:44")).state == "closed"
    assert hours.at(ns("2026-11-23 09:45")).state == "open"
    assert hours.at(ns("2026-11-23 16:14")).state == "open"


def test_what_is_wanted_around_an_opening() -> None:
    """A line must live five minutes before it; data is waited for from DATA_TIMEOUT_SECS after it on."""
    hours, begin = hours_of("stocks"), ns("2026-11-23 04:00")
    assert not hours.wants_bytes(begin - LEAD_NS - SECOND_NS)
    assert hours.wants_bytes(begin - LEAD_NS)
    assert hours.wants_bytes(begin)
    assert not hours.wants_data(begin + 119 * SECOND_NS)
    assert hours.wants_data(begin + 120 * SECOND_NS)


def test_beyond_what_is_known_nothing_changes() -> None:
    """Before anything is learnt, and on a clock that is years off: unknown, which counts as open."""
    for hours, moment in (
        (ClusterHours(), ns("2026-11-21 03:00")),
        (hours_of("stocks"), ns("2031-01-01 03:00")),
    ):
        assert hours.at(moment) == UNKNOWN
        assert hours.wants_bytes(moment)
        assert hours.wants_data(moment)
        assert hours.open_secs(moment) == 0


def test_holes_are_cut_out() -> None:
    """Within, over an edge, over all of it, beside it."""
    assert without([(0, 10)], [(2, 4)]) == [(0, 2), (4, 10)]
    assert without([(0, 10)], [(8, 14)]) == [(0, 8)]
    assert without([(0, 10), (20, 30)], [(-5, 15)]) == [(20, 30)]
    assert without([(0, 10)], [(10, 12)]) == [(0, 10)]


class Computer:
    """Stands for the other process."""

    def __init__(self) -> None:
        self.asked: list[tuple[date, date]] = []
        self.failing = False

    async def __call__(self, clusters: Sequence[str], first: date, last: date) -> Spans:
        self.asked.append((first, last))
        if self.failing:
            raise CalendarError("no memory")
        return {cluster: computed()[cluster] for cluster in clusters}


async def test_hours_are_renewed_daily_and_when_the_clock_is_set() -> None:
    """Once a day; at once on a clock outside of what is known; and known ones outlive a failure."""
    clock, computer = FakeClock(ns("2026-11-23 10:00")), Computer()
    sessions = MarketHours(AUTO, {"stocks": URL}, clock, computer)
    stocks = sessions.hours["stocks"]
    assert stocks.at(clock.wall_ns()) == UNKNOWN
    for _ in range(3):
        await sessions.poll()
    assert computer.asked == [(date(2026, 11, 16), date(2026, 12, 14))]
    assert stocks.at(clock.wall_ns()).state == "open"
    computer.failing = True
    clock.advance(86_400)
    await sessions.poll()
    assert len(computer.asked) == 2
    assert stocks.at(clock.wall_ns()).state == "open"
    await sessions.poll()
    assert len(computer.asked) == 2, "what failed is not tried again at once"
    clock.advance(600)
    computer.failing = False
    await sessions.poll()
    assert len(computer.asked) == 3
    clock.now_ns = ns("2026-03-09 10:00")
    assert stocks.at(clock.wall_ns()) == UNKNOWN
    await sessions.poll()
    assert computer.asked[-1] == (date(2026, 3, 2), date(2026, 3, 30))
    assert stocks.at(clock.wall_ns()).state == "open"


async def test_an_absurd_clock_is_survived() -> None:
    """A year that no calendar has: the hours stay unknown."""
    sessions = MarketHours(AUTO, {"stocks": URL}, FakeClock(10**21), Computer())
    await sessions.poll()
    assert sessions.hours["stocks"].at(10**21) == UNKNOWN


async def test_a_process_that_fails_is_an_error_of_ours() -> None:
    """Its last line says why: here, a calendar that does not reach so far."""
    with pytest.raises(CalendarError, match="XNYS"):
        await compute_apart(["stocks"], date(2400, 1, 1), date(2400, 1, 5))


def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    """`auto` knows no hours, `off` neither, `on` says what to install."""
    assert MarketHours(AUTO, {"stocks": URL}, FakeClock()).enabled
    assert not MarketHours(MarketHoursSettings(calendar="off"), {"stocks": URL}, FakeClock()).enabled
    monkeypatch.setattr(keeper, "PACKAGE", "exchange_calendars_that_nobody_has")
    assert not MarketHours(AUTO, {"stocks": URL}, FakeClock()).enabled
    with pytest.raises(ConfigError, match=r"SESSION_CALENDAR=on needs .* -m pip install "):
        MarketHours(MarketHoursSettings(calendar="on"), {"stocks": URL}, FakeClock())


def test_ready_without_data_while_the_market_is_closed() -> None:
    """A recorder that is started on a Saturday is READY once subscribed, and says why nothing comes."""
    clock = FakeClock(ns("2026-11-21 12:00"))
    observed = observe("stocks", clock=clock, hours={"stocks": hours_of("stocks")})
    [feed] = observed.feeds
    assert observed.reasons() == ["stocks: not connected yet"]
    make_ready(feed, clock)
    feed.frames_since_subscribed = 0
    assert observed.reasons() == []
    assert observed.notes() == [
        "stocks: the market is closed, so no data is expected before 2026-11-23 09:00 UTC"
    ]
    clock.now_ns = ns("2026-11-23 04:05")
    assert observed.reasons() == ["stocks: waiting for the first data frame since subscribing"]
    assert observed.notes() == []


def test_not_ready_while_the_market_is_open_and_silent() -> None:
    """However much has come before."""
    clock = FakeClock(ns("2026-11-23 10:00"))
    observed = observe("stocks", clock=clock, hours={"stocks": hours_of("stocks")})
    [feed] = observed.feeds
    make_ready(feed, clock)
    assert observed.reasons() == []
    feed.stale_secs = 130.4
    assert observed.reasons() == ["stocks: no data for 130 s, though the market is open"]


def test_a_pause_without_a_known_end() -> None:
    """Says no time."""
    assert pauses({"stocks": ClusterHours().at(0)}) == []
    hours = ClusterHours()
    hours.learn([], 0, HOUR_NS)
    assert pauses({"stocks": hours.at(0)}) == ["stocks: the market is closed, so no data is expected"]
