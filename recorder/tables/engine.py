"""DuckDB, in its one home: connections that are locked in with the files they are for, and what it says as our errors."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Final

from recorder.errors import EXIT_USAGE, ArchiveError, ConfigError, RecorderError
from recorder.plugins import installing
from recorder.tables.views import quoted
from recorder.words import printable, shortened

if TYPE_CHECKING:
    from duckdb import DuckDBPyConnection

    Connection = DuckDBPyConnection


_JOINS_OF_FEW: Final = ("asof_loop_join", "nested_loop_join", "merge_join")
"""Ways to join that DuckDB takes where there are few rows. It takes records of Arrow for few, however many they are."""
_INTERRUPTED: Final = "Query interrupted"
_PICTURE: Final = re.compile(r"LINE (?P<place>\d+): ")
"""Begins the line of a statement that DuckDB shows, with a mark below it."""
_CANDIDATES: Final = re.compile(
    r" You might need to add explicit type casts\. Candidate (?:functions|macros): .*?(?= \(line |$)"
)
"""Which other arguments a function takes; of some there are twenty forms."""
_CANDIDATES_CHARS_MAX: Final = 400
_EXCERPT_CHARS_MAX: Final = 40
_HINTS: Final = (
    (
        re.compile(r"Could not convert string '[0-9]{4}-.* to INT64|BIGINT -> (?:TIMESTAMP|DATE)"),
        "times are Unix ms: epoch_ms(TIMESTAMP '2026-11-21 14:30:00') is one, and make_timestamp_ms(ts) is a timestamp",
    ),
    (
        re.compile(r"'time_bucket\(|Macro bars\(\) does not support"),
        "bars(INTERVAL 1 MINUTE) are bars of a minute",
    ),
)
"""What to do about slips that DuckDB explains without knowing the archive."""


class SqlRefused(RecorderError):
    """The SQL is wrong, or asks for what the archive does not have."""

    exit_status = EXIT_USAGE


class UnknownName(SqlRefused):
    """The SQL names a table, a column or a function that does not exist."""


class FileFailed(ArchiveError):
    """DuckDB could not read or write a file."""


class Engine:
    """DuckDB, as it was found installed."""

    def __init__(self, command: str) -> None:
        """Load it for a command of the recorder. Raise `ConfigError` where it is not installed."""
        # Arrow, through which DuckDB reads an archive, takes long to import, and the manifest answers some questions alone.
        if find_spec("duckdb") is None or find_spec("pyarrow") is None:
            raise ConfigError(
                f"`{command}` needs DuckDB and pyarrow; to install them: {installing('duckdb pyarrow')}"
            )
        import duckdb

        self._duckdb = duckdb

    def one_select(self, sql: str) -> str:
        """Return the statement that a text is. Anything but one SELECT could write, or change what DuckDB may do.

        :raises SqlRefused: it is another statement, several, or none.
        """
        try:
            statements = self._duckdb.connect().extract_statements(sql)
        except self._duckdb.Error as error:
            raise SqlRefused(_one_line(error)) from error
        if len(statements) != 1 or statements[0].type != self._duckdb.StatementType.SELECT:
            raise SqlRefused("the SQL has to be one SELECT; an archive is only read")
        text = str(statements[0].query)
        if re.match(r"\s*show\b", text, re.IGNORECASE):
            raise SqlRefused("SHOW has no answer here; without SQL, `recorder query` lists the views")
        return text

    @contextmanager
    def connected(self, folder: Path, **options: str | int) -> Iterator[Connection]:
        """Yield a connection that spills to `folder`. `options` are DuckDB's own.

        :raises SqlRefused: a statement is wrong.
        :raises ArchiveError: a file cannot be read or written, or there is no room.
        """
        config: dict[str, str | bool | int | float | list[str]] = {
            "temp_directory": str(folder / "spilled"),
            "autoinstall_known_extensions": "false",
            "autoload_known_extensions": "false",
            "python_enable_replacements": "false",  # a name that is no view is no variable of ours, either
            **options,
        }
        with self._duckdb.connect(config=config) as connection:
            try:
                for kind in _JOINS_OF_FEW:
                    connection.execute(f"SET {kind}_threshold = 0")
                yield connection
            except self._duckdb.Error as error:
                raise self._explained(error) from error
            except RuntimeError as error:
                # As what a signal's exception leaves DuckDB, whatever it was.
                if str(error) == _INTERRUPTED:
                    raise KeyboardInterrupt from error
                raise

    def _explained(self, error: Exception) -> RecorderError:
        duckdb = self._duckdb
        text = _one_line(error)
        hints = [hint for slip, hint in _HINTS if slip.search(text)]
        candidates = _CANDIDATES.search(text)
        if candidates is not None and len(candidates[0]) > _CANDIDATES_CHARS_MAX:
            text = text.replace(candidates[0], "")
        text = "; ".join([text, *hints])
        if isinstance(error, duckdb.IOException | duckdb.OutOfMemoryException):
            is_full = "No space left" in text or isinstance(error, duckdb.OutOfMemoryException)
            return FileFailed(
                f"{text}; make room, or set TMPDIR to a folder that has it" if is_full else text
            )
        return UnknownName(text) if isinstance(error, duckdb.CatalogException) else SqlRefused(text)


def lock_in(connection: Connection, folder: Path, files: Iterable[Path]) -> None:
    """Let a connection have a folder and these files, and nothing else from now on."""
    connection.execute(f"SET allowed_directories = [{quoted(str(folder))}]")
    connection.execute(f"SET allowed_paths = [{', '.join(quoted(str(file)) for file in files)}]")
    connection.execute("SET enable_external_access = false")
    connection.execute("SET lock_configuration = true")


def _one_line(error: Exception) -> str:
    """Return what DuckDB says in one line, with the place in the statement in the stead of its picture."""
    said: list[str] = []
    place = shown = ""
    for line in str(error).splitlines():
        if picture := _PICTURE.match(line):
            place, shown = picture["place"], line
        elif shown and line.lstrip().startswith("^"):
            at = shortened(shown[line.index("^") :].strip(), _EXCERPT_CHARS_MAX) or "its end"
            said.append(f"(line {place}, at: {at})")
        elif line.strip():
            said.append(line.strip())
    return printable(" ".join(said))
