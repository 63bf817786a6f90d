"""Parts of a recorder that fail on demand: a process that starts with this folder in PYTHONPATH has them.

A file in the folder that `BREAKING` names asks for one failure, and is gone once it has happened: `run PART` for one
that comes out of the part's `run`, or the name of a call of the list below. A file `hold …` is a call that waits for as
long as the file is there, and `refuse …` one that fails for as long.
"""

from __future__ import annotations

import asyncio
import errno
import functools
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ASK_SECS = 0.02


def breaking(folder: Path) -> None:
    """Put the calls that fail in the place of the real ones."""
    from recorder.archive.recovery import Recovery
    from recorder.archive.writer import ArchiveWriter
    from recorder.ops.live import Live
    from recorder.ops.server import OpsServer
    from recorder.ops.stats_log import StatsLog
    from recorder.part import Work
    from recorder.servers.hub import Hub
    from recorder.sinks import stdout, zmq
    from recorder.sinks.kafka.publisher import KafkaPublisher
    from recorder.sinks.nats.publisher import NatsPublisher
    from recorder.sources.exchange.feed import Feed
    from recorder.workers import worker
    from recorder.workers.pool import WorkerPool

    def once(name: str) -> None:
        asked = folder / name
        if asked.exists():
            asked.unlink()
            raise KeyError(f"broken: {name}")

    def break_call(owner: Any, call: str, name: str) -> None:
        real = getattr(owner, call)

        @functools.wraps(real)
        def broken(*arguments: Any, **named: Any) -> Any:
            once(name)
            return real(*arguments, **named)

        setattr(owner, call, broken)

    def break_run(owner: Any) -> None:
        real: Callable[..., Any] = owner.run

        async def run(self: Any) -> None:
            task = asyncio.ensure_future(real(self))
            try:
                while not task.done():
                    await asyncio.wait([task], timeout=ASK_SECS)
                    once(f"run {self.name}")
                await task
            finally:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)

        owner.run = run

    for owner in (Work, Hub, OpsServer, WorkerPool, Feed):
        break_run(owner)
    break_call(Live, "beat", "page")
    break_call(StatsLog, "_totals", "stats")
    break_call(stdout.StdoutWriter, "write", "stdout")
    break_call(zmq.ZmqPublisher, "write", "zmq")
    break_call(zmq.ZmqPublisher, "close", "zmq end")
    break_call(NatsPublisher, "write", "nats")
    break_call(KafkaPublisher, "write", "kafka")
    break_call(ArchiveWriter, "write", "archive")

    def hold_call(owner: Any, call: str, name: str) -> None:
        real = getattr(owner, call)

        @functools.wraps(real)
        def held(*arguments: Any, **named: Any) -> Any:
            while (folder / name).exists():
                time.sleep(ASK_SECS)
            return real(*arguments, **named)

        setattr(owner, call, held)

    hold_call(Recovery, "run", "hold repair")
    hold_call(ArchiveWriter, "close", "hold end")

    real_spawn = worker._spawn

    def spawn(*ends: int) -> Any:
        if (folder / "refuse workers").exists():
            raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        return real_spawn(*ends)

    worker._spawn = spawn


if "BREAKING" in os.environ:
    breaking(Path(os.environ["BREAKING"]))
