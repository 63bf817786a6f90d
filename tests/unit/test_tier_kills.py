"""A tier that is killed at any call to its disk: its archive has the stream of the recorder that it follows, once."""

from __future__ import annotations

import asyncio
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import orjson
from archives import Archive, FaultyDisk, Killed, archive_settings
from hypothesis import HealthCheck, given, settings
from resuming import CLUSTERS, Recorder
from serving import event, frame_of
from tiering import TierFeed

from recorder.archive.policy import Selection
from recorder.archive.pressure import LoadShedding
from recorder.archive.record import Lines, Reached, RecordBatch, summarise
from recorder.archive.verify import verify
from recorder.bus import Batch, Border, Bus, SessionChange
from recorder.ledger import Ledger
from recorder.overlap import Recorded
from recorder.sinks.borders import Borders
from recorder.sinks.stage import Stage

STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("publish"), st.sampled_from(CLUSTERS), st.integers(1, 4)),
        st.tuples(st.just("pass on"), st.sampled_from(CLUSTERS), st.integers(1, 4)),
        st.tuples(st.just("read"), st.sampled_from(CLUSTERS), st.sampled_from([100, 700, 2**20])),
        st.tuples(st.just("flush"), st.none(), st.none()),
        st.tuples(st.just("kill"), st.none(), st.none()),
        st.tuples(st.just("kill at"), st.none(), st.integers(0, 3)),
        st.tuples(st.just("kill at"), st.none(), st.just(1)),
        st.tuples(st.just("cut"), st.sampled_from(CLUSTERS), st.integers(0, 700)),
    ),
    max_size=40,
)


class KilledTier:
    """A recorder with an archive, put together as far as positions go; `clock` and `bus` are what its feeds need."""

    def __init__(self, first: Recorder, folder: Path, *, split: bool) -> None:
        self.first = first
        self.clock = first.clock
        small = archive_settings(
            folder / "polygon.ndjson", flush_every=1, max_bytes=2000, split_per_type=split
        )
        self.archive = Archive(small, clock=first.clock, disk=FaultyDisk()).open()
        self.feeds: dict[str, TierFeed] = {}
        self.begin()

    def begin(self) -> None:
        """Begin a run, behind what the archive has."""
        self.bus = Bus()
        self.borders = Borders()
        self.stage = self.bus.stage = Stage(Selection([], 1, LoadShedding()), Ledger(), "host", "0")
        self.bus.attach(self)
        for feed in self.feeds.values():
            if feed.client is not None:
                feed.client.ended()
                self.first.resumes.forget(self.first.ports["firehose"], feed.client)
        for cluster in CLUSTERS:
            feed = self.feeds[cluster] = TierFeed(self.first, self, cluster)  # type: ignore[arg-type]
            feed.marks.go_on(self.archive.writer.recorded.get(cluster, Recorded()))
            feed.link()

    def accept(self, batch: Batch) -> None:
        """Hand a batch to the writer, as the sink does."""
        rows = batch.recorded
        if rows is None:
            return
        names, lines = self.archive.names, []
        reached = self.borders.of(batch, rows)
        for channel in rows.counts if names.split_per_type else [""] if len(rows) else []:
            part = rows.of_channels({channel}) if channel else rows
            data = batch.lines_of(part)
            lines.append(Lines(batch.cluster, names.active(batch.cluster, channel), data, summarise(data)))
        record = RecordBatch(batch.cluster, batch.received_ns, lines, b"", 0, reached)
        self.archive.writer.write(record)

    def border_passed(self, border: Border) -> None:
        """Have a position noted."""
        recorded = self.archive.writer.recorded.get(border.cluster)
        if recorded is None or recorded.overlap.is_over:
            self.archive.writer.note(border.cluster, Reached(border.after, 0, self.borders.seq))

    def session_changed(self, change: SessionChange) -> None:
        """Nothing: gaps are not what this is about."""

    def kill(self, calls: int = 0) -> None:
        """Die, while writing if there is something to write, and live again."""
        self.archive.disk.calls_left = calls
        with suppress(Killed):
            self.archive.writer.flush(forced=True)
        self.archive.kill()
        self.clock.advance(1)
        self.archive.restart()
        self.begin()

    def catch_up(self) -> None:
        """Read all that the first recorder has."""
        for feed in self.feeds.values():
            for _ in range(10_000):
                if feed.is_cut:
                    feed.unlink(2**30)
                    feed.link()
                has_moved = self.first.resumes.step()
                if feed.client is not None:
                    self.first.resumes.tell([feed.client])
                if not has_moved and not feed.transport.written:
                    break
                feed.read()
        self.archive.writer.flush(forced=True)

    def recorded(self, cluster: str) -> list[bytes]:
        """Return the events of a cluster, in the order of the archive."""
        lines = [line for line in self.archive.content() if orjson.loads(line)["feed"] == cluster]
        return [line.partition(b'"payload":')[2].partition(b',"hostname":')[0] for line in lines]


@given(steps=STEPS, split=st.booleans(), repeats=st.booleans())
@settings(deadline=None, max_examples=30, suppress_health_check=[HealthCheck.too_slow])
def test_a_tier_that_is_killed_at_any_call_has_each_event_once(
    steps: list[Any], *, split: bool, repeats: bool
) -> None:
    """In order, too, unless files by type are written one after the other; with events that repeat, and cuts besides."""

    async def live(folder: Path) -> None:
        first = Recorder(2**20, epoch="first")
        tier = KilledTier(first, folder, split=split)
        tier.catch_up()
        made = 0
        sent: dict[str, list[bytes]] = {cluster: [] for cluster in CLUSTERS}
        for step, one, two in [*steps, ("publish", "stocks", 2), ("publish", "options", 2)]:
            if step in ("publish", "pass on"):
                events = [event("TQ"[number % 2], "A", made + number) for number in range(two)]
                made += 0 if repeats and made % 3 else two
                sent[one] += [bytes(each) for each in events]
                first.publish(frame_of(*events), cluster=one)
                if step == "pass on" and tier.feeds[one].client is not None:
                    tier.feeds[one].read()
            elif step == "read" and tier.feeds[one].client is not None:
                first.resumes.step()
                tier.feeds[one].read(two)
            elif step == "flush":
                tier.archive.writer.flush(forced=True)
            elif step in ("kill", "kill at"):
                tier.kill(two or 0)
            elif step == "cut":
                tier.feeds[one].unlink(two)
                tier.feeds[one].link()
        tier.catch_up()
        for cluster in CLUSTERS:
            got = tier.recorded(cluster)
            assert sorted(got) == sorted(sent[cluster])
            assert split or got == sent[cluster]
        tier.archive.close()
        report = verify([folder])
        assert report.ok, report

    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(live(Path(folder)))
