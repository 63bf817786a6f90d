"""The limit of open files: raised as far as it goes, and a clear word where that is not far enough."""

from __future__ import annotations

import resource
from typing import Final

from recorder.log import get_logger

_RESERVE: Final = 256
"""Files that the process needs beside its clients."""

log = get_logger("polygon_clients")


def raise_file_limit(clients_max: int) -> None:
    """Allow this process as many open files as its clients may need; warn where the system does not."""
    needed = clients_max + _RESERVE
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
