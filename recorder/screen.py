"""A snapshot for a terminal: what `recorder top` shows, as much of it as there is room for."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Final

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.rule import Rule
from rich.text import Text

from recorder.addresses import joined
from recorder.columns import GAP, Column, Grid
from recorder.ops.status_schema import ActiveFile, Archive, Client, Feed, Part, Replay, Snapshot, Stream
from recorder.words import moment_text, printable, size_text

SPARK_SECS: Final = 40
_SPARKS: Final = "▁▂▃▄▅▆▇█"
_SPARKS_ASCII: Final = "_.-=+*#@"
_SPARK_CHARS_MIN: Final = 10
"""A shorter one shows nothing."""
_FILES_MAX: Final = 8
_LOSSES_MAX: Final = 3
_PARTS_MAX: Final = 5

_NOT_RUNNING: Final = ("starting", "degraded", "over")
"""States of a part that are shown. Those that wait for their turn, at start and stop, would only fill the screen."""

Block = tuple[RenderableType, int]
"""Something to show, and the lines that it takes."""


class Screen:
    """Draws snapshots. What does not fit into the height is left out from the end, and said to be.

    Where the terminal is narrow, columns are left out whole and sentences go on in the next line.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._sparks = _SPARKS if (console.encoding or "").lower().startswith("utf") else _SPARKS_ASCII

    def draw(
        self,
        snapshot: Snapshot,
        rates: Mapping[str, Sequence[float]],
        *,
        height: int | None = None,
        notice: str = "",
        hint: str = "",
    ) -> Group:
        """Return what to print. `rates` are those of the last seconds by cluster, the newest last.

        `height` None: all of it. A `notice`, such as a lost connection, stands where the state stands otherwise.
        """
        shown: list[RenderableType] = []
        room = (height or 100_000) - bool(hint)
        for renderable, lines in self._blocks(snapshot, rates, notice):
            if lines <= room:
                shown.append(renderable)
                room -= lines
        clients = self._clients(snapshot, room)
        if clients is not None:
            shown.append(clients)
        if hint:
            shown.append(_line(Text(hint, "dim")))
        return Group(*shown)

    def _blocks(
        self, snapshot: Snapshot, rates: Mapping[str, Sequence[float]], notice: str
    ) -> Iterator[Block]:
        head = Text.assemble(
            ("recorder", "bold"),
            f" {printable(snapshot.hostname)}",
            (f"  version {snapshot.version}, up {duration_text(snapshot.uptime_secs)}", "dim"),
        )
        yield _line(head), 1
        yield from self._state(snapshot, notice)
        if snapshot.replay is not None:
            yield self._joined(_replay(snapshot.replay))
        yield self._joined(_figures(snapshot))
        if snapshot.feeds:
            yield self._feeds(snapshot, rates), len(snapshot.feeds) + 2
        for stream in snapshot.streams:
            yield self._joined(_stream(stream))
        parts = [part for part in snapshot.parts if part.failed_at or part.state in _NOT_RUNNING]
        if parts:
            yield self._parts(snapshot, parts), min(len(parts), _PARTS_MAX) + 2
        if snapshot.archive is not None:
            active = sorted(snapshot.archive.active, key=lambda file: -file.bytes)[:_FILES_MAX]
            yield self._files(snapshot, snapshot.archive, active), len(active) + 2
        losses = [self._wrapped(text) for text in _losses(snapshot)]
        if losses:
            yield (
                Group(_rule("lost"), *(text for text, _ in losses)),
                1 + sum(lines for _, lines in losses),
            )

    def _state(self, snapshot: Snapshot, notice: str) -> Iterator[Block]:
        if notice:
            yield self._wrapped(Text(printable(notice), "bold yellow"))
            return
        if snapshot.ready:
            word = "RECORDING" if snapshot.sinks else "SERVING"
            yield _line(Text("REPLAYING" if snapshot.replay is not None else word, "bold green")), 1
        else:
            yield _line(Text("NOT READY", "bold red")), 1
        for texts, style in (
            (snapshot.reasons, "red"),
            (snapshot.notes, "dim"),
            (snapshot.warnings, "yellow"),
        ):
            for text in texts:
                yield self._wrapped(Text(printable(text), style), indent=2)

    def _feeds(self, snapshot: Snapshot, rates: Mapping[str, Sequence[float]]) -> RenderableType:
        columns = [
            Column("feed"),
            Column("state"),
            Column("rate", is_number=True),
            Column("last data", is_number=True, goes=1),
            Column("topics", is_number=True, goes=4),
            Column("reconnects", is_number=True, goes=3),
            Column("gaps", is_number=True, goes=2),
        ]
        rows = [_feed_row(feed, snapshot.at) for feed in snapshot.feeds]
        # A spark line takes what is left, and nothing gives way for it.
        chars = min(SPARK_SECS, self._console.width - Grid(columns, rows).width - GAP)
        if chars >= _SPARK_CHARS_MIN:
            columns.insert(3, Column(""))
            for feed, row in zip(snapshot.feeds, rows, strict=True):
                row.insert(3, Text(self._spark(rates.get(feed.cluster, ())[-chars:]), "cyan"))
        return self._under("feeds", columns, rows)

    def _spark(self, values: Sequence[float]) -> str:
        if len(values) < 2:
            return ""
        top = max(values) or 1.0
        last = len(self._sparks) - 1
        return "".join([self._sparks[min(last, round(value / top * last))] for value in values])

    def _parts(self, snapshot: Snapshot, parts: Sequence[Part]) -> RenderableType:
        """Those that failed last come first."""
        columns = [
            Column("part"),
            Column("state"),
            Column("restarts", is_number=True, goes=2),
            Column("last failure", goes=1),
            Column("why", chars_min=24),
        ]
        newest = sorted(parts, key=lambda part: -part.failed_at)[:_PARTS_MAX]
        rows = [
            [
                Text(printable(part.name), "bold"),
                Text(part.state, "red" if part.state == "degraded" else ""),
                Text(f"{part.restarts:,}"),
                Text(_ago(part.failed_at, snapshot.at) if part.failed_at else ""),
                Text(printable(part.failure)),
            ]
            for part in newest
        ]
        more = len(parts) - len(newest)
        return self._under(
            f"parts that failed or do not run{f': {more:,} more' if more else ''}", columns, rows
        )

    def _files(self, snapshot: Snapshot, archive: Archive, active: Sequence[ActiveFile]) -> RenderableType:
        columns = [
            Column("file", chars_min=24),
            Column("events", is_number=True, goes=2),
            Column("size", is_number=True),
            Column("next rotation", goes=1),
        ]
        rows = [
            [
                Text(printable(file.file)),
                Text(f"{file.records:,}"),
                Text(size_text(file.bytes)),
                Text(_rotation(file, archive, snapshot.at)),
            ]
            for file in active
        ]
        more = len(archive.active) - len(active)
        words = [f"{archive.rotations:,} finished"]
        if more:
            words.insert(0, f"{more:,} more")
        if archive.compress_pending:
            words.append(f"{archive.compress_pending:,} to compress")
        if archive.upload is not None and archive.upload.waiting_files:
            words.append(f"{archive.upload.waiting_files:,} to upload")
        return self._under(f"files: {', '.join(words)}", columns, rows)

    def _clients(self, snapshot: Snapshot, room: int) -> RenderableType | None:
        """As many as there is room for, those that leave most unread first."""
        if not snapshot.servers or room < 2:
            return None
        ports = ", ".join(f"{server.port} {server.clients:,}" for server in snapshot.servers)
        title = f"clients: {ports}"
        count = min(len(snapshot.clients), room - 3)
        if count < 1:
            return _rule(title)
        columns = [
            Column("address", chars_min=21),
            Column("port", goes=1),
            Column("topics", chars_min=18),
            Column("unread", is_number=True),
            Column("late by", is_number=True),
            Column("delivered", is_number=True, goes=3),
            Column("for", is_number=True, goes=4),
            Column("token", goes=2, chars_min=8),
        ]
        clients = sorted(snapshot.clients, key=lambda client: (-client.lag_secs, -client.unread_bytes))
        table = self._under(title, columns, [_client_row(client) for client in clients[:count]])
        rest = snapshot.clients_count - count
        return Group(table, _line(Text(f"and {rest:,} more", "dim"))) if rest > 0 else table

    def _under(self, title: str, columns: Sequence[Column], rows: Sequence[Sequence[Text]]) -> RenderableType:
        return Group(_rule(title), Grid(columns, rows).fit(self._console.width))

    def _wrapped(self, text: Text, indent: int = 0) -> Block:
        """Return a sentence in as many lines as it needs."""
        lines = text.wrap(self._console, max(1, self._console.width - indent))
        return Padding(Text("\n").join(lines), (0, 0, 0, indent), expand=False), len(lines)

    def _joined(self, pieces: Sequence[Text]) -> Block:
        """Return short pieces one after another, in as many lines as they need; none is torn apart."""
        lines = [pieces[0]]
        for piece in pieces[1:]:
            if lines[-1].cell_len + 2 + piece.cell_len <= self._console.width:
                lines[-1] = Text.assemble(lines[-1], "; ", piece)
            else:
                lines.append(piece)
        return Group(*(_line(line) for line in lines)), len(lines)


def _figures(snapshot: Snapshot) -> list[Text]:
    found = []
    for sink in snapshot.sinks:
        balance = sink.balance
        found.append(
            Text.assemble(
                f"{printable(sink.name)}: {balance.recorded:,} recorded, ",
                (f"{balance.dropped:,} dropped", "bold red" if balance.dropped else ""),
                f", {size_text(sink.pending_bytes)} pending, ",
                (f"books off by {balance.difference:,}", "bold red")
                if balance.difference
                else "books balance",
            )
        )
    if snapshot.archive is not None and snapshot.archive.pressure.free_bytes is not None:
        pressure = snapshot.archive.pressure
        step = "" if pressure.step == "none" else f" (step: {pressure.step})"
        found.append(Text(f"disk {size_text(pressure.free_bytes or 0)} free{step}", "yellow" if step else ""))
    found.append(Text(f"loop late by {snapshot.loop_lag_secs * 1000:.1f} ms"))
    return found


def _stream(stream: Stream) -> list[Text]:
    """Return how a stream is followed, in pieces."""
    found = [Text(f"stream {printable(stream.stream)}"), Text(f"event {stream.event:,}")]
    if not stream.server:
        found.append(Text("not connected", "red"))
    elif stream.lag_secs:
        words = f"{duration_text(stream.lag_secs)} behind, {stream.lag_messages:,} messages"
        found.append(Text(words, "yellow" if stream.lag_secs > 10 else ""))
    if stream.events_missing:
        found.append(Text(f"{stream.events_missing:,} events missing in it", "yellow"))
    return found


def _replay(replay: Replay) -> list[Text]:
    """Return where a replay stands, in pieces."""
    pace = "as fast as clients take it" if replay.rate is None else f"{replay.rate:g}x"
    found = [
        Text(f"replay: {replay.state} at {pace}", "yellow" if replay.state != "playing" else ""),
        Text(f"at {moment_text(replay.position)}"),
    ]
    if replay.progress is not None:
        found.append(Text(f"{math.floor(replay.progress * 1000) / 10:.1f} % of it"))
    found.append(Text(f"{replay.events:,} events"))
    found.append(
        Text(f"{replay.gaps:,} recorded gap{'s' * (replay.gaps != 1)}", "yellow" if replay.gaps else "")
    )
    found.append(Text(f"late by {replay.lag_secs * 1000:,.1f} ms", "yellow" if replay.lag_secs > 1 else ""))
    if replay.moved_secs:
        found.append(Text(f"its clock was moved by {replay.moved_secs:,.1f} s"))
    if replay.shifted_ms is not None:
        found.append(Text(f"times shifted by {duration_text(replay.shifted_ms / 1000)}", "yellow"))
    return found


def _feed_row(feed: Feed, at_ms: int) -> list[Text]:
    counted = feed.events_received is not None
    rate = feed.events_per_sec if counted else feed.frames_per_sec
    return [
        Text(printable(feed.cluster), "bold"),
        _feed_state(feed, at_ms),
        Text(f"{rate:,.0f}/s" if counted else f"{rate:,.0f} frames/s"),
        Text(_ago(feed.last_received, at_ms)),
        Text(f"{feed.topics_acknowledged:,}/{feed.topics_wanted:,}"),
        Text(f"{feed.reconnects:,}"),
        Text(f"{feed.gaps:,}"),
    ]


def _feed_state(feed: Feed, at_ms: int) -> Text:
    secs = (at_ms - feed.since) / 1000
    if feed.ready:
        return Text(f"{feed.state} for {duration_text(secs)}", "green")
    return Text(f"{feed.state} for {duration_text(secs)}" if feed.subscribed else feed.state, "red")


def _rotation(file: ActiveFile, archive: Archive, at_ms: int) -> str:
    words = []
    if file.rotates_at is not None:
        words.append(f"in {duration_text(max(0, file.rotates_at - at_ms) / 1000)}")
    if archive.rotate_bytes is not None:
        words.append(f"at {size_text(archive.rotate_bytes)}")
    return " or ".join(words)


def _losses(snapshot: Snapshot) -> Iterator[Text]:
    for feed in snapshot.feeds:
        if feed.gap_since:
            secs = max(0, snapshot.at - feed.gap_since) / 1000
            words = f"gap: {feed.cluster}, {secs:,.1f} s so far ({feed.gap_reason})"
            yield Text(printable(words), "red")
        if feed.today_missing_secs and feed.today_complete is not None:
            # Cut, not rounded: 100 % means that nothing is missing.
            percent = math.floor(feed.today_complete * 100_000) / 1000
            words = f"today: {feed.cluster}, {percent:.3f} % complete, {duration_text(feed.today_missing_secs)} missing"
            yield Text(printable(words), "yellow")
    for gap in snapshot.recent_gaps[:_LOSSES_MAX]:
        secs = (gap.ended - gap.begun) / 1000
        words = f"gap: {gap.cluster}, {secs:,.1f} s, ended {_moment(gap.ended)} ({gap.reason})"
        yield Text(printable(words), "yellow")
    drops = [(drop, sink.name) for sink in snapshot.sinks for drop in sink.recent_drops]
    for drop, sink in sorted(drops, key=lambda entry: -entry[0].last)[:_LOSSES_MAX]:
        words = f"dropped by {sink}: {drop.count:,} {drop.cluster} {drop.channel}, last {_moment(drop.last)} ({drop.reason})"
        yield Text(printable(words), "red")


def _client_row(client: Client) -> list[Text]:
    shown = ", ".join(client.topics[:3])
    rest = client.topics_count - len(client.topics[:3])
    cells = (
        joined(client.address, client.address_port),
        f"{client.port} (worker {client.worker})" if client.worker else client.port,
        f"{shown} and {rest:,} more" if rest > 0 else shown,
        size_text(client.unread_bytes),
        f"{client.lag_secs:.1f} s",
        size_text(client.bytes),
        duration_text(client.connected_secs),
        client.token or "not authenticated",
    )
    style = "yellow" if client.lag_secs > 2 else ""
    return [Text(printable(cell), style) for cell in cells]


def duration_text(secs: float) -> str:
    """Return a time span as people read it: `58 s`, `3 min 20 s`, `2 h 14 min`, `5 d 3 h`."""
    whole = max(0, int(secs))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60} min"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"


def _ago(then_ms: int, now_ms: int) -> str:
    if not then_ms:
        return "none yet"
    secs = (now_ms - then_ms) / 1000
    return "now" if secs < 1.5 else f"{duration_text(secs)} ago"


def _moment(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1000).astimezone().strftime("%H:%M:%S")


def _rule(title: str) -> Rule:
    return Rule(Text(printable(title)), align="left", style="dim", characters="-")


def _line(text: Text) -> Text:
    text.no_wrap = True
    text.overflow = "ellipsis"
    return text
