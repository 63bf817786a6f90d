"""docs/reliability.md shows the figures that the trials wrote, and no others; its summary says the worst of them."""

from __future__ import annotations

import json

import pytest
from reliability import FIGURES, PAGE, TRIALS, Worst, merged, page_with, summary


def test_the_page_shows_the_figures() -> None:
    """Summary and rows are those of docs/reliability.json; `python tests/reliability.py /dev/null` writes them."""
    page = PAGE.read_text()
    assert page == page_with(page, json.loads(FIGURES.read_text()))


def test_a_new_figure_takes_the_place_of_the_old_one() -> None:
    """A trial that ran again has one row, and the order is that of the trials."""
    old = [{"number": 2, "fault": "a", "figure": "1"}, {"number": 1, "fault": "b", "figure": "2"}]
    assert merged(old, [{"number": 2, "fault": "a", "figure": "3"}]) == [
        {"number": 1, "fault": "b", "figure": "2"},
        {"number": 2, "fault": "a", "figure": "3"},
    ]


def test_every_trial_is_in_the_summary() -> None:
    """Each number of a trial's file and of a figure has its row; one that was never run says so."""
    files = {
        int(path.name[11:13]) for path in (PAGE.parents[1] / "tests" / "process").glob("test_trial_*.py")
    }
    figures = json.loads(FIGURES.read_text())
    assert files | {figure["number"] for figure in figures} == set(TRIALS)
    assert summary([]).count("not run") == len(TRIALS)


def test_the_worst_is_the_greatest_or_the_sum() -> None:
    """Over all rows of the trial that have the number, with thousands in them; rows without it do not count."""
    figures = [{"figure": "1,200 kills, 0 lost"}, {"figure": "3 kills, 12 lost"}, {"figure": "nothing of it"}]
    assert Worst("{} kills", r"^([\d,]+) kills", sum).of(figures) == "1,203 kills"
    assert Worst("{} lost", r"([\d,]+) lost").of(figures) == "12 lost"
    assert Worst("{} s", r"([\d.]+) s$").of([{"figure": "2.25 s"}, {"figure": "0.5 s"}]) == "2.2 s"
    assert Worst("{} torn", r"([\d,]+) torn").of(figures) is None


@pytest.mark.parametrize("number", TRIALS)
def test_every_number_of_the_summary_is_read_from_a_figure(number: int) -> None:
    """A figure whose words changed is seen here, and not as a summary that says less."""
    own = [figure for figure in json.loads(FIGURES.read_text()) if figure["number"] == number]
    not_run = {worst.text for worst in TRIALS[number].worst if worst.of(own) is None}
    assert not own or not_run <= {"a stop of the process shows in the lag: {} s"}
