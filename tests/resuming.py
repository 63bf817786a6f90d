"""Clients that are cut and resume, without sockets: the real ports, log, sessions and clients, on transports of ours."""

from __future__ import annotations

import asyncio
import json
import random
import re
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field
from itertools import repeat
from pathlib import Path
from typing import Any, Final, NamedTuple, cast

import msgspec
from archives import Archive, archive_settings
from fakes import FakeClock, batch_of
from serving import LIMITS, TOKEN

from recorder.archive.policy import Selection
from recorder.archive.record import Lines, RecordBatch, summarise
from recorder.bus import Batch, Bus, SessionChange
from recorder.ledger import Ledger
from recorder.polygon.careful import is_status_only
from recorder.polygon.server import Close, Send, ServerSession, Subscribe, Unsubscribe
from recorder.servers.bars import BarSource
from recorder.servers.client import Client, Peer
from recorder.servers.filtered import TopicPort
from recorder.servers.firehose import Firehose
from recorder.servers.manners.last_values import LastValues
from recorder.servers.manners.pacer import Pacer
from recorder.servers.means import Means
from recorder.servers.past.cold import ColdReaders
from recorder.servers.past.hotlog import HotLog
from recorder.servers.past.numbering import Numbering
from recorder.servers.past.resumes import Resumes
from recorder.servers.port import Port
from recorder.servers.stats import ServerStats
from recorder.settings import ClientLimits
from recorder.sinks.stage import Stage

CLUSTERS: Final = ("stocks", "options")
_raw_events: Final = msgspec.json.Decoder(list[msgspec.Raw]).decode


class Transport:
    """A client's connection: what is written waits until the client takes it."""

    def __init__(self) -> None:
        self.written = b""
        self.closing = False

    def write(self, data: bytes) -> None:
        self.written += data

    def get_write_buffer_size(self) -> int:
        return len(self.written)

    def is_closing(self) -> bool:
        return self.closing

    def abort(self) -> None:
        self.closing = True

    def get_protocol(self) -> object:
        return self

    def get_extra_info(self, name: str) -> Any:
        return self if name == "socket" else None

    def fileno(self) -> int:
        return 0

    def take(self, bytes_max: int | None = None) -> list[tuple[int, bytes]]:
        """Return whole frames, opcode and payload, of what waits; at most as many as fit."""
        found: list[tuple[int, bytes]] = []
        place, end = 0, len(self.written) if bytes_max is None else min(bytes_max, len(self.written))
        while place < end:
            opcode, size = self.written[place] & 0x0F, self.written[place + 1]
            begin = place + 2
            if size > 125:
                begin += 2 if size == 126 else 8
                size = int.from_bytes(self.written[place + 2 : begin])
            if begin + size > end:
                break
            found.append((opcode, self.written[begin : begin + size]))
            place = begin + size
        self.written = self.written[place:]
        return found


class Read(NamedTuple):
    """One read, as the test published it."""

    position: int
    """That of its last frame."""
    cluster: str
    frames: Sequence[bytes]


class Recorder:
    """The ports of a recorder that keeps so many bytes. Nothing happens by itself: `step` and `tell` are the test's."""

    turns_max = 10_000
    """So often a client looks for what there is; then something is wrong."""
    is_archived = False
    """Whether what is read of it may come in other frames than it came in."""

    def __init__(self, bytes_max: int, clock: FakeClock | None = None, epoch: str = "run") -> None:
        self.clock = clock or FakeClock()
        self.published: list[Read] = []
        self.open(HotLog(epoch, bytes_max, CLUSTERS, self.clock.wall_ns() // 1_000_000))

    def open(
        self,
        log: HotLog,
        seq: Callable[[], int] = lambda: 0,
        consumers: Iterable[object] = (),
        cold: ColdReaders | None = None,
    ) -> None:
        """Begin a run. `seq`, `consumers` and `cold` are those of its archive."""
        self.log = log
        self.resumes = Resumes(self.log, self.clock, cold)
        self.bars = self.make_bars()
        self.pacer = Pacer(self.clock)
        self.values = LastValues(CLUSTERS, self.log, self.clock, 1000, from_start=False)
        self.stats = {name: ServerStats(name) for name in ("firehose", "filtered", "bars")}
        self.ports: dict[str, Port] = {
            "firehose": Firehose(self.stats["firehose"], 1000, {}, self.clock),
            **{
                name: TopicPort(
                    name,
                    dict.fromkeys(CLUSTERS, frozenset()),
                    self.stats[name],
                    1000,
                    self.bars,
                    None,
                    bars_only=name == "bars",
                )
                for name in ("filtered", "bars")
            },
        }
        for port in self.ports.values():
            if isinstance(port, TopicPort):
                port.offer(Means(self.log, self.clock, self.pacer, self.values))
        self.bus = Bus()
        for consumer in (Numbering(self.log, seq), *consumers, self.values, *self.ports.values()):
            self.bus.attach(cast(Any, consumer))
        if self.bars is not None:
            self.bus.attach(self.bars)

    def make_bars(self) -> BarSource | None:
        """Return what makes bars; None where nobody asks for any."""
        return None

    def number_of(self, position: str) -> int:
        """Return where a position stands in the stream."""
        return number_of(position)

    def publish(self, *frames: bytes, cluster: str = "stocks") -> None:
        """Pass one read on."""
        received_ns, read_ns = self.clock.wall_ns(), self.clock.monotonic_ns()
        self.bus.publish(batch_of(*frames, cluster=cluster, received_ns=received_ns, read_ns=read_ns))
        assert not self.bus.failures
        before = self.published[-1].position if self.published else 0
        self.published.append(Read(before + len(frames), cluster, frames))

    def let_time_pass(self) -> bool:
        """Let what needs time go on; return whether somebody waits for that."""
        return False

    def prepare(self) -> None:
        """Have last values to send, as a conversation waits for them."""
        self.values.begin()
        while self.values.read_on():
            pass

    def stream(self, begin: int, end: int, port: str, cluster: str, topics: Iterable[str]) -> list[bytes]:
        """Return what a client of these topics must get behind one position, up to another: events, or frames."""
        found: list[bytes] = []
        for read in self.published:
            if begin < read.position <= end and cluster in ("", read.cluster):
                for frame in read.frames:
                    if port == "firehose":
                        found += [] if is_status_only(frame) else [frame]
                    else:
                        found += [event for event in events_in(frame) if matches(topics, event, port)]
        return found


class Recorded(NamedTuple):
    """One event of an archived stream."""

    run: int
    seq: int
    cluster: str
    event: bytes


class Inline(Executor):
    """Does what is submitted at once."""

    def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        done: Future[Any] = Future()
        try:
            done.set_result(fn(*args, **kwargs))
        except Exception as error:
            done.set_exception(error)
        return done


class ArchivedRecorder(Recorder):
    """A recorder with an archive of real files, which are written and read when the test says so."""

    turns_max = 500
    is_archived = True

    def __init__(self, folder: Path, bytes_max: int, **archive: Any) -> None:
        self.clock = FakeClock()
        self.published = []
        self.bytes_max = bytes_max
        self.events: list[Recorded] = []
        settings = archive_settings(folder / "polygon.ndjson", **archive)
        self.archive = Archive(settings, clock=self.clock).open()
        self.begin_run()

    def begin_run(self) -> None:
        """Serve what the archive's present run records."""
        self.stage = Stage(Selection([], 1), Ledger(), "h", "0")
        epoch, manifest = f"run-{self.archive.runs}", self.archive.names.manifest
        now_ms = self.clock.wall_ns() // 1_000_000
        log = HotLog(epoch, self.bytes_max, CLUSTERS, now_ms, manifest=manifest)
        self.open(log, lambda: self.stage.seq, (self,), ColdReaders(manifest, epoch, Inline()))
        self.bus.stage = self.stage

    def restart(self, *, killed: bool) -> None:
        """End the run, after what it had to write, and begin another."""
        self.archive.writer.flush(forced=True)
        if killed:
            self.archive.kill()
        else:
            self.archive.close()
        self.clock.advance(1)
        self.archive.restart()
        self.begin_run()

    def accept(self, batch: Batch) -> None:
        """Write a batch, as the sink does."""
        rows = batch.recorded
        if rows is None or not len(rows):
            return
        names, lines = self.archive.names, []
        for channel in rows.counts if names.split_per_type else [""]:
            part = rows.of_channels({channel}) if channel else rows
            data = batch.lines_of(part)
            lines.append(Lines(batch.cluster, names.active(batch.cluster, channel), data, summarise(data)))
        self.archive.writer.write(RecordBatch(batch.cluster, batch.received_ns, lines, b""))
        run = self.archive.runs
        self.events += map(Recorded, repeat(run), rows.seqs, repeat(batch.cluster), rows.objects)

    def session_changed(self, change: SessionChange) -> None:
        """Nothing: no test here is about gaps."""

    def number_of(self, position: str) -> int:
        """Return how many events there are up to a position."""
        epoch, _, seq = position.split(":")
        place = int(epoch.partition("-")[2]), int(seq)
        return sum((event.run, event.seq) <= place for event in self.events)

    def stream(self, begin: int, end: int, port: str, cluster: str, topics: Iterable[str]) -> list[bytes]:
        return [
            one.event
            for one in self.events[begin:end]
            if cluster in ("", one.cluster) and (port == "firehose" or matches(topics, one.event, port))
        ]

    def let_time_pass(self) -> bool:
        """Have the archive flushed, and its readers look again."""
        if not self.resumes.is_reading:
            return False
        self.archive.writer.flush(forced=True)
        self.clock.advance(0.2)
        return True


@dataclass
class Stretch:
    """What a client has between two positions: all that there is, if the recorder has kept its word."""

    begin: int
    end: int
    got: list[bytes] = field(default_factory=list)


class Follower:
    """A client program that keeps what it got up to each position, and throws away what came behind it when it is cut."""

    def __init__(
        self, recorder: Recorder, port: str, *topics: str, cluster: str = "stocks", pending_max: int = 2**24
    ) -> None:
        self.recorder = recorder
        self.port = port
        self.topics = topics
        self.cluster = cluster
        self.pending_max = pending_max
        self.after: str | None = None
        self.kept: list[Stretch] = []
        """What it has. A new one begins where it was told that something is missing."""
        self.loose: list[bytes] = []
        """What came behind the last position."""
        self.statuses: list[dict[str, Any]] = []
        """Of the present connection."""
        self.client: Client | None = None
        self.is_new = True
        """Whether the present connection has nothing to do with those before, and no position has come."""

    def connect(self, **wishes: Any) -> None:
        """Connect, authenticate, subscribe; from the last position on, if there is one and nothing else is asked for."""
        recorder = self.recorder
        self.transport = Transport()
        port = recorder.ports[self.port]
        self.session = ServerSession(port.policy(self.cluster, lambda token: None))
        limits = ClientLimits.model_construct(**{**LIMITS, "pending_bytes_max": self.pending_max})
        self.client = Client(
            Peer(1, "::1", "", self.cluster, 0),
            self.session,
            cast(asyncio.Transport, self.transport),
            limits,
            recorder.stats[self.port],
            random.Random(1),
        )
        self.statuses = []
        self.ask(action="auth", params=TOKEN)
        if not wishes and self.after is not None:
            wishes = {"after": self.after}
        self.is_new = wishes.keys().isdisjoint({"after", "since"})
        request = {"action": "subscribe", "params": ",".join(self.topics), "positions": True}
        self.ask(**{**request, **wishes})

    def ask(self, **request: Any) -> None:
        """Send a request, and have it carried out as a conversation does."""
        assert self.client is not None
        port, resumes = self.recorder.ports[self.port], self.recorder.resumes
        for action in self.session.receive(json.dumps(request)):
            match action:
                case Send(frame):
                    self.client.say(frame)
                case Subscribe():
                    if action.manner.slow is not None:
                        port.when_slow(self.client, action.manner.slow)
                    if action.manner.snapshot:
                        self.recorder.prepare()
                    resumes.subscribe(port, self.client, action, self.recorder.stats[self.port])
                case Unsubscribe(topics):
                    resumes.unsubscribe(port, self.client, topics)
                case Close():
                    raise AssertionError(action)

    def take(self, bytes_max: int | None = None) -> None:
        """Read what has come."""
        for opcode, payload in self.transport.take(bytes_max):
            if opcode == 0x8:
                continue
            assert opcode in (0x1, 0xA), opcode
            if not payload.startswith(b'[{"ev":"status"'):
                is_whole = self.port == "firehose" and not self.recorder.is_archived
                self.loose += [payload] if is_whole else events_in(payload)
                continue
            [status] = json.loads(payload)
            self.statuses.append(status)
            if status["status"] == "resume" and (not self.kept or not status["recovered"]):
                self.begin(status["from"])
            if status["status"] == "position":
                self.keep(status["after"])

    def begin(self, position: str) -> None:
        """Begin anew, behind a position."""
        assert not self.loose
        number = self.recorder.number_of(position)
        self.kept.append(Stretch(number, number))

    def keep(self, position: str) -> None:
        """Keep what came, since it stands for a position."""
        number = self.recorder.number_of(position)
        if self.is_new:
            self.kept.append(Stretch(number, number))
            self.is_new = False
        self.kept[-1].got += self.loose
        self.kept[-1].end = number
        self.loose = []
        self.after = position

    def cut(self, bytes_max: int = 0) -> None:
        """Lose the connection, and all that came behind the last position."""
        if self.client is None:
            return
        self.take(bytes_max)
        self.loose = []
        self.client.ended()
        self.recorder.resumes.forget(self.recorder.ports[self.port], self.client)
        self.client = None

    @property
    def is_cut(self) -> bool:
        """Whether the server has closed the connection."""
        return self.client is None or self.client.closing

    def catch_up(self) -> None:
        """Read to the end of what there is, and be told so; connect again for that where the connection has ended."""
        for _ in range(self.recorder.turns_max):
            if self.is_cut:
                self.cut(2**30)
                self.connect()
            self.take()
            has_moved = self.recorder.resumes.step() or bool(self.transport.written)
            if not has_moved and not self.recorder.let_time_pass():
                break
        self.recorder.resumes.tell([self.client] if self.client else [])
        self.take()
        assert not self.loose
        assert self.after == self.recorder.log.told_to(self.cluster)

    def check(self) -> None:
        """Fail unless what it has is exactly the stream, each event once and in order."""
        for stretch in self.kept:
            expected = self.recorder.stream(stretch.begin, stretch.end, self.port, self.cluster, self.topics)
            assert stretch.got == expected


def number_of(position: str) -> int:
    """Return the number in a position."""
    return int(position.rpartition(":")[2])


def events_in(frame: bytes) -> list[bytes]:
    """Return the events of a frame, byte for byte; none where it holds no events."""
    return [
        bytes(raw)
        for raw in _raw_events(frame)
        if bytes(raw).startswith(b"{") and b'"ev":"status"' not in bytes(raw)
    ]


def matches(topics: Iterable[str], event: bytes, port: str = "filtered") -> bool:
    """Return whether a client of these topics gets an event."""
    found = re.match(rb'\{"ev":"(\w+)","sym":"(\w+)"', event)
    assert found is not None, event
    channel, symbol = (part.decode() for part in found.groups())
    if port == "bars" and channel not in ("A", "AM"):
        return False
    return not {"*", f"{channel}.*", f"{channel}.{symbol}"}.isdisjoint(topics)


def found_out(random_life: Callable[[int], None], break_it: Callable[[], None], seeds: Sequence[int]) -> int:
    """Return how many lives find a defect. All of them must be right without it."""
    for seed in seeds:
        random_life(seed)
    break_it()
    found = 0
    for seed in seeds:
        try:
            random_life(seed)
        except AssertionError:
            found += 1
    return found
