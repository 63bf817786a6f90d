"""Builds what the settings say about recording: the sinks of SINK, and the stage that selects and numbers for them."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from recorder.archive.context import ArchiveContext, StoreMaker
from recorder.archive.policy import Selection
from recorder.archive.pressure import LoadShedding
from recorder.archive.stats import ArchiveStats
from recorder.archive.writer import ArchiveWriter
from recorder.clock import Clock
from recorder.errors import ConfigError
from recorder.ledger import Ledger
from recorder.log import enabled
from recorder.objects.store import PACKAGE, ObjectStore
from recorder.plugins import SINKS, installing, load
from recorder.polygon.topics import parse_pattern
from recorder.settings import Settings, store_environ
from recorder.sinks.archive import NAME, ArchiveSink
from recorder.sinks.queue import QueueLimits
from recorder.sinks.sink import Sink, SinkContext
from recorder.sinks.stage import Stage
from recorder.sinks.stdout import StdoutSink
from recorder.sources.turn import Turn
from recorder.version import VERSION


@dataclass(frozen=True, slots=True)
class Recording:
    """What was made."""

    sinks: tuple[Sink, ...]
    """Empty where nothing is recorded."""
    archive: ArchiveSink | None
    """The one of them that writes files."""
    archive_stats: ArchiveStats | None
    """None where no files are written."""
    stage: Stage
    """Selects what is recorded and numbers it; where there are no sinks, it only counts."""

    @property
    def manifest(self) -> Path | None:
        """Path of the archive's manifest; None where no files are written."""
        return self.archive.manifest.absolute() if self.archive is not None else None


def make_recording(
    settings: Settings,
    run_id: str,
    ledger: Ledger,
    clock: Clock,
    stdout_closed: Callable[[], None],
    turns: Mapping[str, Turn],
) -> Recording:
    """Return the sinks and their stage. `stdout_closed` is called, on any thread, when the reader of stdout is gone.

    `turns` are those of the clusters whose connection another recorder may have instead.

    :raises ConfigError: what a sink needs is not installed.
    """
    maker = _Maker(settings, run_id, ledger, clock, stdout_closed, turns)
    sinks = tuple(maker.sinks()) if "archive" in settings.roles else ()
    record = settings.record
    selection = Selection(
        [parse_pattern(text) for text in record.include] if sinks else [],
        record.sample_quotes if sinks else 1,
        maker.shedding,
        by_symbol=record.samples_by_symbol,
    )
    stage = Stage(selection, ledger, platform.node(), VERSION)
    return Recording(sinks, maker.archive, maker.archive_stats, stage)


class _Maker:
    """Makes sinks of settings, and keeps what the archive shares with others."""

    def __init__(
        self,
        settings: Settings,
        run_id: str,
        ledger: Ledger,
        clock: Clock,
        stdout_closed: Callable[[], None],
        turns: Mapping[str, Turn],
    ) -> None:
        self._turns = turns
        self._settings = settings
        self._run_id = run_id
        self._ledger = ledger
        self._clock = clock
        self._stdout_closed = stdout_closed
        self.archive: ArchiveSink | None = None
        self.archive_stats: ArchiveStats | None = None
        self.shedding = LoadShedding()

    def sinks(self) -> Iterator[Sink]:
        """Yield the sinks that SINK names."""
        for name in self._settings.sinks:
            if name == "ndjson" and not self._settings.archive.to_stdout:
                yield self._make_archive()
            elif name == "ndjson" or (name == "stdout" and enabled("polygon_events")):
                yield self._make_stdout(name)
            elif name == "zmq":
                yield self._make_zmq()
            elif name == "nats":
                yield from self._make_nats()
            elif name == "kafka":
                yield self._make_kafka()
            elif name not in ("ndjson", "stdout"):
                yield load(SINKS, name)(SinkContext(name, self._ledger, self._clock, os.environ))

    def _make_archive(self) -> ArchiveSink:
        stats = ArchiveStats()
        self.archive_stats = stats
        self.shedding = LoadShedding(stats.pressure)
        context = ArchiveContext.create(
            self._settings.archive,
            run_id=self._run_id,
            clock=self._clock,
            stats=stats,
            store=_store_of(self._settings),
        )
        facts = {
            "version": VERSION,
            "hostname": platform.node(),
            "pid": os.getpid(),
            "settings": self._settings.public_dict(),
        }
        if self._settings.servers.allow_shifted:
            facts["shifted"] = True
        writer = ArchiveWriter(context, self._ledger.sink(NAME), self.shedding, facts)
        self.archive = ArchiveSink(context, writer, self.shedding, self._ledger)
        return self.archive

    def _make_stdout(self, name: str) -> StdoutSink:
        archive = self._settings.archive
        return StdoutSink(
            "records" if name == "ndjson" else "lines",
            self._ledger,
            self._clock,
            self._stdout_closed,
            QueueLimits(archive.channel_cap, archive.buffer_bytes, archive.flush_every),
            warn_interval_secs=archive.warn_interval_secs,
        )

    def _make_zmq(self) -> Sink:
        try:
            from recorder.sinks.zmq import ZmqSink
        except ModuleNotFoundError as error:
            if error.name != "zmq":
                raise
            raise ConfigError(f"SINK=zmq needs pyzmq: {installing('pyzmq')}") from error
        return ZmqSink(self._settings.zmq, self._ledger, self._clock)

    def _make_nats(self) -> Iterator[Sink]:
        try:
            from recorder.sinks.nats.sink import NatsSink
            from recorder.sinks.nats.symbols import SymbolSink
        except ModuleNotFoundError as error:
            if error.name != "nats":
                raise
            raise ConfigError(f"SINK=nats needs nats-py: {installing('nats-py')}") from error
        settings = self._settings
        writer = f"{platform.node()}:{self._run_id}"
        yield NatsSink(settings.nats, settings.clusters, self._ledger, self._clock, writer, self._turns)
        if settings.nats.per_symbol:
            yield SymbolSink(settings.nats, settings.clusters, self._ledger, self._clock, writer)

    def _make_kafka(self) -> Sink:
        try:
            from recorder.sinks.kafka.sink import KafkaSink
        except ModuleNotFoundError as error:
            if error.name != "confluent_kafka":
                raise
            raise ConfigError(f"SINK=kafka needs confluent-kafka: {installing('confluent-kafka')}") from error
        settings = self._settings
        writer = f"{platform.node()}:{self._run_id}"
        return KafkaSink(settings.kafka, settings.clusters, self._ledger, self._clock, writer)


def _store_of(settings: Settings) -> StoreMaker | None:
    """Return what makes the store that sealed files are uploaded to; None where they are not."""
    url = settings.archive.upload_url
    if url is None:
        return None
    if not ObjectStore.is_installed():
        raise ConfigError(f"ARCHIVE_UPLOAD_URL needs {PACKAGE}: {installing(PACKAGE)}")
    return partial(ObjectStore, url, store_environ())
