"""How a replay is to be played."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from recorder.sources.replay.stats import CatchUp

PASS_BYTES_MAX: Final = 512 * 1024
"""What is passed on at once, of one cluster."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlayOptions:
    """How a replay is to be played."""

    rate: float | None = 1.0
    """How many times faster than it was recorded; None: as fast as clients take it."""
    is_paused: bool = False
    """Whether it waits for `play`."""
    loops: bool = False
    """Whether it begins again at the end."""
    skip_secs: float | None = None
    """Silence longer than this is skipped; None: none is."""
    catch_up: CatchUp = "burst"
    """What it does that is late."""
    shifts: bool = False
    """Whether the times of events are moved to now."""
    clients_min: int = 0
    """So many clients must have subscribed before it begins."""
    delay_secs: float = 0.0
    """How long it waits then before it begins."""
    linger_secs: float = 0.0
    """How long it goes on serving behind the end."""
    pass_bytes_max: int = PASS_BYTES_MAX
    """What is passed on at once where the rate has no limit: what a client may leave unread has room for more."""
