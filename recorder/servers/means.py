"""What the filtering ports of a process share, besides the bars."""

from __future__ import annotations

from typing import NamedTuple

from recorder.clock import Clock
from recorder.servers.manners.last_values import LastValues
from recorder.servers.manners.pacer import Pacer
from recorder.servers.past.hotlog import HotLog


class Means(NamedTuple):
    """What clients in other manners are served with."""

    log: HotLog
    clock: Clock
    pacer: Pacer
    values: LastValues
