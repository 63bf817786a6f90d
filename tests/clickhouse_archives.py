"""Archives on their way to ClickHouse: sending in this process, and what tables must have of an archive."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

from clickhouse_server import USER, ClickHouse
from yarl import URL

import recorder
from recorder.clickhouse.schema import TABLES, table_of
from recorder.clickhouse.sending import Options, Sending, Sent
from recorder.clickhouse.server import Server


def server_of(clickhouse: ClickHouse, database: str, password: str = "") -> Server:
    return Server(URL(clickhouse.url), database, user=USER, password=password or clickhouse.password)


async def sending(path: Path, server: Server, stopping: asyncio.Event | None = None, **options: Any) -> Sent:
    """Send what is there, as the command does."""
    given = {"creates": True, "wait_secs": 90.0} | options
    return await Sending(Options(path, **given), server, stopping or asyncio.Event()).run()


def rows_of(path: Path) -> dict[str, list[list[Any]]]:
    """Return what the tables must have of an archive, by table: run, number, payload."""
    found: dict[str, list[list[Any]]] = {}
    for one in recorder.open_archive(path).records():
        found.setdefault(table_of(one.type), []).append([one.run_id, one.seq, one.payload.decode()])
    return {table: sorted(rows) for table, rows in sorted(found.items())}


def rows_in(clickhouse: ClickHouse, database: str) -> dict[str, list[list[Any]]]:
    """Return the same of the tables."""
    known = [
        name
        for (name,) in clickhouse.ask(
            "SELECT name FROM system.tables WHERE database = currentDatabase()", database
        )
    ]
    return {
        table: sorted(clickhouse.ask(f"SELECT run_id, seq, payload FROM `{table}`", database))
        for table in sorted(set(TABLES) & set(known))
    }


class Dying:
    """Ends a sender at the n-th step: before what it asks of the server, or behind it."""

    class Died(BaseException):
        """The process is gone."""

    def __init__(self, step: int) -> None:
        self.steps_left = step

    def wrap(self, server: Server) -> Server:
        for name in ("insert", "place", "places", "tables", "execute"):
            setattr(server, name, self._dying(getattr(server, name)))
        return server

    def _dying(self, call: Callable[..., Any]) -> Callable[..., Any]:
        async def dying(*args: Any) -> Any:
            self._step()
            found = await call(*args)
            self._step()
            return found

        return dying

    def _step(self) -> None:
        self.steps_left -= 1
        if self.steps_left == 0:
            raise Dying.Died
