"""Open files: the limit of this process, and what part of it is not for clients."""

from __future__ import annotations

import resource
import sys
from typing import Final

from recorder.log import get_logger

BESIDE_CLIENTS: Final = 256
"""Files that the process needs beside its clients."""
_RESERVE_MAX: Final = 64
"""Numbers below the limit that clients never get: they are for the archive, the exchange, and who asks how it goes."""

log = get_logger("polygon_clients")


def raise_limit(clients_max: int) -> None:
    """Allow this process as many open files as its clients may need; warn where the system does not."""
    needed = clients_max + BESIDE_CLIENTS
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    unlimited = resource.RLIM_INFINITY
    if soft == unlimited or soft >= needed:
        return
    allowed = needed if hard == unlimited else min(needed, hard)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    except (OSError, ValueError):
        allowed = soft
    if allowed < needed:
        log.warning(
            "fewer open files are allowed than clients may come",
            allowed=allowed,
            needed=needed,
            advice="raise the limit (ulimit -n, LimitNOFILE), or lower CLIENTS_MAX",
        )


def reserved() -> tuple[int, int]:
    """Give the first number that no client gets, and the first that not even the refusal of one may take.

    The kernel gives each new file the least number that is free. So the number of a new connection tells, without
    counting, how near the limit is; and as long as clients leave the numbers from here on, there is room for the rest.
    The limit may be changed while the process runs.
    """
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit == resource.RLIM_INFINITY:
        return sys.maxsize, sys.maxsize
    kept = min(_RESERVE_MAX, limit // 3)
    return limit - kept, limit - kept // 2
