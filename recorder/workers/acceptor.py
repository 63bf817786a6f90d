"""Accepts the connections of all ports, and hands each to the worker that has the fewest."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Mapping
from typing import Final

from recorder.addresses import joined
from recorder.log import RateLimited, get_logger
from recorder.servers.hub import BACKLOG, address_refused

ACCEPTS_MAX: Final = 32
"""The most connections that are accepted at once. Where more wait, the next ones follow `PAUSE_SECS` later, so that a
flood of clients costs recording next to nothing."""
PAUSE_SECS: Final = 0.016
NO_FILES_SECS: Final = 1.0
"""How long nothing is accepted once this process may open no more files."""
_WARN_SECS: Final = 5.0

log = get_logger("polygon_clients")

Hand = Callable[[int, socket.socket], bool]
"""Hands a connection to the port of this place; returns False if no worker can take it now."""


class Acceptor:
    """Listens on every port. Connections that come while no worker can take them wait in the kernel."""

    def __init__(self, host: str, ports: Mapping[str, int], hand: Hand) -> None:
        """`ports` has the number of each port by its name; 0 stands for any free one."""
        self._host = host
        self._ports = dict(ports)
        self._hand = hand
        self._listeners: list[tuple[int, socket.socket]] = []
        """Place of the port among all ports, and a socket that listens for it."""
        self._paused: dict[socket.socket, asyncio.TimerHandle] = {}
        self._is_accepting = False
        self._warning = RateLimited(_WARN_SECS)
        self.addresses: dict[str, str] = {}
        """Where each port listens."""

    async def open(self) -> None:
        """Take the addresses.

        :raises ConfigError: one cannot be used.
        """
        for place, (name, number) in enumerate(self._ports.items()):
            try:
                listeners = await self._bind(number)
            except OSError as error:
                self.close()
                raise address_refused(name, self._host, number, error) from error
            self._listeners += [(place, listener) for listener in listeners]
            host, port = listeners[0].getsockname()[:2]
            self._ports[name] = port  # closed and opened again, it listens where clients know it
            self.addresses[name] = joined(host, port)

    async def _bind(self, number: int) -> list[socket.socket]:
        """Listen on every address that the host stands for."""
        found = await asyncio.get_running_loop().getaddrinfo(
            self._host, number, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        listeners: list[socket.socket] = []
        try:
            for family, address in dict.fromkeys((entry[0], entry[4]) for entry in found):
                listeners.append(_listen(family, address))
        except OSError:
            for listener in listeners:
                listener.close()
            raise
        return listeners

    def resume(self) -> None:
        """Accept connections, from now on or again."""
        if not self._is_accepting:
            self._is_accepting = True
            for place, listener in self._listeners:
                self._watch(place, listener)

    def pause(self) -> None:
        """Leave new connections waiting in the kernel until `resume`."""
        self._is_accepting = False
        loop = asyncio.get_running_loop()
        for handle in self._paused.values():
            handle.cancel()
        self._paused.clear()
        for _, listener in self._listeners:
            loop.remove_reader(listener)

    def close(self) -> None:
        """Stop listening."""
        self.pause()
        for _, listener in self._listeners:
            listener.close()
        self._listeners = []

    def _watch(self, place: int, listener: socket.socket) -> None:
        self._paused.pop(listener, None)
        asyncio.get_running_loop().add_reader(listener, self._accept, place, listener)

    def _accept(self, place: int, listener: socket.socket) -> None:
        """Accept what waits at a port, up to a number that does not keep recording from its work."""
        for _ in range(ACCEPTS_MAX):
            try:
                connection, _ = listener.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return
            except OSError as error:
                suppressed = self._warning.ready(int(asyncio.get_running_loop().time() * 1e9))
                if suppressed is not None:
                    log.warning("accept_failed", error=str(error), advice="raise LimitNOFILE")
                self._rest(place, listener, NO_FILES_SECS)
                return
            # The worker has a descriptor of its own. Where no worker took the connection, the client connects again.
            with connection:
                if not self._hand(place, connection):
                    return
        self._rest(place, listener, PAUSE_SECS)

    def _rest(self, place: int, listener: socket.socket, secs: float) -> None:
        loop = asyncio.get_running_loop()
        loop.remove_reader(listener)
        self._paused[listener] = loop.call_later(secs, self._watch, place, listener)

    def __repr__(self) -> str:
        return f"Acceptor({self.addresses}, {'accepting' if self._is_accepting else 'paused'})"


def _listen(family: int, address: tuple[object, ...]) -> socket.socket:
    """Listen on one address. An IPv6 address does not stand for the IPv4 one as well."""
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind(address)
        listener.listen(BACKLOG)
        listener.setblocking(False)
    except OSError:
        listener.close()
        raise
    return listener
