"""The ops server over real sockets."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import orjson
import pytest
from aiohttp import ClientConnectorError, ClientError, ClientSession, DummyCookieJar, encode_basic_auth
from ops_parts import HeldClock, feed_of, make_ready
from waiting import eventually

import recorder.ops.server as server_module
from recorder.archive.stats import ActiveSegment, ArchiveStats
from recorder.bus import Bus
from recorder.descriptors import FdBudget
from recorder.errors import EXIT_CONFIG, ConfigError
from recorder.ledger import Ledger
from recorder.ops.observed import Observed
from recorder.ops.server import OpsServer
from recorder.servers.tokens import DELAY_FIRST_SECS, Guard, TokenCheck, Tokens
from recorder.settings.sections import OpsSettings
from recorder.sources.stats import FeedStats
from recorder.version import VERSION


class World:
    """One ops server, the parts behind it, and a client before it."""

    def __init__(
        self,
        host: str = "127.0.0.1",
        port: int = 0,
        tokens: Sequence[str] = (),
        others: Sequence[str] = (),
        token: str = "",
        run_id: str = "3f1c",
    ) -> None:
        self.clock = HeldClock()
        self.feed: FeedStats = feed_of("stocks")
        self.ledger = Ledger()
        self.archive = ArchiveStats()
        self.server = OpsServer(
            OpsSettings.model_construct(
                address=f"[{host}]:{port}" if ":" in host else f"{host}:{port}", page_recorders=tuple(others)
            ),
            Observed([self.feed], self.ledger, Bus(), run_id, self.clock, archive=self.archive),
            TokenCheck(Tokens(tokens), Guard(self.clock)) if tokens else None,
            token=lambda: token,
        )

    async def ask(self, path: str, method: str = "GET", **headers: str) -> tuple[int, bytes, dict[str, str]]:
        """Return status, body as sent, and headers of one request."""
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        async with (
            ClientSession(auto_decompress=False, cookie_jar=DummyCookieJar()) as client,
            client.request(method, f"http://127.0.0.1:{self.server.port}{path}", headers=given) as response,
        ):
            return response.status, await response.read(), dict(response.headers)

    async def ask_json(self, path: str) -> tuple[int, Any]:
        """Return status and content of a JSON answer."""
        code, body, headers = await self.ask(path)
        assert headers["Content-Type"].startswith("application/json")
        return code, orjson.loads(body)


@asynccontextmanager
async def serving(host: str = "127.0.0.1", **more: Any) -> AsyncIterator[World]:
    """Run an ops server on a free port."""
    world = World(host, **more)
    await world.server.open()
    try:
        yield world
    finally:
        await world.server.close(0)


async def test_health_is_ok() -> None:
    """/health answers 200 `OK` though nothing is ready; ?verbose is JSON."""
    async with serving() as world:
        assert (await world.ask("/health"))[:2] == (200, b"OK")
        world.clock.advance(1.5)
        code, content = await world.ask_json("/health?verbose")
    assert code == 200
    assert (content["status"], content["version"], content["uptime_secs"]) == ("OK", VERSION, 1.5)


async def test_ready_follows_the_parts() -> None:
    """/ready is 503 with the reasons, 200 `READY` once data flows, and 503 again when the disk is full."""
    async with serving() as world:
        sink = world.ledger.sink("ndjson")
        assert (await world.ask("/ready"))[:2] == (503, b"NOT READY\nstocks: not connected yet\n")
        make_ready(world.feed, world.clock)
        assert (await world.ask("/ready"))[:2] == (200, b"READY")
        sink.failure = "disk full"
        assert (await world.ask("/ready"))[:2] == (503, b"NOT READY\nndjson: disk full; 0 bytes pending\n")
        sink.failure = ""
        assert (await world.ask("/ready"))[0] == 200


async def test_ready_verbose_is_json() -> None:
    """?verbose keeps the status of /ready and gives reasons, feeds and sinks; ?verbose=false is plain."""
    async with serving() as world:
        world.ledger.sink("ndjson")
        code, content = await world.ask_json("/ready?verbose")
        assert code == 503
        assert (content["ready"], content["reasons"]) == (False, ["stocks: not connected yet"])
        assert [feed["state"] for feed in content["feeds"]] == ["starting"]
        assert [sink["name"] for sink in content["sinks"]] == ["ndjson"]
        make_ready(world.feed, world.clock)
        code, content = await world.ask_json("/ready?verbose=1")
        assert (code, content["ready"], content["reasons"]) == (200, True, [])
        assert (await world.ask("/ready?verbose=false"))[1] == b"READY"


async def test_metrics_formats() -> None:
    """/metrics is plain text, OpenMetrics where asked for, and gzip where accepted, each labelled as such."""
    async with serving() as world:
        world.feed.frames_received = 42
        line = b'polygon_messages_received_total{feed="stocks"} 42.0\n'
        _, body, headers = await world.ask("/metrics", Accept_Encoding="identity")
        assert line in body
        assert headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
        assert "Content-Encoding" not in headers
        _, body, headers = await world.ask(
            "/metrics", Accept="application/openmetrics-text;version=1.0.0,*/*;q=0.1"
        )
        assert body.endswith(b"# EOF\n") or headers["Content-Encoding"] == "gzip"
        assert headers["Content-Type"].startswith("application/openmetrics-text; version=1.0.0")
        _, body, headers = await world.ask("/metrics", Accept_Encoding="deflate, gzip")
        assert headers["Content-Encoding"] == "gzip"
        assert body.startswith(b"\x1f\x8b")


async def test_status_tells_all_parts() -> None:
    """/status has the run, feeds, sinks with their balance, and the archive's active files."""
    async with serving() as world:
        started_ns = world.clock.wall_ns()
        world.clock.advance(2)
        world.feed.ended_by["read_timeout"] = 1
        world.archive.active["polygon.ndjson"] = ActiveSegment("polygon.ndjson", 100, 3)
        world.ledger.channel("stocks", "T").received = 7
        sink = world.ledger.sink("ndjson")
        sink.accepted["stocks", "T"] = 6
        sink.recorded["stocks", "T"] = 4
        code, content = await world.ask_json("/status")
    assert code == 200
    assert (content["version"], content["run_id"], content["uptime_secs"]) == (VERSION, "3f1c", 2.0)
    assert content["started"] == started_ns // 1_000_000
    assert content["feeds"][0]["ended_by"] == {"read_timeout": 1}
    assert content["archive"]["active"] == [
        {"file": "polygon.ndjson", "bytes": 100, "records": 3, "rotates_at": None}
    ]
    assert content["sinks"][0]["balance"] == {
        "received": 7,
        "recorded": 4,
        "filtered": 0,
        "sampled_out": 0,
        "rejected": 0,
        "dropped": 0,
        "pending": 2,
        "difference": 1,
    }
    assert content["sinks"][0]["channels"][0]["channel"] == "T"


async def test_the_page_links_to_the_endpoints() -> None:
    """/ leads to every endpoint, and each of them answers."""
    async with serving() as world:
        code, body, _ = await world.ask("/", Accept_Encoding="identity")
        assert code == 200
        for path in ("/health", "/ready", "/metrics", "/status"):
            assert f">{path}</a>" in body.decode()
            assert (await world.ask(path))[0] in (200, 503)


@pytest.mark.parametrize("path", ["/", "/health", "/ready", "/metrics", "/status"])
async def test_methods(path: str) -> None:
    """HEAD answers as GET does, without a body; other methods are 405 and say what is allowed."""
    async with serving() as world:
        code, _, headers = await world.ask(path, Accept_Encoding="identity")
        head_code, head_body, head_headers = await world.ask(path, "HEAD", Accept_Encoding="identity")
        assert (head_code, head_body) == (code, b"")
        assert head_headers["Content-Type"] == headers["Content-Type"]
        for method in ("POST", "PUT", "DELETE", "OPTIONS"):
            code, _, headers = await world.ask(path, method)
            assert code == 405
            assert "GET" in headers["Allow"]


async def test_answers_are_neither_cached_nor_guessed_at() -> None:
    """Every answer, errors too, forbids caching and sniffing, and does not name library versions."""
    async with serving() as world:
        for path in ("/health", "/nothing"):
            _, _, headers = await world.ask(path)
            assert headers["Cache-Control"] == "no-store"
            assert headers["X-Content-Type-Options"] == "nosniff"
            assert headers["Server"] == "recorder"
        assert (await world.ask("/nothing"))[0] == 404


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:9898", "127.0.0.1.evil.example", "[::2]:1", "10.0.0.1"]
)
async def test_foreign_host_is_refused(host: str) -> None:
    """Bound to loopback, a request under a foreign name is 421 on every path: DNS rebinding reads nothing."""
    async with serving() as world:
        for path in ("/status", "/metrics", "/nothing"):
            code, body, _ = await world.ask(path, Host=host)
            assert (code, body) == (421, b"This server answers to localhost only.\n")


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:1", "127.0.0.1:9898", "[::1]:80", "[::1]"])
async def test_loopback_hosts_are_served(host: str) -> None:
    """The names of loopback are ours, with any port: a tunnel or container may map it."""
    async with serving() as world:
        assert (await world.ask("/health", Host=host))[0] == 200


async def test_foreign_host_is_refused_on_every_interface() -> None:
    """Without tokens the server is for this machine, wherever it is bound: no page of another name reads it."""
    async with serving("0.0.0.0") as world:  # noqa: S104 - bound for a moment, on a free port
        assert (await world.ask("/metrics", Host="recorder.lan:9898"))[0] == 421


@pytest.mark.parametrize("path", ["/", "/metrics", "/status", "/events", "/page/page.js", "/nothing"])
async def test_a_token_is_asked_for(path: str) -> None:
    """Nothing but one word of health is told to a request without a good token; a browser is asked for one."""
    async with serving("0.0.0.0", tokens=["prometheus:s3cret"]) as world:  # noqa: S104
        for wrong in (
            {},
            {"Authorization": "Bearer s3cre"},
            {"Authorization": "Basic x"},
            {"Authorization": "s3cret"},
        ):
            code, body, headers = await world.ask(path, **wrong)
            assert (code, body.count(b"\n")) == (401, 1)
            assert headers["WWW-Authenticate"].startswith("Basic ")
            world.clock.advance(700)  # a wrong token is forgotten by then, and delays nobody


@pytest.mark.parametrize(
    "authorization", ["Bearer s3cret", "bearer  s3cret", encode_basic_auth("me", "s3cret")]
)
async def test_a_token_is_a_bearer_or_a_password(authorization: str) -> None:
    """Prometheus sends a bearer, a browser a password; with either all is served under any name."""
    async with serving("0.0.0.0", tokens=["other:0ther", "prometheus:s3cret"]) as world:  # noqa: S104
        for path in ("/", "/metrics", "/status", "/page/page.js"):
            given = {"Authorization": authorization, "Host": "recorder.lan:9898"}
            assert (await world.ask(path, **given))[0] == 200, path


async def test_load_balancers_need_no_token() -> None:
    """They learn whether it works and whether it is ready; why not, only those that bring a token."""
    async with serving("0.0.0.0", tokens=["prometheus:s3cret"]) as world:  # noqa: S104
        assert (await world.ask("/health?verbose"))[:2] == (200, b"OK")
        assert (await world.ask("/ready?verbose"))[:2] == (503, b"NOT READY\n")
        known = {"Authorization": "Bearer s3cret"}
        assert b"not connected yet" in (await world.ask("/ready", **known))[1]
        make_ready(world.feed, world.clock)
        assert (await world.ask("/ready"))[:2] == (200, b"READY")


async def test_guesses_wait() -> None:
    """The third wrong token from an address is answered later, and so is a good one after it."""
    async with serving("0.0.0.0", tokens=["prometheus:s3cret"]) as world:  # noqa: S104
        loop = asyncio.get_running_loop()
        for _ in range(2):
            assert (await world.ask("/status", Authorization="Bearer guess"))[0] == 401
        began = loop.time()
        assert (await world.ask("/status", Authorization="Bearer s3cret"))[0] == 200
        assert loop.time() - began >= DELAY_FIRST_SECS


async def held_connections(world: World, count: int) -> list[asyncio.StreamWriter]:
    """Open connections that say nothing."""
    opened = [await asyncio.open_connection("127.0.0.1", world.server.port) for _ in range(count)]
    await eventually(lambda: world.server.connections == count)
    return [writer for _, writer in opened]


async def test_connections_have_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """One too many is told 503; once another has gone there is room again."""
    monkeypatch.setattr(server_module, "CONNECTIONS_MAX", 3)
    async with serving() as world:
        first, *others = await held_connections(world, 3)
        code, body, headers = await world.ask("/health")
        assert (code, body) == (503, b"this server has as many connections as it may have; come back later\n")
        assert headers["Retry-After"] == "10"
        first.close()
        await eventually(lambda: world.server.connections == 2)
        assert (await world.ask("/health"))[0] == 200
        for writer in others:
            writer.close()


async def test_open_files_are_left_to_the_archive(monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection whose number is kept for files and the exchange is cut at once; later ones are served again."""
    async with serving() as world:
        monkeypatch.setattr(server_module, "fd_budget", lambda: FdBudget(0, 0, 0))
        with pytest.raises(ClientError):
            await world.ask("/health")
        monkeypatch.undo()
        assert (await world.ask("/health"))[0] == 200


async def test_old_client_without_host() -> None:
    """An HTTP/1.0 request without a Host is served: health checks of load balancers send such."""
    async with serving() as world:
        reader, writer = await asyncio.open_connection("127.0.0.1", world.server.port)
        writer.write(b"GET /health HTTP/1.0\r\n\r\n")
        answer = await reader.read()
        writer.close()
        await writer.wait_closed()
    assert answer.startswith(b"HTTP/1.0 200 OK\r\n")
    assert answer.endswith(b"\r\n\r\nOK")


async def test_client_that_does_not_read_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that asks and never reads loses its connection after ANSWER_SECS; others are served meanwhile."""
    monkeypatch.setattr(server_module, "ANSWER_SECS", 0.2)
    async with serving() as world:
        # More than the kernel's buffers of both sides hold.
        world.archive.active = {
            name: ActiveSegment(name, 1, 1)
            for name in (f"{number}-{'x' * 200}.ndjson" for number in range(50_000))
        }
        with socket.create_connection(("127.0.0.1", world.server.port)) as client:
            client.sendall(b"GET /status HTTP/1.1\r\nHost: localhost\r\n\r\n")
            await eventually(lambda: world.server.connections == 1)
            assert (await world.ask("/health"))[0] == 200
            await eventually(lambda: world.server.connections == 0)


async def test_port_in_use_is_a_config_error() -> None:
    """A taken port ends with status 78 and one line that names the setting and the address."""
    async with serving() as world:
        second = World(port=world.server.port)
        with pytest.raises(ConfigError) as caught:
            await second.server.open()
    message = str(caught.value)
    assert message.startswith(f"METRICS_ADDR 127.0.0.1:{world.server.port} is in use")
    assert "\n" not in message
    assert caught.value.exit_status == EXIT_CONFIG


@pytest.mark.parametrize("host", ["192.0.2.1", "no-such-host.invalid"])
async def test_address_that_is_not_ours_is_a_config_error(host: str) -> None:
    """An address of another machine, or a name that does not resolve, is named as such."""
    with pytest.raises(ConfigError, match=rf"METRICS_ADDR {host}:0 cannot be used to listen: \w+"):
        await World(host).server.open()


async def test_it_serves_until_closed_and_again_once_opened() -> None:
    """`close` releases the port and every connection; what was closed can be opened again."""
    world = World()
    await world.server.open()
    running = asyncio.create_task(world.server.run())
    await world.clock.asleep.wait()
    port = world.server.port
    assert repr(world.server) == f"OpsServer(127.0.0.1:{port}, listening, connections=0, ready=False)"
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert (await reader.readuntil(b"\r\n\r\nOK")).startswith(b"HTTP/1.1 200")
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    await world.server.close(0)
    assert await reader.read() == b""
    writer.close()
    await writer.wait_closed()
    async with ClientSession() as client:
        with pytest.raises(ClientConnectorError):
            await client.get(f"http://127.0.0.1:{port}/health")
    assert repr(world.server) == f"OpsServer(127.0.0.1:{port}, stopped, connections=0, ready=False)"
    await world.server.open()
    assert (await world.ask("/health"))[0] == 200
    await world.server.close(0)


async def test_address_is_known_before_and_after_the_start() -> None:
    """`address` is what the settings say, then what was bound; IPv6 is in brackets."""
    world = World("::1")
    assert world.server.address == "[::1]:0"
    if not socket.has_ipv6:
        pytest.skip("this machine has no IPv6")
    try:
        await world.server.open()
    except ConfigError as error:
        pytest.skip(f"this machine has no IPv6 loopback: {error}")
    assert world.server.address == f"[::1]:{world.server.port}"
    await world.server.close(0)


async def test_recorders_are_asked_when_a_page_asks() -> None:
    """This one first, then the others; itself in the list is left out, one that does not answer is named. At most once a
    second anybody is asked."""
    async with serving(run_id="another") as other, serving(run_id="itself") as itself:
        make_ready(other.feed, other.clock)
        other.feed.gaps = 2
        urls = [f"http://127.0.0.1:{world.server.port}" for world in (other, itself)]
        async with serving(others=[*urls, "http://127.0.0.1:9"], run_id="itself") as world:
            code, lines = await world.ask_json("/recorders")
            assert code == 200
            assert [(line["state"], line["is_this"]) for line in lines] == [
                ("not ready", True),
                ("serving", False),
                ("no answer", False),
            ]
            assert lines[0]["reasons"] == ["stocks: not connected yet"]
            assert lines[0]["name"].endswith(f" 127.0.0.1:{world.server.port}")
            assert (lines[1]["clusters"], lines[1]["gaps"]) == (["stocks"], 2)
            assert lines[2]["name"] == "127.0.0.1:9"
            assert lines[2]["reasons"][0].startswith("cannot be reached: Connection refused")
            other.feed.gaps = 3
            _, again = await world.ask_json("/recorders")
            assert again[1]["gaps"] == 2
            world.clock.advance(1.1)
            _, again = await world.ask_json("/recorders")
            assert again[1]["gaps"] == 3
    async with serving() as alone:
        assert await alone.ask_json("/recorders") == (200, [])


@pytest.mark.parametrize(
    ("token", "words"),
    [
        ("a-good-token", ""),
        ("another", "answered 401 Unauthorized: it does not know the first token of AUTH_TOKENS here"),
        ("", "answered 401 Unauthorized: it wants a token, and AUTH_TOKENS has none here that is not a hash"),
    ],
)
async def test_other_machines_are_asked_with_a_token(token: str, words: str) -> None:
    """By an address that is no loopback one, as other machines have; where it is refused, the reason says what to do."""
    everywhere = "0.0.0.0"  # noqa: S104 - so that a token is asked for
    async with serving(everywhere, tokens=["page:a-good-token"]) as other:
        url = f"http://{everywhere}:{other.server.port}"
        async with serving(others=[url], token=token, run_id="this") as world:
            _, (_, line) = await world.ask_json("/recorders")
    assert line["reasons"] == ([words] if words else ["stocks: not connected yet"])
