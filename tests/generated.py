"""Every file that is made from the code. `make docs`, which is `python tests/generated.py`, writes them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

import access_reference
import channels_reference
import citation
import command_reference
import contributing
import logs_reference
import man_page
import metrics_reference
import runbook_page
import status_reference

from benchmarks import scaling
from grafana import dashboard
from recorder import settings

ROOT: Final = Path(__file__).parents[1]
GENERATED: Final[Mapping[str, Callable[[], str]]] = {
    ".env.example": settings.render_env_example,
    "CITATION.cff": citation.render_cff,
    "CONTRIBUTING.md": contributing.render_markdown,
    "docs/access-log.md": access_reference.render_markdown,
    "docs/channels.md": channels_reference.render_markdown,
    "docs/commands.md": command_reference.render_markdown,
    "docs/logs.md": logs_reference.render_markdown,
    "docs/metrics.md": metrics_reference.render_markdown,
    "docs/scaling.md": scaling.render_markdown,
    "docs/settings.md": settings.render_markdown,
    "docs/status.md": status_reference.render_markdown,
    "grafana/dashboards/recorder.json": dashboard.render,
    "man/recorder.1": man_page.render_man,
    "recorder/ops/page/runbook.html": runbook_page.render_html,
}
"""By path, what returns the text."""


def write_all() -> None:
    """Write each file, and name those that have changed."""
    for name, render in GENERATED.items():
        path, text = ROOT / name, render()
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
            sys.stdout.write(f"{name} is new\n")


if __name__ == "__main__":
    write_all()
