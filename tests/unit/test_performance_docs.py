"""docs/performance.md and the README show the results that `make bench` wrote, and no others."""

from __future__ import annotations

from benchmarks.page import IMAGES, PAGE, README, page_with, readme_with
from benchmarks.scenario import kept


def test_the_page_shows_the_results() -> None:
    """Its tables are those of benchmarks/results."""
    page = PAGE.read_text()
    assert page == page_with(page, kept())


def test_the_readme_has_one_figure_of_the_results() -> None:
    """It is the one of benchmarks/results, with what it is held against."""
    readme = README.read_text()
    assert readme == readme_with(readme, kept())
    assert readme.count("events a second on one core") == 1
    assert "with no drop" in readme


def test_a_failed_run_is_no_figure_for_the_readme() -> None:
    """A row with a failure is not quoted."""
    failed = [
        {**result, "rows": [{**row, "failures": ["3 records dropped"]} for row in result["rows"]]}
        for result in kept()
    ]
    assert "events a second" not in readme_with(README.read_text(), failed).partition("figure: end")[0]


def test_the_pictures_are_there() -> None:
    """Every plot that the page shows is in docs/images."""
    files = [plot["file"] for result in kept() for plot in result["plots"]]
    assert [file for file in files if not (IMAGES / f"{file}.png").exists()] == []


def test_the_page_has_what_was_measured_and_what_failed() -> None:
    """A result gives a row a case, a failure its reason, a target its verdict; the text around stays."""
    result = {
        "number": 3,
        "scenario": "some",
        "question": "How fast?",
        "note": "So.",
        "seconds": 1.0,
        "quick": True,
        "facts": {
            "date": "2026-11-21",
            "commit": "abc",
            "machine": "M",
            "cores": 2,
            "pinned": "P",
            "kernel": "K",
            "python": "3",
            "versions": {"aiohttp": "1"},
        },
        "columns": [{"figure": "speed", "heading": "events/s", "form": ",.0f"}],
        "rows": [
            {
                "work": "w",
                "who": "recorder",
                "median": {"speed": 12_345.6},
                "failures": ["3 records dropped"],
                "runs": [{"calibration_ns": 2_000_000}],
            }
        ],
        "targets": [{"text": "≥ 1", "measured": "12,346", "failed": True, "met": False}],
        "plots": [{"title": "T", "file": "bench-t"}],
    }
    page = page_with(PAGE.read_text(), [result])
    for expected in (
        "| 3 | ≥ 1 | 12,346 | **failed run** |",
        "| w **failed** | recorder | 12,346 |",
        "w, recorder: 3 records dropped.",
        "![T](images/bench-t.png)",
        "Quick form",
        "## How to repeat it",
    ):
        assert expected in page
    assert page_with(page, kept()) == PAGE.read_text()
