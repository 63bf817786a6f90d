"""Subscribers of the same topics: one audience, served the same bytes, which are made once."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from operator import itemgetter
from typing import Any, Final, Generic, NamedTuple, Protocol, TypeVar

from recorder.frames import header
from recorder.simulator.framing import Frames
from recorder.simulator.tape import Slice, Tape
from recorder.simulator.wire import MARKS, STAMP_SIZES

_WRITE_BYTES_MAX: Final = 256 * 1024
_IDLE_AUDIENCES_MAX: Final = 4
"""Audiences without subscribers that are kept, so that a subscriber that reconnects finds everything made."""
_MARK: Final = re.compile(f"([{''.join(MARKS)}])".encode())
_KIND: Final = {mark.encode(): kind for kind, mark in enumerate(MARKS)}
_KINDS: Final = len(MARKS)


class Subscriber(Protocol):
    """What frames are delivered to."""

    def deliver(self, frames: Frames) -> None:
        """Take frames; never wait, never raise."""

    @property
    def pending_bytes(self) -> int:
        """What was delivered and has not left yet."""


class Selection:
    """The topics of an audience: which events it gets."""

    def __init__(self, topics: Iterable[str], venue: str = "") -> None:
        """`venue` narrows futures to one exchange."""
        self.venue = venue
        self._channels: set[str] = set()
        self._pairs: set[tuple[str, str]] = set()
        for topic in topics:
            channel, _, symbol = topic.partition(".")
            if symbol == "*":
                self._channels.add(channel)
            else:
                self._pairs.add((channel, symbol))
                # Pairs of currencies are asked for as EUR-USD and delivered as EUR/USD.
                self._pairs.add((channel, symbol.replace("-", "/", 1)))

    def wants(self, channel: str, symbol: str, venue: str = "") -> bool:
        """Return whether an event is for this audience."""
        if self.venue and venue != self.venue:
            return False
        return channel in self._channels or (channel, symbol) in self._pairs

    def wants_any(self, channels: Iterable[str]) -> bool:
        """Return whether it may get anything on one of these channels."""
        wanted = self._channels | {channel for channel, _ in self._pairs}
        return not wanted.isdisjoint(channels)


S = TypeVar("S")


class Audience(Generic[S]):
    """Subscribers with the same topics, and what was made for them."""

    def __init__(self, selection: Selection) -> None:
        self.selection = selection
        self.members: dict[Subscriber, None] = {}
        self.made: dict[Hashable, S] = {}
        """By what the market plays."""

    def deliver(self, frames: Frames) -> None:
        """Serve everybody. A subscriber may leave while it is served."""
        for member in tuple(self.members):
            member.deliver(frames)


class Audiences(Generic[S]):
    """All audiences of a market."""

    def __init__(self) -> None:
        self._by_topics: dict[tuple[frozenset[str], str], Audience[S]] = {}
        self._of: dict[Subscriber, Audience[S]] = {}
        self._present = asyncio.Event()

    def place(self, subscriber: Subscriber, topics: Iterable[str], venue: str = "") -> None:
        """Put a subscriber where its topics belong; nowhere if it has none."""
        key = (frozenset(topics), venue)
        present = self._of.pop(subscriber, None)
        if present is not None:
            del present.members[subscriber]
        if key[0]:
            audience = self._by_topics.get(key)
            if audience is None:
                audience = self._by_topics[key] = Audience(Selection(key[0], venue))
            audience.members[subscriber] = None
            self._of[subscriber] = audience
            self._present.set()
        elif not self._of:
            self._present.clear()
        self._forget_idle()

    def __iter__(self) -> Iterator[Audience[S]]:
        return iter([audience for audience in self._by_topics.values() if audience.members])

    def __len__(self) -> int:
        """Subscribers, all audiences together."""
        return len(self._of)

    async def someone(self) -> None:
        """Wait until there is a subscriber."""
        await self._present.wait()

    def pending_bytes(self) -> int:
        """Return what waits for the slowest subscriber."""
        return max((subscriber.pending_bytes for subscriber in self._of), default=0)

    def wants_any(self, channels: Iterable[str]) -> bool:
        """Return whether any audience may get anything on one of these channels."""
        return any(audience.selection.wants_any(channels) for audience in self)

    def _forget_idle(self) -> None:
        idle = [key for key, audience in self._by_topics.items() if not audience.members]
        for key in idle[: max(0, len(idle) - _IDLE_AUDIENCES_MAX)]:
            del self._by_topics[key]


class Template(NamedTuple):
    """Frames in a row as literal bytes, and between them the stamps of the moment. No work for each event."""

    parts: list[bytes]
    """Literals at even places; the odd ones are filled in each time."""
    pick: Callable[[Sequence[bytes]], Any] | None
    """Returns all stamps, in order, from those of the slice: four for each run."""
    payload_sizes: list[int]
    events: list[int]

    def fill(self, stamps: Sequence[bytes]) -> Frames:
        """Return the frames with these stamps."""
        if self.pick is not None:
            self.parts[1::2] = self.pick(stamps)
        return Frames(b"".join(self.parts), self.payload_sizes, self.events)


def compile_slice(tape: Tape, part: Slice, selection: Selection, frame_events: int) -> list[Template]:
    """Make what one audience gets of one slice, in templates of at most 256 KiB where frames allow."""
    chosen = []
    runs = [*part.runs[1:], part.end]
    run = 0
    for index in range(part.begin, part.end):
        if index == runs[run]:
            run += 1
        listed = tape.listing[tape.places[index]]
        if selection.wants(tape.channels[tape.channel_numbers[index]], listed.symbol, listed.venue):
            chosen.append((tape.text(index), run))
    templates: list[Template] = []
    builder = _Builder()
    for begin in range(0, len(chosen), frame_events):
        builder.add_frame(chosen[begin : begin + frame_events])
        if builder.size >= _WRITE_BYTES_MAX:
            templates.append(builder.finish())
            builder = _Builder()
    if builder.size:
        templates.append(builder.finish())
    return templates


class _Builder:
    """Collects frames for one template."""

    def __init__(self) -> None:
        self.size = 0
        self._parts = [b""]
        self._picks: list[int] = []
        self._payload_sizes: list[int] = []
        self._events: list[int] = []

    def add_frame(self, events: Sequence[tuple[bytes, int]]) -> None:
        """Append one frame: each event's text, and the run that it belongs to."""
        pieces = _MARK.split(b"[" + b",".join([text for text, _ in events]) + b"]")
        kinds = [_KIND[mark] for mark in pieces[1::2]]
        size = sum(map(len, pieces[::2])) + sum([STAMP_SIZES[kind] for kind in kinds])
        runs = [run for text, run in events for _ in _MARK.findall(text)]
        self._picks += [run * _KINDS + kind for run, kind in zip(runs, kinds, strict=True)]
        self._parts[-1] += header(size) + pieces[0]
        self._parts += pieces[1:]
        self._payload_sizes.append(size)
        self._events.append(len(events))
        self.size += size

    def finish(self) -> Template:
        """Return the template."""
        # A single index would give the stamp itself, not a sequence of one.
        pick: Callable[[Sequence[bytes]], Any] | None = None
        if len(self._picks) == 1:
            only = self._picks[0]
            pick = itemgetter(slice(only, only + 1))
        elif self._picks:
            pick = itemgetter(*self._picks)
        return Template(self._parts, pick, self._payload_sizes, self._events)
