"""Standard output as a sink: records, or structured log lines for people with `rg` and `jq`."""

from __future__ import annotations

import os
import select
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final, Literal

import orjson

from recorder.bus import Batch
from recorder.clock import Clock
from recorder.ledger import Ledger
from recorder.log import get_logger
from recorder.polygon.rows import Rows, to_object
from recorder.sinks.queue import QueueLimits
from recorder.sinks.sink import Drops, ThreadSink
from recorder.sinks.target import LinesItem

_STDOUT_FD: Final = 1
_WRITE_BYTES_MAX: Final = 1024 * 1024

log = get_logger("polygon_events")


class StdoutWriter:
    """Writes lines to a file descriptor, on the sink's thread. A closed pipe is final, and no error."""

    failure = ""
    """A reader that is slow is waited for, and one that is gone takes everything."""

    def __init__(self, drops: Drops, closed: Callable[[], None], fd: int = _STDOUT_FD) -> None:
        """`closed` is called, on the writer thread, when the reader of the pipe is gone."""
        self._drops = drops
        self._stats = drops.stats
        self._closed = closed
        self._fd = fd
        self._gone = False
        self.bytes_done = 0

    def open(self) -> None:
        """Do nothing: the descriptor is open."""

    def write(self, item: LinesItem) -> None:
        """Write all of it, waiting for the reader as long as it takes."""
        view = memoryview(item.data)
        try:
            while view and not self._gone:
                try:
                    view = view[os.write(self._fd, view[:_WRITE_BYTES_MAX]) :]
                except BlockingIOError:
                    # A program that shares the pipe has made it non-blocking: the pipe is full, and its reader still exists.
                    self._wait_until_writable()
        except BrokenPipeError:
            self._end()
        except OSError as error:
            self._stats.write_errors += 1
            log.error("stdout_write_failed", error=str(error))
            self._end()
        self.bytes_done += len(item.data)
        self._stats.bytes_written += len(item.data) - len(view)
        if self._gone:
            self._drops.add(item.cluster, item.counts, "the reader of stdout is gone")
            return
        self._stats.note_recorded(item.cluster, item.counts)

    def tick(self) -> float:
        """Return when to look at the queue again; nothing is kept here, so nothing else is ever due."""
        return 0.1

    def close(self, deadline_ns: int) -> None:
        """Do nothing: stdout is closed with the process."""

    def _wait_until_writable(self) -> None:
        poll = select.poll()
        poll.register(self._fd, select.POLLOUT)
        poll.poll()

    def _end(self) -> None:
        self._gone = True
        self._closed()


class StdoutSink(ThreadSink[LinesItem]):
    """Writes records (`records`) or log lines (`lines`) to stdout, with the limits of a disk.

    A reader that is too slow costs the newest batch, counted, never the other consumers. When it goes away,
    `closed` is called and the rest is dropped.
    """

    full = "lines dropped: the reader of stdout is too slow"
    full_reason = "the reader of stdout is too slow"

    def __init__(
        self,
        form: Literal["lines", "records"],
        ledger: Ledger,
        clock: Clock,
        closed: Callable[[], None],
        limits: QueueLimits,
        *,
        warn_interval_secs: float,
        fd: int = _STDOUT_FD,
    ) -> None:
        self._form = form
        name = "stdout" if form == "lines" else "ndjson"
        drops = Drops(ledger.sink(name), clock, log, warn_interval_secs)
        super().__init__(name, StdoutWriter(drops, closed, fd), drops, limits)

    def item_of(self, batch: Batch, rows: Rows) -> LinesItem | None:
        """Return the lines of a batch."""
        if not rows:
            return None
        data = batch.lines if self._form == "records" else log_lines(batch.received_ns, rows)
        return LinesItem(rows.cluster, rows.counts, data)


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
