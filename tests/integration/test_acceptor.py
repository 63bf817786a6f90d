"""The ports of the workers: every connection is handed over or waits, and a flood of them is taken in gulps."""

from __future__ import annotations

import os
import resource
import socket
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager

import pytest
from serving import in_production_loop
from waiting import eventually

from recorder.errors import ConfigError
from recorder.workers.acceptor import ACCEPTS_MAX, Acceptor


class Worker:
    """Takes connections while it is told to."""

    def __init__(self) -> None:
        self.takes = True
        self.taken: list[int] = []
        """The place of the port of each connection."""

    def hand(self, place: int, connection: socket.socket) -> bool:
        """Keep note of a connection."""
        self.taken.append(place)
        return self.takes


@asynccontextmanager
async def standing(worker: Worker, host: str = "127.0.0.1") -> AsyncIterator[Acceptor]:
    """Yield an acceptor of two ports, which accepts."""
    acceptor = Acceptor(host, {"firehose": 0, "bars": 0}, worker.hand)
    await acceptor.open()
    acceptor.resume()
    try:
        yield acceptor
    finally:
        acceptor.close()


def port_of(acceptor: Acceptor, name: str) -> int:
    """Return the number of a port."""
    return int(acceptor.addresses[name].rpartition(":")[2])


@in_production_loop
async def test_connections_are_handed_over_with_the_place_of_their_port() -> None:
    """The place, in the order of the settings, says which port it is for."""
    worker = Worker()
    async with standing(worker) as acceptor:
        for name, place in (("bars", 1), ("firehose", 0), ("bars", 1)):
            worker.taken.clear()
            with socket.create_connection(("127.0.0.1", port_of(acceptor, name))):
                await eventually(lambda: worker.taken, "a connection")
            assert worker.taken == [place]
        assert "accepting" in repr(acceptor)


@in_production_loop
async def test_a_flood_of_connections_is_taken_in_gulps() -> None:
    """All of them, yet the loop has its turn after each `ACCEPTS_MAX`, so that recording continues."""
    worker = Worker()
    async with standing(worker) as acceptor:
        acceptor.pause()
        count = 3 * ACCEPTS_MAX
        with ExitStack() as stack:
            for _ in range(count):
                stack.enter_context(socket.create_connection(("127.0.0.1", port_of(acceptor, "bars"))))
            acceptor.resume()
            seen = 0
            while seen < count:
                await eventually(lambda before=seen: len(worker.taken) > before, "more of them")  # type: ignore[misc]
                assert len(worker.taken) - seen <= ACCEPTS_MAX
                seen = len(worker.taken)


@in_production_loop
async def test_connections_wait_while_nobody_can_take_them() -> None:
    """Shut, none is lost; open again, each is taken."""
    worker = Worker()
    async with standing(worker) as acceptor:
        acceptor.pause()
        with ExitStack() as stack:
            for _ in range(5):
                stack.enter_context(socket.create_connection(("127.0.0.1", port_of(acceptor, "bars"))))
            with socket.create_connection(("127.0.0.1", port_of(acceptor, "firehose"))):
                assert not worker.taken
                acceptor.resume()
                await eventually(lambda: len(worker.taken) == 6, "all of them")
        acceptor.pause()
        acceptor.resume()
        with socket.create_connection(("127.0.0.1", port_of(acceptor, "bars"))):
            await eventually(lambda: len(worker.taken) == 7, "one more")


@in_production_loop
async def test_a_connection_that_no_worker_takes_is_closed() -> None:
    """The client sees its end at once, and reconnects; the next one is asked for as before."""
    worker = Worker()
    async with standing(worker) as acceptor:
        for turn in (1, 2):
            worker.takes = False
            with socket.create_connection(("127.0.0.1", port_of(acceptor, "bars"))) as client:
                await eventually(lambda turn=turn: len(worker.taken) == turn, "a try")  # type: ignore[misc]
                client.settimeout(20)
                assert client.recv(1) == b""


@in_production_loop
async def test_a_door_without_files_opens_by_itself() -> None:
    """While the process may open no more files, connections wait; once it may, they are taken."""
    worker = Worker()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    async with standing(worker) as acceptor:
        acceptor.pause()
        with socket.create_connection(("127.0.0.1", port_of(acceptor, "bars"))):
            os.close(first_free := os.open(os.devnull, os.O_RDONLY))
            resource.setrlimit(resource.RLIMIT_NOFILE, (first_free, hard))
            try:
                acceptor.resume()
                await eventually(lambda: acceptor._paused, "the pause")
                assert not worker.taken
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            await eventually(lambda: worker.taken, "the connection")


@in_production_loop
async def test_every_address_of_the_host_is_listened_on() -> None:
    """`localhost` is 127.0.0.1 and, where there is IPv6, ::1."""
    worker = Worker()
    async with standing(worker, "localhost") as acceptor:
        with socket.create_connection(("127.0.0.1", _v4_port(acceptor))):
            await eventually(lambda: worker.taken, "a connection")


def _v4_port(acceptor: Acceptor) -> int:
    ports = [listener for _, listener in acceptor._listeners if listener.family == socket.AF_INET]
    number: int = ports[0].getsockname()[1]
    return number


@in_production_loop
async def test_an_address_that_cannot_be_used_is_told() -> None:
    """In the words of the recording process's own ports; what was taken before is given back."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        number = taken.getsockname()[1]
        acceptor = Acceptor("127.0.0.1", {"firehose": 0, "bars": number}, Worker().hand)
        with pytest.raises(ConfigError, match=f"AGGREGATOR_PORT: 127.0.0.1:{number} is in use by"):
            await acceptor.open()
        assert not acceptor._listeners
