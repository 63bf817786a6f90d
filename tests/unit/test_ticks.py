"""Recorded ticks: read, paced, and played byte for byte."""

from __future__ import annotations

import asyncio
import gzip
import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from archives import Archive, archive_settings
from fakes import FakeClock
from hypothesis import given
from hypothesis import strategies as st
from shared_data import shared_file

from recorder.errors import ConfigError
from recorder.polygon.careful import split_elements
from recorder.simulator.framing import Frames
from recorder.simulator.settings import SimulatorSettings
from recorder.simulator.ticks import TickMarket, read_ticks
from recorder.sources.replay.shift import moved, times_in

ODD = [
    (1_000_000, '{"ev":"T","sym":"BRK.B","p":150.2500,"s":4.522e-05,"t":1381152600007,"new":{"a":[1, 2]}}'),
    (1_000_000, '{ "sym":"MSFT", "ev":"T", "t":1381152600007 }'),
    (1_250_000, '{"ev":"Q","sym":"MSFT","bp":1.10,"t":1381152600257}'),
    (3_000_000, '{"t":1381152602007,"ev":"T","sym":"A","i":"\\u0041","q":9007199254740993}'),
]


class Collector:
    """A subscriber that keeps every event's bytes, with the time of its arrival."""

    pending_bytes = 0

    def __init__(self, clock: FakeClock, enough: int) -> None:
        self.arrived: list[tuple[float, bytes]] = []
        self.frames: list[int] = []
        self.satisfied = asyncio.Event()
        self._clock = clock
        self._began_ns = clock.mono_ns
        self._enough = enough

    def deliver(self, frames: Frames) -> None:
        self.frames += frames.events
        for payload in frames.payloads():
            self.arrived += [
                ((self._clock.mono_ns - self._began_ns) / 1e9, text) for text in split_elements(payload)
            ]
        if len(self.arrived) >= self._enough:
            self.satisfied.set()


def write(path: Path, ticks: list[tuple[int, str]]) -> Path:
    text = "".join(f'{{"at_us":{at_us},"m":{event}}}\n' for at_us, event in ticks)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


async def play(path: Path, topics: list[str], events: int, **options: Any) -> Collector:
    """Play a file on fast time until enough events have arrived."""
    clock = FakeClock()
    market = TickMarket(read_ticks(path), SimulatorSettings(ticks_path=path, **options), clock)
    collector = Collector(clock, events)
    market.place(collector, topics, "")
    task = asyncio.create_task(market.run())
    try:
        await asyncio.wait_for(collector.satisfied.wait(), 60)
        if not options.get("loop"):
            await asyncio.wait_for(market.finished.wait(), 60)
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
    return collector


@pytest.mark.parametrize("name", ["ticks.ndjson", "ticks.ndjson.gz"])
async def test_ticks_keep_their_bytes_and_their_gaps(tmp_path: Path, name: str) -> None:
    """Each event arrives byte for byte, as long after the first one as it was recorded; equal times share a frame."""
    played = await play(write(tmp_path / name, ODD), ["T.*", "Q.*"], 4)
    assert [text for _, text in played.arrived] == [event.encode() for _, event in ODD]
    assert [at for at, _ in played.arrived] == pytest.approx([0.0, 0.0, 0.25, 2.0])
    assert played.frames == [2, 1, 1]


async def test_speed_divides_the_gaps(tmp_path: Path) -> None:
    """At ten times the speed two seconds are two tenths."""
    played = await play(write(tmp_path / "ticks.ndjson", ODD), ["T.*", "Q.*"], 4, speed=10)
    assert [at for at, _ in played.arrived] == pytest.approx([0.0, 0.0, 0.025, 0.2])


async def test_a_rate_ignores_the_gaps(tmp_path: Path) -> None:
    """With two events a second the times of the file do not matter; flooding, nothing waits at all."""
    path = write(tmp_path / "ticks.ndjson", ODD)
    assert [at for at, _ in (await play(path, ["T.*", "Q.*"], 4, rate=2)).arrived] == pytest.approx(
        [0.5, 1.0, 1.5, 2.0]
    )
    assert [at for at, _ in (await play(path, ["T.*", "Q.*"], 4, rate=0)).arrived] == [0.0] * 4


async def test_topics_choose_among_ticks(tmp_path: Path) -> None:
    """One symbol of one channel is all that arrives for its topic."""
    played = await play(write(tmp_path / "ticks.ndjson", ODD), ["T.MSFT"], 1)
    assert [text for _, text in played.arrived] == [ODD[1][1].encode()]


async def test_a_loop_moves_the_times_on(tmp_path: Path) -> None:
    """The second round is the first one with its times moved by the duration of the file, nothing else changed."""
    path = write(tmp_path / "ticks.ndjson", ODD)
    played = await play(path, ["T.*", "Q.*"], 8, loop=True)
    period_us = read_ticks(path).period_us
    assert period_us == 2_001_000
    for (at, first), (again_at, again) in zip(played.arrived[:4], played.arrived[4:8], strict=True):
        assert again_at - at == pytest.approx(period_us / 1e6)
        before, after = json.loads(first), json.loads(again)
        assert len(again) == len(first)
        assert after.pop("t") - before.pop("t") == 2_001
        assert after == before


@given(st.integers(-(10**11), 10**12))
def test_each_time_moves_in_its_own_unit(by_ms: int) -> None:
    """Milliseconds, microseconds and nanoseconds move by the same span, as many digits as before; nothing else moves."""
    text = b'{"ev":"T","s":1000000000000,"t":1601316752683746,"pt":1601316752683,"trft":1601316752683746001,"i":"7"}'
    later = moved(text, list(times_in("T", text)), by_ms)
    assert len(later) == len(text)
    before, after = json.loads(text), json.loads(later)
    assert after["t"] - before["t"] == by_ms * 1_000
    assert after["pt"] - before["pt"] == by_ms
    assert after["trft"] - before["trft"] == by_ms * 1_000_000
    assert (after["s"], after["i"]) == (1000000000000, "7")


@pytest.mark.parametrize("name", ["ticks_stocks_20131007.ndjson.gz", "ticks_forex_20140501.ndjson.gz"])
async def test_real_ticks_go_in_and_come_out(name: str) -> None:
    """Every event of the recorded files comes out in order, byte for byte."""
    path = shared_file(f"data/{name}")
    lines = gzip.decompress(path.read_bytes()).splitlines()
    topics = ["C.*"] if "forex" in name else ["T.*", "Q.*"]
    played = await play(path, topics, len(lines))
    assert [text for _, text in played.arrived] == [line.partition(b'"m":')[2][:-1] for line in lines]


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("not json", "line 2"),
        ('{"at_us":1}', "line 2"),
        ('{"at_us":"x","m":{}}', "line 2"),
        ('{"at_us":2000000,"m":{"sym":"A"}}', "line 2: m is not an event"),
        ('{"at_us":2000000,"m":7}', "line 2: m is not an event"),
        ('{"at_us":1,"m":{"ev":"T"}}', "line 2: at_us 1 is before"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: str, problem: str) -> None:
    """An error says which file and which line, and what was expected."""
    path = tmp_path / "ticks.ndjson"
    path.write_text(f'{{"at_us":1000000,"m":{ODD[0][1]}}}\n{line}\n')
    with pytest.raises(ConfigError, match=problem) as caught:
        read_ticks(path)
    assert str(path) in str(caught.value)
    assert "at_us" in str(caught.value)


@pytest.mark.parametrize("content", [None, b"", b"\x1f\x8b torn"])
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, content: bytes | None) -> None:
    """Missing, empty and broken files are errors of the operator, with the name of the file."""
    path = tmp_path / "ticks.ndjson.gz"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"ticks\.ndjson\.gz"):
        read_ticks(path)


@pytest.mark.parametrize(
    ("event", "cluster"),
    [
        ('{"ev":"C","p":"EUR/USD"}', "forex"),
        ('{"ev":"XT","pair":"BTC-USD"}', "crypto"),
        ('{"ev":"V","T":"I:SPX"}', "indices"),
        ('{"ev":"T","sym":"O:SPY261218C00600000"}', "options"),
        ('{"ev":"T","sym":"SPY"}', "stocks"),
    ],
)
def test_events_tell_their_cluster(tmp_path: Path, event: str, cluster: str) -> None:
    """The cluster need not be given where the events show it; where it is given, it counts."""
    path = write(tmp_path / "ticks.ndjson", [(1, event)])
    assert read_ticks(path).cluster == cluster
    assert read_ticks(path, "futures").cluster == "futures"


def test_an_archive_is_as_good_as_a_file(tmp_path: Path) -> None:
    """Its records come in their order, with the times at which they were received; of several clusters one is named."""
    archive = Archive(archive_settings(tmp_path / "a" / "polygon.ndjson", flush_every=1)).open()
    archive.write("TQ")
    archive.clock.advance(1.5)
    archive.write("T")
    archive.close()
    ticks = read_ticks(archive.folder)
    payloads = [line.partition(b'"payload":')[2].partition(b',"hostname"')[0] for line in archive.lines]
    assert (ticks.cluster, ticks.channels, ticks.texts) == ("stocks", ["T", "Q", "T"], payloads)
    assert ticks.at_us[2] - ticks.at_us[0] == 1_500_000
    assert read_ticks(archive.names.manifest).texts == payloads
    with pytest.raises(ConfigError, match="there are no records of crypto"):
        read_ticks(archive.folder, "crypto")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="has no manifest"):
        read_ticks(tmp_path / "empty")
