"""The hours of each cluster's market, from `exchange_calendars`: its one home. Meant for a process that ends soon.

A span is the time in which data must flow; data outside of it does no harm. Sources: the vendor's pages "Market
Hours and Timezone" of stocks (pre-market from 04:00, after hours until 20:00 New York), options and indices (09:30 to
16:00); the calendar XNYS for days, holidays and early closes, after which the late session lasts four hours as well
(NYSE, "Holidays & Trading Hours": 13:00 and 17:00); CME Group, "Trading Hours": Globex from 17:00 to 16:00 Chicago
with an hour's break, and the calendar CMES for its holidays; the custom of the forex market: Sunday 17:00 to Friday
17:00 New York, and next to nothing on Christmas and New Year's Day.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date, datetime, time, timedelta
from functools import partial
from typing import Any, Final
from zoneinfo import ZoneInfo

import exchange_calendars
from exchange_calendars.errors import CalendarError

from recorder.market_hours.hours import NEW_YORK, Span, without
from recorder.polygon.clusters import CLUSTERS

CHICAGO: Final = ZoneInfo("America/Chicago")
_PRE_MARKET: Final = time(4)
_AFTER_HOURS: Final = timedelta(hours=4)
_FOREX_BORDER: Final = time(17)
_GLOBEX_CLOSE: Final = time(16)
_SUNDAY: Final = 6
_WEEK: Final = timedelta(days=7)


class CalendarFailed(Exception):
    """The calendars do not cover a time."""


def spans_of(cluster: str, first: date, last: date) -> list[Span]:
    """Return the market hours of the days from `first` to `last`, both included. Raise `CalendarFailed`."""
    match CLUSTERS[cluster].hours:
        case "stocks":
            return [
                (_ns(day, _PRE_MARKET, NEW_YORK), _edge_ns(close + _AFTER_HOURS))
                for day, _, close in _schedule("XNYS", first, last)
            ]
        case "listed":
            return [(_edge_ns(begin), _edge_ns(end)) for _, begin, end in _schedule("XNYS", first, last)]
        case "globex":
            # The calendar's days touch each other; the break is only in the exchange's own table.
            return [
                (_edge_ns(begin), min(_edge_ns(end), _ns(day, _GLOBEX_CLOSE, CHICAGO)))
                for day, begin, end in _schedule("CMES", first, last)
            ]
        case "forex":
            return _forex(first, last)
        case "always":
            return [(_ns(first, time(), NEW_YORK), _ns(last + timedelta(days=1), time(), NEW_YORK))]


def _schedule(name: str, first: date, last: date) -> Iterator[tuple[date, datetime, datetime]]:
    """Yield each session's day, opening and close."""
    # A calendar needs more than a few days to be made at all.
    begin, end = first - timedelta(days=30), last + timedelta(days=30)
    try:
        calendar: Any = exchange_calendars.get_calendar(name, start=begin.isoformat(), end=end.isoformat())
        rows = calendar.schedule.loc[first.isoformat() : last.isoformat()]
    except (CalendarError, ValueError, KeyError) as error:
        raise CalendarFailed(f"{name}: {error}") from error
    for day, row in rows.iterrows():
        yield day.date(), row["open"].to_pydatetime(), row["close"].to_pydatetime()


def _forex(first: date, last: date) -> list[Span]:
    border = partial(_ns, at=_FOREX_BORDER, zone=NEW_YORK)
    sunday = first - timedelta(days=(first.weekday() - _SUNDAY) % 7)
    weeks = []
    while sunday <= last:
        weeks.append((border(sunday), border(sunday + timedelta(days=5))))
        sunday += _WEEK
    holidays = [
        (border(eve), border(eve + timedelta(days=1)))
        for year in range(first.year - 1, last.year + 1)
        for eve in (date(year, 12, 24), date(year, 12, 31))
    ]
    return without(weeks, holidays)


def _ns(day: date, at: time, zone: ZoneInfo) -> int:
    return _edge_ns(datetime.combine(day, at, zone))


def _edge_ns(moment: datetime) -> int:
    return int(moment.timestamp()) * 1_000_000_000
