"""Recorded ticks, played again: the exact text of each event, with the gaps that were between them."""

from __future__ import annotations

import asyncio
import gzip
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import msgspec
from msgspec import Raw

from recorder.clock import Clock
from recorder.errors import ArchiveError, ConfigError, NoArchive
from recorder.polygon.clusters import cluster_of
from recorder.polygon.events import EVERY_CLUSTER, Decoder
from recorder.simulator.audience import Selection
from recorder.simulator.framing import frames_of
from recorder.simulator.market import Market
from recorder.simulator.settings import SimulatorSettings
from recorder.simulator.tape import slice_events
from recorder.sources.replay.shift import moved, times_in


class _Line(msgspec.Struct, gc=False):
    at_us: int
    m: Raw


@dataclass(frozen=True, slots=True)
class Ticks:
    """Ticks as columns of equal length, in the order in which they came; times never fall."""

    cluster: str
    at_us: list[int]
    texts: list[bytes]
    """Each event's exact bytes."""
    channels: list[str]
    symbols: list[str]

    @property
    def period_us(self) -> int:
        """How long one round takes: the time of the ticks and a millisecond, rounded up to whole milliseconds."""
        return -(-(self.at_us[-1] - self.at_us[0]) // 1000) * 1000 + 1000


def read_ticks(path: Path, cluster: str | None = None) -> Ticks:
    """Read an archive, or a file of `{"at_us":…,"m":{event}}` lines, plain or gzip. All of it is held in memory.

    The cluster is told by the events unless it is given. Raise `ConfigError` that says what cannot be read, and where.
    """
    try:
        return _of_archive(path, cluster)
    except NoArchive as error:
        if path.is_dir():
            raise ConfigError(f"ticks {error}") from error
        return _of_file(path, cluster)
    except ArchiveError as error:
        raise ConfigError(f"ticks {error}") from error


def _of_archive(path: Path, cluster: str | None) -> Ticks:
    """Return the records of one cluster as they were received. Raise ArchiveError, or ConfigError where there are none."""
    # A seeded market needs no archive, nor what is imported with it.
    from recorder.archive.recording import open_recordings

    events = [event for recording in open_recordings(path) for part in recording.events() for event in part]
    found = {event.feed for event in events}
    if cluster is None and len(found) > 1:
        raise ConfigError(f"ticks {path}: there are {', '.join(sorted(found))}; name one with --cluster")
    cluster = cluster or next(iter(found), "")
    # Of several archives, and where the clock was set back; what came at one time stays in its order.
    chosen = sorted((event for event in events if event.feed == cluster), key=lambda event: event.ingest_ts)
    if not chosen:
        raise ConfigError(f"ticks {path}: there are no records{f' of {cluster}' if cluster else ''}")
    return Ticks(
        cluster,
        [event.ingest_ts * 1000 for event in chosen],
        [bytes(event.payload) for event in chosen],
        [event.type for event in chosen],
        [event.symbol for event in chosen],
    )


def _of_file(path: Path, cluster: str | None) -> Ticks:
    at_us: list[int] = []
    texts: list[bytes] = []
    decode = msgspec.json.Decoder(_Line).decode
    for number, line in enumerate(_lines(path), start=1):
        try:
            tick = decode(line)
        except (msgspec.MsgspecError, RecursionError) as error:
            raise _bad_line(path, number, str(error)) from error
        if at_us and tick.at_us < at_us[-1]:
            raise _bad_line(path, number, f"at_us {tick.at_us} is before that of the line above")
        at_us.append(tick.at_us)
        texts.append(bytes(tick.m))
    if not texts:
        raise ConfigError(f"ticks {path}: the file is empty")
    cluster = cluster or _cluster_of(texts[0])
    decoder = Decoder(cluster)
    channels: list[str] = []
    symbols: list[str] = []
    for number, text in enumerate(texts, start=1):
        events = decoder.decode([b"[" + text + b"]"])
        if len(events) != 1:
            raise _bad_line(path, number, "m is not an event, which is an object with ev")
        channels.append(events.channels[0])
        symbols.append(events.symbols[0])
    return Ticks(cluster, at_us, texts, channels, symbols)


def _lines(path: Path) -> Iterator[bytes]:
    try:
        data = path.read_bytes()
        if path.suffix == ".gz":
            data = gzip.decompress(data)
    except (OSError, EOFError, zlib.error) as error:
        raise ConfigError(f"ticks {path}: cannot be read: {error}") from error
    return iter(data.splitlines())


def _bad_line(path: Path, number: int, problem: str) -> ConfigError:
    return ConfigError(f'ticks {path}, line {number}: {problem}; expected {{"at_us":…,"m":{{event}}}}')


def _cluster_of(text: bytes) -> str:
    events = Decoder(EVERY_CLUSTER).decode([b"[" + text + b"]"])
    return cluster_of(events.channels[0], events.symbols[0]) if len(events) else "stocks"


class TickMarket(Market[list[bool]]):
    """Plays ticks: with their gaps, faster, or at a rate (then gaps do not matter; 0 as the slowest subscriber).

    Each event is sent byte for byte; in later rounds (`loop`) its times are moved on by the duration of the ticks.
    Events of the same microsecond share frames. At the end without `loop` connections stay open, silent.
    """

    def __init__(self, ticks: Ticks, settings: SimulatorSettings, clock: Clock) -> None:
        super().__init__(ticks.cluster, settings, clock)
        self._ticks = ticks
        self.finished = asyncio.Event()
        """Set when all is played; never with `loop`."""

    @property
    def channels(self) -> frozenset[str]:
        """What can be subscribed to: the cluster's channels, and whatever else is among the ticks."""
        return super().channels | set(self._ticks.channels)

    async def run(self) -> None:
        """Play to the end, then wait to be cancelled."""
        if self._settings.starts_with_subscriber:
            await self._audiences.someone()
        self._open()
        for number in count() if self._settings.loop else (0,):
            await self._play_round(number)
        self.finished.set()
        await asyncio.Event().wait()

    async def _play_round(self, number: int) -> None:
        settings = self._settings
        ticks = self._ticks
        for begin, end in self._groups():
            if settings.rate is None:
                at_us = ticks.at_us[begin] - ticks.at_us[0] + number * ticks.period_us
                due_secs = at_us / 1e6 / settings.speed
            else:
                due_secs = (number * len(ticks.texts) + end) / settings.rate if settings.rate else 0.0
            if settings.flood:
                await self._audiences.someone()
                await self._let_drain()
            else:
                await self._wait_until(due_secs)
            self._play(begin, end, number * ticks.period_us)

    def _groups(self) -> Iterator[tuple[int, int]]:
        """Yield what is sent at a time: events of one microsecond, or a stretch of equal size."""
        ticks = self._ticks
        size = len(ticks.texts)
        if self._settings.rate is not None:
            step = slice_events(self._settings.rate, self._settings.frame_events)
            yield from ((begin, min(begin + step, size)) for begin in range(0, size, step))
            return
        begin = 0
        for index in range(1, size + 1):
            if index == size or ticks.at_us[index] != ticks.at_us[begin]:
                yield begin, index
                begin = index

    def _play(self, begin: int, end: int, shift_us: int) -> None:
        texts = self._ticks.texts[begin:end]
        if shift_us:
            channels = self._ticks.channels[begin:end]
            texts = [
                moved(text, list(times_in(channel, text)), shift_us // 1000)
                for channel, text in zip(channels, texts, strict=True)
            ]
        for audience in self._audiences:
            wanted = audience.made.get(0)
            if wanted is None:
                wanted = audience.made[0] = self._wanted(audience.selection)
            events = [text for text, want in zip(texts, wanted[begin:end], strict=True) if want]
            if events:
                audience.deliver(frames_of(events, self._settings.frame_events))
        if len(self._audiences):
            self.events_played += end - begin

    def _wanted(self, selection: Selection) -> list[bool]:
        """Return for each event whether an audience gets it."""
        pairs = zip(self._ticks.channels, self._ticks.symbols, strict=True)
        return [selection.wants(channel, symbol, selection.venue) for channel, symbol in pairs]
