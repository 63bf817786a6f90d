"""The servers towards real connections: both dialects, what is delivered, every limit, and clients that misbehave."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import ssl
import struct
import subprocess
import time
import zlib
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import aiohttp
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from serving import OTHER_TOKEN, TOKEN, Peer, Ports, event, frame_of, in_production_loop, serving
from structlog.testing import capture_logs
from tools import tool
from waiting import DEADLINE_SECS, eventually
from websockets.asyncio.client import connect as connect_websockets
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory

from recorder import loop
from recorder.bus import Batch
from recorder.frames import PAYLOAD_BYTES_MAX
from recorder.polygon.events import Decoder
from recorder.servers import client as client_module
from recorder.servers import frame_guard as frame_guard_module
from recorder.servers import hub as hub_module
from recorder.servers.client import Client

T0 = 1_790_000_000_000
SUBSCRIBED_TO_FIREHOSE = {"status": "subscribed", "message": "Subscribed to firehose"}
STATUS_FRAME = b'[{"ev":"status","status":"success","message":"subscribed to: T.*"}]'


def fill(bytes_each: int, number: int) -> bytes:
    """Return one event of about `size` bytes."""
    return event("T", "AAPL", number, fill="x" * bytes_each)


# The firehose


@in_production_loop
async def test_the_firehose_dialect() -> None:
    """On `/` of the firehose nothing is said before the client speaks, and each answer is the plain object."""
    async with serving() as ports:
        peer = await ports.connect("firehose")
        await peer.send(action="subscribe")
        assert await peer.receive() == {"status": "error", "message": "authentication required"}
        await peer.send(action="auth", token=TOKEN)
        assert await peer.receive() == {"status": "authenticated", "message": "Successfully authenticated"}
        await peer.send(action="subscribe")
        assert await peer.receive() == SUBSCRIBED_TO_FIREHOSE
        frame = frame_of(event("T", "A", 1))
        ports.publish(frame)
        assert await peer.raw() == frame


@in_production_loop
async def test_a_bad_token_in_the_firehose_dialect() -> None:
    """The error is a plain object, too; then the connection is closed with 1008."""
    async with serving() as ports:
        peer = await ports.connect("firehose")
        await peer.send(action="auth", token="bad")
        assert await peer.receive() == {"status": "error", "message": "authentication failed"}
        assert await peer.ended() == 1008
        assert ports.stats("firehose").auth_failures == 1


@in_production_loop
async def test_firehose_frames_are_untouched() -> None:
    """Frames come byte for byte and in order, odd spacing and statuses among events included, status-only ones not."""
    frames = [
        b'[{"ev":"T","sym":"A","p":150.2500,"s":1e2,"x":{"n":[1, 2]},"sym2":"\\u00e9"}]',
        STATUS_FRAME,
        b' [ {"ev":"Q" , "sym":"B"} ,\n {"ev":"T","sym":"C"} ] ',
        b'[{"ev":"T","sym":"D"},{"ev":"status","status":"x","message":"y"}]',
        b"[]",
        b'[{"ev":"T","sym":"E"}]',
    ]
    async with serving() as ports:
        peers = [
            await (await ports.connect("firehose")).authenticate(greeted=False),
            await ports.client("firehose", path="/stocks"),
        ]
        for peer in peers:
            await peer.subscribe("*")
        ports.publish(*frames[:2])
        ports.publish(*frames[2:])
        for peer in peers:
            assert [await peer.raw() for _ in range(5)] == [frames[0], *frames[2:]]
        assert ports.stats("firehose").frames_delivered == 10


@in_production_loop
async def test_the_firehose_says_nothing_to_who_has_not_asked() -> None:
    """No client gets data before it authenticates, before it subscribes, or after it unsubscribes."""
    async with serving() as ports:
        stranger = await ports.connect("firehose")
        silent = await (await ports.connect("firehose")).authenticate(greeted=False)
        former = await ports.client("firehose", "*", path="/stocks")
        await former.unsubscribe("*")
        ports.publish(frame_of(event("T", "A", 1)))
        for peer in (stranger, silent, former):
            await peer.send(action="nothing")
            assert (await peer.status())[0] == "error"


@in_production_loop
async def test_the_firehose_does_not_filter_and_says_so() -> None:
    """A topic other than `*` is acknowledged with the note that it has no effect; it brings nothing."""
    async with serving() as ports:
        peer = await ports.client("firehose", path="/stocks")
        await peer.send(action="subscribe", params="T.AAPL")
        status, message = await peer.status()
        assert status == "success"
        assert message.startswith("subscribed to: T.AAPL")
        assert "does not filter" in message
        ports.publish(frame_of(event("T", "AAPL", 1)))
        await peer.subscribe("*")
        ports.publish(frame_of(event("T", "AAPL", 2)))
        assert await peer.raw() == frame_of(event("T", "AAPL", 2))


@in_production_loop
@pytest.mark.parametrize(
    ("port", "topic"),
    [("firehose", "*"), ("filtered", "T.A"), ("filtered", "100Ms.A"), ("bars", "A.A"), ("bars", "100Ms.*")],
)
async def test_ports_are_awaited_while_a_client_has_a_topic(port: str, topic: str) -> None:
    """Open ports are not, and neither is a client without a topic: frames may wait a moment for others then."""
    async with serving() as ports:
        assert not ports.bus.is_awaited()
        peer = await ports.client(port, path="/stocks")
        assert not ports.bus.is_awaited()
        await peer.subscribe(topic)
        assert ports.bus.is_awaited()
        await peer.unsubscribe(topic)
        await eventually(lambda: not ports.bus.is_awaited(), "nobody waits")
        await peer.subscribe(topic)
        await peer.ws.close()
        await eventually(lambda: not ports.bus.is_awaited(), "nobody waits")


@in_production_loop
async def test_firehose_paths_choose_the_cluster() -> None:
    """`/` has the frames of every cluster in the order of the bus, a cluster's path its own only."""
    async with serving(("stocks", "crypto")) as ports:
        everything = await (await ports.connect("firehose")).authenticate(greeted=False)
        await everything.subscribe("*")
        crypto = await ports.client("firehose", "*", path="/crypto")
        frames = [frame_of(event("T", "A", 1)), b'[{"ev":"XT","pair":"BTC-USD","p":1,"t":1790000000000}]']
        ports.publish(frames[0])
        ports.publish(frames[1], cluster="crypto")
        assert [await everything.raw(), await everything.raw()] == frames
        assert await crypto.raw() == frames[1]


@pytest.mark.parametrize("port", ["firehose", "filtered"])
@in_production_loop
async def test_large_frames_are_split_between_events(port: str) -> None:
    """No frame reaches 1,000,000 bytes; the events of all parts together are those of the frame, byte for byte."""
    events = [fill(300, number) for number in range(5000)]
    frame = frame_of(*events)
    assert len(frame) > PAYLOAD_BYTES_MAX
    async with serving() as ports:
        peer = await ports.client(port, "*", path="/stocks")
        ports.publish(frame)
        parts: list[bytes] = []
        while sum(part.count(b'"ev":') for part in parts) < len(events):
            parts.append(await peer.raw())
        assert all(len(part) < 1_000_000 for part in parts)
        assert b",".join(part[1:-1] for part in parts) == frame[1:-1]


# Filtered


@in_production_loop
async def test_a_client_gets_its_events_of_one_pass_in_one_array() -> None:
    """What matches is one frame in upstream order, each event byte for byte; statuses are not part of it."""
    wanted = [event("T", "AAPL", 1, p="x"), event("Q", "MSFT", 2), event("T", "AAPL", 4)]
    async with serving() as ports:
        peer = await ports.client("filtered", "T.AAPL", "Q.*", "T.AAPL")
        ports.publish(
            frame_of(event("T", "MSFT", 0), wanted[0]),
            STATUS_FRAME,
            frame_of(wanted[1], event("A", "AAPL", 3)),
            frame_of(wanted[2]),
        )
        assert await peer.raw() == frame_of(*wanted)


ODD_SYMBOLS = [
    ("stocks", "T.BRK.B", event("T", "BRK.B", 1)),
    ("stocks", "T.A", event("T", "A", 2)),
    ("stocks", "T.T", event("T", "T", 3)),
    ("stocks", "T.AM", event("T", "AM", 4)),
    ("stocks", "T.JPMpC", event("T", "JPMpC", 5)),
    ("stocks", "LULD.NULL", b'{"T":"NULL","ev":"LULD","h":2,"l":1,"t":1790000000000000000}'),
    ("options", "Q.O:SPY241220P00720000", event("Q", "O:SPY241220P00720000", 6)),
    ("indices", "V.I:SPX", b'{"ev":"V","val":3988.5,"T":"I:SPX","t":1790000000000}'),
    ("crypto", "XT.X:BTC-USD", b'{"ev":"XT","pair":"BTC-USD","p":1,"s":4.522e-05,"t":1790000000000}'),
    ("crypto", "XQ.BTC-USD", b'{"ev":"XQ","pair":"BTC-USD","t":1790000000000}'),
    ("forex", "C.EUR-USD", b'{"ev":"C","p":"EUR/USD","a":1.1,"t":1790000000000}'),
    ("forex", "C.EUR/USD", b'{"ev":"C","p":"EUR/USD","a":1.2,"t":1790000000000}'),
    ("forex", "CAS.C:EUR-USD", b'{"ev":"CAS","pair":"EUR/USD","s":1790000000000,"e":1790000001000}'),
    ("futures", "T.NQH7-NQM7", event("T", "NQH7-NQM7", 7)),
]


@pytest.mark.parametrize(
    ("cluster", "topic", "wanted"), ODD_SYMBOLS, ids=[topic for _, topic, _ in ODD_SYMBOLS]
)
@in_production_loop
async def test_odd_symbols(cluster: str, topic: str, wanted: bytes) -> None:
    """Symbols with dots, colons, slashes and the names of channels get their own events and no others."""
    others = frame_of(event("T", "BRK", 8), event("T", "B", 9), event("AM", "T", 10), event("T", "SPY", 11))
    async with serving((cluster,)) as ports:
        peer = await ports.client("filtered", topic, path=f"/{cluster}")
        ports.publish(others, frame_of(wanted), others, cluster=cluster)
        assert await peer.raw() == frame_of(wanted)


@in_production_loop
async def test_unsubscribing_one_of_two_overlapping_topics_keeps_the_other() -> None:
    """`T.AAPL` under `T.*` under `*`: each event comes once, and what is still asked for goes on coming."""
    async with serving() as ports:
        peer = await ports.client("filtered", "*", "T.*", "T.AAPL")
        apple, other, quote = event("T", "AAPL", 1), event("T", "MSFT", 2), event("Q", "MSFT", 3)
        for topic, left in (
            ("T.AAPL", [apple, other, quote]),
            ("*", [apple, other]),
            ("Q.*", [apple, other]),
            ("T.*", []),
        ):
            await peer.unsubscribe(topic)
            ports.publish(frame_of(apple, other, quote))
            if left:
                assert await peer.raw() == frame_of(*left)
        await peer.subscribe("T.AAPL", "T.*")
        await peer.unsubscribe("T.*")
        ports.publish(frame_of(apple, other, quote))
        assert await peer.raw() == frame_of(apple)


@in_production_loop
async def test_a_subscription_starts_behind_its_acknowledgement() -> None:
    """No event comes before the ack of its topic, and the first pass after it is complete."""
    async with serving() as ports:
        peer = await ports.client("filtered")
        publishing = True

        async def publish() -> None:
            number = 0
            while publishing:
                number += 1
                ports.publish(frame_of(*(event("T", "AAPL", number * 10 + place) for place in range(10))))
                await asyncio.sleep(0)

        source = asyncio.create_task(publish())
        await peer.subscribe("T.AAPL")
        first = await peer.receive()
        publishing = False
        await source
        assert len(first) == 10
        assert first[0]["q"] % 10 == 0


CHANNELS = ["T", "Q", "AM"]
SYMBOLS = ["AAPL", "BRK.B", "T", "AM"]
TOPICS = ["*", *(f"{channel}.{symbol}" for channel in CHANNELS for symbol in [*SYMBOLS, "*"])]
EVENTS = st.lists(st.tuples(st.sampled_from(CHANNELS), st.sampled_from([*SYMBOLS, "ELSE"])), max_size=12)
PASSES = st.lists(
    st.tuples(
        st.lists(st.tuples(st.integers(0, 2), st.booleans(), st.sampled_from(TOPICS)), max_size=4),
        st.lists(EVENTS, max_size=3),
    ),
    min_size=1,
    max_size=6,
)
"""What changes before a pass (client, subscribe or not, topic), and the frames of the pass."""


@given(PASSES)
@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.too_slow])
def test_every_client_gets_exactly_its_events(passes: list[Any]) -> None:
    """Several clients, changing topics, any overlap: what matches comes once, in order, byte for byte; no bars."""

    async def run() -> None:
        async with serving() as ports:
            peers = [await ports.client("filtered") for _ in range(3)]
            held: list[set[str]] = [set() for _ in peers]
            expected: list[list[bytes]] = [[] for _ in peers]
            got: list[list[bytes]] = [[] for _ in peers]
            number = 0
            for changes, frames in [*passes, ([], [])]:
                for which, is_wanted, topic in changes:
                    await (peers[which].subscribe(topic) if is_wanted else peers[which].unsubscribe(topic))
                    (held[which].add if is_wanted else held[which].discard)(topic)
                batch = []
                for names in frames:
                    events = [event(*name, number + place) for place, name in enumerate(names)]
                    number += len(events)
                    batch.append(frame_of(*events))
                    for which, topics in enumerate(held):
                        expected[which] += [
                            found
                            for found, (channel, symbol) in zip(events, names, strict=True)
                            if topics & {"*", f"{channel}.*", f"{channel}.{symbol}"}
                        ]
                # Each client gets its own last event, by which the test knows that it has all of the pass.
                batch.append(frame_of(event("LULD", "END", number)))
                for peer in peers:
                    await peer.subscribe("LULD.END")
                ports.publish(*batch)
                for which, peer in enumerate(peers):
                    [payload] = [await peer.raw()]
                    got[which] += [b"{%b}" % fragment for fragment in payload[2:-2].split(b"},{")][:-1]
                    await peer.unsubscribe("LULD.END")
            assert got == expected

    loop.run(run())


@pytest.mark.parametrize("path", ["/", "//", "/stocks", "//stocks", "/stocks/", "///stocks//"])
@in_production_loop
async def test_paths_are_tolerated(path: str) -> None:
    """Doubled and trailing slashes, as official clients build them, mean the same path."""
    async with serving() as ports:
        peer = await ports.client("filtered", "T.AAPL", path=path)
        ports.publish(frame_of(event("T", "AAPL", 1)))
        assert await peer.raw() == frame_of(event("T", "AAPL", 1))


@in_production_loop
async def test_a_path_narrows_to_its_cluster() -> None:
    """`/` serves a topic of every cluster, `/options` of one."""
    async with serving(("stocks", "options")) as ports:
        both = await ports.client("filtered", "T.*")
        options = await ports.client("filtered", "T.*", path="/options")
        share, contract = event("T", "SPY", 1), event("T", "O:SPY241220P00720000", 2)
        ports.publish(frame_of(share))
        ports.publish(frame_of(contract), cluster="options")
        assert [await both.raw(), await both.raw()] == [frame_of(share), frame_of(contract)]
        assert await options.raw() == frame_of(contract)


@pytest.mark.parametrize("port", ["firehose", "filtered", "bars"])
@in_production_loop
async def test_plain_http(port: str) -> None:
    """`/health` is OK; unknown paths and clusters that are not recorded are 404; without an upgrade 426."""
    async with serving() as ports:
        answers = {}
        for path in ("/health", "/", "/stocks", "/bonds", "/options", "/stocks/cme"):
            async with ports.session.get(ports.url(port, path, "http")) as answer:
                answers[path] = (answer.status, await answer.text())
        assert answers["/health"] == (200, "OK")
        assert [answers[path][0] for path in ("/", "/stocks")] == [426, 426]
        assert [answers[path][0] for path in ("/bonds", "/options", "/stocks/cme")] == [404] * 3
        assert "stocks" in answers["/bonds"][1]
        with pytest.raises(aiohttp.WSServerHandshakeError, match="404"):
            await ports.session.ws_connect(ports.url(port, "/bonds"))


@in_production_loop
async def test_clients_are_dismissed_one_after_the_other() -> None:
    """Each is served until its turn has come, gets 1012 then, and none is closed once clients are taken again."""
    async with serving() as ports:
        peers = [await ports.client("filtered", "T.*") for _ in range(4)]
        ports.serving.refuse(new=True)
        with pytest.raises(aiohttp.WSServerHandshakeError, match="503"):
            await ports.connect("filtered")
        assert ports.stats("filtered").refused["draining"] == 1
        ports.serving.dismiss(3600.0)
        assert await peers[0].ended() == 1012
        trade = event("T", "AAPL", 1)
        ports.publish(frame_of(trade))
        for peer in peers[1:]:
            assert await peer.raw() == frame_of(trade)
        ports.serving.refuse(new=False)
        await ports.client("filtered", "T.*")
        assert not [task for task in asyncio.all_tasks() if task.get_name() == "dismissal"]
        begun = asyncio.get_running_loop().time()
        ports.serving.dismiss(0.4)
        assert [await peer.ended() for peer in peers[1:]] == [1012] * 3
        assert asyncio.get_running_loop().time() - begun >= 0.15


# Requests


@pytest.mark.parametrize("port", ["filtered", "bars"])
@in_production_loop
async def test_the_vendor_dialect(port: str) -> None:
    """Greeting, refusal before the key, auth and acks: each status alone in its frame, in the vendor's words."""
    async with serving() as ports:
        peer = await ports.connect(port)
        assert await peer.status() == ("connected", "Connected Successfully")
        await peer.send(action="subscribe", params="AM.*")
        assert await peer.status() == ("auth_required", "authentication required")
        await peer.send(action="auth", params=TOKEN)
        assert await peer.status() == ("auth_success", "authenticated")
        await peer.subscribe("AM.AAPL", "AM.MSFT")
        await peer.subscribe("AM.AAPL")
        await peer.unsubscribe("AM.AAPL")
        assert ports.stats(port).subscriptions == 1


@in_production_loop
async def test_a_bad_token_is_told_and_closed() -> None:
    """`auth_failed`, then 1008; the address then waits, so that guessing is slow."""
    async with serving() as ports:
        for _ in range(2):
            peer = await ports.connect("filtered")
            await peer.status()
            await peer.send(action="auth", params="bad")
            assert await peer.status() == ("auth_failed", "authentication failed")
            assert await peer.ended() == 1008
        assert ports.stats("filtered").auth_failures == 2
        started = asyncio.get_running_loop().time()
        await ports.client("filtered")
        assert asyncio.get_running_loop().time() - started > 0.2


@in_production_loop
async def test_who_waits_out_a_delay_is_no_failure() -> None:
    """A client whose time to authenticate ends while its answer is delayed has not failed to guess."""
    async with serving(limits={"auth_timeout_secs": 0.5}) as ports:
        for _ in range(4):
            peer = await ports.connect("filtered")
            await peer.status()
            await peer.send(action="auth", params="bad")
            await peer.ended()
        failures = ports.stats("filtered").auth_failures
        peer = await ports.connect("filtered")
        await peer.status()
        await peer.send(action="auth", params=TOKEN)
        assert await peer.status() == ("auth_timeout", "No authentication request received.")
        assert await peer.ended() == 1008
        await eventually(lambda: not ports.hub("filtered").clients)
        assert ports.stats("filtered").auth_failures == failures


@in_production_loop
async def test_who_leaves_during_a_delay_is_gone_at_once() -> None:
    """A guess that waits for its answer holds no place for a client that has hung up."""
    async with serving() as ports:
        for _ in range(5):
            peer = await ports.connect("filtered")
            await peer.status()
            await peer.send(action="auth", params="bad")
            await peer.ended()
        # The sixth answer would come after two seconds.
        async with raw_websocket(ports) as (_, writer):
            writer.write(masked(0x81, json.dumps({"action": "auth", "params": "bad"}).encode()))
            await eventually(lambda: ports.stats("filtered").requests == 6)
            assert len(ports.hub("filtered").clients) == 1
            writer.transport.abort()
            await eventually(lambda: not ports.hub("filtered").clients, deadline_secs=1.0)


@pytest.mark.parametrize("port", ["firehose", "filtered"])
@in_production_loop
async def test_who_does_not_authenticate_in_time_is_closed(port: str) -> None:
    """`auth_timeout`, then 1008, counted."""
    async with serving(limits={"auth_timeout_secs": 0.1}) as ports:
        peer = await ports.connect(port, "/stocks")
        await peer.status()
        assert await peer.status() == ("auth_timeout", "No authentication request received.")
        assert await peer.ended() == 1008
        assert ports.stats(port).evictions == {"auth_timeout": 1}


@in_production_loop
async def test_requests_may_be_pipelined_before_the_greeting_is_read() -> None:
    """Auth and subscriptions sent at once are answered in order, as text and as binary."""
    async with serving() as ports:
        peer = await ports.connect("filtered")
        await peer.ws.send_bytes(json.dumps({"action": "auth", "params": TOKEN}).encode())
        await peer.ws.send_bytes(b'{"action":"subscribe","params":["T.AAPL", " T.MSFT,Q.MSFT "]}')
        await peer.send(action="subscribe", bars=["100Ms.AAPL"])
        words = [(await peer.status())[1] for _ in range(6)]
        assert words == [
            "Connected Successfully",
            "authenticated",
            *(f"subscribed to: {topic}" for topic in ("T.AAPL", "T.MSFT", "Q.MSFT", "100Ms.AAPL")),
        ]


GARBAGE = [
    b"",
    b"{",
    b"[object Object]",
    b"null",
    b"[]",
    b'"auth"',
    b"{}",
    b"[" * 30_000,
    b'{"action":' + b"[" * 30_000,
    b"9" * 60_000,
    b'{"action":"subscribe","params":"T.AAPL","since":' + b"9" * 60_000 + b"}",
    b'{"action":"subscribe","params":{"T":1}}',
    b'{"action":"subscribe","params":[["T.AAPL"]]}',
    b'{"action":"subscribe","params":7}',
    b'{"action":"subscribe"}',
    b'{"action":"unsubscribe","params":" , ,"}',
    b'{"action":"auth","params":{}}',
    b'{"action":"auth"}',
    b'{"action":["auth"]}',
    b'{"action":"AUTH","params":"x"}',
    b'{"action":"ping"}',
    b"\xff\xfe\x00",
]


@in_production_loop
async def test_garbage_gets_an_error_and_breaks_nothing() -> None:
    """Whatever is no request is answered with one short `error` that says what is wrong; the next request works."""
    async with serving() as ports:
        peer = await ports.client("filtered")
        for garbage in GARBAGE:
            await peer.ws.send_bytes(garbage)
            status, message = await peer.status()
            assert status == "error", garbage[:80]
            assert 0 < len(message) < 300
        await peer.subscribe("T.AAPL")
        assert ports.stats("filtered").bad_requests == len(GARBAGE)


@in_production_loop
async def test_a_topic_that_is_none_is_named_and_the_others_count() -> None:
    """Each bad topic gets an error with its name; good ones of the same request are subscribed."""
    bad = [
        "AAPL",
        "T.",
        ".AAPL",
        "T.*.B",
        "T.A*",
        "t.AAPL",
        "T:AAPL",
        "100ms.AAPL",
        "0Ms.AAPL",
        "60001Ms.A",
        "T." + "A" * 200,
    ]
    async with serving() as ports:
        peer = await ports.client("filtered")
        await peer.send(action="subscribe", params=[*bad, "T.AAPL"])
        for topic in bad:
            status, message = await peer.status()
            assert status == "error", topic
            assert message.startswith(topic[:40])
            assert len(message) < 300
        assert await peer.status() == ("success", "subscribed to: T.AAPL")


@in_production_loop
async def test_a_topic_of_which_nothing_will_come_is_acknowledged_with_a_word() -> None:
    """What the recorder does not follow upstream is named in the ack; what it follows, as the vendor acknowledges it."""
    followed = {"stocks": ("T.*", "Q.AAPL"), "crypto": ("XT.BTC-USD",), "indices": ("V.*",)}
    silent = {
        "/stocks": ("AM.*", "Q.MSFT", "A.AAPL"),
        "/crypto": ("XT.ETH-USD", "XQ.*", "100Ms.ETH-USD"),
        "/indices": ("100Ms.I:SPX",),
        "/": ("AM.*", "XT.ETH-USD"),
    }
    good = {
        "/stocks": ("T.*", "T.AAPL", "Q.AAPL", "Q.*", "100Ms.*", "100Ms.A", "*"),
        "/crypto": ("XT.X:BTC-USD", "XT.*", "250Ms.BTC-USD"),
        "/indices": ("V.I:SPX",),
        "/": ("Q.AAPL", "XT.BTC-USD", "100Ms.BTC-USD"),
    }
    async with serving(followed, followed=followed) as ports:
        for path, topics in silent.items():
            peer = await ports.client("filtered", path=path)
            for topic in topics:
                await peer.send(action="subscribe", params=topic)
                status, message = await peer.status()
                assert status == "success"
                assert message.startswith(
                    f"subscribed to: {topic} (nothing will come of it: this recorder follows "
                )
        assert "stocks: Q.AAPL, T.*" in message
        assert "crypto: XT.BTC-USD" in message
        for path, topics in good.items():
            await ports.client("filtered", *topics, path=path)


@in_production_loop
async def test_the_bars_port_has_bars_and_aggregates_only() -> None:
    """`A.*` and `AM.*` are forwarded; trades, quotes and `*` are refused with an error that names them."""
    async with serving() as ports:
        peer = await ports.client("bars")
        for topic in ("T.AAPL", "Q.*", "*"):
            await peer.send(action="subscribe", params=topic)
            status, message = await peer.status()
            assert status == "error"
            assert message.startswith(topic)
        await peer.subscribe("A.*", "AM.AAPL")
        wanted = [event("A", "MSFT", 1), event("AM", "AAPL", 2)]
        ports.publish(frame_of(event("T", "AAPL", 0), wanted[0], event("AM", "MSFT", 3), wanted[1]))
        assert await peer.raw() == frame_of(*wanted)


# Limits


@in_production_loop
async def test_topics_have_a_limit() -> None:
    """Topics beyond the limit are refused with an error that says how many; those held stay."""
    async with serving(limits={"subscriptions_max": 3}) as ports:
        peer = await ports.client("filtered")
        await peer.send(action="subscribe", params="T.A,T.B,T.C,T.D,T.E")
        assert [(await peer.status())[0] for _ in range(3)] == ["success"] * 3
        assert await peer.status() == ("error", "subscribe: 2 topics are beyond the limit of 3")
        await peer.unsubscribe("T.A")
        await peer.subscribe("T.D")
        assert ports.stats("filtered").subscriptions == 3


@in_production_loop
async def test_a_message_has_a_limit() -> None:
    """A message beyond `CLIENT_MESSAGE_BYTES_MAX` closes with 1009."""
    async with serving(limits={"message_bytes_max": 1024}) as ports:
        peer = await ports.client("filtered")
        await peer.ws.send_str("x" * 1025)
        assert await peer.ended() == 1009


@in_production_loop
async def test_a_header_that_claims_too_much_costs_no_memory() -> None:
    """A frame that says it has 2^40 bytes closes with 1009 before any of them comes."""
    async with serving() as ports, raw_websocket(ports) as (reader, writer):
        writer.write(bytes((0x81, 0xFF)) + struct.pack("!Q", 2**40) + b"\0\0\0\0")
        assert await closed_with(reader) == 1009


@in_production_loop
async def test_requests_have_a_rate() -> None:
    """Past its allowance a client is closed with 1008; what it had asked for before is answered."""
    rate = 2
    async with serving(limits={"requests_per_sec_max": rate}) as ports:
        peer = await ports.client("filtered")
        for _ in range(int(rate * client_module.REQUESTS_BURST_SECS) + 10):
            await peer.send(action="nothing")
        assert await peer.ended() == 1008
        assert ports.stats("filtered").evictions == {"too_many_requests": 1}
        assert ports.stats("filtered").bad_requests >= rate * client_module.REQUESTS_BURST_SECS - 1


@in_production_loop
async def test_large_requests_cost_more_of_the_allowance(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that sends its most in every request is closed with 1008 long before it has sent as many as of small ones."""
    # However busy this machine is, the client has read why it is closed before it is cut.
    monkeypatch.setattr(client_module, "CLOSE_GRACE_SECS", DEADLINE_SECS)
    async with serving() as ports:
        peer = await ports.client("filtered")
        # Each is answered by one error, so that little stands before the close frame.
        sending = asyncio.create_task(flood(peer, json.dumps({"action": "nothing", "padding": "x" * 60_000})))
        assert await peer.ended() == 1008
        await sending
        assert ports.stats("filtered").evictions == {"too_many_requests": 1}
        assert ports.stats("filtered").requests < 100


async def flood(peer: Peer, text: str) -> None:
    """Send the same again and again until the connection ends."""
    try:
        for _ in range(1000):
            await peer.ws.send_str(text)
    except (aiohttp.ClientError, OSError):
        return


@in_production_loop
async def test_pings_are_answered_and_have_a_rate() -> None:
    """A ping comes back with its payload; a flood of them is closed with 1008."""
    async with serving(limits={"requests_per_sec_max": 2}) as ports:
        peer = await ports.client("filtered", autoping=False)
        await peer.ws.ping(b"are you there")
        message = await asyncio.wait_for(peer.ws.receive(), DEADLINE_SECS)
        assert (message.type, bytes(message.data)) == (aiohttp.WSMsgType.PONG, b"are you there")
        for _ in range(int(2 * client_module.REQUESTS_BURST_SECS) + 10):
            await peer.ws.ping()
        assert await peer.ended() == 1008


@in_production_loop
async def test_clients_have_a_limit() -> None:
    """One more than `CLIENTS_MAX` is told why and closed with 1013; a place that is free again is given."""
    async with serving(limits={"clients_max": 1}) as ports:
        first = await ports.client("filtered")
        second = await ports.connect("filtered")
        status, message = await second.status()
        assert status == "max_connections"
        assert message
        assert await second.ended() == 1013
        assert ports.stats("filtered").refused == {"full": 1}
        await first.ws.close()
        await eventually(lambda: not ports.hub("filtered").clients)
        await ports.client("filtered")
        await ports.client("bars")


@in_production_loop
async def test_clients_are_described() -> None:
    """Who each client is, what it holds and has got: cut where it is long, and nothing in it that is not text."""
    async with serving() as ports:
        peer = await ports.client("filtered", headers={"User-Agent": "an agent \u202e" + "x" * 500})
        await peer.subscribe(*(f"T.{number}" for number in range(20)), "T.AAPL")
        ports.publish(frame_of(event("T", "AAPL", 1)))
        await peer.raw()
        await ports.client("filtered")
        [first, second] = ports.hub("filtered").describe(10)
        assert (first.port, first.number, first.token, first.address) == ("filtered", 1, "me", "127.0.0.1")
        assert first.address_port > 0
        assert first.agent.startswith("an agent ?xx")
        assert client_module.printable("bytes that are no UTF-8: \udcff") == "bytes that are no UTF-8: ?"
        assert len(first.agent) == client_module.AGENT_CHARS_MAX
        assert first.topics_count == 21
        assert len(first.topics) == client_module.TOPICS_SHOWN
        assert (first.events, second.events, second.topics_count) == (1, 0, 0)
        assert first.bytes > 0
        # The loop's own time stands still within a turn, so that the second may have come just now.
        assert first.connected_secs >= second.connected_secs >= 0
        # Where not all can be listed, those that leave most unread are.
        next(iter(ports.hub("filtered").clients)).lag_secs = 3.0
        assert [client.number for client in ports.hub("filtered").describe(1)] == [1]
        assert [client.number for client in ports.hub("filtered").describe(2)] == [1, 2]


@in_production_loop
async def test_a_token_has_a_limit() -> None:
    """One more client than `CLIENTS_PER_TOKEN_MAX` with one token is told and closed with 1008; others may come."""
    async with serving(limits={"clients_per_token_max": 1}) as ports:
        await ports.client("filtered")
        second = await ports.connect("filtered")
        await second.status()
        await second.send(action="auth", params=TOKEN)
        assert (await second.status())[0] == "max_connections"
        assert await second.ended() == 1008
        await ports.client("filtered", token=OTHER_TOKEN)
        assert ports.stats("filtered").refused == {"too_many_for_token": 1}


# Slow, silent and dead clients


@asynccontextmanager
async def raw_websocket(
    ports: Ports, port: str = "filtered", headers: str = ""
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """Return a connection after its handshake, for frames made by hand."""
    reader, writer = await asyncio.open_connection(*ports.address(port))
    writer.write(handshake(ports, port, headers))
    await reader.readuntil(b"\r\n\r\n")
    try:
        yield reader, writer
    finally:
        writer.close()


def handshake(ports: Ports, port: str, headers: str = "") -> bytes:
    """Return the request that asks for a WebSocket."""
    host, number = ports.address(port)
    lines = [
        "GET / HTTP/1.1",
        f"Host: {host}:{number}",
        "Upgrade: websocket",
        "Connection: Upgrade",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==",
    ]
    return ("\r\n".join(lines) + "\r\n" + headers + "\r\n").encode()


async def closed_with(reader: asyncio.StreamReader) -> int | None:
    """Read server frames to the end; return the code of the close frame, None where the connection ends without."""
    try:
        while True:
            opcode, length = await asyncio.wait_for(reader.readexactly(2), DEADLINE_SECS)
            if length == 126:
                [length] = struct.unpack("!H", await reader.readexactly(2))
            elif length == 127:
                [length] = struct.unpack("!Q", await reader.readexactly(8))
            payload = await reader.readexactly(length)
            if opcode == 0x88:
                return int.from_bytes(payload[:2], "big")
    except (asyncio.IncompleteReadError, ConnectionError):
        return None


def masked(opcode: int, payload: bytes) -> bytes:
    """Return a short frame as a client must send it, with a mask that changes nothing."""
    assert len(payload) < 126
    return bytes((opcode, 0x80 | len(payload))) + b"\0\0\0\0" + payload


async def take_everything(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Subscribe to the firehose by hand."""
    writer.write(masked(0x81, json.dumps({"action": "auth", "params": TOKEN}).encode()))
    writer.write(masked(0x81, b'{"action":"subscribe","params":"*"}'))
    await reader.readuntil(b"subscribed to: *")
    await reader.readuntil(b"}]")


@asynccontextmanager
async def deaf_client(ports: Ports, port: str, *topics: str) -> AsyncIterator[asyncio.StreamWriter]:
    """Return a client that is subscribed and then stops reading."""
    async with raw_websocket(ports, port) as (reader, writer):
        writer.write(masked(0x81, json.dumps({"action": "auth", "params": TOKEN}).encode()))
        writer.write(masked(0x81, json.dumps({"action": "subscribe", "params": list(topics)}).encode()))
        await reader.readuntil(b"subscribed to")
        reader._transport.pause_reading()  # type: ignore[attr-defined]
        yield writer


@pytest.mark.parametrize("port", ["firehose", "filtered"])
@in_production_loop
async def test_a_client_that_never_reads_is_cut_at_its_limit(port: str) -> None:
    """Its pending bytes pass the limit by one write at most, it is closed, and clients that read get everything."""
    limit = 2**20
    frame = frame_of(*(fill(1000, number) for number in range(64)))
    async with serving(limits={"pending_bytes_max": limit}) as ports:
        good = await ports.client(port, "*", path="/stocks")
        async with deaf_client(ports, port, "*"):
            deaf = list(ports.hub(port).clients)[-1]
            received, most, sent = 0, 0, 0
            while not deaf.closing:
                ports.publish(frame)
                sent += 1
                most = max(most, deaf.pending_bytes)
                assert await good.raw() == frame
                received += 1
                assert sent < 10_000
            assert most <= limit + len(frame) + 10
            await eventually(lambda: deaf not in ports.hub(port).clients)
            assert deaf.reason == "slow_consumer"
            assert ports.stats(port).evictions == {"slow_consumer": 1}
            ports.publish(frame)
            assert await good.raw() == frame
            assert received == sent


@in_production_loop
async def test_a_client_that_stalls_is_cut_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that takes nothing is cut within 10 s, however little is pending: by the clock, not by the limit."""
    assert client_module.STALLED_SECS + hub_module.POLL_SECS + client_module.CLOSE_GRACE_SECS <= 10
    monkeypatch.setattr(client_module, "STALLED_SECS", 1.0)
    frame = frame_of(*(fill(1000, number) for number in range(64)))
    async with serving(limits={"pending_bytes_max": 2**40}) as ports, deaf_client(ports, "firehose", "*"):
        [deaf] = ports.hub("firehose").clients
        while not deaf.pending_bytes:
            ports.publish(frame)
            await asyncio.sleep(0)
        stalled_at = asyncio.get_running_loop().time()
        await eventually(lambda: not ports.hub("firehose").clients)
        assert deaf.reason == "slow_consumer"
        assert asyncio.get_running_loop().time() - stalled_at >= 1.0


@in_production_loop
async def test_how_far_the_worst_client_is_behind_is_shown() -> None:
    """The port's greatest lag and pending bytes are those of its worst client, and go when it goes."""
    async with serving() as ports:
        await ports.client("firehose", "*")
        async with deaf_client(ports, "firehose", "*") as writer:
            deaf = list(ports.hub("firehose").clients)[-1]
            while not deaf.pending_bytes:
                ports.publish(frame_of(*(fill(1000, number) for number in range(64))))
                await asyncio.sleep(0)
            stats = ports.stats("firehose")
            await eventually(
                lambda: stats.pending_bytes_max >= deaf.pending_bytes > 0 and stats.lag_secs_max > 0
            )
            writer.transport.abort()
        await eventually(lambda: stats.pending_bytes_max == stats.lag_secs_max == 0)


@in_production_loop
async def test_a_client_that_drips_is_cut_at_its_limit() -> None:
    """Taking a little now and then does not save a client whose pending bytes only grow."""
    frame = frame_of(*(fill(1000, number) for number in range(64)))
    async with (
        serving(limits={"pending_bytes_max": 2**20}) as ports,
        raw_websocket(ports, "firehose") as (reader, writer),
    ):
        await take_everything(reader, writer)
        [dripping] = ports.hub("firehose").clients
        for _ in range(10_000):
            ports.publish(frame)
            await reader.readexactly(100)
            if dripping.closing:
                break
        assert dripping.reason == "slow_consumer"
        await eventually(lambda: not ports.hub("firehose").clients)


@in_production_loop
async def test_a_slow_reader_that_comes_back_is_told_why() -> None:
    """Who reads again within the grace finds everything until the cut, then 1008 `slow consumer`."""
    frame = frame_of(*(fill(1000, number) for number in range(64)))
    async with (
        serving(limits={"pending_bytes_max": 2**20}) as ports,
        raw_websocket(ports, "firehose") as (reader, writer),
    ):
        await take_everything(reader, writer)
        [slow] = ports.hub("firehose").clients
        while not slow.closing:
            ports.publish(frame)
            await asyncio.sleep(0)
        assert await closed_with(reader) == 1008


@in_production_loop
async def test_silent_connections_and_half_handshakes_are_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who connects and says nothing, or half of a request, is cut within 10 s, and the loop stays quiet."""
    assert hub_module.HANDSHAKE_SECS + 1 <= 10
    monkeypatch.setattr(hub_module, "HANDSHAKE_SECS", 1.0)
    async with serving() as ports:
        connections = []
        whole = handshake(ports, "filtered")
        for said in (b"", whole[:1], whole[:-2], b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", b"\r\n"):
            reader, writer = await asyncio.open_connection(*ports.address("filtered"))
            writer.write(said)
            connections.append((reader, writer))
        for reader, writer in connections:
            await asyncio.wait_for(reader.read(), DEADLINE_SECS)
            writer.close()


@in_production_loop
async def test_one_address_cannot_hold_the_door(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the limit of unauthenticated connections, further ones from the same address are cut at once."""
    monkeypatch.setattr(frame_guard_module, "PENDING_PER_ADDRESS_MAX", 3)
    async with serving() as ports:
        known = [await ports.client("filtered") for _ in range(5)]
        waiting = [await asyncio.open_connection(*ports.address("filtered")) for _ in range(3)]
        reader, writer = await asyncio.open_connection(*ports.address("filtered"))
        assert await asyncio.wait_for(reader.read(), DEADLINE_SECS) == b""
        writer.close()
        assert ports.stats("filtered").refused == {"address": 1}
        await known[0].subscribe("T.AAPL")
        for _, waiter in waiting:
            waiter.close()
            await waiter.wait_closed()
        await ports.client("filtered")


@in_production_loop
async def test_an_idle_client_saves_up_no_more_than_a_burst() -> None:
    """An hour of silence buys no flood."""
    async with serving(limits={"requests_per_sec_max": 1}) as ports:
        peer = await ports.client("filtered")
        [client] = ports.hub("filtered").clients
        client._allowance_at -= 3600.0
        sending = asyncio.create_task(flood(peer, '{"action":"nothing"}'))
        assert await peer.ended() == 1008
        await sending
        assert ports.stats("filtered").requests <= client_module.REQUESTS_BURST_SECS + 5


@in_production_loop
async def test_a_pong_that_waits_behind_much_data_is_not_missed() -> None:
    """A client that has much to read is slow, not dead: one beside it with nothing to read is closed for its silence."""
    frame = frame_of(*(fill(1000, number) for number in range(64)))
    async with (
        serving(limits={"pending_bytes_max": 2**40}) as ports,
        deaf_client(ports, "firehose", "*"),
    ):
        [slow] = ports.hub("firehose").clients
        while slow.pending_bytes < 2**24:  # more than the kernel takes on both sides
            ports.publish(frame)
            await asyncio.sleep(0)
        async with deaf_client(ports, "firehose", "*"):
            clients = list(ports.hub("firehose").clients)
            for client in clients:
                client.pong_at -= 3600.0
                client.ping_at = 0.0
            await eventually(lambda: clients[1].closing)
            assert clients[1].reason == "no_pong"
            assert not slow.closing


@in_production_loop
async def test_a_connection_that_broke_just_now_is_no_failure_of_a_write() -> None:
    """Until its handler has run its client is still listed: what it is sent goes nowhere, and is no error."""
    async with serving() as ports:
        for _ in range(4):
            await ports.client("filtered", "T.AAPL")
        clients = list(ports.hub("filtered").clients)
        with capture_logs() as logs:
            for client in clients:
                client._transport.abort()
            turns = 0
            while ports.hub("filtered").clients:
                ports.publish(frame_of(event("T", "AAPL", turns)))
                for client in clients[turns:]:
                    client.pong(b"")
                for client in clients[turns : turns + 1]:
                    client.close(1008, "slow consumer", "slow_consumer")
                turns += 1
                await asyncio.sleep(0)
        assert turns > 1
        assert ports.stats("filtered").evictions.keys() == {"slow_consumer"}
        assert not [entry for entry in logs if entry["log_level"] == "error"]


@pytest.mark.parametrize("port", ["firehose", "filtered", "bars"])
@in_production_loop
async def test_the_kernel_gives_a_client_up_that_acknowledges_nothing(port: str) -> None:
    """A client whose machine vanished ends after two ping intervals, whatever waits to be sent to it (tcp(7))."""
    async with serving(limits={"ping_interval_secs": 3.5}) as ports:
        await ports.client(port)
        [client] = ports.hub(port).clients
        with socket.socket(fileno=os.dup(client.descriptor)) as same:
            assert (
                same.getsockopt(socket.IPPROTO_TCP, 18) == 7000
            )  # TCP_USER_TIMEOUT, which Python does not name


@in_production_loop
async def test_who_answers_no_ping_is_closed() -> None:
    """A client is pinged, and closed with 1008 when no answer comes for two intervals; one that answers stays."""
    async with serving(limits={"ping_interval_secs": 0.2}) as ports:
        alive = await ports.client("filtered", "T.AAPL")
        listening = asyncio.create_task(alive.raw())
        silent = await ports.client("filtered", autoping=False)
        assert await silent.ended() == 1008
        await eventually(lambda: len(ports.hub("filtered").clients) == 1)
        assert ports.stats("filtered").evictions == {"no_pong": 1}
        ports.publish(frame_of(event("T", "AAPL", 1)))
        assert await listening == frame_of(event("T", "AAPL", 1))


class BrokenTransport:
    """A client's transport on which writing raises. Everything else is the real one's."""

    def __init__(self, inner: asyncio.Transport) -> None:
        self._inner = inner

    def write(self, data: bytes) -> None:
        raise RuntimeError("this transport is broken")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


def break_transport(client: Client) -> None:
    """Let every further write to a client raise."""
    client._transport = cast("asyncio.Transport", BrokenTransport(client._transport))


PASSES_OF_TRADES = 8
"""The first three begin event time; each further one closes the bar of the one before."""


async def published(ports: Ports, peers: Iterable[Peer]) -> None:
    """Publish trades and aggregates in several passes; each of the peers gets the events of more than one."""
    for number in range(PASSES_OF_TRADES):
        frame = frame_of(event("T", "AAPL", number * 200), event("AM", "AAPL", 0, s=T0, e=T0 + 1))
        batch = Batch("stocks", T0 * 1_000_000, [frame], Decoder("stocks"), read_ns=time.monotonic_ns())
        ports.bus.publish(batch)
    for peer in peers:
        events: list[Any] = []
        while len(events) < PASSES_OF_TRADES // 2:
            events += await peer.receive()
        assert {found["sym"] for found in events} == {"AAPL"}


@pytest.mark.parametrize(
    ("port", "topic", "other_topic"),
    [
        ("firehose", "*", "*"),
        ("filtered", "T.*", "T.AAPL"),
        ("bars", "AM.*", "AM.AAPL"),
        ("bars", "100Ms.*", "100Ms.AAPL"),
    ],
)
@in_production_loop
async def test_a_client_whose_write_raises_ends_alone(port: str, topic: str, other_topic: str) -> None:
    """It is cut and counted; whoever is served with it, or behind it, gets the events of this pass and of the next."""
    async with serving() as ports:
        broken = await ports.client(port, topic, path="/stocks")
        break_transport(next(iter(ports.hub(port).clients)))
        good = [await ports.client(port, wanted, path="/stocks") for wanted in (topic, other_topic)]
        await published(ports, good)
        assert not ports.bus.failures
        assert await broken.ended() == 1006
        assert ports.stats(port).evictions == {"write_failed": 1}
        await eventually(lambda: len(ports.hub(port).clients) == 2)


@pytest.mark.parametrize("failing", ["firehose", "filtered", "bars"])
@in_production_loop
async def test_a_port_with_a_defect_costs_the_others_nothing(
    failing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each port is a consumer of its own: one that raises on every batch loses its own events and no other's."""

    def fail(batch: Batch) -> None:
        raise RuntimeError("a defect of this port")

    async with serving() as ports:
        topics = {"firehose": "*", "filtered": "T.*", "bars": "100Ms.*"}
        peers = {port: await ports.client(port, topic, path="/stocks") for port, topic in topics.items()}
        [consumer] = [found for found in ports.bus.consumers if getattr(found, "name", "") == failing]
        monkeypatch.setattr(consumer, "accept", fail)
        # Bars reach their port from the maker, not with the batch.
        good = [peer for port, peer in peers.items() if port != failing or port == "bars"]
        await published(ports, good)
        assert ports.bus.failures == PASSES_OF_TRADES


@in_production_loop
async def test_a_port_that_raises_on_bars_costs_the_other_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bars are isolated from port to port as batches are; a defect of a port is no defect of the bar maker."""

    def fail(index: object, bars: object) -> None:
        raise RuntimeError("a defect of this port")

    async with serving() as ports:
        await ports.client("filtered", "100Ms.*")
        [filtered] = [found for found in ports.bus.consumers if getattr(found, "name", "") == "filtered"]
        monkeypatch.setattr(filtered, "_deliver_bars", fail)
        await published(ports, [await ports.client("bars", "100Ms.*")])
        assert not ports.bus.failures


@in_production_loop
async def test_a_ping_that_raises_ends_its_client_alone() -> None:
    """The look that finds it goes on to the others."""
    async with serving(limits={"ping_interval_secs": 0.2}) as ports:
        await ports.client("filtered")
        break_transport(next(iter(ports.hub("filtered").clients)))
        alive = await ports.client("filtered", "T.AAPL")
        listening = asyncio.create_task(alive.raw())
        await eventually(lambda: len(ports.hub("filtered").clients) == 1)
        assert ports.stats("filtered").evictions == {"write_failed": 1}
        ports.publish(frame_of(event("T", "AAPL", 1)))
        assert await listening == frame_of(event("T", "AAPL", 1))


@in_production_loop
async def test_clients_that_vanish_under_load_cost_the_others_nothing() -> None:
    """Connections reset in the middle of everything: no pass fails, and clients that stay get every event in order."""
    async with serving() as ports:
        good = await ports.client("filtered", "T.*")
        numbers: list[int] = []
        total = 3000

        async def read() -> None:
            while len(numbers) < total:
                numbers.extend(found["q"] for found in await good.receive())

        reading = asyncio.create_task(read())
        resets: list[socket.socket] = []
        for number in range(total):
            if number % 20 == 0:
                vanishing = await ports.client("filtered", "T.*")
                sock = vanishing.ws.get_extra_info("socket")
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                vanishing.ws._response.connection.transport.abort()  # type: ignore[union-attr]
                resets.append(sock)
            ports.publish(frame_of(event("T", "AAPL", number)))
            await asyncio.sleep(0)
        await asyncio.wait_for(reading, DEADLINE_SECS)
        assert numbers == list(range(total))
        await eventually(lambda: len(ports.hub("filtered").clients) == 1)
        assert ports.stats("filtered").audiences == 1


# The handshake and the frames of clients


@in_production_loop
async def test_foreign_pages_and_names_are_refused() -> None:
    """A foreign `Origin` is 403, a foreign `Host` (DNS rebinding) 421; what the settings name may connect."""
    async with serving(allowed_origins=("https://app.example",), allowed_hosts=("feed.example",)) as ports:
        url = ports.url("filtered")
        for headers, status in (
            ({"Origin": "https://evil.example"}, 403),
            ({"Origin": "null"}, 403),
            ({"Origin": "http://[broken"}, 403),
            ({"Host": "evil.example"}, 421),
            ({"Host": "evil.example:8765", "Origin": "http://evil.example:8765"}, 421),
        ):
            with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
                await ports.session.ws_connect(url, headers=headers)
            assert refused.value.status == status, headers
        assert ports.stats("filtered").refused == {"origin": 3, "host": 2}
        for headers in (
            {"Origin": "https://app.example"},
            {"Origin": ports.url("filtered", "", "http")},
            {"Host": "FEED.example:443"},
            {"Host": "localhost"},
        ):
            await ports.connect("filtered", headers=headers)


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        (b"\xc1\x80\0\0\0\0", 1002),
        (b"\x83\x80\0\0\0\0", 1002),
        (masked(0x80, b"tail"), 1002),
        (masked(0x81, b"\xff\xff"), 1007),
        (b"\x81\x02{}", 1002),
        (masked(0x01, b"") + masked(0x00, b"") * 70, 1008),
    ],
    ids=["rsv", "opcode", "continuation", "utf8", "unmasked", "fragments"],
)
@in_production_loop
async def test_frames_that_break_the_protocol(sent: bytes, code: int) -> None:
    """Each ends its own connection with the code of RFC 6455, and no other."""
    async with serving() as ports:
        good = await ports.client("filtered", "T.AAPL")
        async with raw_websocket(ports) as (reader, writer):
            writer.write(sent)
            assert await closed_with(reader) == code
        assert "auth_timeout" not in ports.stats("filtered").evictions
        ports.publish(frame_of(event("T", "AAPL", 1)))
        assert await good.raw() == frame_of(event("T", "AAPL", 1))


@pytest.mark.parametrize("port", ["firehose", "filtered", "bars"])
@in_production_loop
async def test_shutdown_closes_everybody_with_1012(port: str) -> None:
    """What was published before is still delivered; then 1012, since official clients stop for good on 1001."""
    async with serving() as ports:
        peers = [await ports.client(port, "*" if port != "bars" else "A.*", path="/stocks") for _ in range(3)]
        ports.publish(frame_of(event("A", "AAPL", 1)))
        closing = asyncio.create_task(ports.serving.close(5.0))
        for peer in peers:
            assert await peer.raw() == frame_of(event("A", "AAPL", 1))
            assert await peer.ended() == 1012
        await closing
        with pytest.raises(aiohttp.ClientError):
            await ports.connect(port)


@in_production_loop
async def test_a_client_that_cannot_be_told_holds_up_no_close() -> None:
    """A client whose close frame cannot be written is cut; the others are told 1012, and the port closes at once."""
    async with serving() as ports:
        broken = await ports.client("filtered", "T.*")
        break_transport(next(iter(ports.hub("filtered").clients)))
        good = await ports.client("filtered", "T.*")
        closing = asyncio.create_task(ports.hub("filtered").close(time.monotonic_ns() + 5_000_000_000))
        assert await broken.ended() == 1006
        assert await good.ended() == 1012
        await closing
        assert not ports.hub("filtered").clients


@pytest.mark.parametrize("port", ["firehose", "filtered", "bars"])
@in_production_loop
async def test_a_port_is_restarted_alone(port: str) -> None:
    """Its clients are told 1012 and come back; those of the other ports notice nothing."""
    topics = {"firehose": "*", "filtered": "T.*", "bars": "AM.*"}
    async with serving() as ports:
        peers = {name: await ports.client(name, topic, path="/stocks") for name, topic in topics.items()}
        closing = asyncio.create_task(ports.hub(port).close(time.monotonic_ns() + 5_000_000_000))
        assert (
            await peers[port].ended() == 1012
        )  # which also answers: the port need not wait until its deadline
        await closing
        with pytest.raises(aiohttp.ClientConnectorError):
            await ports.connect(port)
        await ports.hub(port).open()
        peers[port] = await ports.client(port, topics[port], path="/stocks")
        assert {name: ports.stats(name).clients for name in topics} == dict.fromkeys(topics, 1)
        ports.publish(frame_of(event("T", "AAPL", 1), event("AM", "AAPL", 0, s=T0, e=T0 + 1)))
        for peer in peers.values():
            assert (await peer.receive())[0]["sym"] == "AAPL"


@in_production_loop
async def test_a_client_that_closes_gets_its_close_answered() -> None:
    """The closing handshake is completed: the client sees its own code back, not a broken connection."""
    async with serving() as ports:
        async with raw_websocket(ports) as (reader, writer):
            writer.write(masked(0x88, struct.pack("!H", 1000)))
            assert await closed_with(reader) == 1000
        await eventually(lambda: not ports.hub("filtered").clients)


def make_certificate(folder: Path) -> tuple[str, str]:
    """Make a certificate for this machine; return its file and that of its key."""
    certificate, key = str(folder / "c.pem"), str(folder / "k.pem")
    command = f"{tool('openssl')} req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -days 2 -nodes"
    subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    subprocess.run(
        [*command.split(), "-keyout", key, "-out", certificate, *subject], check=True, capture_output=True
    )
    return certificate, key


@in_production_loop
async def test_tls(tmp_path: Path) -> None:
    """With a certificate the ports speak wss and https, and a slow client is cut there, too."""
    certificate, key = make_certificate(tmp_path)
    context = ssl.create_default_context(cafile=certificate)
    frame = frame_of(*(fill(1000, number) for number in range(64)))
    async with serving(
        tls_cert_file=certificate,
        tls_key_file=key,
        ssl=context,
        limits={"pending_bytes_max": 2**20},
    ) as ports:
        peer = await ports.client("filtered", "T.AAPL")
        deaf = await ports.client("filtered", "T.AAPL")
        transport = cast("asyncio.Transport", deaf.ws._response.connection.transport)  # type: ignore[union-attr]
        transport.pause_reading()
        for _ in range(10_000):
            ports.publish(frame)
            assert await peer.raw() == frame
            if ports.stats("filtered").evictions:
                break
        assert ports.stats("filtered").evictions == {"slow_consumer": 1}
        async with ports.session.get(ports.url("filtered", "/health", "http")) as answer:
            assert answer.status == 200
        transport.abort()  # a client that reads nothing does not see the close, and would be waited for


@in_production_loop
async def test_who_asks_while_the_port_closes_comes_back_later() -> None:
    """A connection that was there before gets 503 while others are still being served to their end."""
    async with serving() as ports, deaf_client(ports, "filtered", "T.AAPL") as deaf:
        ports.publish(frame_of(event("T", "AAPL", 1)))
        reader, writer = await asyncio.open_connection(*ports.address("filtered"))
        hub = ports.hub("filtered")
        await eventually(lambda: hub.connections == 2)
        closing = asyncio.create_task(hub.close(time.monotonic_ns() + 20_000_000_000))
        [client] = hub.clients
        await eventually(lambda: client.closing)
        try:
            writer.write(handshake(ports, "filtered"))
            answer = await asyncio.wait_for(reader.readuntil(b"may answer\n"), DEADLINE_SECS)
            assert answer.startswith(b"HTTP/1.1 503 ")
            assert not closing.done()
        finally:
            deaf.transport.abort()
            await closing
            writer.close()


# Compression


@in_production_loop
async def test_compression_is_for_who_offers_it() -> None:
    """With WS_COMPRESSION clients that offer permessage-deflate get frames that they can read, others plain ones."""
    frames = [frame_of(*(event("T", "AAPL", turn * 100 + place) for place in range(50))) for turn in range(5)]
    async with serving(compression=True) as ports:
        deflating = await ports.client("filtered", "T.AAPL", compress=15)
        small_window = await ports.client("filtered", "T.AAPL", compress=9)
        plain = await ports.client("filtered", "T.AAPL")
        assert [bool(peer.ws.compress) for peer in (deflating, small_window, plain)] == [True, True, False]
        sizes = {client.window_bits: client for client in ports.hub("filtered").clients}
        factory = ClientPerMessageDeflateFactory(server_max_window_bits=10)
        async with connect_websockets(ports.url("filtered"), extensions=[factory]) as other:
            await other.send(json.dumps({"action": "auth", "params": TOKEN}))
            await other.send(json.dumps({"action": "subscribe", "params": "T.AAPL"}))
            for _ in range(3):
                await other.recv()
            for frame in frames:
                ports.publish(frame)
            for frame in frames:
                for peer in (deflating, small_window, plain):
                    assert await peer.raw() == frame
                assert await other.recv(decode=False) == frame
        assert sizes[15].bytes_sent < sizes[0].bytes_sent / 2


@in_production_loop
async def test_compression_is_off_unless_enabled() -> None:
    """An offer is not taken up by default, and a deflated frame is then a broken one."""
    async with serving() as ports:
        peer = await ports.client("filtered", "T.AAPL", compress=15)
        assert not peer.ws.compress
        ports.publish(frame_of(event("T", "AAPL", 1)))
        assert await peer.raw() == frame_of(event("T", "AAPL", 1))


@in_production_loop
async def test_a_deflated_bomb_closes_with_1009() -> None:
    """61 kB that inflate to 60 MiB are a message beyond the limit."""
    deflate = zlib.compressobj(9, wbits=-15)
    bomb = deflate.compress(b" " * (60 * 2**20)) + deflate.flush(zlib.Z_SYNC_FLUSH)
    bomb = bomb.removesuffix(b"\x00\x00\xff\xff")
    assert len(bomb) < 2**16
    extension = "Sec-WebSocket-Extensions: permessage-deflate\r\n"
    async with (
        serving(compression=True) as ports,
        raw_websocket(ports, headers=extension) as (reader, writer),
    ):
        writer.write(b"\xc1\xfe" + struct.pack("!H", len(bomb)) + b"\0\0\0\0" + bomb)
        assert await closed_with(reader) == 1009
