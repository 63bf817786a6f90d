"""docs/logs.md with its tables: its prose is its own, the tables are made from the table of log events."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from recorder.log_events import GROUPS, LIBRARIES, LogEvent

PAGE: Final = Path(__file__).parents[1] / "docs" / "logs.md"
_BEGIN: Final = "<!-- events: made by `make docs` from recorder/log_events -->\n"
_END: Final = "<!-- end of events -->\n"


def render_markdown() -> str:
    """Return the page, with the events as they are now."""
    page = PAGE.read_text(encoding="utf-8")
    sections = [f"### {group.target}\n\n{group.about}\n\n{_table(group)}" for group in GROUPS]
    sections.append(f"### Libraries, and the log itself\n\n{_table(LIBRARIES)}")
    block = _BEGIN + "\n" + "\n".join(sections) + "\n" + _END
    return re.sub(re.escape(_BEGIN) + ".*?" + re.escape(_END), lambda _: block, page, flags=re.DOTALL)


def _table(events: Iterable[LogEvent]) -> str:
    rows = "\n".join(
        f"| `{event.name}` | {', '.join(level.upper() for level in event.levels)} | {event.meaning} "
        f"| {event.action or '—'} |"
        for event in events
    )
    return f"| event | level | what it means | what to do |\n|---|---|---|---|\n{rows}\n"
