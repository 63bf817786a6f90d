"""Trade conditions: the vendor's rules for stocks."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recorder.bars.conditions import (
    EVERYTHING,
    FORM_T,
    HIGH_LOW,
    NOTHING,
    OPEN_CLOSE,
    STOCK_UPDATES,
    VOLUME,
    StockRule,
    hours_at,
    update_rule,
)

NOON = int(datetime(2026, 9, 25, 12, tzinfo=ZoneInfo("America/New_York")).timestamp() * 1000)
EVENING = NOON + 6 * 3_600_000


@pytest.mark.parametrize(
    ("conditions", "updates"),
    [
        ((), EVERYTHING),
        ((0,), EVERYTHING),
        ((14, 41), EVERYTHING),
        ((37,), VOLUME),
        ((2,), VOLUME),
        ((10,), HIGH_LOW | VOLUME),
        ((32,), HIGH_LOW | VOLUME),
        ((15,), NOTHING),
        ((16,), NOTHING),
        ((38,), OPEN_CLOSE | HIGH_LOW),
    ],
)
def test_a_condition_allows_what_the_vendors_listing_says(conditions: tuple[int, ...], updates: int) -> None:
    """Regular, sweep, odd lot, average price, derived, out of sequence and official prices are as the vendor has them."""
    assert StockRule()(conditions, NOON) == updates


@given(st.lists(st.sampled_from(sorted(STOCK_UPDATES)), max_size=5), st.sampled_from([NOON, EVENING]))
def test_every_condition_must_allow_an_update(conditions: list[int], ts_ms: int) -> None:
    """What a trade updates is what all its conditions allow; their order and the rule's memory do not matter."""
    rule = StockRule()
    together = rule(tuple(conditions), ts_ms)
    allowed = EVERYTHING
    for condition in conditions:
        allowed &= rule((condition,), ts_ms)
    assert together == allowed == rule(tuple(reversed(conditions)), ts_ms) == rule(tuple(conditions), ts_ms)


def test_who_may_set_the_open_may_set_the_high() -> None:
    """No condition lets a trade set open and close and not high and low, so a bar's open is never above its high."""
    assert all(updates & HIGH_LOW for updates in STOCK_UPDATES.values() if updates & OPEN_CLOSE)


def test_form_t_sets_prices_outside_regular_hours_alone() -> None:
    """An extended-hours trade only adds volume by day, sets prices in the evening, and never where an odd lot may not."""
    rule = StockRule()
    assert rule((FORM_T,), NOON) == VOLUME
    assert rule((FORM_T,), EVENING) == EVERYTHING
    assert rule((FORM_T, 37), EVENING) == VOLUME
    assert rule((13,), EVENING) == VOLUME


@pytest.mark.parametrize("unknown", [57, 60, 62, 71, 999, -1])
def test_a_number_without_a_rule_changes_nothing(unknown: int) -> None:
    """Short sale and financial status flags, and numbers to come, take nothing from a trade and give it nothing."""
    rule = StockRule()
    assert rule((unknown,), NOON) == EVERYTHING
    assert rule((unknown, 37), NOON) == VOLUME


@given(
    st.datetimes(
        datetime(2007, 4, 1, tzinfo=None), datetime(2045, 12, 31, tzinfo=None), timezones=st.just(UTC)
    ).filter(lambda moment: moment.weekday() < 5)
)
def test_regular_hours_are_those_of_new_york(moment: datetime) -> None:
    """On every trading day, in summer and winter, regular hours are 09:30 to 16:00 by the time zone database."""
    local = moment.astimezone(ZoneInfo("America/New_York"))
    minutes = local.hour * 60 + local.minute
    ts_ms = int(moment.timestamp() * 1000)
    begin_ms, end_ms, is_regular = hours_at(ts_ms)
    assert is_regular == (9 * 60 + 30 <= minutes < 16 * 60)
    assert begin_ms <= ts_ms < end_ms
    assert hours_at(begin_ms) == hours_at(end_ms - 1) == (begin_ms, end_ms, is_regular)


@pytest.mark.parametrize("day", ["2026-03-06", "2026-03-09", "2026-10-30", "2026-11-02"])
def test_the_open_and_the_close_are_exact_around_a_change_of_the_clocks(day: str) -> None:
    """The first and last millisecond are inside, those before and after outside, on both sides of both changes."""
    midnight = datetime.fromisoformat(day).replace(tzinfo=ZoneInfo("America/New_York"))
    opens = int((midnight + timedelta(hours=9, minutes=30)).timestamp() * 1000)
    closes = int((midnight + timedelta(hours=16)).timestamp() * 1000)
    assert [hours_at(t)[2] for t in (opens - 1, opens, closes - 1, closes)] == [False, True, True, False]


def test_only_stocks_have_rules() -> None:
    """Other clusters, and `BAR_CONDITIONS=all`, count every trade."""
    assert update_rule("stocks", "vendor") is not None
    assert update_rule("stocks", "all") is None
    assert update_rule("crypto", "vendor") is None


def test_the_rule_forgets_before_it_fills_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many combinations come, a bounded number is kept, and the answers stay right."""
    monkeypatch.setattr("recorder.bars.conditions._KNOWN_MAX", 10)
    rule = StockRule()
    for number in range(100, 200):
        assert rule((number, 37), NOON) == VOLUME
    assert repr(rule) in {f"StockRule({count} combinations seen)" for count in range(1, 11)}
