"""Recorded ticks, played again: the exact text of each event, with the gaps that were between them."""

from __future__ import annotations

import asyncio
import gzip
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Final

import msgspec
from msgspec import Raw

from recorder.clock import Clock
from recorder.errors import ConfigError
from recorder.polygon.clusters import cluster_of
from recorder.polygon.events import EVERY_CLUSTER, Decoder
from recorder.simulator.audience import Selection
from recorder.simulator.framing import frames_of
from recorder.simulator.market import Market
from recorder.simulator.settings import SimulatorSettings
from recorder.simulator.tape import slice_events

_TIME_FIELD: Final = re.compile(rb'("(?:t|s|e|r|pt|trft|bt|at)"\s*:\s*)(\d{12,19})(?![\d.eE])')
"""Times in ms, us or ns have 12 digits or more; under the same names stand sizes, which have fewer."""


class _Line(msgspec.Struct, gc=False):
    at_us: int
    m: Raw


@dataclass(frozen=True, slots=True)
class Ticks:
    """A file of ticks as columns of equal length, in the order of the file; times never fall."""

    cluster: str
    at_us: list[int]
    texts: list[bytes]
    """Each event's exact bytes."""
    channels: list[str]
    symbols: list[str]

    @property
    def period_us(self) -> int:
        """How long one round takes: the file's time and a millisecond, rounded up to whole milliseconds."""
        return -(-(self.at_us[-1] - self.at_us[0]) // 1000) * 1000 + 1000


def read_ticks(path: Path, cluster: str | None = None) -> Ticks:
    """Read `{"at_us":…,"m":{event}}` lines, plain or gzip. The cluster is told by the events unless it is given.

    Raise `ConfigError` that names the file and the line.
    """
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


def shift_times(text: bytes, by_us: int) -> bytes:
    """Move all times of an event on, each in its own unit; all its other bytes stay."""

    def moved(match: re.Match[bytes]) -> bytes:
        digits = match[2]
        time = int(digits)
        if time < 10**14:
            time += by_us // 1000
        elif time < 10**17:
            time += by_us
        else:
            time += by_us * 1000
        return match[1] + b"%d" % time

    return _TIME_FIELD.sub(moved, text)


class TickMarket(Market[list[bool]]):
    """Plays ticks: with their gaps, faster, or at a rate (then gaps do not matter; 0 as the slowest subscriber).

    Each event is sent byte for byte; in later rounds (`loop`) its times are moved on by the duration of the file.
    Events of the same microsecond share frames. At the end without `loop` connections stay open, silent.
    """

    def __init__(self, ticks: Ticks, settings: SimulatorSettings, clock: Clock) -> None:
        super().__init__(ticks.cluster, settings, clock)
        self._ticks = ticks
        self.finished = asyncio.Event()
        """Set when all is played; never with `loop`."""

    @property
    def channels(self) -> frozenset[str]:
        """What can be subscribed to: the cluster's channels, and whatever else is in the file."""
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
            texts = [shift_times(text, shift_us) for text in texts]
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
