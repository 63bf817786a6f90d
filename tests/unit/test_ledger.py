"""The books: they balance, and the wire cannot make them grow without end."""

from __future__ import annotations

import json

from fakes import batch_of, recording_bus

from recorder.clock import SystemClock
from recorder.ledger import CHANNEL_CHARS_MAX, CHANNELS_MAX, OTHER, Ledger
from recorder.log import get_logger
from recorder.sinks.sink import Drops


def test_channels_named_by_the_wire_are_bounded_and_the_books_balance() -> None:
    """Past a limit, and for names too long to be one, channels share books; nothing is counted twice or lost."""
    ledger = Ledger()
    stats = ledger.sink("test")
    drops = Drops(stats, SystemClock(), get_logger("polygon_events"), 5.0)
    bus = recording_bus(ledger)
    channels = ["T", *(f"X{number}" for number in range(3 * CHANNELS_MAX)), "Y" * (CHANNEL_CHARS_MAX + 1)]
    ledger.channel("stocks", "T")
    for turn in range(2):
        batch = batch_of(json.dumps([{"ev": channel, "sym": "A", "t": 1} for channel in channels]).encode())
        bus.publish(batch)
        assert batch.recorded is not None
        assert batch.recorded.channels == channels, "records keep their own names"
        for channel, count in batch.recorded.counts.items():
            stats.accepted["stocks", channel] += count
            if turn:
                stats.recorded["stocks", channel] += count
        if not turn:
            drops.add("stocks", batch.recorded.counts, "test")
    for counts in (ledger.channels, stats.accepted, stats.recorded, stats.dropped):
        assert len(counts) == CHANNELS_MAX + 1
    assert stats.accepted["stocks", OTHER] == 2 * (len(channels) - CHANNELS_MAX)
    assert ledger.channel("stocks", "T").received == 2
    assert ledger.differences("test") == {}
    assert ledger.totals("test")["received"] == 2 * len(channels)
