"""What `recorder check` prints: a table on a terminal, plain lines in a pipe, or JSON."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Final

import orjson
from rich.console import Console
from rich.table import Table
from rich.text import Text

from recorder.checks.findings import Finding, Level
from recorder.log import mask
from recorder.version import VERSION

_STYLES: Final = {
    Level.OK: "green",
    Level.SKIPPED: "dim",
    Level.WARNING: "yellow",
    Level.FAILURE: "bold red",
}


def as_json(findings: Sequence[Finding], exit_status: int) -> str:
    """Return the report as one JSON object."""
    content = {
        "version": VERSION,
        "ok": exit_status == 0,
        "exit_status": exit_status,
        "counts": {level.value: _counts(findings)[level] for level in Level},
        "findings": [
            {
                "subject": finding.subject,
                "level": finding.level.value,
                "text": mask(finding.text),
                "advice": mask(finding.advice),
                "figures": dict(finding.figures),
            }
            for finding in findings
        ],
    }
    return orjson.dumps(content, option=orjson.OPT_INDENT_2).decode()


def as_lines(findings: Sequence[Finding], *, writes_files: bool) -> str:
    """Return the report as plain text; what to do stands below what it is about."""
    width = max((len(finding.subject) for finding in findings), default=0)
    lines = []
    for finding in findings:
        lines.append(f"{finding.level.value:8} {finding.subject:{width}}  {mask(finding.text)}")
        if finding.advice:
            lines.append(f"{'':8} {'':{width}}  -> {mask(finding.advice)}")
    return "\n".join([*lines, verdict(findings, writes_files=writes_files)])


def print_table(findings: Sequence[Finding], console: Console, *, writes_files: bool) -> None:
    """Print the report for a person at a terminal."""
    table = Table(box=None, show_header=False, pad_edge=False)
    for column in ("level", "subject", "text"):
        table.add_column(column, overflow="fold", no_wrap=column != "text")
    for finding in findings:
        text = Text(mask(finding.text))
        if finding.advice:
            text.append(f"\n→ {mask(finding.advice)}", "italic")
        table.add_row(Text(finding.level.value, _STYLES[finding.level]), Text(finding.subject, "bold"), text)
    console.print(table)
    worst = max((finding.level for finding in findings), key=list(Level).index, default=Level.OK)
    console.print(Text(verdict(findings, writes_files=writes_files), _STYLES[worst]))


def verdict(findings: Sequence[Finding], *, writes_files: bool) -> str:
    """Return the sum of it in one line; a recorder that writes no file is never called ready to record."""
    counts = _counts(findings)
    parts = [
        f"{counts[level]} {level.value}{'s' if counts[level] != 1 and level is not Level.OK else ''}"
        for level in (Level.FAILURE, Level.WARNING, Level.OK)
        if counts[level]
    ]
    parts += [f"{counts[Level.SKIPPED]} skipped"] if counts[Level.SKIPPED] else []
    if not writes_files:
        ready = "not ready to run" if counts[Level.FAILURE] else "ready to run, and no file will be written"
    else:
        ready = "not ready to record" if counts[Level.FAILURE] else "ready to record"
    return f"{', '.join(parts)}: {ready}"


def _counts(findings: Sequence[Finding]) -> Counter[Level]:
    return Counter(finding.level for finding in findings)
