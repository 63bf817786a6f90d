"""Recorders with a defect each, to see that the simulation finds it."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, cast

from recorder.archive.context import ArchiveContext
from recorder.archive.record import RecordBatch
from recorder.archive.writer import ArchiveWriter
from recorder.bus import SessionChange, SessionOpened
from recorder.servers.client import Client
from recorder.servers.past.resumes import Resumes
from recorder.servers.past.wish import Wish
from recorder.servers.port import Port
from recorder.sinks.archive import ArchiveSink
from simulation.process import Plan

Change = Callable[[Plan], Plan]


class _Changed(ArchiveWriter):
    """A writer whose disk is not used as it should be."""

    def __init__(self, context: ArchiveContext, *args: Any, **named: Any) -> None:
        self.spoil(context.disk)
        super().__init__(context, *args, **named)

    def spoil(self, disk: Any) -> None:
        raise NotImplementedError


class SealsWithoutFsync(_Changed):
    """Renames files whose content may not be on the platter."""

    def spoil(self, disk: Any) -> None:
        real = disk.sync

        def sync(fd: int) -> None:
            if disk.files[fd][1].endswith(".manifest.ndjson"):
                real(fd)

        disk.sync = sync


class ForgetsNames(_Changed):
    """Never makes a name durable."""

    def spoil(self, disk: Any) -> None:
        def sync_folder(path: Path) -> None:
            """It is not done."""

        disk.sync_folder = sync_folder


class WritesTwice(_Changed):
    """Writes again what a short write had taken."""

    def spoil(self, disk: Any) -> None:
        real = disk.write

        def write(fd: int, data: bytes) -> int:
            count: int = real(fd, data)
            return count if count == len(data) else max(1, count // 2)

        disk.write = write


class LosesWhatWaits(ArchiveWriter):
    """Throws away what waits while the disk fails, and tells nobody."""

    def tick(self) -> float:
        if self.failure:
            for file in self._files:
                self._bytes_given_up += sum(summary.bytes for _, summary in file.give_up())
        return super().tick()


class Reorders(ArchiveWriter):
    """Lets one batch overtake another now and then."""

    held: RecordBatch | None = None

    def write(self, batch: RecordBatch) -> None:
        first = batch.lines[0].summary.first_seq if batch.lines else 0
        if self.held is None and first % 5 == 3:
            self.held = batch
            return
        super().write(batch)
        if self.held is not None:
            held, self.held = self.held, None
            super().write(held)


class GivesUpForEver(ArchiveWriter):
    """Does not write again once the disk has failed."""

    def tick(self) -> float:
        due_secs = super().tick()
        if self._sink_stats.write_errors:
            self.failure = self._sink_stats.failure = "given up"
        return due_secs


class DropsInSilence(ArchiveSink):
    """Drops without a line in the manifest."""

    def _note_drops(self) -> None:
        self._dropped = None


class HidesGaps(ArchiveSink):
    """Tells nobody of the time without data."""

    def session_changed(self, change: SessionChange) -> None:
        if isinstance(change, SessionOpened):
            self._archive_stats.silences.clear()
        super().session_changed(change)


class JoinsLate(Resumes):
    """Lets a client that has read the past miss what comes until it gets what all get."""

    def _join(self, client: Client, queue: deque[Wish]) -> None:
        port = queue[0].port

        class Late:
            def subscribe(self, *wanted: Any, **manner: Any) -> None:
                asyncio.get_running_loop().call_later(0.5, partial(port.subscribe, *wanted, **manner))

        queue[0].port = cast(Port, Late())
        super()._join(client, queue)


class ReadsOn(Resumes):
    """Sends a client that has read the past the last read once more."""

    def _join(self, client: Client, queue: deque[Wish]) -> None:
        wish, last, where = queue[0], self._log.end - 1, queue[0].where
        super()._join(client, queue)
        if wish.count:
            wish.past.send(self._log.batch(last), where)


def _writer(kind: type[ArchiveWriter], **settings: Any) -> Change:
    return lambda plan: replace(plan, writer=kind, archive=plan.archive.model_copy(update=settings))


def _sink(kind: type[ArchiveSink], **settings: Any) -> Change:
    return lambda plan: replace(plan, sink=kind, archive=plan.archive.model_copy(update=settings))


def _resumes(kind: type[Resumes]) -> Change:
    return lambda plan: replace(plan, resumes=kind, resume_bytes=1 << 20)


MUTANTS: dict[str, Change] = {
    "seals without fsync": _writer(SealsWithoutFsync, fsync="rotate", max_bytes=2000),
    "forgets names": _writer(ForgetsNames, fsync="flush", max_bytes=2000),
    "writes twice": _writer(WritesTwice),
    "loses what waits": _writer(LosesWhatWaits),
    "reorders": _writer(Reorders),
    "gives up for ever": _writer(GivesUpForEver),
    "drops in silence": _sink(DropsInSilence, buffer_bytes=5000),
    "hides gaps": _sink(HidesGaps),
    "drops at the join": _resumes(JoinsLate),
    "doubles at the join": _resumes(ReadsOn),
}
