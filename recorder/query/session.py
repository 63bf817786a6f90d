"""One query: what it needs of the archive is proven, then DuckDB answers, locked in with these files."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from recorder.archive.proofs import Proofs
from recorder.errors import EXIT_USAGE, ArchiveError, ConfigError, RecorderError
from recorder.plugins import installing
from recorder.progress import Progress
from recorder.query.archive import Incomplete, LaidOut, Sealed, lay_out
from recorder.query.views import CODES, CONVERSIONS, MACROS, quoted, view_sql

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

_COUNT: Final = re.compile(
    r"\s*select\s+count\(\s*\*\s*\)(?:\s+as\s+(?P<alias>[a-z_][a-z0-9_]*))?\s+from\s+(?P<view>[a-z0-9_]+)\s*;?\s*",
    re.IGNORECASE | re.ASCII,
)
_ROWS: Final = 10_000
"""Taken off the answer at once."""
_TABLES: Final = {
    "segments": (
        "file VARCHAR, run_id VARCHAR, first_seq BIGINT, last_seq BIGINT, first_ingest_ts BIGINT, "
        "last_ingest_ts BIGINT, type VARCHAR, records BIGINT"
    ),
    "gaps": "feed VARCHAR, from_ts BIGINT, to_ts BIGINT, reason VARCHAR, run_id VARCHAR",
}
"""What the manifest has, as tables: a row for each segment and type, and for each gap."""


class QueryRefused(RecorderError):
    """The SQL is wrong, asks for what the archive does not have, or its answer has no place to go."""

    exit_status = EXIT_USAGE


class Answer(NamedTuple):
    """Rows to take, many at once."""

    columns: list[str]
    rows: Iterator[list[tuple[Any, ...]]]


class Query:
    """One statement over what is sealed."""

    def __init__(self, sealed: Sealed, sql: str) -> None:
        """Find out what the statement needs. Raise `QueryRefused`, or `ConfigError` where DuckDB is not installed."""
        try:
            import duckdb
        except ImportError as error:
            raise ConfigError(
                f"`recorder query` needs DuckDB; to install it: {installing('duckdb')}"
            ) from error
        self._duckdb = duckdb
        self._sealed = sealed
        self._proofs = Proofs()
        self.problems = list(sealed.problems)
        """What of the archive the answer is without."""
        self._sql = self._one_select(sql)
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
        if match is None or view not in self._views:
            return None
        rows: list[tuple[Any, ...]] = [(self._sealed.count(view),)]
        return Answer([match["alias"] or "count_star()"], iter([rows]))

    @contextmanager
    def answered(self, report: Progress | None = None, *, is_partial: bool = False) -> Iterator[Answer]:
        """Yield the answer. Raise `QueryRefused`, `ArchiveError`, and `Incomplete` unless it may be partial."""
        with self._connected(report, is_partial=is_partial) as connection:
            connection.execute(self._sql)
            columns = [str(column[0]) for column in connection.description or []]
            yield Answer(columns, iter(lambda: connection.fetchmany(_ROWS), []))

    def write_parquet(
        self, target: Path, report: Progress | None = None, *, is_partial: bool = False
    ) -> None:
        """Write the answer to a file, which gets its name once it is whole. Raise as `answered` does."""
        if target.exists():
            raise QueryRefused(f"{target} exists; name another file, or delete this one")
        if not target.parent.is_dir():
            raise QueryRefused(f"{target.parent} is no folder; make it, or name another file")
        unfinished = target.with_name(f"{target.name}.tmp")
        try:
            with self._connected(report, unfinished, is_partial=is_partial) as connection:
                # The line end closes a comment that the statement may end with.
                inner = self._sql.rstrip().rstrip(";")
                connection.execute(
                    f"COPY ({inner}\n) TO {quoted(str(unfinished))} (FORMAT parquet, COMPRESSION zstd)"
                )
            with unfinished.open("rb") as file:
                os.fsync(file.fileno())
            unfinished.rename(target)
        except OSError as error:
            raise ArchiveError(f"cannot write {target}: {error.strerror or error}") from error
        finally:
            unfinished.unlink(missing_ok=True)

    def _one_select(self, sql: str) -> str:
        """Return the statement. Anything but one SELECT could write, or change what DuckDB may do."""
        try:
            statements = self._duckdb.connect().extract_statements(sql)
        except self._duckdb.Error as error:
            raise QueryRefused(_one_line(error)) from error
        if len(statements) != 1 or statements[0].type != self._duckdb.StatementType.SELECT:
            raise QueryRefused("the SQL has to be one SELECT; an archive is only read")
        text = str(statements[0].query)
        if re.match(r"\s*show\b", text, re.IGNORECASE):
            raise QueryRefused("SHOW has no answer here; without SQL, `recorder query` lists the views")
        return text

    @contextmanager
    def _connected(
        self, report: Progress | None, target: Path | None = None, *, is_partial: bool
    ) -> Iterator[DuckDBPyConnection]:
        """Yield DuckDB with the views of the statement. It reads their files, writes `target`, and has no other."""
        laid_out = LaidOut()
        with TemporaryDirectory(prefix="recorder-query-") as name:
            folder = Path(name).resolve()
            for view in self._views:
                found = lay_out(self._sealed.of_view(view), folder / view, self._proofs, report)
                laid_out.files += found.files
                self.problems += [one for one in found.problems if one not in self.problems]
            if self.problems and not is_partial:
                raise Incomplete("\n".join([*self.problems, "to have the answer of all the rest: --partial"]))
            config: dict[str, str | bool | int | float | list[str]] = {
                "temp_directory": str(folder / "spilled"),
                "autoinstall_known_extensions": "false",
                "autoload_known_extensions": "false",
            }
            with self._duckdb.connect(config=config) as connection:
                try:
                    self._prepare(connection, folder)
                    self._lock_in(connection, folder, [*laid_out.files, *([target] if target else [])])
                    yield connection
                except self._duckdb.Error as error:
                    raise self._explained(error, laid_out.files) from error

    def _prepare(self, connection: DuckDBPyConnection, folder: Path) -> None:
        for conversion in CONVERSIONS:
            connection.execute(conversion)
        for view in self._views:
            connection.execute(view_sql(view, folder / view))
        for macro in self._macros:
            if set(MACROS[macro][0]) <= {*self._views}:
                connection.execute(MACROS[macro][1])
        for table in self._tables:
            connection.execute(f"CREATE TABLE {table} ({_TABLES[table]})")
            rows = self._sealed.segment_rows() if table == "segments" else self._sealed.gap_rows()
            if rows:
                marks = ", ".join("?" * len(rows[0]))
                connection.executemany(f"INSERT INTO {table} VALUES ({marks})", rows)  # noqa: S608 - names of ours

    @staticmethod
    def _lock_in(connection: DuckDBPyConnection, folder: Path, files: list[Path]) -> None:
        connection.execute(f"SET allowed_directories = [{quoted(str(folder))}]")
        connection.execute(f"SET allowed_paths = [{', '.join(quoted(str(file)) for file in files)}]")
        connection.execute("SET enable_external_access = false")
        connection.execute("SET lock_configuration = true")

    def _explained(self, error: Exception, files: list[Path]) -> RecorderError:
        gone = next((file for file in files if not file.exists()), None)
        if gone is not None:
            return ArchiveError(f"{gone} was compressed or deleted meanwhile; run the query again")
        duckdb = self._duckdb
        text = _one_line(error)
        if isinstance(error, duckdb.IOException | duckdb.OutOfMemoryException):
            is_full = "No space left" in text or isinstance(error, duckdb.OutOfMemoryException)
            return ArchiveError(
                f"{text}; make room, or set TMPDIR to a folder that has it" if is_full else text
            )
        if isinstance(error, duckdb.CatalogException):
            missing = [name for name in (*CODES, *MACROS) if re.search(rf"\b{name}\b", text)]
            kinds = ", ".join(self._sealed.views())
            if missing and missing[0] not in self._views:
                text = f"the archive has nothing for {missing[0]}"
            text = f"{text}; it has the views {kinds}"
        return QueryRefused(text)


def _one_line(error: Exception) -> str:
    """Return what DuckDB says, less the picture of the statement below it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(line for line in lines if not line.startswith(("LINE ", "^")))
