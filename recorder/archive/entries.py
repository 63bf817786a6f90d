"""The manifest's lines on closed segments: which fields they have, and in what order."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Literal

import msgspec

from recorder.archive.manifest_index import Entry
from recorder.archive.record import Summary

SideKind = Literal["rejects", "positions"]
SIDE_CLOSED: Final[Mapping[SideKind, str]] = {"rejects": "rejects_closed", "positions": "positions_closed"}
"""The lines on segments of files that have no records, by what these have."""


def segment_fields(
    name: str, summary: Summary, sha256: str, reason: str, offset: int, was: str = "", *, durable: bool = True
) -> dict[str, Any]:
    """Return the fields of a `segment_closed` line, in their order."""
    fields: dict[str, Any] = {
        "file": name,
        "records": summary.records,
        "bytes": summary.bytes,
        "sha256": sha256,
        **summary.facts(),
        "reason": reason,
        "offset": offset,
    }
    if was:
        fields["was"] = was
    if not durable:
        fields["durable"] = False
    return fields


def side_fields(
    name: str, summary: Summary, sha256: str, reason: str, offset: int, was: str = "", *, durable: bool = True
) -> dict[str, Any]:
    """Return the fields of a line on a segment of rejects or positions, in their order."""
    fields = segment_fields(name, summary, sha256, reason, offset, was, durable=durable)
    kept = ("file", "records", "bytes", "sha256", "reason", "offset", "was", "durable")
    return {key: fields[key] for key in kept if key in fields}


def entry_of(run_id: str, fields: dict[str, Any], kind: str = "segment_closed") -> Entry:
    """Return the line with these fields, as a reader of the manifest has it."""
    return msgspec.convert({"kind": kind, "run_id": run_id, "ts": 0, "prev": "", **fields}, Entry)
