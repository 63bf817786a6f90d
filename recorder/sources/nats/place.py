"""Where in a stream to begin: behind what was read, or where NATS_START says."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from recorder.jetstream.streams import ForeignMessage, JetStream, View
from recorder.settings.nats import ALL, NEW, RESUME
from recorder.sources.nats.cursor import PURGED, ROLLED_BACK, Cursor
from recorder.stream_message import Names


class Place(NamedTuple):
    """Where to begin."""

    where: Mapping[str, object]
    """As the stream API words it."""
    known: bool
    """Whether everything behind the cursor follows, as far as the stream has it."""


async def begin(jetstream: JetStream, names: Names, view: View, cursor: Cursor, start: str) -> Place:
    """Let a cursor begin with a stream; return where the servers are to begin.

    `start` counts where the cursor knows nothing yet. So it does for a position of another stream, or of another recorder,
    if what is recorded may be in this stream too: if it is older than the last of that.
    """
    if cursor.is_begun and not (
        cursor.is_of(view.created) or cursor.is_read or 0 < cursor.received_ns < view.created_ns
    ):
        cursor.is_begun = False
    known = cursor.is_begun
    return Place(await _where(jetstream, names, view, cursor, start), known)


async def _where(
    jetstream: JetStream, names: Names, view: View, cursor: Cursor, start: str
) -> Mapping[str, object]:
    if cursor.is_begun and cursor.is_of(view.created):
        if not view.messages and view.last_seq > cursor.seq:
            cursor.cause = PURGED
        return _at(await _behind(jetstream, names, view, cursor))
    if cursor.is_begun or start == ALL:
        cursor.begin(view.created)
        return {"deliver_policy": "all"}
    if start in (RESUME, NEW):
        try:
            newest = await jetstream.newest(*names)
        except ForeignMessage:
            newest = None
        cursor.begin(view.created, view.last_seq, newest.heading if newest is not None else None)
        return _at(view.last_seq + 1)
    cursor.begin(view.created)
    if start.isdigit():
        return _at(int(start))
    return {"deliver_policy": "by_start_time", "opt_start_time": start}


async def _behind(jetstream: JetStream, names: Names, view: View, cursor: Cursor) -> int:
    """Return the place behind the last message that was read; elsewhere, if that is not what it was."""
    is_same = cursor.seq <= view.last_seq
    if is_same and view.messages and cursor.seq >= view.first_seq:
        try:
            last = await jetstream.message_at(names.stream, cursor.seq)
        except ForeignMessage:
            is_same = False
        else:
            is_same = last is None or last.heading.next_first == cursor.event + 1
            if is_same and last is not None:
                cursor.know(last.heading)
    if is_same:
        return cursor.seq + 1
    cursor.cause = ROLLED_BACK
    return await jetstream.place_of(*names, view, cursor.event + 1)


def _at(seq: int) -> Mapping[str, object]:
    return {"deliver_policy": "by_start_sequence", "opt_start_seq": seq}
