"""docs/reliability.md shows the figures that the trials wrote, and no others."""

from __future__ import annotations

import json

from reliability import FIGURES, PAGE, merged, page_with


def test_the_page_shows_the_figures() -> None:
    """The table is the one of docs/reliability.json."""
    page = PAGE.read_text()
    assert page == page_with(page, json.loads(FIGURES.read_text()))


def test_a_new_figure_takes_the_place_of_the_old_one() -> None:
    """A trial that ran again has one row, and the order is that of the trials."""
    old = [{"number": 2, "fault": "a", "figure": "1"}, {"number": 1, "fault": "b", "figure": "2"}]
    assert merged(old, [{"number": 2, "fault": "a", "figure": "3"}]) == [
        {"number": 1, "fault": "b", "figure": "2"},
        {"number": 2, "fault": "a", "figure": "3"},
    ]


def test_every_trial_has_its_figure() -> None:
    """None of the trials is without a row."""
    told = {figure["number"] for figure in json.loads(FIGURES.read_text())}
    assert told >= set(range(1, 18))
