"""`recorder clickhouse`: sends an archive to the tables of a server, and new records until it is stopped."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import orjson

from recorder.archive.bucket import place_of
from recorder.archive.manifest_index import Entry
from recorder.archive.recorded import manifests_of
from recorder.archive.recorded_segment import Segment
from recorder.archive.recording import Recording
from recorder.clickhouse.batches import Batch, Batches, Stream
from recorder.clickhouse.losses import accounts, find_lost
from recorder.clickhouse.patience import GaveUp, Patience
from recorder.clickhouse.reading import Block, Reader
from recorder.clickhouse.schema import TABLES, table_of
from recorder.clickhouse.server import Server
from recorder.clickhouse.tables import Tables
from recorder.errors import EXIT_FAILURE, EXIT_LOSSES, EXIT_OK, NoArchive
from recorder.log import get_logger
from recorder.progress import Progress

_LOOK_SECS: Final = 0.5
"""How often a follower looks for what was written."""
_REPORT_SECS: Final = 60.0
_STOP_SECS: Final = 5.0
"""What is under way has so long to end."""

log = get_logger("polygon_archive")


@dataclass(frozen=True, slots=True)
class Options:
    """What is asked for."""

    path: Path
    follows: bool = False
    """Whether what comes is sent, too, until the process is told to stop."""
    creates: bool = False
    """Whether tables that are missing are created."""
    interval_secs: float = 10.0
    """So long rows wait for others, at most, where they are followed."""
    wait_secs: float | None = None
    """So long a server may be away; None: for ever."""
    from_ms: int = 0
    """What came before, Unix ms, is left out."""
    skips_damaged: bool = False


@dataclass(slots=True)
class Sent:
    """What came of it."""

    server: str
    rows: dict[str, int] = field(default_factory=dict)
    """By table, what this process has brought there."""
    inserts: int = 0
    retries: int = 0
    waited_secs: float = 0.0
    lost: int = 0
    """Records that were deleted before they were sent."""
    damaged: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    failure: str = ""
    """Why not everything was sent that is there."""

    @property
    def exit_status(self) -> int:
        """How the process ends."""
        if self.failure:
            return EXIT_FAILURE
        return EXIT_LOSSES if self.lost or self.damaged else EXIT_OK

    def as_json(self) -> str:
        """Return it as one JSON object."""
        return orjson.dumps(
            {
                "server": self.server,
                "rows": self.rows,
                "inserts": self.inserts,
                "retries": self.retries,
                "waited_secs": round(self.waited_secs, 3),
                "lost": self.lost,
                "damaged": self.damaged,
                "notes": self.notes,
                "failure": self.failure,
            }
        ).decode()


class Sending:
    """One archive, or several in one folder, on their way to one server."""

    def __init__(self, options: Options, server: Server, stopping: asyncio.Event) -> None:
        self._options = options
        self._server = server
        self._stopping = stopping
        self._patience = Patience(stopping, options.wait_secs)
        self._tables = Tables(server, self._patience, creates=options.creates)
        self._batches = Batches(self._tables.last_seq)
        self._has_waited = False
        """For an archive to be there."""
        self._readers: list[Reader] = []
        self._find_readers()
        self._blocks: Iterator[Block] = iter(())
        self._totals: tuple[Recording, dict[str, bool]] | None = None
        self._sent = Sent(server.name)
        self._reported_ns = 0

    def _find_readers(self) -> None:
        """Find archives that were not there before. Raise `ArchiveError`; a follower waits where there is none."""
        options = self._options
        place = place_of(options.path)
        try:
            manifests = manifests_of(options.path, place)
        except NoArchive as error:
            if not options.follows:
                raise
            if not self._has_waited:
                log.warning("clickhouse_waits", reason=str(error))
                self._has_waited = True
            return
        known = {reader.manifest for reader in self._readers}
        self._readers += [
            Reader(
                manifest,
                place,
                self._is_sent,
                follows=options.follows,
                skips_damaged=options.skips_damaged,
                from_ms=options.from_ms,
            )
            for manifest in manifests
            if manifest not in known
        ]

    async def run(self, progress: Progress | None = None) -> Sent:
        """Send until all is there; a follower until it is told to stop. Raise `ArchiveError` or `ConfigError`."""
        sent = self._sent
        await self._server.open()
        work = asyncio.create_task(self._work(progress))
        stop = asyncio.create_task(self._stopping.wait())
        try:
            await asyncio.wait([work, stop], return_when=asyncio.FIRST_COMPLETED)
            if not work.done():
                # What is under way may end; a server that hangs holds nobody.
                await asyncio.wait([work], timeout=_STOP_SECS)
                work.cancel()
            await work
        except GaveUp as error:
            sent.failure = str(error)
        except asyncio.CancelledError:
            if not work.cancelled():
                raise
            sent.failure = f"{self._server.name} had not answered when it was time to stop; the next start continues there"
        finally:
            stop.cancel()
            for reader in self._readers:
                reader.close()
            await self._server.close()
        self._sum_up()
        if self._options.follows:
            rows = self._tables.rows.total()
            log.info("clickhouse_stopped", rows=rows, inserts=sent.inserts, failure=sent.failure)
        return sent

    async def _work(self, progress: Progress | None) -> None:
        await self._tables.open()
        if self._options.follows:
            log.info("clickhouse_started", server=self._server.name, path=str(self._options.path))
        await self._send(progress)
        while self._options.follows and not self._stopping.is_set():
            self._report()
            try:
                await asyncio.wait_for(self._stopping.wait(), _LOOK_SECS)
            except TimeoutError:
                await self._send(None)

    async def _send(self, progress: Progress | None) -> None:
        """Send all that is there."""
        self._blocks = (block for reader in self._readers for block in reader.blocks())
        await self._put_all(progress)
        losing = [reader for reader in self._readers if reader.may_have_lost()]
        is_over = bool(losing) or not self._options.follows
        self._batches.finish(0.0 if is_over else self._options.interval_secs)
        await self._put_all(progress)
        for reader in losing:
            await self._find_lost(reader)

    async def _put_all(self, progress: Progress | None) -> None:
        """Put batches until none is whole; the next one is made while one is under way."""
        ahead = asyncio.create_task(asyncio.to_thread(self._next_batch))
        try:
            while (batch := await ahead) is not None:
                ahead = asyncio.create_task(asyncio.to_thread(self._next_batch))
                await self._tables.put(batch)
                if progress is not None:
                    progress(
                        sum(one.done_bytes for one in self._readers),
                        sum(one.total_bytes for one in self._readers),
                    )
                if self._stopping.is_set():
                    if not self._options.follows:
                        raise GaveUp("it was told to stop; the next start continues there")
                    return
        finally:
            await asyncio.gather(ahead, return_exceptions=True)  # a thread cannot be told to stop

    def _next_batch(self) -> Batch | None:
        """Return the next whole batch; None where no more is written. Raise `ArchiveError`."""
        while True:
            batch = self._batches.next()
            if batch is not None:
                return batch
            block = next(self._blocks, None)
            if block is None:
                return None
            self._batches.add(block)

    def _is_sent(self, view: Recording, segment: Segment) -> bool:
        """Return whether all of a sealed segment is in the tables, as far as that is easily known."""
        if self._totals is None or self._totals[0] is not view:
            self._totals = view, self._complete_runs(view)
        if self._totals[1][segment.run_id]:
            return True
        run = view.known_runs.get(segment.run_id)
        if run is None or len(run.clusters) != 1:
            return False  # which of the numbers are of which cluster is not on record
        (feed,) = run.clusters
        tables = {table_of(code) for code, count in segment.counts.items() if count}
        return all(
            self._tables.last_seq(Stream(table, segment.run_id, feed)) >= segment.last_seq for table in tables
        )

    def _complete_runs(self, view: Recording) -> dict[str, bool]:
        """Return, by run, whether the tables have as many records as it has ever sealed, and nothing else is there."""
        wanted: dict[str, Counter[str]] = {run.run_id: Counter() for run in view.runs}
        sealed: list[Segment | Entry] = [*view.segments, *view.gone]
        for one in sealed:
            for code, count in one.counts.items():
                wanted.setdefault(one.run_id, Counter())[table_of(code)] += count
        found: dict[str, bool] = {}
        for run in view.runs:
            has: Counter[str] = Counter()
            for stream, place in self._tables.of_run(run.run_id).items():
                has[stream.table] += place.rows
            is_sealed = all(segment.sha256 for segment in run.segments)
            found[run.run_id] = is_sealed and has == wanted[run.run_id]
        return found

    async def _find_lost(self, reader: Reader) -> None:
        segments, gone = reader.segments()
        damaged = [segment for segment, _ in reader.damaged]
        oldest_ms = {table: ms for table in TABLES if (ms := self._tables.oldest_ms(table)) is not None}
        found = accounts(segments, gone, damaged, oldest_ms)
        self._sent.lost += await find_lost(self._tables, found, time.time_ns() // 1_000_000)

    def _report(self) -> None:
        """Log where it stands, and look for more archives, once a minute."""
        now_ns = time.monotonic_ns()
        is_due = now_ns - self._reported_ns >= _REPORT_SECS * 1e9
        if is_due or not self._readers:
            self._find_readers()
        if not is_due:
            return
        self._reported_ns = now_ns
        newest_ms = self._tables.newest_ms
        log.info(
            "clickhouse_progress",
            rows=self._tables.rows.total(),
            inserts=self._tables.inserts,
            behind_secs=round(time.time() - newest_ms / 1000, 1) if newest_ms else None,
        )

    def _sum_up(self) -> None:
        sent = self._sent
        sent.rows = dict(sorted(self._tables.rows.items()))
        sent.inserts = self._tables.inserts
        sent.retries = self._patience.retries
        sent.waited_secs = self._patience.waited_secs
        sent.damaged = [text for reader in self._readers for _, text in reader.damaged]
        for reader in self._readers:
            if reader.unsealed_bytes:
                sent.notes.append(
                    f"{reader.manifest}: {reader.unsealed_bytes:,} bytes are not sealed yet and were left out; "
                    "--follow sends them, too"
                )
