"""What the filtering ports of a process share, besides the bars."""

from __future__ import annotations

from typing import NamedTuple

from recorder.clock import Clock
from recorder.servers.hotlog import HotLog
from recorder.servers.last_values import LastValues
from recorder.servers.pacer import Pacer


class Means(NamedTuple):
    """What clients in other manners are served with."""

    log: HotLog
    clock: Clock
    pacer: Pacer
    values: LastValues
