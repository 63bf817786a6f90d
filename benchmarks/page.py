"""Takes the results into docs/performance.md, and one figure into the README: `python -m benchmarks.page`."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from benchmarks.scenario import kept
from benchmarks.tables import cells, verdict

DOCS: Final = Path(__file__).resolve().parents[1] / "docs"
PAGE: Final = DOCS / "performance.md"
README: Final = DOCS.parent / "README.md"
IMAGES: Final = DOCS / "images"
_NOTHING: Final = "Nothing is measured yet: `make bench`.\n"


def page_with(page: str, results: Sequence[dict[str, Any]]) -> str:
    """Return the page with the tables of these results between its marks."""
    return marked(marked(page, "targets", targets(results)), "results", tables(results))


def readme_with(readme: str, results: Sequence[dict[str, Any]]) -> str:
    """Return the README with its figure, as these results have it."""
    return marked(readme, "figure", figure(results))


def figure(results: Sequence[dict[str, Any]]) -> str:
    """Return what one core records, beside the vendor's client, in frames of 10 events."""
    for result in results:
        for row in result["rows"]:
            if (row["work"], row["who"], row["failures"]) != ("10 events a frame", "recorder", []):
                continue
            [ratio] = [
                target["measured"]
                for target in result["targets"]
                if "vendor's Python client" in target["text"] and "10 a frame" in target["text"].split(", ")
            ]
            facts = result["facts"]
            text = (
                f"**{row['median']['events_per_sec']:,.0f} events a second on one core**, with no drop: {ratio} what a "
                "program on the vendor's Python client does that writes the same lines "
                f"({facts['date']}, commit {facts['commit']}). [The table](docs/performance.md#1-record) shows how it "
                "was measured, [the targets](docs/performance.md#targets) which ones are not met, and "
                "`make bench SCENARIO=record` repeats it."
            )
            return textwrap.fill(text, 120, break_long_words=False, break_on_hyphens=False) + "\n"
    return _NOTHING


def marked(page: str, mark: str, text: str) -> str:
    """Return a page with a text between its marks."""
    begin, end = f"<!-- {mark}: begin -->\n", f"<!-- {mark}: end -->\n"
    before, _, rest = page.partition(begin)
    _, _, after = rest.partition(end)
    return f"{before}{begin}\n{text}\n{end}{after}"


def targets(results: Sequence[dict[str, Any]]) -> str:
    """Return the table of what was asked and what is."""
    rows = [
        f"| {result['number']} | {_cell(target['text'])} | {target['measured'] or '–'} | {_verdict(target)} |"
        for result in results
        for target in result["targets"]
    ]
    if not rows:
        return _NOTHING
    return "\n".join(["| scenario | target | measured | |", "|---|---|---|---|", *rows]) + "\n"


def tables(results: Sequence[dict[str, Any]]) -> str:
    """Return a section for each scenario: question, table, failures, pictures, how it was measured."""
    return "\n".join("\n".join(_section(result)) for result in results) or _NOTHING


def _section(result: dict[str, Any]) -> Iterator[str]:
    yield f"### {result['number']}. {result['scenario'].capitalize()}\n"
    yield f"{result['question']}\n"
    headings = [column["heading"] for column in result["columns"]]
    yield "| work | who | " + " | ".join(headings) + " |"
    yield "|---|---|" + "---:|" * len(headings)
    for row in result["rows"]:
        failed = " **failed**" if row["failures"] else ""
        yield "| " + " | ".join([_cell(row["work"]) + failed, _cell(row["who"]), *cells(result, row)]) + " |"
    yield ""
    for row in result["rows"]:
        for failure in row["failures"]:
            yield f"**Failed**, so its figures do not count: {row['work']}, {row['who']}: {failure}.\n"
    yield f"{result['note']}\n"
    for plot in result["plots"]:
        yield f"![{plot['title']}](images/{plot['file']}.png)\n"
    yield f"{_how(result)}\n"


def _how(result: dict[str, Any]) -> str:
    """Say where, when and how long."""
    facts = result["facts"]
    runs = max((len(row["runs"]) for row in result["rows"]), default=0)
    loops = [run["calibration_ns"] / 1e6 for row in result["rows"] for run in row["runs"]]
    versions = ", ".join(f"{name} {version}" for name, version in facts["versions"].items())
    quick = (
        " **Quick form: it shows that the scenario works; no figure is worth quoting.**"
        if result["quick"]
        else ""
    )
    return (
        f"{facts['date']}, commit {facts['commit']}; {facts['machine']}, {facts['cores']} cores, {facts['pinned']}; "
        f"{facts['kernel']}, Python {facts['python']}, {versions}. Medians of {runs} runs of {result['seconds']:g} s; "
        f"calibration loop {min(loops):.1f} to {max(loops):.1f} ms.{quick}"
    )


def _verdict(target: dict[str, Any]) -> str:
    return f"**{verdict(target)}**" if target["met"] is False else verdict(target)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def main() -> None:
    """Rewrite the page, and the figure of the README."""
    PAGE.write_text(page_with(PAGE.read_text(), kept()))
    README.write_text(readme_with(README.read_text(), kept()))


if __name__ == "__main__":
    main()
