"""A ClickHouse server by its HTTP interface: what is asked and inserted, and whether trying again can help.

Source: the documentation of ClickHouse, "HTTP interface" and `src/Common/ErrorCodes.cpp` of its sources.
"""

from __future__ import annotations

import asyncio
import re
import ssl
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import aiohttp
import orjson
from yarl import URL

from recorder.clickhouse import schema
from recorder.errors import ConfigError, RecorderError
from recorder.log import mask

_CONNECT_SECS: Final = 10.0
_ANSWER_SECS: Final = 300.0
"""An insert may wait for the disk, or for merges. Beyond it, what became of it is asked."""
_ANSWER_BYTES_MAX: Final = 64 << 20
_CODE: Final = re.compile(r"Code: (\d+)\.")

_PERSON: Final[Mapping[int, str]] = {
    16: "a table has other columns; start again, which says which",
    60: "the table is gone; start again, with --create",
    81: "create it, or name another one with --database",
    115: "the server is too old for this setting",
    164: "the user may not write, or may not change settings",
    192: "--user or CLICKHOUSE_USER names another user",
    193: "--password-file or CLICKHOUSE_PASSWORD has the password",
    194: "--password-file or CLICKHOUSE_PASSWORD has the password",
    452: "the user's profile forbids a setting that inserts need",
    497: "grant it to the user",
    516: "--user and --password-file, or CLICKHOUSE_USER and CLICKHOUSE_PASSWORD, name user and password",
}
"""Codes of errors that stay until somebody changes something, and what."""
_TOO_LARGE: Final = frozenset({241, 307, 396})
"""Codes of errors that a smaller insert may not meet: memory, bytes, rows."""

_INSERT: Final[Mapping[str, str]] = {
    "async_insert": "0",
    "insert_deduplicate": "1",
    "deduplicate_blocks_in_dependent_materialized_views": "1",
    # One insert is one block, hence one part, which is there as a whole or not at all.
    "max_insert_block_size": "10000000",
    "min_insert_block_size_rows": "10000000",
    "min_insert_block_size_bytes": "0",
    "max_insert_threads": "1",
    "input_format_parallel_parsing": "0",
    "input_format_null_as_default": "1",
}
_ANSWER: Final[Mapping[str, str]] = {
    # The status is known before it is sent, so that an error is never inside of an answer of 200.
    "wait_end_of_query": "1",
    "output_format_json_quote_64bit_integers": "0",
}

_PLACE: Final = "max(seq) AS last, count() AS rows, min(ingest_ts) AS oldest"


class Away(RecorderError):
    """The server did not do it now. Whether an insert is in the table is not known. Trying again can help."""


class TooLarge(Away):
    """The server has no room for an insert of this size now."""


class Refused(ConfigError):
    """The server will not do it before somebody changes something."""


class Place(NamedTuple):
    """What a table has of the records of one stream."""

    seq: int = 0
    """The number of the last one."""
    rows: int = 0
    oldest_ms: int = 0
    """When the one that came first of those that are there came, Unix ms."""


class Table(NamedTuple):
    """What a server says of a table."""

    engine: str
    engine_full: str
    columns: Mapping[str, str]
    """Types by name."""


class Server:
    """One server and one database of it. Only `Away` is worth another try."""

    def __init__(
        self, url: URL, database: str, *, user: str, password: str, ca_file: str | None = None
    ) -> None:
        """`url` has neither user nor path. The password never stands in a URL, hence in no log of a proxy."""
        self._url = url
        self.database = database
        self._headers = {"X-ClickHouse-User": user, **({"X-ClickHouse-Key": password} if password else {})}
        self._ca_file = ca_file
        self._http: aiohttp.ClientSession | None = None

    @property
    def name(self) -> str:
        """The server and its database, for people."""
        return f"{self._url.origin()}/{self.database}"

    async def open(self) -> None:
        """Make ready; nothing is asked yet. Raise `ConfigError` where the file of a certificate cannot be read."""
        context: ssl.SSLContext | bool = True
        if self._ca_file is not None:
            try:
                context = ssl.create_default_context(cafile=self._ca_file)
            except (OSError, ssl.SSLError) as error:
                raise ConfigError(f"--cafile {self._ca_file}: {error}") from error
        self._http = aiohttp.ClientSession(
            headers=self._headers,
            timeout=aiohttp.ClientTimeout(total=_ANSWER_SECS, sock_connect=_CONNECT_SECS),
            connector=aiohttp.TCPConnector(ssl=context, limit=2),
        )

    async def close(self) -> None:
        """Let go of the connections."""
        if self._http is not None:
            await self._http.close()

    async def execute(self, sql: str) -> None:
        """Run a statement that has no answer. Raise `Away` or `Refused`."""
        await self._post(sql.encode(), {})

    async def rows(self, sql: str, **values: str | int) -> list[dict[str, Any]]:
        """Return the answer to a question; `values` stand in it as `{name:Type}`. Raise `Away` or `Refused`."""
        given = {f"param_{name}": str(value) for name, value in values.items()}
        answer = await self._post(f"{sql} FORMAT JSON".encode(), given)
        try:
            found: list[dict[str, Any]] = orjson.loads(answer)["data"]
        except (ValueError, KeyError, TypeError) as error:
            raise Away(f"{self.name} sent an answer that cannot be read: {_shown(answer)}") from error
        return found

    async def tables(self) -> dict[str, Table]:
        """Return those of the database that this program may know."""
        known = ", ".join(f"'{name}'" for name in (*schema.TABLES, schema.LOST))
        found = await self.rows(
            "SELECT name, engine, engine_full FROM system.tables "  # noqa: S608 - names of this program's own
            f"WHERE database = {{database:String}} AND name IN ({known})",
            database=self.database,
        )
        columns = await self.rows(
            "SELECT table, name, type FROM system.columns "  # noqa: S608 - the same
            f"WHERE database = {{database:String}} AND table IN ({known})",
            database=self.database,
        )
        return {
            one["name"]: Table(
                one["engine"],
                one["engine_full"],
                {column["name"]: column["type"] for column in columns if column["table"] == one["name"]},
            )
            for one in found
        }

    async def places(self, table: str) -> dict[tuple[str, str], Place]:
        """Return, by run and cluster, what a table has."""
        found = await self.rows(f"SELECT run_id, feed, {_PLACE} FROM `{table}` GROUP BY run_id, feed")  # noqa: S608
        return {(one["run_id"], one["feed"]): _place_of(one) for one in found}

    async def place(self, table: str, run_id: str, feed: str) -> Place:
        """Return what a table has of one run and cluster."""
        found = await self.rows(
            f"SELECT {_PLACE} FROM `{table}` "  # noqa: S608 - a name of this program's own
            "WHERE run_id = {run_id:String} AND feed = {feed:String}",
            run_id=run_id,
            feed=feed,
        )
        if len(found) != 1:
            raise Away(f"{self.name} did not say what {table} has")
        return _place_of(found[0])

    async def count(self, table: str, run_id: str, first_seq: int, last_seq: int) -> int:
        """Return how many records of a run a table has, from one number to another."""
        found = await self.rows(
            f"SELECT count() AS rows FROM `{table}` WHERE run_id = {{run_id:String}} "  # noqa: S608 - the same
            "AND seq BETWEEN {first:UInt64} AND {last:UInt64}",
            run_id=run_id,
            first=first_seq,
            last=last_seq,
        )
        return int(found[0]["rows"]) if found else 0

    async def insert(self, table: str, columns: str, data: bytes, token: str) -> None:
        """Insert rows, which come as an Arrow stream, unless an insert had this token before. Raise `Away` or `Refused`."""
        sql = f"INSERT INTO `{table}` ({columns}) FORMAT ArrowStream"
        await self._post(data, {"query": sql, "insert_deduplication_token": token, **_INSERT})

    async def known_lost(self, table: str, run_id: str) -> int:
        """Return how many records of a run and table are on record as lost."""
        found = await self.rows(
            f"SELECT sum(records) AS records FROM `{schema.LOST}` "  # noqa: S608 - a name of this program's own
            "WHERE run_id = {run_id:String} AND table = {table:String}",
            run_id=run_id,
            table=table,
        )
        return int(found[0]["records"]) if found else 0

    async def note_lost(self, row: Mapping[str, Any]) -> None:
        """Put what was lost on record, once. Raise `Away` or `Refused`."""
        token = "/".join(str(row[name]) for name in ("run_id", "table", "first_seq", "last_seq", "records"))
        sql = f"INSERT INTO `{schema.LOST}` ({', '.join(f'`{name}`' for name in row)}) FORMAT JSONEachRow"
        await self._post(orjson.dumps(row), {"query": sql, "insert_deduplication_token": token, **_INSERT})

    async def _post(self, data: bytes, params: Mapping[str, str]) -> bytes:
        assert self._http is not None, "open() comes first"
        params = {"database": self.database, **_ANSWER, **params}
        try:
            async with self._http.post(self._url.with_path("/"), params=params, data=data) as answer:
                code = answer.headers.get("X-ClickHouse-Exception-Code", "")
                body = await _read(answer)
                status = answer.status
        except aiohttp.ClientSSLError as error:
            raise Refused(f"{self.name}: {error}; --cafile names the certificate to trust") from error
        except (TimeoutError, aiohttp.ClientError, OSError) as error:
            raise Away(f"{self.name}: {_words(error)}") from error
        if status == 200 and not code and b"DB::Exception" not in body[:4096]:
            return body
        raise self._failure(status, code, body)

    def _failure(self, status: int, code: str, body: bytes) -> RecorderError:
        text = _shown(body)
        if not code and (found := _CODE.search(text)):
            code = found[1]
        number = int(code) if code.isdigit() else 0
        said = f"{self.name}: {text or f'HTTP status {status}'}"
        if number in _PERSON:
            return Refused(f"{said}; {_PERSON[number]}")
        if number in _TOO_LARGE or status == 413:
            return TooLarge(said)
        if status in (401, 403, 404) and not number:
            return Refused(f"{said}; is this the address of a ClickHouse server's HTTP interface?")
        return Away(said)


def _place_of(row: Mapping[str, Any]) -> Place:
    return Place(row["last"], row["rows"], row["oldest"])


async def _read(answer: aiohttp.ClientResponse) -> bytes:
    body = bytearray()
    async for part in answer.content.iter_chunked(1 << 16):
        body += part
        if len(body) > _ANSWER_BYTES_MAX:
            raise aiohttp.ClientPayloadError(f"an answer of more than {_ANSWER_BYTES_MAX:,} bytes")
    return bytes(body)


def _words(error: BaseException) -> str:
    if isinstance(error, asyncio.TimeoutError) and not str(error):
        return f"no answer within {_ANSWER_SECS:g} s"
    return str(error) or type(error).__name__


def _shown(body: bytes) -> str:
    """Return the beginning of an answer as one line."""
    return mask(" ".join(body[:500].decode(errors="replace").split()))
