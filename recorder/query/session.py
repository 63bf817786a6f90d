"""One query: the files that it needs are proven, then DuckDB answers, with no access to anything else."""

from __future__ import annotations

import difflib
import re
import threading
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from recorder.archive.proofs import Proofs
from recorder.archive.recorded_segment import Segment
from recorder.errors import ArchiveError, RecorderError
from recorder.library.reader import Choice
from recorder.progress import Progress, Share
from recorder.tables.engine import Engine, UnknownName, lock_in
from recorder.tables.scratch import scratch_folder
from recorder.tables.sealed import Incomplete, Sealed, proven
from recorder.tables.views import CODES, MACROS, quoted
from recorder.words import printable

if TYPE_CHECKING:
    from recorder.tables.dataset import RecordSet
    from recorder.tables.engine import Connection

_COUNT: Final = re.compile(
    r"\s*select\s+count\(\s*\*\s*\)(?:\s+as\s+(?P<alias>[a-z_][a-z0-9_]*))?\s+from\s+(?P<view>[a-z0-9_]+)\s*;?\s*",
    re.IGNORECASE | re.ASCII,
)
_NO_TABLE: Final = re.compile(
    r"Table with name (?P<name>.+?) does not exist|Table Function with name (?P<function>bars|quotes_asof) does"
)
_ROWS: Final = 10_000
"""Taken off the answer at once."""
_LOOK_SECS: Final = 0.1
"""How often progress is reported."""
_TABLES: Final = {
    "segments": (
        "file VARCHAR, run_id VARCHAR, first_seq BIGINT, last_seq BIGINT, first_ingest_ts BIGINT, "
        "last_ingest_ts BIGINT, type VARCHAR, records BIGINT"
    ),
    "gaps": "feed VARCHAR, from_ts BIGINT, to_ts BIGINT, reason VARCHAR, run_id VARCHAR",
}
"""What the manifest has, as tables: a row for each segment and type, and for each gap."""


class Answer(NamedTuple):
    """Rows to take, many at once."""

    columns: list[str]
    rows: Iterator[list[tuple[Any, ...]]]


class Opened:
    """DuckDB, ready to answer a statement."""

    def __init__(
        self,
        connection: Connection,
        views: Collection[RecordSet],
        sql: str,
        folder: Path,
        target: Path | None,
    ) -> None:
        self._connection = connection
        self._views = views
        self._sql = sql
        self._folder = folder
        self._files = [target] if target is not None else []

    def answer(self, report: Share | None = None) -> Answer:
        """Return the answer. Its rows are made as they are taken, as far as they can be."""
        connection = self._connection
        with self._watched(report):
            lock_in(connection, self._folder, self._files)
            connection.execute(self._sql)
        columns = _unlike(str(column[0]) for column in connection.description or [])
        return Answer(columns, iter(lambda: connection.fetchmany(_ROWS), []))

    def write_parquet(self, target: Path, report: Share | None = None) -> None:
        """Write the answer to the target that this was opened with."""
        # The line end closes a comment that the statement may end with.
        inner = self._sql.rstrip().rstrip(";")
        with self._watched(report):
            lock_in(self._connection, self._folder, self._files)
            self._connection.execute(
                f"COPY ({inner}\n) TO {quoted(str(target))} (FORMAT parquet, COMPRESSION zstd)"
            )

    @contextmanager
    def _watched(self, report: Share | None) -> Iterator[None]:
        """Report how much is read of the views that the statement has begun with."""
        if report is None:
            yield
            return
        is_over = threading.Event()

        def look(report: Share) -> None:
            while not is_over.wait(_LOOK_SECS):
                report(min((view.percent_read for view in self._views if view.percent_read), default=0.0))

        looking = threading.Thread(target=look, args=(report,), name="progress", daemon=True)
        looking.start()
        try:
            yield
        finally:
            is_over.set()
            looking.join()


class Query:
    """One statement over what is sealed."""

    def __init__(self, sealed: Sealed, sql: str) -> None:
        """Find out what the statement needs. Raise `SqlRefused`, or `ConfigError` where DuckDB is not installed."""
        self._engine = Engine("recorder query")
        self._sealed = sealed
        self._proofs = Proofs()
        self.problems = list(sealed.problems)
        """What of the archive the answer is without."""
        self._sql = self._engine.one_select(sql)
        # A word that happens to be the name of a view costs time and nothing else.
        words = {word.lower() for word in re.findall(r"\w+", self._sql)}
        self._macros = [name for name in MACROS if name in words]
        words.update(*(MACROS[name][0] for name in self._macros))
        self._views = [name for name in sealed.views() if name in words]
        self._tables = [name for name in _TABLES if name in words]

    def counted(self) -> Answer | None:
        """Return the answer where the statement only counts a view, which the manifest has done."""
        match = _COUNT.fullmatch(self._sql)
        view = match["view"].lower() if match else ""
        if match is None or view not in self._views or self._sealed.is_timed:
            return None
        rows: list[tuple[Any, ...]] = [(self._sealed.count(view),)]
        return Answer([match["alias"] or "count_star()"], iter([rows]))

    @contextmanager
    def opened(
        self, report: Progress | None = None, target: Path | None = None, *, is_partial: bool = False
    ) -> Iterator[Opened]:
        """Yield DuckDB with the views of the statement. It may write `target`, and has no other file.

        :raises Incomplete: something of the archive is missing or damaged, and the answer may not be partial.
        :raises SqlRefused: DuckDB does not take the statement.
        :raises ArchiveError: a file cannot be read, or there is no room.
        """
        segments: dict[str, list[Segment]] = {}
        with _scratch() as folder:
            if self._views:
                self._try(folder)
            for view in self._views:
                segments[view], problems = proven(self._sealed.of_view(view), self._proofs, report)
                self.problems += [one for one in problems if one not in self.problems]
            if self.problems and not is_partial:
                raise Incomplete("\n".join([*self.problems, "--partial answers from the rest"]))
            with self._connected(folder, segments) as (connection, views):
                yield Opened(connection, views, self._sql, folder, target)

    def _try(self, folder: Path) -> None:
        """Raise `SqlRefused` for what DuckDB does not take, before anything of the archive is read, which may take long."""
        with self._connected(folder, dict.fromkeys(self._views, ())) as (connection, _):
            lock_in(connection, folder, [])
            connection.execute(f"EXPLAIN {self._sql}")

    @contextmanager
    def _connected(
        self, folder: Path, segments: Mapping[str, Sequence[Segment]]
    ) -> Iterator[tuple[Connection, Collection[RecordSet]]]:
        """Yield DuckDB with the views of these segments. Raise what went wrong in our words."""
        from recorder.tables.dataset import RecordSet

        start_ms, end_ms = self._sealed.start_ms, self._sealed.end_ms
        views = {
            view: RecordSet(found, Choice(CODES.get(view), start_ms=start_ms, end_ms=end_ms), self._proofs)
            for view, found in segments.items()
        }
        try:
            with self._engine.connected(folder) as connection:
                self._prepare(connection, views)
                yield connection, views.values()
        except RecorderError as error:
            failure = next(filter(None, (view.failure for view in views.values())), None)
            if failure is not None:
                raise failure from None
            raise self._explained(error) from error

    def _prepare(self, connection: Connection, views: Mapping[str, RecordSet]) -> None:
        for name, records in views.items():
            connection.register(name, records)
        for macro in self._macros:
            if set(MACROS[macro][0]) <= {*self._views}:
                connection.execute(MACROS[macro][1])
        for table in self._tables:
            connection.execute(f"CREATE TABLE {table} ({_TABLES[table]})")
            rows = self._sealed.segment_rows() if table == "segments" else self._sealed.gap_rows()
            if rows:
                columns = ", ".join(["unnest(?)"] * len(rows[0]))
                connection.execute(
                    f"INSERT INTO {table} SELECT {columns}",
                    [list(column) for column in zip(*rows, strict=True)],
                )

    def _explained(self, error: RecorderError) -> RecorderError:
        table = _NO_TABLE.search(str(error))
        return (
            UnknownName(self._what_there_is(table["name"] or table["function"]))
            if table is not None
            else error
        )

    def _what_there_is(self, name: str) -> str:
        """Return what to say about a table, or a macro, of which the archive has nothing."""
        known = [*self._sealed.views(), *MACROS, *_TABLES]
        near = difflib.get_close_matches(name.lower(), known, 1)
        has = f"it has {', '.join([*self._sealed.views(), *_TABLES])}"
        if name.lower() in (*CODES, *MACROS):
            return f"the archive has nothing for {name}; {has}"
        meant = f"; did you mean {near[0]}?" if near else ""
        return f"there is no {printable(name)} in the archive{meant} ({has})"


def _unlike(names: Iterable[str]) -> list[str]:
    """Return names of which no two are alike: an object of JSON would have one of them. Parquet files have them so, too."""
    found: list[str] = []
    for name in names:
        candidates = (name if not number else f"{name}_{number}" for number in count())
        taken = {one.lower() for one in found}
        found.append(next(candidate for candidate in candidates if candidate.lower() not in taken))
    return found


@contextmanager
def _scratch() -> Iterator[Path]:
    with ExitStack() as stack:
        try:
            folder = stack.enter_context(scratch_folder("recorder-query-"))
        except OSError as error:
            raise ArchiveError(
                f"cannot make a temporary folder: {error.strerror or error}; TMPDIR names a folder with room"
            ) from error
        yield folder
