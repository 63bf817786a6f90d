"""Takes the figures of long trials into docs/reliability.json and the page's table: `python tests/reliability.py REPORT`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

DOCS = Path(__file__).resolve().parents[1] / "docs"
PAGE, FIGURES = DOCS / "reliability.md", DOCS / "reliability.json"
BEGIN, END = "<!-- figures: begin -->\n", "<!-- figures: end -->\n"
COLUMNS = ("fault", "injected", "holds", "figure", "form", "date")


def merged(kept: list[dict[str, Any]], new: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Let newer figures of a trial's fault take the place of older ones; in the order of the trials."""
    by_fault = {(figure["number"], figure["fault"]): figure for figure in [*kept, *new]}
    return [by_fault[key] for key in sorted(by_fault)]


def table(figures: list[dict[str, Any]]) -> str:
    """Give the page's table, and the machines under it."""
    rows = [
        "| trial | fault | how it is injected | what holds | figure | form | date |",
        "|---|---|---|---|---|---|---|",
    ]
    for figure in figures:
        cells = [str(figure[name]).replace("|", "\\|") for name in COLUMNS]
        rows.append(f"| {figure['number'] or ''} | " + " | ".join(cells) + " |")
    machines = sorted({figure["machine"] for figure in figures})
    return "\n".join([*rows, "", *(f"Machine: {machine}." for machine in machines)]) + "\n"


def page_with(page: str, figures: list[dict[str, Any]]) -> str:
    """Give the page with this table in its place."""
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{table(figures)}\n{END}{after}"


def main() -> None:
    """Take a report in."""
    new = [json.loads(line) for line in Path(sys.argv[1]).read_text().splitlines()]
    kept = json.loads(FIGURES.read_text()) if FIGURES.exists() else []
    figures = merged(kept, new)
    FIGURES.write_text(json.dumps(figures, indent=1, ensure_ascii=False) + "\n")
    PAGE.write_text(page_with(PAGE.read_text(), figures))


if __name__ == "__main__":
    main()
