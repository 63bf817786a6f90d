"""What `recorder audit` prints: access logs added up by day and token, as a table, JSON or CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Final

import orjson
from rich.console import Console
from rich.table import Table
from rich.text import Text

from recorder.access_log.record import AccessRecord, decode
from recorder.archive.reader import lines, read_blocks
from recorder.errors import ArchiveError, NoArchive
from recorder.words import printable, shortened, size_text

_SHOWN_MAX: Final = 4
"""Topics and addresses of a row of the table; JSON and CSV have all."""
_PROBLEMS_MAX: Final = 20
COLUMNS: Final = (
    "day",
    "token",
    "fingerprint",
    "connections",
    "first",
    "last",
    "connected_secs",
    "events",
    "bytes",
    "ports",
    "addresses",
    "clusters",
    "topics",
)
"""Of the CSV, and the keys of a row in JSON."""


@dataclass(slots=True)
class Total:
    """What one token received on one day."""

    day: str
    token: str
    fingerprint: str
    first: datetime
    last: datetime
    connections: set[str] = field(default_factory=set)
    connected_secs: float = 0.0
    """The time of all its connections together."""
    events: int | None = 0
    """None where they were not counted."""
    bytes: int = 0
    ports: set[str] = field(default_factory=set)
    addresses: set[str] = field(default_factory=set)
    clusters: set[str] = field(default_factory=set)
    topics: set[str] = field(default_factory=set)

    def add(self, record: AccessRecord) -> None:
        """Add a line."""
        self.first = min(self.first, record.begun)
        self.last = max(self.last, record.ended)
        self.connections.add(record.connection)
        self.connected_secs += (record.ended - record.begun).total_seconds()
        if self.events is None or record.events is None:
            self.events = None
        else:
            self.events += record.events
        self.bytes += record.bytes
        self.ports.add(record.port)
        self.addresses.add(record.address)
        self.clusters.update(record.clusters)
        self.topics.update(record.subscribed)

    def row(self) -> dict[str, object]:
        """Return it as JSON has it."""
        return {
            "day": self.day,
            "token": self.token,
            "fingerprint": self.fingerprint,
            "connections": len(self.connections),
            "first": _moment(self.first),
            "last": _moment(self.last),
            "connected_secs": round(self.connected_secs, 3),
            "events": self.events,
            "bytes": self.bytes,
            "ports": sorted(self.ports),
            "addresses": sorted(self.addresses),
            "clusters": sorted(self.clusters),
            "topics": sorted(self.topics),
        }


@dataclass(slots=True)
class _Seen:
    """The lines of one connection, over all files."""

    seqs: set[int] = field(default_factory=set)
    has_left: bool = False
    is_wanted: bool = False
    """Whether any of them is asked for."""


class Audit:
    """Access logs, added up. Lines count once, however often they are read."""

    def __init__(self, token: str = "", day: str = "") -> None:
        """`token` is the name or the fingerprint of the one that is asked for, `day` the day; empty: all."""
        self._token = token
        self._day = day
        self.lines_count = 0
        self.problems: list[str] = []
        """Lines and files that cannot be read, the first of them."""
        self.problems_count = 0
        self._totals: dict[tuple[str, str, str], Total] = {}
        self._seen: dict[str, _Seen] = {}

    def read(self, paths: Iterable[str]) -> None:
        """Read files, plain or compressed, in any order. Raise NoArchive for a path that is no file."""
        for path in paths:
            if not Path(path).is_file():
                raise NoArchive(f"{path} is no file; name access logs, as access*.jsonl*")
            try:
                for number, line in enumerate(lines(read_blocks(Path(path)), path), start=1):
                    self._read_line(line, f"{path}:{number}")
            except ArchiveError as error:
                self._note(str(error))

    def _read_line(self, line: bytes, place: str) -> None:
        if not line.strip():
            return
        try:
            record = decode(line)
        except ArchiveError as error:
            self._note(f"{place}: {error}")
            return
        seen = self._seen.setdefault(record.connection, _Seen())
        if record.seq in seen.seqs:
            return
        seen.seqs.add(record.seq)
        seen.has_left |= record.kind == "left"
        if self._token not in ("", record.token, record.fingerprint) or self._day not in ("", record.day):
            return
        seen.is_wanted = True
        self.lines_count += 1
        key = (record.day, record.token, record.fingerprint)
        if key not in self._totals:
            self._totals[key] = Total(*key, first=record.begun, last=record.ended)
        self._totals[key].add(record)

    def _note(self, problem: str) -> None:
        self.problems_count += 1
        if len(self.problems) < _PROBLEMS_MAX:
            self.problems.append(problem)

    @property
    def totals(self) -> list[Total]:
        """What each token received, by day."""
        return [self._totals[key] for key in sorted(self._totals)]

    @property
    def missing_lines(self) -> int:
        """Lines that are in none of the files, though earlier and later lines of their connection are."""
        wanted = (seen.seqs for seen in self._seen.values() if seen.is_wanted)
        return sum(max(seqs) - min(seqs) + 1 - len(seqs) for seqs in wanted)

    @property
    def open_connections(self) -> int:
        """Connections whose end is in none of the files: they last, or the recorder was killed."""
        return sum(seen.is_wanted and not seen.has_left for seen in self._seen.values())

    @property
    def is_whole(self) -> bool:
        """Whether every line could be read, and none is missing."""
        return not self.problems_count and not self.missing_lines

    def remarks(self) -> Iterator[str]:
        """Yield what whoever uses the figures has to know."""
        yield from (f"problem: {problem}" for problem in self.problems)
        if self.problems_count > len(self.problems):
            yield f"problem: and {self.problems_count - len(self.problems):,} more"
        if self.missing_lines:
            yield (
                f"problem: {self.missing_lines:,} lines are missing, and with them what they counted: name all files "
                "of these days, or see polygon_access_log_dropped_total"
            )
        if self.open_connections:
            yield (
                f"note: the end of {self.open_connections:,} connections is not in these files: they last, or the "
                "recorder was killed, and what they received after their last line is not counted"
            )

    def as_json(self) -> str:
        """Return everything as one JSON object."""
        found = {
            "totals": [total.row() for total in self.totals],
            "lines": self.lines_count,
            "missing_lines": self.missing_lines,
            "open_connections": self.open_connections,
            "problems_count": self.problems_count,
            "problems": self.problems,
        }
        return orjson.dumps(found, option=orjson.OPT_INDENT_2).decode()

    def as_csv(self) -> str:
        """Return a row for each day and token; lists are separated by spaces."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(COLUMNS)
        for total in self.totals:
            cells = (" ".join(cell) if isinstance(cell, list) else cell for cell in total.row().values())
            writer.writerow([_harmless(cell) for cell in cells])
        return text.getvalue().rstrip("\n")

    def print_table(self, console: Console) -> None:
        """Print a row for each day and token, for people."""
        headings = ("day", "token", "connections", "connected", "events", "bytes", "from", "topics")
        table = Table(*headings, box=None, header_style="bold")
        for column in (2, 3, 4, 5):
            table.columns[column].justify = "right"
        for total in self.totals:
            cells = [
                total.day,
                f"{total.token} ({total.fingerprint})",
                f"{len(total.connections):,}",
                _duration(total.connected_secs),
                "not counted" if total.events is None else f"{total.events:,}",
                size_text(total.bytes),
                _first_of(total.addresses),
                _first_of(total.topics),
            ]
            table.add_row(*(Text(printable(cell)) for cell in cells))
        console.print(table)
        if not self._totals:
            console.print("nothing was received, as far as these files say", markup=False)


def _first_of(values: set[str]) -> str:
    ordered = sorted(values)
    more = len(ordered) - _SHOWN_MAX
    return ", ".join(shortened(value, 40) for value in ordered[:_SHOWN_MAX]) + (
        f" and {more:,} more" if more > 0 else ""
    )


def _duration(secs: float) -> str:
    minutes, rest = divmod(round(secs), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}"


def _harmless(cell: object) -> object:
    """Return a cell that no spreadsheet takes for a formula."""
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(("=", "+", "-", "@")) else cell


def _moment(at: datetime) -> str:
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")
