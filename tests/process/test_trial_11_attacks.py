"""Trial 11: attacks on every port, as raw sockets make them, while a good client follows."""

from __future__ import annotations

import resource
import time
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest
from commands import Running, live_settings, running, simulating
from listening import listening
from oracle import follow, read_sent
from rawclient import BINARY, CLOSE, PING, TEXT, RawClient, masked, raw_client, rss_bytes
from trials import report, scale
from waiting import DEADLINE_SECS, eventually_sync

pytestmark = [pytest.mark.trial, pytest.mark.timeout(scale(120, 600))]

PORTS = ("firehose", "filtered", "bars")
LATE_SECS = scale(10, 0.5)
"""By how much a cut may come late: in the short form other tests have the machine, too."""
MIB = 2**20
SLACK_BYTES = 8 * MIB
"""How much the memory of a process that serves may move by itself."""


@pytest.fixture(scope="module")
def victim(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A recorder under load. A good client follows it through every attack, and misses nothing."""
    folder = tmp_path_factory.mktemp("victim")
    log = folder / "sent.ndjson"
    with (
        simulating("--cluster", "stocks", "--rate", "2000", "--log", str(log), cwd=folder) as port,
        running("run", cwd=folder, **live_settings(port, folder / "archive")) as recorder,
    ):
        with listening(f"ws://{recorder.address_of('firehose')}/stocks") as good:
            eventually_sync(lambda: good.frames, "data")
            yield recorder
            seen = len(good.frames)
            eventually_sync(lambda: len(good.frames) > seen, "data after the attacks")
            assert recorder.get("/ready") == (200, "READY")
            assert recorder.stop() == 0
            eventually_sync(lambda: good.close_code, "the close")
        # aiohttp calls it an error where what a client sends is no HTTP.
        errors = [entry for entry in recorder.events if entry["level"] in ("ERROR", "CRITICAL")]
        assert not [entry for entry in errors if entry["target"] != "aiohttp.server"]
    # Only now is the simulator's log whole: it is flushed now and then.
    stream = follow(read_sent(log).events, good.events)
    assert stream.faultless, stream


def evictions(recorder: Running, port: str, reason: str) -> float:
    """How many clients of a port were cut for a reason."""
    return recorder.metric(f'polygon_server_evictions_total{{port="{port}",reason="{reason}"}}')


def figure(fault: str, injected: str, holds: str, text: str) -> None:
    """Report one row of the attack table."""
    report(11, fault=fault, injected=injected, holds=holds, figure=text)


SLOW_STARTS = (
    ("silent", b"", b""),
    ("a byte", b"G", b""),
    ("half a request", b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n", b""),
    ("a dripping header", b"GET / HTTP/1.1\r\nX-Slow: ", b"x"),
    ("dripping headers", b"GET / HTTP/1.1\r\n", b"X: y\r\n"),
    ("a dripping line", b"G", b"E"),
)
"""Name, what is sent at once, and what again and again."""


def test_silent_connects_and_slow_handshakes(victim: Running) -> None:
    """On all four ports, a client that sends nothing, half a request, or a header byte now and then is cut within 10 s."""
    begun = time.monotonic()
    ends: dict[str, float] = {}
    with ExitStack() as stack:
        standing: dict[RawClient, tuple[str, bytes]] = {}
        for port in (*PORTS, "metrics"):
            for name, said, drip in SLOW_STARTS:
                for _ in range(scale(5, 50)):
                    client = stack.enter_context(raw_client(victim.address_of(port), "127.0.0.11"))
                    client.send(said)
                    standing[client] = (f"{port}: {name}", drip)
        count = len(standing)

        def all_cut() -> bool:
            for client, (name, drip) in list(standing.items()):
                if client.is_over():
                    ends[name] = time.monotonic() - begun
                    del standing[client]
                else:
                    client.send(drip)
            return not standing

        eventually_sync(all_cut, "the end of all")
    longest = max(ends, key=lambda name: ends[name])
    assert ends[longest] <= 10 + LATE_SECS, ends
    figure(
        "slow handshakes, silent connects",
        f"{count} connections on all four ports that send nothing, a byte, half a request, or drip one",
        "each is cut within 10 s",
        f"the last after {ends[longest]:.1f} s ({longest})",
    )


def test_one_address_cannot_hold_all_places(victim: Running) -> None:
    """An address has 1,000 connections that wait, and no more; another address gets in at once meanwhile."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, 4096)), hard))
    more = 50
    before = victim.metric('polygon_server_refused_total{port="filtered",reason="address"}')
    clients = [RawClient(victim.address_of("filtered"), "127.0.0.12") for _ in range(1000 + more)]

    def refused() -> float:
        return victim.metric('polygon_server_refused_total{port="filtered",reason="address"}') - before

    try:
        eventually_sync(lambda: refused() >= more, "refusals")
        begun = time.monotonic()
        with raw_client(victim.address_of("filtered"), "127.0.0.13") as other:
            other.subscribe("T.*")
        waited_ms = (time.monotonic() - begun) * 1000
        assert refused() == more
    finally:
        for client in clients:
            client.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    figure(
        "half-open connections of one address",
        f"{1000 + more} connections that say nothing, from one address",
        "1,000 wait at most, counted; others get in",
        f"{more} refused; another address was subscribed in {waited_ms:.0f} ms",
    )


BROKEN = {
    "unmasked frame": (b"\x81\x02{}", 1002),
    "RSV1 that was not negotiated": (masked(TEXT | 0x40, b"{}"), 1002),
    "reserved opcode": (masked(0x83, b""), 1002),
    "fragmented ping": (masked(0x09, b""), 1002),
    "ping of 126 bytes": (masked(PING, b"x" * 126), 1002),
    "header that claims 2^40 bytes": (b"\x82\xff" + (2**40).to_bytes(8, "big") + b"mask" + b"x" * 1000, 1009),
    "message beyond 64 KiB": (masked(TEXT, b" " * 65_537), 1009),
    "400,000 empty fragments": (masked(0x01, b"") + masked(0x00, b"") * 400_000, 1008),
    "close with 1006": (masked(CLOSE, b"\x03\xee"), 1002),
    "text that is no UTF-8": (masked(TEXT, b"\xff\xfe"), 1007),
    "61 kB that inflate to 60 MiB, deflate not negotiated": (
        masked(TEXT | 0x40, zlib.compress(bytes(60 * MIB))),
        1002,
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_frames_that_break_the_protocol(victim: Running, name: str) -> None:
    """Each ends its own connection with its code, before and after authentication, and takes no memory."""
    sent, code = BROKEN[name]
    rounds = scale(3, 30)
    before = rss_bytes(victim.process.pid)
    for _ in range(rounds):
        for port in PORTS:
            for subscribed in (False, True):
                with raw_client(victim.address_of(port), "127.0.0.14") as client:
                    if subscribed:
                        client.subscribe("100Ms.NONE" if port == "bars" else "T.NONE")
                    else:
                        assert client.upgrade() == 101
                    client.send(sent)
                    found = client.closed_with()
                    # Who goes on sending may have its connection reset before it reads the close frame.
                    assert found == code or (found is None and len(sent) > 100_000), (port, subscribed, found)
    grown = rss_bytes(victim.process.pid) - before
    assert grown < SLACK_BYTES
    figure(
        name,
        f"{rounds * 2 * len(PORTS)} connections, on the three WebSocket ports, before and after authentication",
        f"closed with {code}, no memory",
        f"all closed; memory moved by {grown / MIB:+.1f} MiB",
    )


def test_a_bomb_where_deflate_is_enabled(tmp_path: Path) -> None:
    """With WS_COMPRESSION, too, 61 kB that inflate to 60 MiB close with 1009, and take no memory."""
    deflate = zlib.compressobj(wbits=-15)
    bomb = deflate.compress(bytes(60 * MIB)) + deflate.flush(zlib.Z_SYNC_FLUSH)[:-4]
    with simulating("--cluster", "stocks", "--rate", "100", cwd=tmp_path) as port:
        settings = live_settings(port, tmp_path / "a", WS_COMPRESSION="true", ROLES="filtered,ops")
        with running("run", cwd=tmp_path, **settings) as recorder:
            recorder.wait_for("subscribed")
            before = rss_bytes(recorder.process.pid)
            rounds = scale(5, 50)
            for _ in range(rounds):
                with raw_client(recorder.address_of("filtered")) as client:
                    offer = "Sec-WebSocket-Extensions: permessage-deflate\r\n"
                    assert client.upgrade(headers=offer) == 101
                    client.send(masked(TEXT | 0x40, bomb))
                    assert client.closed_with() == 1009
            grown = rss_bytes(recorder.process.pid) - before
            assert grown < SLACK_BYTES
    figure(
        f"{len(bomb) / 1000:.0f} kB that inflate to 60 MiB, deflate enabled",
        f"{rounds} times, with WS_COMPRESSION",
        "closed with 1009, no memory",
        f"all closed; memory moved by {grown / MIB:+.1f} MiB",
    )


FLOODS = {
    "ping flood": masked(PING, b"x" * 100),
    "pong flood": masked(0x8A, b"x" * 100),
    "request flood": masked(TEXT, b'{"action":"subscribe","params":"T.NONE"}'),
    "subscribe churn": masked(TEXT, b'{"action":"subscribe","params":"T.NONE"}')
    + masked(TEXT, b'{"action":"unsubscribe","params":"T.NONE"}'),
    "requests of 64 KB with 10,000 topics": masked(
        TEXT, b'{"action":"subscribe","params":"%b"}' % b",".join(b"T.%d" % n for n in range(9000))
    ),
}


def flood(address: str, port: str, unit: bytes, reads: bool) -> tuple[float, int]:
    """Send without end on one connection; return after how many seconds and sends it was cut."""
    with raw_client(address, "127.0.0.15", 0 if reads else 4096) as client:
        client.subscribe("100Ms.NONE" if port == "bars" else "Q.NONE")
        begun = time.monotonic()
        sent = 0
        while client.send(unit) and not (reads and not sent % 50 and client.is_over()):
            sent += 1
            assert time.monotonic() - begun < DEADLINE_SECS, "never cut"
        return time.monotonic() - begun, sent


@pytest.mark.parametrize("name", FLOODS)
def test_floods(victim: Running, name: str) -> None:
    """Who asks or pings without end has a budget, then 1008, be the answers read or not."""
    before = rss_bytes(victim.process.pid)

    def cut(port: str) -> float:
        return sum(evictions(victim, port, why) for why in ("too_many_requests", "slow_consumer"))

    counted = {port: cut(port) for port in PORTS}
    with ThreadPoolExecutor() as pool:
        floods = [
            pool.submit(flood, victim.address_of(port), port, FLOODS[name], reads)
            for port in PORTS
            for reads in (True, False)
        ]
        ends = [one.result() for one in floods]
    for port in PORTS:
        eventually_sync(lambda port=port: cut(port) >= counted[port] + 2, f"both counted on {port}")  # type: ignore[misc]
    grown = rss_bytes(victim.process.pid) - before
    assert grown < len(ends) * 2 * 16 * MIB, (
        "what each may leave unread, and as much for its topics and their answers"
    )
    figure(
        name,
        "on each WebSocket port a connection that reads its answers and one that does not, all at once, as fast as they go",
        "a budget, then 1008, counted",
        f"the last was cut after {max(secs for secs, _ in ends):.1f} s and {max(sent for _, sent in ends):,} sends; "
        f"memory moved by {grown / MIB:+.1f} MiB",
    )


def test_who_does_not_authenticate(victim: Running) -> None:
    """Without a token in 10 s: 1008; a token that comes later finds nobody."""
    clients = [
        RawClient(victim.address_of(port), "127.0.0.16") for port in PORTS for _ in range(scale(5, 100))
    ]
    begun = time.monotonic()
    for client in clients:
        assert client.upgrade() == 101
    codes = [client.closed_with() for client in clients]
    longest_secs = time.monotonic() - begun
    for client in clients:
        client.close()
    assert set(codes) == {1008}
    assert 9.5 <= longest_secs <= 11 + LATE_SECS
    figure(
        "no authentication",
        f"{len(clients)} connections that stay silent behind the handshake",
        "1008 after 10 s",
        f"all closed, the last after {longest_secs:.1f} s",
    )


def test_guessing_tokens(victim: Running) -> None:
    """Each guess costs a connection and, by address, a delay that doubles; others are not delayed."""
    times: list[float] = []
    for number in range(scale(5, 8)):
        with raw_client(victim.address_of("filtered"), "127.0.0.17") as client:
            assert client.upgrade() == 101
            begun = time.monotonic()
            client.say(action="auth", params=f"guess-{number}")
            assert client.closed_with() == 1008
            times.append(time.monotonic() - begun)
    begun = time.monotonic()
    with raw_client(victim.address_of("filtered"), "127.0.0.18") as other:
        other.subscribe("T.NONE")
    unhindered_secs = time.monotonic() - begun
    # The delay runs from the last failure, so that a moment of it has passed when the next guess comes.
    for place, secs in enumerate(times[2:]):
        assert secs >= min(0.4 * 2**place, 9), times
    assert unhindered_secs < 2
    figure(
        "token guessing",
        "one wrong token a connection, from one address",
        "1008 each; the delay doubles, up to 10 s; other addresses wait for nothing",
        f"{len(times)} guesses took {', '.join(f'{secs:.1f}' for secs in times)} s; "
        f"another address was subscribed in {unhindered_secs * 1000:.0f} ms",
    )


def test_a_million_topics(victim: Running) -> None:
    """10,000 topics a client are the limit, said so; and the events of others cost no more for them."""
    with ExitStack() as stack:
        before = rss_bytes(victim.process.pid)
        clients = [
            stack.enter_context(raw_client(victim.address_of("filtered"), "127.0.0.19"))
            for _ in range(scale(5, 20))
        ]
        for number, client in enumerate(clients):
            client.subscribe("Q.NONE")
            for place in range(0, 12_000, 3000):
                topics = ",".join(f"T.X{number}Y{place + n}" for n in range(3000))
                client.say(action="subscribe", params=topics)
            client.hear("are beyond the limit of 10000")
        held = victim.metric('polygon_server_subscriptions{port="filtered"}')
        grown = rss_bytes(victim.process.pid) - before
        lag_secs = victim.metric("polygon_loop_lag_seconds")
    assert held >= 10_000 * len(clients)
    assert grown < 20 * MIB * len(clients)
    figure(
        "a million topics",
        f"{len(clients)} clients that ask for 12,000 topics each, of which nothing matches",
        "10,000 a client, then an error that says so",
        f"{held:,.0f} held, {grown / held:,.0f} bytes a topic; loop lag {lag_secs * 1000:.1f} ms meanwhile",
    )


def test_pages_of_others(victim: Running) -> None:
    """A foreign `Origin` is refused on the sockets, and a foreign `Host` (DNS rebinding) on all four ports."""
    refused = 0
    for port in (*PORTS, "metrics"):
        with raw_client(victim.address_of(port)) as client:
            path = "/metrics" if port == "metrics" else "/stocks"
            assert client.upgrade(path, host="evil.example") == 421
            refused += 1
        if port != "metrics":
            for origin in ("https://evil.example", "null", "http://127.0.0.1.evil.example"):
                with raw_client(victim.address_of(port)) as client:
                    assert client.upgrade(headers=f"Origin: {origin}\r\n") == 403
                    refused += 1
        with raw_client(victim.address_of(port)) as client:
            client.send(b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\nHost: evil.example\r\n\r\n")
            assert client.read_until(b"\r\n").split()[1] == b"400"
            refused += 1
    figure(
        "foreign Origin, foreign Host, two Hosts",
        "upgrades as a page of another origin makes them, and under a name that is not ours",
        "403, 421, 400",
        f"{refused} of {refused} refused",
    )


ODD = {
    "deep JSON": b'{"action":' * 5000 + b"1" + b"}" * 5000,
    "deep arrays": b"[" * 60_000,
    "a number of 60,000 digits": b'{"action":"subscribe","params":"T.A","since":' + b"9" * 60_000 + b"}",
    "a huge exponent": b'{"action":"subscribe","params":"T.A","since":1e999999}',
    "lone surrogates": b'{"action":"\\ud800","params":"\\udfff"}',
    "the same key 5,000 times": b"{" + b'"action":1,' * 5000 + b'"action":2}',
}


@pytest.mark.parametrize("name", ODD)
def test_odd_requests(victim: Running, name: str) -> None:
    """Each is answered with one error status, quickly, and the connection continues."""
    longest_ms = 0.0
    for port in PORTS:
        for kind in (TEXT, BINARY):
            with raw_client(victim.address_of(port)) as client:
                client.subscribe("100Ms.NONE" if port == "bars" else "Q.NONE")
                begun = time.monotonic()
                client.send(masked(kind, ODD[name]))
                client.hear('"status":"error"')
                longest_ms = max(longest_ms, (time.monotonic() - begun) * 1000)
                topic = "100Ms.ALSO" if port == "bars" else "T.ALSO"
                client.say(action="subscribe", params=topic)
                client.hear(f"subscribed to: {topic}")
    figure(
        name,
        "as a request, text and binary, on the three WebSocket ports",
        "an error status; the connection goes on",
        f"answered within {longest_ms:.1f} ms",
    )
