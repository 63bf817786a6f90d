"""What an export says of itself when it is done: a line for people, an object for scripts."""

from __future__ import annotations

import orjson

from recorder.export.session import Exported
from recorder.words import size_text


def as_text(found: Exported) -> str:
    """Return one line."""
    before = f"; {found.segments_before:,} segments were there" if found.segments_before else ""
    joined = found.joined
    if joined is not None and joined.folders:
        before += f"; {joined.files:,} files joined into {joined.folders:,}"
    if not found.segments:
        return f"{found.place}: nothing new{before}"
    what = f"{found.records:,} records of {found.segments:,} segments in {found.files:,} files"
    sizes = f"{size_text(found.line_bytes)} of lines, {size_text(found.file_bytes)} of Parquet"
    return f"{found.place}: {what} ({sizes}){before}"


def as_json(found: Exported) -> str:
    """Return all of it."""
    return orjson.dumps(
        {
            "to": found.place,
            "segments": found.segments,
            "segments_before": found.segments_before,
            "files": found.files,
            "records": found.records,
            "line_bytes": found.line_bytes,
            "file_bytes": found.file_bytes,
            "lost": found.lost,
            "joined": found.joined._asdict() if found.joined is not None else None,
            "problems": found.problems,
            "notes": found.notes,
        },
        option=orjson.OPT_INDENT_2,
    ).decode()
