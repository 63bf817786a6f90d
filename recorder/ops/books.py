"""The books of each sink at one moment, added up."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from msgspec.structs import astuple

from recorder.ledger import Ledger, SinkStats
from recorder.ops.status_schema import Balance

_NONE: Final = (0,) * len(Balance.__struct_fields__)


def total(books: Iterable[Balance]) -> Balance:
    """Return the sums over `books`."""
    return Balance(*map(sum, zip(_NONE, *map(astuple, books), strict=True)))


def balances(ledger: Ledger, sink: SinkStats) -> dict[tuple[str, str], Balance]:
    """Return one sink's books per (cluster, channel). Call it in the event loop's thread."""
    # The sink's own thread may be counting meanwhile: what leaves `pending` is read before what enters it.
    recorded = {key: sink.recorded[key] for key in list(sink.recorded)}
    dropped = {key: sink.dropped[key] for key in list(sink.dropped)}
    accepted = {key: sink.accepted[key] for key in list(sink.accepted)}
    left_out = {key: sink.left_out[key] for key in list(sink.left_out)}
    found = {}
    for key in dict.fromkeys([*ledger.channels, *accepted, *recorded, *dropped]):
        channel = ledger.channels.get(key)
        done = recorded.get(key, 0), dropped.get(key, 0)
        found[key] = Balance(
            received=channel.received if channel else 0,
            recorded=done[0],
            filtered=(channel.filtered if channel else 0) + left_out.get(key, 0),
            sampled_out=channel.sampled_out if channel else 0,
            rejected=channel.rejected if channel else 0,
            dropped=done[1],
            # Never below 0: what a sink recorded without having accepted it must show as a difference.
            pending=max(0, accepted.get(key, 0) - sum(done)),
        )
    return found


def difference(books: Mapping[tuple[str, str], Balance]) -> int:
    """Return how many events are accounted for nowhere or more than once; 0: the books balance.

    Added up over the channels without their signs, so that two differences cannot hide each other.
    """
    return sum(abs(received - sum(known)) for received, *known in map(astuple, books.values()))
