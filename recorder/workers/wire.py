"""PURE. The messages between the recording process and a worker: length, kind, content; batches stay raw bytes."""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple

import msgspec

from recorder.bars import BarStats
from recorder.bus import (
    Batch,
    Mark,
    Missed,
    SessionChange,
    SessionClosed,
    SessionOpened,
    TopicsAnswered,
    Watermark,
)
from recorder.servers.access import Rules
from recorder.servers.stats import ClientStats, ReplayStats, ServerStats
from recorder.servers.tls import Pem
from recorder.servers.tokens import Tokens
from recorder.settings import BarSettings, Section, ServersSettings
from recorder.workers.drain_messages import Dismiss, Refuse
from recorder.workers.replay_messages import Finish, Look, Replied, Say

BATCH: Final = 1
"""A batch of the exchange."""
BARS: Final = 2
"""A batch of bars from the recorder that `MS_AGGREGATOR_URL` names."""
MESSAGE: Final = 3
"""Everything else."""

_HEAD: Final = struct.Struct("!QB")
"""Length of the content, kind."""
_BATCH: Final = struct.Struct("!QQQQIBII")
"""Receipt in nanoseconds, by the wall clock and by the monotonic one, which all processes of a machine share; position
of the last frame, number of the last record, events (0: not known), length of the cluster's name, frames, bytes of the
marks."""
_encode_marks: Final = msgspec.msgpack.encode
_decode_marks: Final = msgspec.msgpack.Decoder(tuple[Mark, ...]).decode


class NewRules(msgspec.Struct, tag=True, frozen=True):
    """Who may connect from now on, and what clients may ask for. Of tokens there are only hashes."""

    servers: ServersSettings
    digests: dict[str, bytes]
    pem: Pem | None


class Setup(msgspec.Struct, tag=True, frozen=True):
    """The first message to a worker: everything that it needs."""

    number: int
    rules: NewRules
    bars: BarSettings
    on_demand: bool
    topics: dict[str, tuple[str, ...]]
    """What is always subscribed upstream, by cluster."""
    native: bool
    """Whether native code is used, as in the recording process."""
    epoch: str
    manifest: str
    follows: bool
    """The three are as in `Origin`, the path empty where there is no archive."""
    amend_refusal: str
    """Why the recorder whose bars are passed on amends none, where it has said so already."""
    log_levels: Mapping[str, str]
    log_format: str


class Session(msgspec.Struct, tag=True, frozen=True):
    """A session of the exchange began; with a reason, it ended."""

    cluster: str
    at_ns: int
    reason: str | None = None
    last_received_ns: int = 0
    resumed: int | None = None
    missed: tuple[Missed, ...] = ()
    after: str = ""


class Begun(msgspec.Struct, tag=True, frozen=True):
    """The worker is fed from here on: what comes next is behind this position."""

    position: int
    seq: int
    """The number of the last record before it, where there is an archive."""
    closed: tuple[Session, ...]
    """The clusters that have no session now."""
    marks: dict[str, str]
    """The position of each cluster at the recorder that is followed, as it told it."""


class Marked(msgspec.Struct, tag=True, frozen=True):
    """The recorder that is followed has told a position behind which nothing has come."""

    cluster: str
    after: str


class Advance(msgspec.Struct, tag=True, frozen=True):
    """Everything that the exchange sent until then has been passed on."""

    cluster: str
    until_ns: int


class Topics(msgspec.Struct, tag=True, frozen=True):
    """The exchange refuses topics; with an empty refusal, no longer."""

    cluster: str
    topics: tuple[str, ...]
    refusal: str


class Answer(msgspec.Struct, tag=True, frozen=True):
    """The answer to `Enter` and `Admit`."""

    request: int
    allowed: bool


class Guessed(msgspec.Struct, tag=True, frozen=True):
    """A client of this address gave a wrong token. The recording process passes it on to the other workers."""

    address: str


class Stop(msgspec.Struct, tag=True, frozen=True):
    """The worker is to pass on what came before this, close its clients, and end."""

    deadline_ns: int
    """By the monotonic clock, which all processes of a machine share."""


class Ready(msgspec.Struct, tag=True, frozen=True):
    """The worker takes batches and connections from here on."""


class Refused(msgspec.Struct, tag=True, frozen=True):
    """The worker cannot start; the words are for the operator."""

    words: str


class Enter(msgspec.Struct, tag=True, frozen=True):
    """A client has connected: may it?"""

    request: int
    port: str


class Admit(msgspec.Struct, tag=True, frozen=True):
    """A client has authenticated with the token of this hash: may it?"""

    request: int
    port: str
    token: str


class Leave(msgspec.Struct, tag=True, frozen=True):
    """A client is gone. Without the hash of a token, it was never admitted."""

    port: str
    token: str


class Accessed(msgspec.Struct, tag=True, frozen=True):
    """Lines of the access log, for the recording process to write."""

    lines: bytes
    count: int
    begun_ns: int
    """From when they count, by the wall clock."""


class Want(msgspec.Struct, tag=True, frozen=True):
    """Clients of the worker want topics that none of them wanted before."""

    cluster: str
    topics: list[str]
    bars: bool
    """Whether they are bars of the recorder that `MS_AGGREGATOR_URL` names."""


class Release(msgspec.Struct, tag=True, frozen=True):
    """No client of the worker wants these any more."""

    cluster: str
    topics: list[str]
    bars: bool


class AskTime(msgspec.Struct, tag=True, frozen=True):
    """Something at the worker waits for time to pass: an `Advance` is wanted."""

    cluster: str


class Report(msgspec.Struct, tag=True, frozen=True):
    """What the worker has counted; sent each second and at its end."""

    servers: list[ServerStats]
    bars: dict[str, BarStats]
    replays: ReplayStats
    connections: int
    adopted: int
    """Connections that were handed to it in all."""
    lag_secs: float
    cpu_secs: float
    memory_bytes: int
    consumer_failures: int
    log_lines_dropped: int
    clients: list[ClientStats]
    """The clients that leave most unread."""
    subscribed: int = 0
    """Clients that have subscribed to something."""


Down = (
    Setup
    | NewRules
    | Session
    | Begun
    | Marked
    | Advance
    | Topics
    | Answer
    | Guessed
    | Say
    | Look
    | Finish
    | Refuse
    | Dismiss
    | Stop
)
"""The messages of the recording process."""
Up = (
    Ready | Refused | Enter | Admit | Leave | Accessed | Guessed | Want | Release | AskTime | Report | Replied
)
"""The messages of a worker."""


class Received(NamedTuple):
    """One length-prefixed piece."""

    kind: int
    content: bytes


class FedBatch(NamedTuple):
    """A batch as it came from the recording process."""

    cluster: str
    received_ns: int
    read_ns: int
    position: int
    """That of its last frame."""
    seq: int
    """The number of its last record, where there is an archive."""
    events_count: int
    frames: list[bytes]
    marks: tuple[Mark, ...]
    """Those of the recorder that is followed."""


class Reader:
    """Cuts a stream into its pieces, however the reads divide it."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        """Reads that wait for the rest of their piece; joined once, however many there are."""
        self._waiting_bytes = 0
        self._needed_bytes = 0

    def feed(self, data: bytes) -> Iterator[Received]:
        """Yield the pieces that a read completes. Exhaust it before the next call."""
        if self._parts:
            self._parts.append(data)
            self._waiting_bytes += len(data)
            if self._waiting_bytes < self._needed_bytes:
                return
            data = b"".join(self._parts)
            self._parts = []
        place, end = 0, len(data)
        needed = _HEAD.size
        while end - place >= needed:
            size, kind = _HEAD.unpack_from(data, place)
            begin = place + _HEAD.size
            if end - begin < size:
                needed = _HEAD.size + size
                break
            place = begin + size
            yield Received(kind, data[begin:place])
        if place < end:
            self._parts = [data[place:]]
            self._waiting_bytes = end - place
            self._needed_bytes = needed

    def __repr__(self) -> str:
        return f"Reader({self._waiting_bytes if self._parts else 0} bytes wait)"


def encode_batch(kind: int, batch: Batch, position: int = 0, seq: int = 0) -> bytes:
    """Return a batch as one piece; the same bytes serve every worker.

    `position` is that of its last frame, `seq` the number of its last record.
    """
    frames, cluster = batch.frames, batch.cluster.encode()
    lengths = list(map(len, frames))
    known = batch.events_known
    marks = _encode_marks(batch.marks) if batch.marks else b""
    about = _BATCH.pack(
        batch.received_ns, batch.read_ns, position, seq, known, len(cluster), len(frames), len(marks)
    )
    sizes = struct.pack(f"!{len(frames)}I", *lengths)
    size = len(about) + len(cluster) + len(marks) + len(sizes) + sum(lengths)
    return b"".join([_HEAD.pack(size, kind), about, cluster, marks, sizes, *frames])


def decode_batch(content: bytes) -> FedBatch:
    """Return the batch in the content of a piece that `encode_batch` made."""
    received_ns, read_ns, position, seq, events_count, name_size, frames_count, marks_size = (
        _BATCH.unpack_from(content)
    )
    place = _BATCH.size + name_size
    cluster = content[_BATCH.size : place].decode()
    marks = _decode_marks(content[place : place + marks_size]) if marks_size else ()
    place += marks_size
    sizes = struct.unpack_from(f"!{frames_count}I", content, place)
    place += 4 * frames_count
    frames = []
    for size in sizes:
        frames.append(content[place : place + size])
        place += size
    return FedBatch(cluster, received_ns, read_ns, position, seq, events_count, frames, marks)


def encode(message: Down | Up) -> bytes:
    """Return a message as one piece."""
    content = msgspec.msgpack.encode(message, enc_hook=Section.model_dump)
    return _HEAD.pack(len(content), MESSAGE) + content


def new_rules_of(rules: Rules) -> NewRules:
    """Return the message for rules."""
    servers = rules.servers.model_copy(update={"tokens": (), "tokens_file": None})
    return NewRules(servers, rules.tokens.digests, rules.pem)


def rules_of(message: NewRules) -> Rules:
    """Return the rules that a message tells of."""
    return Rules(Tokens.from_digests(message.digests), message.servers, message.pem)


def session_of(change: SessionChange) -> Session:
    """Return the message for a change of a session."""
    if isinstance(change, SessionOpened):
        return Session(change.cluster, change.at_ns, resumed=change.resumed, missed=change.missed)
    last_ns = change.last_received_ns
    return Session(change.cluster, change.at_ns, change.reason, last_ns, after=change.after)


def change_of(session: Session) -> SessionChange:
    """Return the change of a session that a message tells of."""
    if session.reason is None:
        return SessionOpened(session.cluster, session.at_ns, session.resumed, session.missed)
    last_ns = session.last_received_ns
    return SessionClosed(session.cluster, session.at_ns, session.reason, last_ns, session.after)


def topics_of(answered: TopicsAnswered) -> Topics:
    """Return the message for what the exchange says of topics."""
    return Topics(answered.cluster, answered.topics, answered.refusal)


def answered_of(topics: Topics) -> TopicsAnswered:
    """Return what the exchange says of topics, by its message."""
    return TopicsAnswered(topics.cluster, topics.topics, topics.refusal)


def advance_of(watermark: Watermark) -> Advance:
    """Return the message for a watermark."""
    return Advance(watermark.cluster, watermark.until_ns)


def _of_ours(kind: type, value: Any) -> object:
    """Decode the types of ours that msgspec does not know."""
    return kind.model_validate(value) if issubclass(kind, Section) else Counter(value)


decode_down = msgspec.msgpack.Decoder[Down](Down, dec_hook=_of_ours).decode
decode_up = msgspec.msgpack.Decoder[Up](Up, dec_hook=_of_ours).decode
