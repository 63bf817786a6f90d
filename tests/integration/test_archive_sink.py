"""The archive as a sink: what its manifest says of sessions, gaps, drops and pauses."""

from __future__ import annotations

import asyncio
import errno
import json
from pathlib import Path

import pytest
from archives import Fault, FaultyDisk, archive_settings
from fakes import batch_of, recording_bus
from sink_benches import ArchiveBench, StdoutBench, in_secs, numbered, recording
from waiting import eventually

from recorder.archive.context import ArchiveContext
from recorder.archive.pressure import LoadShedding
from recorder.archive.stats import ArchiveStats
from recorder.archive.verify import verify
from recorder.archive.writer import ArchiveWriter
from recorder.bus import Missed, SessionClosed, SessionOpened
from recorder.clock import SystemClock
from recorder.ledger import CHANNELS_MAX, Ledger
from recorder.sinks.archive import ArchiveSink


async def test_what_a_failing_disk_costs_at_the_end_is_noted_once(tmp_path: Path) -> None:
    """However many batches wait when the time is over, the manifest says in one line a channel what was given up."""
    disk = FaultyDisk()
    bench = ArchiveBench(tmp_path / "a", disk)
    async with recording(bench) as bus:
        bus.publish(numbered(0, 100))
        await bench.caught_up()
        disk.faults["write"] = Fault(errno.ENOSPC, match="polygon.ndjson")
        bus.publish(numbered(100, 100))
        await bench.missed()
        for turn in range(2, 12):
            bus.publish(numbered(turn * 100, 100))
        bench.sink.session_changed(SessionClosed("stocks", 2, "shutdown", 1))
        await asyncio.wait_for(bench.sink.close(in_secs(1)), 1.5)
        assert not bench.sink.queue.hung
    assert bench.sink.stats.given_up == 1100
    assert "No space left on device" in bench.sink.reason_given_up
    manifest = (tmp_path / "a" / "polygon.manifest.ndjson").read_bytes()
    entries = [json.loads(line) for line in manifest.splitlines()]
    drops = [entry for entry in entries if entry["kind"] == "drop"]
    assert [(drop["first_seq"], drop["last_seq"]) for drop in drops] == [(201, 1200), (101, 200)]
    assert "session_closed" in [entry["kind"] for entry in entries]
    assert entries[-1]["kind"] == "run_ended"
    assert entries[-1]["balance"]["difference"] == 0
    assert verify([tmp_path / "a"]).ok


async def test_the_manifest_tells_of_sessions_gaps_and_drops(tmp_path: Path) -> None:
    """A drop is in the manifest with its `seq`, a gap with its bounds; `verify` accepts the hole they explain."""
    bench = ArchiveBench(tmp_path / "a")
    at = 1_795_237_802_000_000_000
    async with recording(bench) as bus:
        bus.announce(SessionOpened("stocks", at))
        bus.publish(numbered(0, 100))
        await eventually(lambda: bench.sink.queue.pending_bytes == 0)
        bus.announce(SessionClosed("stocks", at + 2_000_000_000, "disconnected", at + 1_000_000_000))
        bus.announce(SessionOpened("stocks", at + 5_000_000_000))
        bench.block()
        sent = 100
        while not bench.sink.stats.dropped:
            bus.publish(numbered(sent, 100))
            sent += 100
        bench.unblock()
        await eventually(lambda: bench.sink.queue.pending_bytes == 0)
        bus.publish(numbered(sent, 100))
        await bench.sink.close(in_secs(10))
    entries = [
        json.loads(line) for line in (tmp_path / "a" / "polygon.manifest.ndjson").read_bytes().splitlines()
    ]
    kinds = [entry["kind"] for entry in entries]
    assert kinds.count("session_opened") == 2
    assert entries[kinds.index("session_opened")]["at"] == at // 1_000_000, (
        "when it began, not when it was noted"
    )
    assert kinds[kinds.index("gap") + 1] == "session_opened", "a kill between the two must not lose the gap"
    [gap] = [entry for entry in entries if entry["kind"] == "gap"]
    assert (gap["from"], gap["to"], gap["reason"]) == (
        at // 1_000_000 + 1000,
        at // 1_000_000 + 5000,
        "disconnected",
    )
    [drop] = [entry for entry in entries if entry["kind"] == "drop"]
    assert (drop["channel"], drop["count"]) == ("T", 100)
    assert (drop["first_seq"], drop["last_seq"]) == (sent - 99, sent)
    report = verify([tmp_path / "a"])
    assert report.ok, report
    assert [gap.cluster for gap in report.gaps] == ["stocks"]
    assert [(drop.count, drop.first_seq) for drop in report.drops] == [(100, sent - 99)]


async def test_a_session_that_brought_what_was_missed_has_no_gap(tmp_path: Path) -> None:
    """It says how much that was; what the other recorder missed itself is a gap. The next run goes on behind it."""
    bench = ArchiveBench(tmp_path / "a")
    at_ms = 1_795_237_802_000

    def ns(secs: int) -> int:
        return (at_ms + 1000 * secs) * 1_000_000

    async with recording(bench) as bus:
        bus.announce(SessionOpened("stocks", ns(0)))
        bus.publish(numbered(0, 100))
        bus.announce(SessionClosed("stocks", ns(2), "disconnected", ns(1), "run:5"))
        bus.announce(SessionClosed("stocks", ns(4), "disconnected", ns(4), "run:8"))  # amid what was missed
        missed = Missed(at_ms + 1500, at_ms + 1700, "read_timeout")
        bus.announce(SessionOpened("stocks", ns(5), 7, (missed,)))
        bus.announce(SessionClosed("stocks", ns(6), "shutdown", ns(6), "run:9"))
        await bench.sink.close(in_secs(10))
    entries = [
        json.loads(line) for line in (tmp_path / "a" / "polygon.manifest.ndjson").read_bytes().splitlines()
    ]
    [gap] = [entry for entry in entries if entry["kind"] == "gap"]
    assert (gap["from"], gap["to"], gap["reason"]) == missed
    assert [entry.get("resumed") for entry in entries if entry["kind"] == "session_opened"] == [None, 7]
    closed = [entry for entry in entries if entry["kind"] == "session_closed"]
    assert [(entry["last_received"] - at_ms, entry["after"]) for entry in closed] == [
        (1000, "run:5"),
        (1000, "run:8"),
        (6000, "run:9"),
    ]
    assert verify([tmp_path / "a"]).ok
    again = ArchiveBench(tmp_path / "a")
    await again.sink.open()
    await again.sink.close(in_secs(10))
    assert again.archive_stats.recorded["stocks"].after == "run:9"


async def test_a_file_for_each_type(tmp_path: Path) -> None:
    """Each type has its file, in its own order, with one `seq` over all; unheard-of types under their own code."""
    settings = archive_settings(tmp_path / "a" / "polygon.ndjson", split_per_type=True)
    ledger = Ledger()
    context = ArchiveContext.create(settings, run_id="run", clock=SystemClock(), stats=ArchiveStats())
    shedding = LoadShedding()
    writer = ArchiveWriter(context, ledger.sink("ndjson"), shedding, {})
    sink = ArchiveSink(context, writer, shedding, ledger)
    await sink.open()
    bus = recording_bus(ledger, sink)
    kinds = ["T", "Q", "A", "AM", "LULD", "NOI", "FMV", "V", "XL2", "XT", "ZZ9", "../../etc/passwd"]
    for turn in range(30):
        events = [
            {"ev": kinds[(turn * 7 + n) % len(kinds)], "sym": "A", "t": 1760375617662, "n": turn * 50 + n}
            for n in range(50)
        ]
        bus.publish(batch_of(json.dumps(events).encode()))
    await sink.close(in_secs(10))
    await sink.run()
    words = {
        "T": "trades",
        "XT": "trades",
        "Q": "quotes",
        "A": "second_aggs",
        "AM": "minute_aggs",
        "V": "values",
        "XL2": "level2",
    }
    seqs = []
    for path in (tmp_path / "a").glob("polygon.*.ndjson"):
        if "manifest" in path.name:
            continue
        records = [json.loads(line) for line in path.read_bytes().splitlines()]
        numbers = [record["seq"] for record in records]
        assert numbers == sorted(numbers)
        seqs += numbers
        word = path.name.split(".")[1]
        for record in records:
            expected = words.get(
                record["type"], record["type"].lower() if record["type"].isalnum() else "other"
            )
            assert word == expected
    assert sorted(seqs) == list(range(1, 1501))
    assert verify([tmp_path / "a"]).ok


@pytest.fixture
def paused_bench(tmp_path: Path) -> ArchiveBench:
    """An archive whose recording the test pauses."""
    return ArchiveBench(tmp_path / "a")


async def test_a_pause_is_a_hole_that_the_manifest_explains(paused_bench: ArchiveBench) -> None:
    """While recording is paused all is dropped, unformatted; one note a channel says what; then it continues."""
    bench = paused_bench
    shedding = bench.shedding
    async with recording(bench) as bus:
        bus.publish(numbered(0, 10))
        shedding.paused = True
        for turn in range(5):
            bus.publish(batch_of(b'[{"ev":"Q","sym":"A","t":%d},5]' % turn))
            bus.publish(numbered(0, 10))
        shedding.paused = False
        bus.publish(numbered(10, 10))
        shedding.paused = True
        bus.publish(numbered(0, 7))
        await bench.sink.close(in_secs(10))
    numbers = [json.loads(line)["seq"] for line in bench.lines()]
    assert numbers == [*range(1, 11), *range(66, 76)]
    entries = map(json.loads, (bench.folder / "polygon.manifest.ndjson").read_text().splitlines())
    drops = [entry for entry in entries if entry["kind"] == "drop"]
    assert {drop["reason"] for drop in drops} == {"disk_pressure"}
    assert [(drop["channel"], drop["count"], drop["first_seq"], drop["last_seq"]) for drop in drops] == [
        ("Q", 5, 11, 65),
        ("", 5, 11, 65),
        ("T", 50, 11, 65),
        ("T", 7, 76, 82),
    ]
    assert shedding.stats.dropped == bench.sink.stats.dropped.total() == 62
    assert bench.ledger.differences("ndjson") == {}
    report = verify([bench.folder])
    assert report.ok, report


async def test_drops_of_channels_without_end_are_noted_in_few_lines(paused_bench: ArchiveBench) -> None:
    """However many channels the wire makes up, the manifest names as many of them as the books, and says what was lost."""
    bench = paused_bench
    events = [{"ev": f"X{number}", "sym": "A", "t": number} for number in range(1000)]
    async with recording(bench) as bus:
        bench.shedding.paused = True
        for turn in range(10):
            bus.publish(batch_of(json.dumps(events[turn * 100 : turn * 100 + 100]).encode()))
        await bench.sink.close(in_secs(10))
    entries = map(json.loads, (bench.folder / "polygon.manifest.ndjson").read_text().splitlines())
    drops = [entry for entry in entries if entry["kind"] == "drop"]
    assert len(drops) == CHANNELS_MAX + 1
    assert sum(drop["count"] for drop in drops) == 1000
    assert verify([bench.folder]).ok


async def test_a_pause_of_the_archive_is_none_of_the_other_sinks(
    paused_bench: ArchiveBench, tmp_path: Path
) -> None:
    """What the archive leaves out, another sink gets all the same."""
    other = StdoutBench()
    bus = recording_bus(paused_bench.ledger, paused_bench.sink, other.sink)
    await paused_bench.sink.open()
    await other.sink.open()
    paused_bench.shedding.paused = True
    bus.publish(numbered(0, 10))
    await paused_bench.sink.close(in_secs(10))
    await other.sink.close(in_secs(10))
    assert len(other.lines()) == 10
    assert paused_bench.lines() == []


async def test_a_drop_and_a_pause_are_told_apart(paused_bench: ArchiveBench) -> None:
    """A disk that is too slow first, and a pause after it, are two notes, each with its reason."""
    bench = paused_bench
    async with recording(bench) as bus:
        bench.block()
        while not bench.sink.stats.dropped.total():
            bus.publish(numbered(0, 100))
        bench.shedding.paused = True
        bus.publish(numbered(0, 3))
        bench.unblock()
        await bench.sink.close(in_secs(10))
    entries = map(json.loads, (bench.folder / "polygon.manifest.ndjson").read_text().splitlines())
    drops = [(entry["reason"], entry["count"]) for entry in entries if entry["kind"] == "drop"]
    assert drops == [("the disk is too slow", 100), ("disk_pressure", 3)]
    assert verify([bench.folder]).ok
