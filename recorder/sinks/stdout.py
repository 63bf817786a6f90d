"""Standard output as a sink: records, or structured log lines for people with `rg` and `jq`."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

import orjson

from recorder.bus import Batch, SessionChange
from recorder.clock import Clock
from recorder.ledger import Ledger, SinkStats
from recorder.log import RateLimited, get_logger
from recorder.polygon.rows import Rows, to_object
from recorder.sinks.edge import Edge

_STDOUT_FD = 1
_WRITE_BYTES_MAX = 1024 * 1024

log = get_logger("polygon_events")


@dataclass(slots=True)
class _Output:
    """Whole lines and what they amount to."""

    cluster: str
    data: bytes
    counts: dict[str, int]


class StdoutWriter:
    """Writes lines to a file descriptor, on the edge's thread. A closed pipe is final, and no error."""

    def __init__(self, books: SinkStats, closed: Callable[[], None], fd: int = _STDOUT_FD) -> None:
        """`closed` is called, on the writer thread, when the reader of the pipe is gone."""
        self._books = books
        self._closed = closed
        self._fd = fd
        self._gone = False
        self.failure = ""
        self.bytes_done = 0

    def write(self, item: _Output) -> None:
        """Write all of it, waiting for the reader as long as it takes."""
        view = memoryview(item.data)
        try:
            while view and not self._gone:
                view = view[os.write(self._fd, view[:_WRITE_BYTES_MAX]) :]
        except BrokenPipeError:
            self._end()
        except OSError as error:
            self._books.write_errors += 1
            log.error("stdout cannot be written", error=str(error))
            self._end()
        self.bytes_done += len(item.data)
        self._books.bytes_written += len(item.data) - len(view)
        books = self._books.dropped if self._gone else self._books.recorded
        for channel, count in item.counts.items():
            books[item.cluster, channel] += count

    def tick(self) -> float:
        """Nothing is kept here, so nothing is ever due but a look at the queue."""
        return 0.1

    def _end(self) -> None:
        self._gone = True
        self._closed()


class StdoutSink:
    """Writes records (`records`) or log lines (`lines`) to stdout, with the limits of a disk.

    A reader that is too slow costs the newest batch, counted, never the other consumers. When it goes away,
    `closed` is called and the rest is dropped.
    """

    def __init__(
        self,
        form: Literal["lines", "records"],
        ledger: Ledger,
        clock: Clock,
        closed: Callable[[], None],
        *,
        channel_cap: int,
        buffer_bytes: int,
        warn_interval_secs: float,
        flush_every: int,
        fd: int = _STDOUT_FD,
    ) -> None:
        self.name = "stdout" if form == "lines" else "ndjson"
        self._form = form
        self._clock = clock
        self._warning = RateLimited(warn_interval_secs)
        self.books = ledger.sink(self.name)
        self.edge: Edge[_Output] = Edge(
            self.name,
            StdoutWriter(self.books, closed, fd),
            self.books,
            batches_max=channel_cap,
            bytes_max=buffer_bytes,
            wake_records=flush_every,
            given_up=self._given_up,
        )

    async def run(self) -> None:
        """Work until closed."""
        self.edge.start()
        await self.edge.wait()

    def accept(self, batch: Batch) -> None:
        """Hand the lines of one batch to the writer thread, or drop and count them."""
        rows = batch.recorded
        if not rows:
            return
        for channel, count in rows.counts.items():
            self.books.accepted[rows.cluster, channel] += count
        data = batch.lines if self._form == "records" else log_lines(batch.received_ns, rows)
        if self.edge.offer(_Output(rows.cluster, data, rows.counts), len(data), len(rows)):
            return
        at_ms = self._clock.wall_ns() // 1_000_000
        self.books.note_drops(at_ms, rows.cluster, rows.counts, "the reader of stdout is too slow")
        for channel, count in rows.counts.items():
            self.books.dropped[rows.cluster, channel] += count
        suppressed = self._warning.ready(self._clock.monotonic_ns())
        if suppressed is not None:
            log.warning(
                "lines dropped: the reader of stdout is too slow",
                dropped_total=sum(self.books.dropped.values()),
                batches_since_last_warning=suppressed + 1,
            )

    def session_changed(self, change: SessionChange) -> None:
        """Sessions are no matter of stdout."""

    async def close(self, reason: str, timeout_secs: float) -> None:
        """Write what is pending; give up after `timeout_secs`."""
        await self.edge.close(timeout_secs, lambda: None)

    def _given_up(self, item: _Output) -> None:
        for channel, count in item.counts.items():
            self.books.dropped[item.cluster, channel] += count

    def __repr__(self) -> str:
        return f"StdoutSink({self._form}, {self.edge!r})"


def log_lines(received_ns: int, rows: Rows) -> bytes:
    """Return one structured log line for each row, as `records.md` describes; the payload keeps its bytes."""
    moment = datetime.fromtimestamp(received_ns // 1000 / 1e6, UTC)
    head = (
        f'{{"timestamp":"{moment:%Y-%m-%dT%H:%M:%S.%fZ}","level":"INFO","target":"polygon_events","fields":'
    ).encode()
    lines = []
    for channel, symbol, ts_ms, fragment in zip(
        rows.channels, rows.symbols, rows.times_ms, rows.fragments, strict=True
    ):
        payload = to_object(fragment).replace(b"\n", b" ").replace(b"\r", b" ")
        lines.append(
            b'%b{"type":%b,"symbol":%b,"ts":%d,"payload":%b,"line":%b}}\n'
            % (
                head,
                orjson.dumps(channel),
                orjson.dumps(symbol),
                ts_ms,
                payload,
                orjson.dumps(f"{channel}:{symbol} {payload.decode()}"),
            )
        )
    return b"".join(lines)
