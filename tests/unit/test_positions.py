"""Positions of another recorder in the archive of one that follows it: what follows is exactly what came behind them."""

from __future__ import annotations

import random
import tempfile
from pathlib import Path

import hypothesis.strategies as st
import orjson
import pytest
from archives import Archive, archive_settings
from hypothesis import HealthCheck, given, settings

from recorder.archive import onward, positions
from recorder.archive.onward import Onward, Shared
from recorder.archive.positions import INEXACT, UNKNOWN, Positions
from recorder.archive.record import Lines, Reached, RecordBatch, summarise
from recorder.archive.wanted import Asked, Place
from recorder.polygon.position import Told, parse_told
from recorder.polygon.rows import Header, Rows
from recorder.records import Formatter

CLUSTERS = ("stocks", "options")


class First:
    """The recorder that is followed: what it has told, of which events."""

    def __init__(self, *, has_archive: bool) -> None:
        self.has_archive = has_archive
        self.run = 1
        self.number = self.record = 0
        self.told: list[tuple[str, int]] = [("first-1:0:0" if has_archive else "first-1:0", 1000)]
        """Each position, and the last event up to there: a thousand for each run, and its record."""

    def read(self, count: int) -> tuple[list[int], str]:
        """Read so many events, each in a frame; return them, and the position behind them."""
        begin = self.run * 1000 + self.record + 1
        self.number += max(1, count // 2)
        self.record += count
        text = f"first-{self.run}:{self.number}" + (f":{self.record}" if self.has_archive else "")
        events = list(range(begin, begin + count))
        self.told.append((text, begin + count - 1))
        if self.has_archive:
            self.told += [(f"first-{self.run}::{event - self.run * 1000}", event) for event in events]
        return events, text

    def restart(self) -> None:
        self.run += 1
        self.number = self.record = 0


class Second:
    """The archive of the recorder that follows it."""

    def __init__(self, folder: Path) -> None:
        small = archive_settings(folder / "polygon.ndjson", flush_every=1, max_bytes=2500)
        self.archive = Archive(small).open()
        self.seq = 0
        self.waiting: dict[str, list[tuple[list[int], str]]] = {cluster: [] for cluster in CLUSTERS}
        self.events: list[tuple[str, int]] = []
        """What it has recorded, in order: cluster and event."""

    def take(self, cluster: str) -> None:
        """Record what waits of a cluster, as one batch."""
        reads, self.waiting[cluster] = self.waiting[cluster], []
        events = [event for read, _ in reads for event in read]
        if not events:
            return
        rows = Rows.of(
            cluster, [(Header("T", "A", event), b'{"ev":"T","sym":"A","q":%d}' % event) for event in events]
        )
        rows.seqs = range(self.seq + 1, self.seq + len(events) + 1)
        data = Formatter(cluster, "host", "0").format(self.archive.clock.wall_ns() // 1_000_000, rows)
        reached = []
        for read, after in reads:
            self.seq += len(read)
            reached.append(Reached(after, len(read), self.seq))
        lines = [Lines(cluster, self.archive.names.active(cluster, "T"), data, summarise(data))]
        batch = RecordBatch(cluster, self.archive.clock.wall_ns(), lines, b"", 0, reached)
        self.archive.writer.write(batch)
        self.events += [(cluster, event) for event in events]

    def restart(self, *, killed: bool) -> None:
        self.archive.writer.flush(forced=True)
        if killed:
            self.archive.kill()
        else:
            self.archive.close()
        self.archive.restart()
        self.seq = 0

    def behind(self, shared: Shared, text: str, *clusters: str) -> list[int] | str:
        """Return the events of these clusters behind a position, as a reader gets them, or why there are none."""
        told = parse_told(text)
        assert told is not None
        reader = Onward(self.archive.names.manifest, f"run-{self.archive.runs}", shared)
        found = reader.begin(Asked(told, clusters), partial=False)
        assert found is not None
        if not found.recovered:
            return found.reason
        got: list[int] = []
        while pieces := reader.read():
            for piece in pieces:
                if piece.cluster in clusters:
                    got += [orjson.loads(payload)["q"] for payload in piece.payloads]
        return got


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("read"), st.sampled_from(CLUSTERS), st.integers(1, 5)),
        st.tuples(st.just("read"), st.sampled_from(CLUSTERS), st.integers(1, 5)),
        st.tuples(st.just("archive"), st.sampled_from(CLUSTERS), st.integers(1, 9)),
        st.tuples(st.just("take"), st.sampled_from(CLUSTERS), st.none()),
        st.tuples(st.just("flush"), st.none(), st.none()),
        st.tuples(st.just("restart"), st.booleans(), st.none()),
        st.tuples(st.just("first restarts"), st.none(), st.none()),
    ),
    max_size=40,
)


@given(
    steps=STEPS, chunk=st.sampled_from([1, 300, 1 << 18]), has_archive=st.booleans(), seed=st.integers(0, 99)
)
@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
def test_what_follows_a_position_is_what_came_behind_it(
    steps: list[tuple[str, str, int]], chunk: int, has_archive: bool, seed: int
) -> None:
    """Of any read of any cluster, or amid one; over restarts of both recorders. What is not exact is refused."""
    dice = random.Random(seed)
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder:
        patch.setattr(positions, "CHUNK_BYTES", chunk)
        patch.setattr(onward, "_PATIENCE_NS", 0)
        first, second, shared = First(has_archive=has_archive), Second(Path(folder)), Shared()
        for step, one, two in [*steps, *(("read", cluster, 1) for cluster in CLUSTERS)]:
            if step == "read":
                second.waiting[one].append(first.read(two))
            elif step == "archive" and has_archive:
                events, _ = first.read(two)  # the other recorder reads it for this one, in pieces of any size
                while events:
                    size = dice.randint(1, 3)
                    piece, events = events[:size], events[size:]
                    second.waiting[one].append((piece, f"first-{first.run}::{piece[-1] - first.run * 1000}"))
            elif step == "take":
                second.take(one)
            elif step == "flush":
                second.archive.flush()
            elif step == "restart":
                second.restart(killed=bool(one))
            elif step == "first restarts":
                first.restart()
                first.told.append(
                    (f"first-{first.run}:0:0" if has_archive else f"first-{first.run}:0", first.run * 1000)
                )
        last_told = next(text for text, _ in reversed(first.told) if "::" not in text)
        for cluster in CLUSTERS:
            second.take(cluster)
            second.archive.writer.note(cluster, Reached(last_told, 0, second.seq))
        second.archive.writer.flush(forced=True)
        refused = 0
        for text, last in dice.sample(first.told, min(15, len(first.told))):
            for clusters in (("stocks",), ("options",), CLUSTERS):
                expected = [event for cluster, event in second.events if cluster in clusters and event > last]
                got = second.behind(shared, text, *clusters)
                if isinstance(got, str):
                    refused += 1
                    assert got in (UNKNOWN, INEXACT)
                else:
                    assert got == expected, (text, clusters)
        if not any(step in ("first restarts", "archive", "restart") for step, _, _ in steps):
            begun = max(
                min(event for name, event in second.events if name == cluster) for cluster in CLUSTERS
            )
            assert not refused or any(last < begun for _, last in first.told)
        second.archive.kill()


def test_what_the_journal_does_not_have_is_not_known(tmp_path: Path) -> None:
    """Without a journal, of an unknown run, behind what has been noted, and next to a line that cannot be read."""
    second, first = Second(tmp_path), First(has_archive=True)
    known = Positions(second.archive.names.manifest)
    told = Told("first-1", 1, 2)
    assert known.find(told, "stocks") == UNKNOWN
    for _ in range(3):
        second.waiting["stocks"].append(first.read(2))
        second.take("stocks")
        second.archive.writer.flush(forced=True)
    assert known.find(told, "stocks") == ("run-1", 2)
    assert known.find(told, "options") == UNKNOWN
    assert known.find(Told("other", 1, 2), "stocks") == UNKNOWN
    assert known.find(Told("first-1", 9, 18), "stocks") is None
    journal = second.archive.names.positions
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join([lines[0], b"{" * len(lines[1][:-1]) + b"\n", lines[2]]))
    damaged = Positions(second.archive.names.manifest)
    assert damaged.find(told, "stocks") == ("run-1", 2)
    assert damaged.find(Told("first-1", 2, 4), "stocks") == INEXACT
    assert damaged.find(Told("first-1", 3, 6), "stocks") == ("run-1", 6)
    second.archive.kill()


def test_a_position_of_this_recorder_is_its_record(tmp_path: Path) -> None:
    """The numbers of its own runs need no journal."""
    second, first = Second(tmp_path), First(has_archive=True)
    second.waiting["stocks"].append(first.read(5))
    second.take("stocks")
    second.archive.writer.flush(forced=True)
    assert second.behind(Shared(), "run-1:99:3", "stocks") == [1004, 1005]
    assert second.behind(Shared(), "run-1:99", "stocks") == onward.NO_RECORD
    assert Onward(second.archive.names.manifest, "run-1", Shared()).begin(
        Asked(Told("run-1", None, 3), CLUSTERS), partial=False
    ) == Onward(second.archive.names.manifest, "run-1", Shared()).begin(Place("run-1", 3), partial=False)
    second.archive.kill()
