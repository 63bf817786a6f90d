"""The tables of a server: what they have, and how each row gets there once, whatever fails in between."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, Final

from recorder.clickhouse import schema
from recorder.clickhouse.batches import ROWS_MAX, Batch, Stream, column_list
from recorder.clickhouse.patience import Patience
from recorder.clickhouse.server import Away, Place, Refused, Server, TooLarge
from recorder.log import get_logger

_ATTEMPTS_MAX: Final = 3
"""Rows that were accepted under so many tokens, and are not there, are not sent under yet another one at once."""
_ROWS_MIN: Final = 1000
"""An insert is never made smaller than this for want of memory."""

log = get_logger("polygon_archive")


class Tables:
    """The tables of one database.

    A stream's last number in its table is the only word on what was sent. Each insert begins behind it and has a token that
    names it: of all inserts that ever begin there, the server takes one. So whatever becomes of an insert whose answer is
    lost, also of one that an earlier process has sent, at most one is in the table, and the number says which. It is asked
    behind every insert.
    """

    def __init__(self, server: Server, patience: Patience, *, creates: bool) -> None:
        self._server = server
        self._patience = patience
        self._creates = creates
        self._engines: dict[str, str] = {}
        self._places: dict[Stream, Place] = {}
        self._rows_max = ROWS_MAX
        self.rows: Counter[str] = Counter()
        """Rows that came by inserts of this process, by table."""
        self.inserts = 0
        self.newest_ms = 0
        """When the newest record that was sent came, Unix ms."""

    async def open(self) -> None:
        """Learn what is there. Raise `Refused` where a table cannot be used, or where all that waits long enough failed."""
        found = await self._patience.ask(self._server.tables)
        wrong = [
            f"{self._server.name}: table {name}: {text}"
            for name, table in found.items()
            for text in schema.unsuitable(name, table.engine, table.engine_full, table.columns)
        ]
        if wrong:
            raise Refused("\n".join(wrong))
        self._engines = {name: table.engine for name, table in found.items()}
        for name in self._engines.keys() - {schema.LOST}:
            places = await self._patience.ask(lambda name=name: self._server.places(name))  # type: ignore[misc]
            for (run_id, feed), place in places.items():
                self._places[Stream(name, run_id, feed)] = place

    def last_seq(self, stream: Stream) -> int:
        """Return the number of the last record that is there of a stream; 0 for none."""
        return self._places.get(stream, Place()).seq

    def of_run(self, run_id: str) -> dict[Stream, Place]:
        """Return the streams of a run of which something is there."""
        # A copy: another thread may ask.
        return {stream: place for stream, place in list(self._places.items()) if stream.run_id == run_id}

    def oldest_ms(self, table: str) -> int | None:
        """Return when the oldest record that was there at the start, or that came since, came; None for an empty table."""
        times = [
            place.oldest_ms for stream, place in self._places.items() if stream.table == table and place.rows
        ]
        return min(times, default=None)

    async def count(self, table: str, run_id: str, first_seq: int, last_seq: int) -> int:
        """Return how many records of a run are there, from one number to another."""
        if table not in self._engines:
            return 0
        return await self._patience.ask(lambda: self._server.count(table, run_id, first_seq, last_seq))

    async def put(self, batch: Batch) -> None:
        """Put rows where they belong, unless they are there. Raise `GaveUp` or `Refused`; then some may be there."""
        await self._require(batch.stream.table, schema.create)
        rest = batch.behind(self.last_seq(batch.stream))
        while rest is not None:
            await self._insert(rest.first(self._rows_max))
            rest = rest.behind(self.last_seq(batch.stream))

    async def note_lost(self, row: Mapping[str, Any]) -> None:
        """Put what was lost on record, where there is a table for it, or may be."""
        if self._creates or schema.LOST in self._engines:
            await self._require(schema.LOST, lambda _: schema.create_lost())
            await self._patience.ask(lambda: self._server.note_lost(row))

    async def known_lost(self, table: str, run_id: str) -> int:
        """Return how many records of a run and table are on record as lost."""
        if schema.LOST not in self._engines:
            return 0
        return await self._patience.ask(lambda: self._server.known_lost(table, run_id))

    async def _require(self, table: str, statement: Callable[[str], str]) -> None:
        """See to it that a table exists."""
        if table in self._engines:
            return
        if not self._creates:
            raise Refused(
                f"{self._server.name}: there is no table {table}; --create makes it, and --print-ddl shows how"
            )
        await self._patience.ask(lambda: self._server.execute(statement(table)))
        found = await self._patience.ask(self._server.tables)
        if table not in found:
            raise Refused(f"{self._server.name}: it has made the table {table}, and does not have it")
        self._engines[table] = found[table].engine
        log.info("clickhouse_table_created", table=table, database=self._server.database)

    async def _insert(self, batch: Batch) -> None:
        """Insert what begins behind the last record. Return once some of it is there, or less is to be sent."""
        stream = batch.stream
        before = self._places.get(stream, Place())
        data = await asyncio.to_thread(batch.encoded)
        attempt = 0
        while True:
            token = f"{stream.run_id}/{stream.feed}/{stream.table}/{before.seq}" + (
                f"/{attempt}" if attempt else ""
            )
            failure: Away | None = None
            try:
                await self._server.insert(stream.table, column_list(stream.table), data, token)
            except Away as error:
                failure = error
                await self._patience.pause(error)
            after = await self._patience.ask(
                lambda: self._server.place(stream.table, stream.run_id, stream.feed)
            )
            if after.seq > before.seq:
                self._arrived(batch, before, after)
                return
            if isinstance(failure, TooLarge) and batch.rows > _ROWS_MIN:
                self._rows_max = max(_ROWS_MIN, batch.rows // 2)
                log.warning("clickhouse_smaller_inserts", rows=self._rows_max, reason=str(failure))
                return
            if failure is None:
                attempt = await self._next_attempt(batch, attempt, token)

    async def _next_attempt(self, batch: Batch, attempt: int, token: str) -> int:
        """The server has accepted rows and does not have them. Return which attempt comes next; it may have to wait."""
        name = self._server.name
        if not schema.may_forget(self._engines[batch.stream.table]):
            await self._patience.pause(Away(f"{name}: a replica does not have yet what was accepted"))
            return attempt
        if attempt >= _ATTEMPTS_MAX:
            text = f"{name}: {batch.stream.table} has accepted rows and does not have them"
            await self._patience.pause(Away(f"{text}; if a TTL deletes them at once, --from leaves them out"))
        # It died, or was refused by its disk, between noting the token and keeping the rows.
        log.warning("clickhouse_token_without_rows", token=token, rows=batch.rows)
        return attempt + 1

    def _arrived(self, batch: Batch, before: Place, after: Place) -> None:
        stream = batch.stream
        came = min(batch.rows, max(0, after.rows - before.rows))
        self._places[stream] = after
        self.rows[stream.table] += came
        self.inserts += 1
        self._rows_max = min(ROWS_MAX, self._rows_max * 2)
        self.newest_ms = batch.last_ingest_ms
        if after.seq == batch.last_seq and after.rows > before.rows + batch.rows:
            log.error(
                "clickhouse_rows_doubled",
                table=stream.table,
                run_id=stream.run_id,
                feed=stream.feed,
                rows=after.rows,
                expected=before.rows + batch.rows,
            )

    def __repr__(self) -> str:
        return f"Tables({self._server.name}, {self.rows.total()} rows in {self.inserts} inserts)"
