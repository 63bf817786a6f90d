"""What becomes of a client's wish for the past, as it is told."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from recorder.archive.gaps import Gap
from recorder.polygon import control
from recorder.polygon.control import encode_status
from recorder.polygon.rows import Status
from recorder.servers.hotlog import GAPS_MAX
from recorder.servers.outage import Outage


def answer(
    *,
    recovered: bool,
    partial: bool,
    reason: str,
    begins: str,
    available: tuple[str, int],
    gaps: Sequence[dict[str, Any]],
) -> bytes:
    """Return the status. `begins` is the position behind which is what follows; `available` the oldest position and time.

    Of many gaps the newest are listed.
    """
    if recovered:
        words = "what you missed follows"
        if gaps:
            words += f", less what this recorder itself has missed in {len(gaps)} gaps"
    elif partial:
        words = f"not all that you missed is kept, what there is follows: {reason}"
    else:
        words = f"what you missed cannot be sent, events come from now on: {reason}"
    available_from, available_since = available
    facts = {
        "recovered": recovered,
        "from": begins,
        "available_from": available_from,
        "available_since": available_since,
        "gaps": list(gaps[-GAPS_MAX:]),
        "reason": reason,
    }
    return encode_status(Status(control.RESUME, words), **facts)


def complete(count: int) -> bytes:
    """Return the status behind the past, of which there was so much."""
    return encode_status(Status(control.RESUME_COMPLETE, f"that was all you missed: {count}"), count=count)


def position(told: str) -> bytes:
    """Return the status that tells a client a position."""
    return encode_status(Status(control.POSITION, told), after=told)


def waits(ahead: int) -> bytes:
    """Return the status for a client that waits until so many others have been read for."""
    words = f"what you missed is in the archive, which is read for others first: {ahead} are before you"
    return encode_status(Status(control.RESUME_WAITS, words), ahead=ahead)


def shown_gaps(archived: Iterable[Gap], outages: Iterable[Outage], cluster: str) -> list[dict[str, Any]]:
    """Return the gaps of a cluster (`""`: of all), by the archive and, where that does not know them yet, by memory."""
    shown: list[dict[str, Any]] = [
        {"cluster": gap.cluster, "from": gap.from_ms, "to": gap.to_ms, "reason": gap.reason}
        for gap in archived
        if cluster in ("", gap.cluster)
    ]
    known_until: dict[str, int] = {}
    for gap in shown:
        known_until[gap["cluster"]] = max(gap["to"], known_until.get(gap["cluster"], 0))
    newer = [
        outage.shown()
        for outage in outages
        if outage.to_ms is None or outage.to_ms > known_until.get(outage.cluster, 0)
    ]
    return [*shown, *newer]
