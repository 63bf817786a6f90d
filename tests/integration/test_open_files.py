"""The servers near the limit of open files: clients are told, or cut, before the archive and the exchange feel it."""

from __future__ import annotations

import asyncio
import contextlib
import sys

import aiohttp
import pytest
from serving import event, frame_of, in_production_loop, serving
from waiting import eventually

from recorder import inbound
from recorder.descriptors import FdBudget
from recorder.servers import frame_guard as frame_guard_module
from recorder.servers import hub as hub_module


@in_production_loop
async def test_a_client_is_told_that_there_are_no_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the number of its connection is reserved, it gets 503 and words, and the connection ends."""
    async with serving() as ports:
        monkeypatch.setattr(frame_guard_module, "fd_budget", lambda: FdBudget(0, sys.maxsize, sys.maxsize))
        with pytest.raises(aiohttp.WSServerHandshakeError) as refusal:
            await ports.connect("filtered")
        assert refusal.value.status == 503
        async with ports.session.get(ports.url("filtered", scheme="http")) as answer:
            assert "no more files" in await answer.text()
            assert answer.headers["Retry-After"]
        assert ports.stats("filtered").refused == {"files": 2}
        monkeypatch.setattr(
            frame_guard_module, "fd_budget", lambda: FdBudget(sys.maxsize, sys.maxsize, sys.maxsize)
        )
        await ports.client("filtered")


@in_production_loop
async def test_who_does_not_ask_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    """A refused connection that says nothing is over in a moment; where even a refusal has no room, it ends at once."""
    async with serving() as ports:
        monkeypatch.setattr(inbound, "REFUSAL_SECS", 0.05)
        for budget in (FdBudget(0, sys.maxsize, sys.maxsize), FdBudget(0, 0, 0)):
            monkeypatch.setattr(frame_guard_module, "fd_budget", lambda budget=budget: budget)
            reader, writer = await asyncio.open_connection(*ports.address("firehose"))
            with contextlib.suppress(ConnectionResetError):
                assert await reader.read() == b""
            writer.close()


@in_production_loop
async def test_a_limit_that_is_lowered_costs_the_clients_beyond_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients with numbers that are reserved now are closed with 1013 and counted; the others notice nothing."""
    async with serving() as ports:
        low = await ports.client("filtered", "T.*")
        monkeypatch.setattr(hub_module, "POLL_SECS", 0.01)
        high = await ports.client("filtered", "T.*")
        last = max(client.descriptor for client in ports.hub("filtered").clients)
        monkeypatch.setattr(hub_module, "fd_budget", lambda: FdBudget(last, last, last))
        assert await high.ended() == 1013
        await eventually(lambda: len(ports.hub("filtered").clients) == 1)
        assert ports.stats("filtered").evictions == {"files": 1}
        trade = event("T", "AAPL", 1)
        ports.publish(frame_of(trade))
        assert await low.events_until(trade) == [trade]
