"""Trial 24: tiers behind HAProxy and nginx are drained, killed, added; no new client fails, no follower misses anything."""

from __future__ import annotations

import asyncio
import json
import logging
import signal
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, aclosing, contextmanager
from pathlib import Path
from typing import Final

import msgspec
import pytest
from certificates import self_signed
from commands import KEY, Running, free_port, running, simulating
from massive.websocket import WebSocketClient
from proxies import CONFIGURATIONS, OneMachine, haproxy, nginx, replaced
from trials import report, scale
from waiting import eventually_sync
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from recorder import Event, follow

pytestmark = [pytest.mark.trial, pytest.mark.timeout(scale(120, 3600))]

TURNS = scale(1, 30)
FOLLOWERS: Final = 2
"""At each balancer, so that each tier has one."""
KNOCK_SECS: Final = 0.05
_payload = msgspec.json.Decoder(msgspec.defstruct("Line", [("payload", msgspec.Raw)])).decode


class Visitor:
    """A program that stays at one balancer, whatever becomes of its connections."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.events: list[bytes] = []
        self.others: list[object] = []
        """What else it was told."""
        self.sessions = 0

    async def follow(self, url: str, ca_file: str, leaving: asyncio.Event) -> None:
        """Keep every event: `recorder.follow` goes on where it was."""
        async with aclosing(aiter(follow(url, "T.*", token=KEY, ca_file=ca_file))) as parts:
            async for part in parts:
                if isinstance(part, Event):
                    self.events.append(part.payload)
                else:
                    self.others.append(part)
                if leaving.is_set():
                    return

    async def follow_as_the_vendor(self, port: int, ca_file: str, leaving: asyncio.Event) -> None:
        """Connect again and again, as the vendor's client does; it knows no position."""
        feed = f"localhost:{port}"
        client = WebSocketClient(
            KEY, feed, "stocks", raw=True, subscriptions=["T.*"], max_reconnects=None, ca_certs=ca_file
        )

        async def take(frame: str | bytes) -> None:
            text = frame if isinstance(frame, str) else frame.decode()
            self.sessions += text.count('"subscribed to: T.*"')
            self.events += [b"T"] * text.count('"ev":"T"')

        following = asyncio.create_task(client.connect(take))
        await leaving.wait()
        await client.close()
        await following

    async def knock(self, url: str, trust: ssl.SSLContext, leaving: asyncio.Event) -> None:
        """Come as a new client, all the time."""
        while not leaving.is_set():
            try:
                async with connect(url, ssl=trust, user_agent_header=self.name, open_timeout=10):
                    self.sessions += 1
            except ConnectionClosed:
                pass  # it was let in; the tier ended behind that
            except Exception as error:
                self.others.append(error)
            await asyncio.sleep(KNOCK_SECS)


def members(tier: Running) -> float:
    """Return how many clients that gave a token a tier has."""
    return tier.metric('polygon_server_clients_authenticated{port="filtered"}')


class Audience:
    """All programs, on a thread of their own."""

    def __init__(self, gates: dict[str, int], certificate: Path) -> None:
        names = [name for name in gates for _ in range(FOLLOWERS)]
        self.followers = [Visitor(name) for name in names]
        self.vendors = [Visitor(name) for name in gates]
        self.knockers = [Visitor(name) for name in gates]
        self._gates = gates
        self._certificate = str(certificate)
        self._leave: Callable[[], object] = lambda: None
        self._thread = threading.Thread(target=lambda: asyncio.run(self._live()), daemon=True)
        self._thread.start()

    @property
    def stay(self) -> list[Visitor]:
        """Those that are there all the time."""
        return [*self.followers, *self.vendors]

    def wait_for_more(self) -> None:
        """Wait until each program that stays has got more."""
        seen = [len(visitor.events) for visitor in self.stay]
        eventually_sync(
            lambda: all(len(visitor.events) > count for visitor, count in zip(self.stay, seen, strict=True)),
            "more events for everybody",
        )

    def wait_for_all_at(self, tier: Running) -> None:
        """Wait until each program that stays is at this tier, and gets more there."""
        eventually_sync(
            lambda: members(tier) == len(self.stay), "everybody at the other tier", every_secs=0.05
        )
        self.wait_for_more()

    def close(self) -> None:
        """Leave."""
        if self._thread.is_alive():
            self._leave()
        self._thread.join(30)

    async def _live(self) -> None:
        trust = ssl.create_default_context(cafile=self._certificate)
        urls = {name: f"wss://localhost:{port}/stocks" for name, port in self._gates.items()}
        loop, leaving = asyncio.get_running_loop(), asyncio.Event()
        self._leave = lambda: loop.call_soon_threadsafe(leaving.set)
        # Each leaves by itself, so that none leaves a connection behind.
        await asyncio.gather(
            *(visitor.follow(urls[visitor.name], self._certificate, leaving) for visitor in self.followers),
            *(
                visitor.follow_as_the_vendor(self._gates[visitor.name], self._certificate, leaving)
                for visitor in self.vendors
            ),
            *(visitor.knock(urls[visitor.name], trust, leaving) for visitor in self.knockers),
        )


class Failures(logging.Handler):
    """Collects the connections that the vendor's client could not make."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.words: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if "connect failed" in record.getMessage():
            self.words.append(record.getMessage())


@contextmanager
def failures() -> Iterator[list[str]]:
    """Yield what the WebSocket library of the vendor's client says of connections that failed."""
    handler, logger = Failures(), logging.getLogger("websockets.client")
    level = logger.level
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    try:
        yield handler.words
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


@contextmanager
def balancers(folder: Path, machine: OneMachine, pair: tuple[Path, Path]) -> Iterator[dict[str, int]]:
    """Run both, with the configurations of proxy/; yield their ports by name."""
    gates = {"haproxy": free_port(), "nginx": free_port()}
    whole = folder / "whole.pem"
    whole.write_text(pair[0].read_text() + pair[1].read_text())
    for_haproxy = replaced(
        (CONFIGURATIONS / "haproxy.cfg").read_text(),
        {
            **machine.addresses("8765", "8865"),
            "port 9899": f"port {machine.ports['9899']}",
            "port 9900": f"port {machine.ports['9900']}",
            "/etc/haproxy/feed.example.com.pem": whole,
            "bind :443": f"bind 127.0.0.1:{gates['haproxy']}",
        },
    )
    for_nginx = replaced(
        (CONFIGURATIONS / "nginx-tiers.conf").read_text(),
        {
            **machine.addresses("8765", "8865"),
            "/etc/letsencrypt/live/feed.example.com/fullchain.pem": pair[0],
            "/etc/letsencrypt/live/feed.example.com/privkey.pem": pair[1],
            "listen 443 ssl": f"listen 127.0.0.1:{gates['nginx']} ssl",
        },
    )
    with (
        haproxy(folder / "haproxy", gates["haproxy"], for_haproxy),
        nginx(folder / "nginx", gates["nginx"], for_nginx),
    ):
        yield gates


def started(stack: ExitStack, folder: Path, variables: dict[str, str]) -> Running:
    """Start a tier; return it once it has data."""
    tier = stack.enter_context(
        running("run", cwd=folder, LOG_LEVEL="polygon_clients=debug,info", **variables)
    )
    tier.wait_for("subscribed")
    eventually_sync(lambda: tier.get("/ready")[0] == 200, "readiness")
    return tier


def is_found(tier: Running) -> bool:
    """Return whether both balancers give new clients to a tier."""
    return {entry["agent"] for entry in tier.logged("client_connected")} >= {"haproxy", "nginx"}


def traded(folder: Path) -> list[bytes]:
    """Return the trades of an archive, byte for byte."""
    lines = (folder / "polygon.ndjson").read_bytes().splitlines()
    payloads = [bytes(_payload(line).payload) for line in lines]
    return [payload for payload in payloads if json.loads(payload)["ev"] == "T"]


def test_tiers_come_and_go_behind_balancers(tmp_path: Path) -> None:
    """A tier is drained, started again, and takes everybody when the other one is killed; the exchange never pauses."""
    machine, pair = OneMachine(), self_signed(tmp_path, "proxy")
    archive = tmp_path / "archive"
    with ExitStack() as stack:
        exchange = stack.enter_context(
            simulating("--cluster", "stocks", "--symbols", "20", "--rate", "500", cwd=tmp_path)
        )
        first = {
            **machine.first,
            "POLYGON_WS_URL": f"ws://127.0.0.1:{exchange}",
            "NDJSON_DEST": str(archive / "polygon.ndjson"),
            "NDJSON_MIN_FREE_BYTES": "0",
        }
        source = stack.enter_context(running("run", cwd=tmp_path, **first))
        source.wait_for("subscribed")
        tiers = [started(stack, tmp_path, variables) for variables in machine.tiers]
        gates = stack.enter_context(balancers(tmp_path, machine, pair))
        failed = stack.enter_context(failures())
        audience = Audience(gates, pair[0])
        stack.callback(audience.close)
        audience.wait_for_more()
        assert all(map(members, tiers))
        for turn in range(TURNS):
            drained, killed = turn % 2, 1 - turn % 2
            assert tiers[drained].stop() == 0
            assert tiers[drained].logged("drained")[0]["clients"] > 0
            audience.wait_for_all_at(tiers[killed])
            tiers[drained] = started(stack, tmp_path, machine.tiers[drained])
            eventually_sync(lambda tier=tiers[drained]: is_found(tier), "clients of both balancers")
            tiers[killed].send(signal.SIGKILL)
            tiers[killed].wait()
            audience.wait_for_all_at(tiers[drained])
            tiers[killed] = started(stack, tmp_path, machine.tiers[killed])
            eventually_sync(lambda tier=tiers[killed]: is_found(tier), "clients of both balancers")
        audience.wait_for_more()
        audience.close()
        assert source.stop() == 0
    knocks = sum(visitor.sessions for visitor in audience.knockers)
    assert [error for visitor in audience.knockers for error in visitor.others] == []
    assert failed == [], "connections of the vendor's client"
    assert sum(visitor.sessions for visitor in audience.vendors) >= len(audience.vendors) + TURNS
    trades = traded(archive)
    for visitor in audience.followers:
        assert visitor.others == []
        begin = trades.index(visitor.events[0])
        assert visitor.events == trades[begin:][: len(visitor.events)]
    events = sum(len(visitor.events) for visitor in audience.followers)
    report(
        24,
        fault="tiers behind HAProxy and nginx come and go",
        injected=f"{TURNS} times: SIGTERM with DRAIN_SECS=2 for one of two tiers, a start, `kill -9` for the other, a start",
        holds="every new client is let in; `recorder.follow` has every event once, in order; the vendor's client connects "
        "again each time without a failure",
        figure=f"{knocks:,} new clients, 0 failed; {events:,} events of {len(audience.followers)} followers, 0 missing",
    )
