"""PURE. The messages of a stream: the frames of one cluster as they were received, and headers that prove completeness."""

from __future__ import annotations

import re
import struct
from collections.abc import Mapping, Sequence
from typing import Final, Literal, NamedTuple

import zstandard

from recorder.errors import RecorderError

FORMAT: Final = "frames-zstd-1"
"""The content of a message, compressed with zstd: a count, the size of each frame, then the frames; all numbers are
big-endian, 32 bits."""
BODY_BYTES_MAX: Final = 64 * 2**20
"""Content that is larger once it is decompressed is refused: nobody writes that."""
_LEVEL: Final = 1
_ESCAPED: Final = re.compile(r"[\x00-\x20\x7f.*>%]")
"""What no token of a subject may have, and the percent sign, which stands for it."""

AWAY_MAX: Final = 8
"""A message tells of so many absences at most; the writer makes one of several."""
_AWAY: Final = re.compile(r"([0-9]{1,15})-([0-9]{1,15}) ([a-z0-9_]{1,40})")
_COVERS: Final = re.compile(r"([0-9]{1,15})-([0-9]{1,15})")

_compress = zstandard.ZstdCompressor(level=_LEVEL).compress
_decompress = zstandard.ZstdDecompressor().decompress


class UnknownMessage(RecorderError):
    """A message of a stream is not of a format that this version reads."""


HANDED_OVER: Final = "handed over"
Role = Literal["active", "fill"]
"""What its writer does: an `active` recorder appends what comes to it, a `fill` adds what that one has not got."""


class Away(NamedTuple):
    """A time in which, for all that its writer knows, no recorder was connected to the exchange. Unix ms."""

    from_ms: int
    to_ms: int
    reason: str
    """One word, as `word_of` makes it."""


def word_of(reason: str) -> str:
    """Return a reason as one word of a header."""
    return re.sub(r"[^a-z0-9_]+", "_", reason.lower())[:40] or "unknown"


class Heading(NamedTuple):
    """What the headers of a message say."""

    first: int
    """The number of its first event in the stream, from 1. The message behind it goes on at `next_first`."""
    events: int
    received_ns: int
    """When the first of the frames was received: wall clock, nanoseconds."""
    writer: str
    """The run of the recorder that wrote it."""
    dropped: int = 0
    """Events that the recorder lost just before the first of these, because too much waited."""
    gap: str = ""
    """What happened to the stream itself just before this message: `deleted`, `purged`, `rolled back` or `emptied`;
    or `handed over`: its recorder was gone, and the one that wrote this had no connection to the exchange until then."""
    role: Role = "active"
    """Of the writer, as it wrote this."""
    missed: tuple[Away, ...] = ()
    """Absences that no message before told of."""
    covers: tuple[int, int] = (0, 0)
    """From when to when the writer was connected, and all that it received is in the stream; Unix ms. 0: not known."""

    @property
    def next_first(self) -> int:
        """The number of the event behind the last of these."""
        return self.first + self.events

    def headers(self) -> dict[str, str]:
        """Return the headers."""
        found = {
            "Format": FORMAT,
            "Events": str(self.events),
            "First": str(self.first),
            "Received-Ns": str(self.received_ns),
            "Writer": self.writer,
            "Role": self.role,
        }
        if self.dropped:
            found["Dropped"] = str(self.dropped)
        if self.gap:
            found["Gap"] = self.gap
        if self.missed:
            found["Missed"] = ", ".join(
                f"{from_ms}-{to_ms} {reason}" for from_ms, to_ms, reason in self.missed
            )
        if self.covers[1]:
            found["Covers"] = "{}-{}".format(*self.covers)
        return found


class End(NamedTuple):
    """Where a stream ends."""

    created: str
    """When the stream was made, as the servers write it: another stream of the same name has another time."""
    last_seq: int
    """0 if nothing was ever appended. It stays when messages go."""
    last: Heading | None
    """What the newest message says; None if there is no message."""
    last_heading_seq: int = 0
    """The sequence number of that message."""
    stored_ns: int = 0
    """When the last message was stored, by the servers' wall clock."""


class Names(NamedTuple):
    """What a cluster's stream and the subject of its messages are called."""

    stream: str
    subject: str

    @classmethod
    def of(cls, prefix: str, cluster: str) -> Names:
        """Return them as NATS_STREAM_PREFIX has them: `MD_STOCKS` and `md.stocks.frames`."""
        return cls(f"{prefix}_{cluster}".upper(), f"{prefix}.{cluster}.frames".lower())


class SymbolNames(NamedTuple):
    """What the stream of one cluster is called, and what its subjects begin with."""

    stream: str
    root: str

    @classmethod
    def of(cls, prefix: str, cluster: str) -> SymbolNames:
        """Return them as NATS_STREAM_PREFIX has them: `MD_STOCKS_SYMBOLS` and `md.stocks.symbols`."""
        return cls(f"{prefix}_{cluster}_SYMBOLS".upper(), f"{prefix}.{cluster}.symbols".lower())

    @property
    def subjects(self) -> str:
        """All subjects of the stream."""
        return f"{self.root}.>"

    def subject(self, channel: str, symbol: str) -> str:
        """Return the subject of a symbol's events: `md.stocks.symbols.AM.BRK%2EB`."""
        return f"{self.root}.{token_of(channel)}.{token_of(symbol)}"


def token_of(name: str) -> str:
    """Return a name as one token of a subject; `%` stands for no name at all."""
    return _ESCAPED.sub(lambda found: f"%{ord(found[0]):02X}", name) or "%"


def heading_of(headers: Mapping[str, str]) -> Heading:
    """Return what the headers of a message say.

    :raises UnknownMessage: they are not of this format.
    """
    named = headers.get("Format")
    if named != FORMAT:
        raise UnknownMessage(
            f"its header Format is {named!r}, and this version reads {FORMAT!r} alone"
            if named
            else "it has no header Format, so another program wrote it"
        )
    try:
        return Heading(
            int(headers["First"]),
            int(headers["Events"]),
            int(headers["Received-Ns"]),
            headers["Writer"],
            int(headers.get("Dropped", "0")),
            headers.get("Gap", ""),
            "fill" if headers.get("Role") == "fill" else "active",
            _missed_in(headers.get("Missed", "")),
            _covers_in(headers.get("Covers", "")),
        )
    except (KeyError, ValueError) as error:
        raise UnknownMessage(f"its headers cannot be read: {error}") from error


def _missed_in(words: str) -> tuple[Away, ...]:
    found = [_AWAY.fullmatch(each) for each in words.split(", ")] if words else []
    if len(found) > AWAY_MAX or not all(found):
        raise ValueError(f"Missed is {words!r}")
    return tuple(Away(int(each[1]), int(each[2]), each[3]) for each in found if each is not None)


def _covers_in(words: str) -> tuple[int, int]:
    found = _COVERS.fullmatch(words)
    if words and found is None:
        raise ValueError(f"Covers is {words!r}")
    return (int(found[1]), int(found[2])) if found is not None else (0, 0)


def encode_frames(frames: Sequence[bytes]) -> bytes:
    """Return the content of a message with these frames."""
    sizes = struct.pack(f"!{len(frames) + 1}I", len(frames), *map(len, frames))
    return _compress(b"".join([sizes, *frames]))


def decode_frames(content: bytes) -> list[bytes]:
    """Return the frames in the content of a message.

    :raises UnknownMessage: it is damaged, or of another format.
    """
    try:
        size = zstandard.frame_content_size(content)
        if not 4 <= size <= BODY_BYTES_MAX:
            raise UnknownMessage(f"its content says that it has {size} bytes")
        plain = _decompress(content)
        (count,) = struct.unpack_from("!I", plain)
        sizes = struct.unpack_from(f"!{count}I", plain, 4)
    except (zstandard.ZstdError, struct.error) as error:
        raise UnknownMessage(f"its content cannot be read: {error}") from error
    place = 4 + 4 * count
    if place + sum(sizes) != len(plain):
        raise UnknownMessage("its content has not the size that its frames have together")
    frames = []
    for size in sizes:
        frames.append(plain[place : place + size])
        place += size
    return frames
