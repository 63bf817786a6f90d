"""A stream that a test writes, message by message, in place of a recorder; and a source that follows it."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress

from fakes import CollectingConsumer
from nats_servers import Asking, NatsServer, nats_settings
from waiting import eventually

from recorder.bus import Border, Bus, SessionClosed, SessionOpened
from recorder.clock import SystemClock
from recorder.overlap import Overlap, Recorded
from recorder.settings import NatsSettings
from recorder.sources.nats.source import NatsSource
from recorder.sources.nats.stats import StreamStats
from recorder.sources.source import SourceContext
from recorder.sources.stats import FeedStats
from recorder.stream_message import Heading, Names, encode_frames

RECEIVED_NS = 1_795_237_802_000_000_000
"""When the frames of the first event were received; each later event came a second later."""


def event(number: int) -> bytes:
    """Return the event of a number."""
    return b'{"ev":"T","sym":"A","t":1760375617662,"q":%d}' % number


class Stream:
    """Writes messages of one stream, whose events are numbered."""

    def __init__(self, server: NatsServer, prefix: str) -> None:
        self.name, self.subject = Names.of(prefix, "stocks")
        self.server = server
        self.next_event = 1

    def make(self) -> Stream:
        """Make the stream."""
        config = {
            "name": self.name,
            "subjects": [self.subject],
            "retention": "limits",
            "storage": "file",
            "max_msgs": -1,
            "max_bytes": -1,
            "num_replicas": 1,
        }
        assert "created" in self.ask("STREAM.CREATE", config)
        return self

    def ask(self, what: str, request: object = None) -> dict[str, object]:
        """Return what the API of JetStream says of the stream."""
        with Asking(self.server) as asking:
            return asking.ask(f"$JS.API.{what}.{self.name}", request)

    def append(self, count: int = 1, *, writer: str = "w", dropped: int = 0, gap: str = "") -> int:
        """Append a message with the next events, each in a frame; return its sequence number."""
        first, self.next_event = self.next_event, self.next_event + count
        heading = Heading(first, count, RECEIVED_NS + first * 10**9, writer, dropped, gap)
        return self.append_raw(
            heading.headers(),
            encode_frames([b"[%b]" % event(number) for number in range(first, first + count)]),
        )

    def append_raw(self, headers: dict[str, str], content: bytes) -> int:
        """Append anything; return its sequence number."""
        with Asking(self.server) as asking:
            answer = asking.append(self.subject, headers, content)
        return int(answer["seq"])


class Listener(CollectingConsumer):
    """Keeps what is on the bus, and lets nothing be read while it is told so."""

    def __init__(self) -> None:
        super().__init__()
        self.borders: list[str] = []
        self.is_full = False

    def border_passed(self, border: Border) -> None:
        self.borders.append(border.after)

    def may_read(self) -> bool:
        return not self.is_full


class Following:
    """A source with its bus and figures."""

    def __init__(self, settings: NatsSettings, recorded: Recorded) -> None:
        self.bus = Bus()
        self.got = Listener()
        self.bus.attach(self.got)
        self.stats = FeedStats("stocks", (1.0,), (1.0,))
        self.stream = StreamStats("stocks", Names.of(settings.stream_prefix, "stocks").stream)
        context = SourceContext(self.bus, "stocks", self.stats, SystemClock(), {}, lambda: recorded)
        self.source = NatsSource(context, settings, self.stream)

    @property
    def numbers(self) -> list[int]:
        """The numbers of all events that came, in order."""
        return [int(number) for frame in self.got.frames for number in re.findall(rb'"q":(\d+)', frame)]

    @property
    def marks(self) -> list[str]:
        """The positions that came behind messages."""
        return [mark.after for batch in self.got.batches for mark in batch.marks]

    @property
    def opened(self) -> list[SessionOpened]:
        """The sessions that have begun."""
        return [change for change in self.got.changes if isinstance(change, SessionOpened)]

    @property
    def closed(self) -> list[SessionClosed]:
        """The sessions that have ended."""
        return [change for change in self.got.changes if isinstance(change, SessionClosed)]

    async def has(self, count: int) -> None:
        """Wait until so many events have come, in a session."""
        await eventually(lambda: len(self.numbers) >= count and self.stats.subscribed, f"{count} events")


@asynccontextmanager
async def following(
    server: NatsServer,
    prefix: str,
    after: str = "",
    recorded: Sequence[bytes] = (),
    since_ms: int = 0,
    **changes: object,
) -> AsyncIterator[Following]:
    """Yield a source that runs; `recorded` is what is in the archive behind the position `after`.

    `since_ms` is when the last of it came.
    """
    settings = nats_settings(server, stream_prefix=prefix, **changes)
    made = Following(settings, Recorded(after, Overlap(recorded), since_ms))
    await made.source.open()
    task = asyncio.ensure_future(made.source.run())
    try:
        yield made
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        await made.source.close(0)
