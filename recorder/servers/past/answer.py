"""What becomes of a client's wish for the past, as it is told."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from recorder.archive.gaps import Gap
from recorder.archive.wanted import Found, Place
from recorder.polygon import control
from recorder.polygon.control import encode_status
from recorder.polygon.rows import Status
from recorder.polygon.server import Subscribe
from recorder.servers.client import Client
from recorder.servers.past.entry import Start, told_place
from recorder.servers.past.hotlog import HotLog
from recorder.servers.past.outage import GAPS_MAX, Outage
from recorder.servers.stats import Resumed, ServerStats


def say_answer(
    log: HotLog,
    client: Client,
    wish: Subscribe,
    stats: ServerStats,
    start: Start,
    found: Found | None = None,
) -> None:
    """Say what becomes of a wish for the past, by what the archive has of it, or else memory."""
    begins = wish.after if start.rank and wish.after else log.told(start.position, start.seq)
    available = log.available_to(client.cluster), log.offered_ms
    gaps = shown_gaps((), log.outages(start.position, client.cluster), client.cluster)
    recovered, reason = start.recovered, start.reason
    if found is not None:
        recovered = found.recovered
        reason = "" if recovered else f"{reason}; in the archive: {found.reason}"
        if found.floor is not None:
            place = Place(found.floor.run_id, found.floor.seq)
            available = told_place(place), found.floor.at_ms
        if found.place is not None:
            # A client that has been told a position keeps it as it was told.
            begins = wish.after if recovered and wish.after is not None else told_place(found.place)
            gaps = shown_gaps(found.gaps, log.outages(0, client.cluster), client.cluster)
    outcome: Resumed = "recovered" if recovered else "partial" if wish.partial else "refused"
    stats.resumes[outcome] += 1
    client.say(
        _answer(
            recovered=recovered,
            partial=wish.partial,
            reason=reason,
            begins=begins,
            available=available,
            gaps=gaps,
            each=client.wants_marks,
        )
    )


def _answer(
    *,
    recovered: bool,
    partial: bool,
    reason: str,
    begins: str,
    available: tuple[str, int | None],
    gaps: Sequence[dict[str, Any]],
    each: bool = False,
    of_bars: bool = False,
) -> bytes:
    """Return the status. `begins` is the position behind which is what follows; `available` the oldest position and time.

    Of many gaps the newest are listed. `each`: the client is told a position behind each read.
    """
    if recovered:
        words = "what you missed follows"
        if gaps:
            words += f", less what this recorder itself has missed in {len(gaps)} gap{'s' * (len(gaps) != 1)}"
    elif partial:
        words = f"not all that you missed is kept, what there is follows: {reason}"
    else:
        words = f"what you missed cannot be sent, events come from now on: {reason}"
    if of_bars:
        words = control.BARS + words
    available_from, available_since = available
    facts: dict[str, Any] = {
        "recovered": recovered,
        "from": begins,
        "available_from": available_from,
        "available_since": available_since,
        "gaps": list(gaps[-GAPS_MAX:]),
        "reason": reason,
    }
    if partial and not recovered:
        facts["partial"] = True
    if each:
        facts["each"] = True
    return encode_status(Status(control.RESUME, words), **facts)


def say_bars(
    client: Client,
    *,
    recovered: bool,
    partial: bool,
    reason: str,
    begins: str,
    available: tuple[str, int | None],
    gaps: Sequence[dict[str, Any]],
) -> None:
    """Say what becomes of a wish for bars of the past."""
    client.say(
        _answer(
            recovered=recovered,
            partial=partial,
            reason=reason,
            begins=begins,
            available=available,
            gaps=gaps,
            of_bars=True,
        )
    )


def complete(count: int, *, of_bars: bool = False) -> bytes:
    """Return the status behind the past, of which there was so much."""
    words = f"{control.BARS if of_bars else ''}that was all you missed: {count}"
    return encode_status(Status(control.RESUME_COMPLETE, words), count=count)


def waits(ahead: int, *, of_bars: bool = False) -> bytes:
    """Return the status for a client that waits until so many others have been read for."""
    bars = control.BARS if of_bars else ""
    words = f"{bars}what you missed is in the archive, which is read for others first: {ahead} are before you"
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
