"""Trial 9: everything that can keep a connection from coming about: the key, a twin, DNS, TLS, slow answers."""

from __future__ import annotations

import asyncio
import json
from contextlib import ExitStack
from pathlib import Path

import pytest
from aiohttp import web
from commands import KEY, live_settings, running, simulating
from exchange import exchange, status
from faketime import library
from front import answering, certificate, front, hang_up, over_tls, relaying, reset, stay_silent
from oracle import account, read_manifest, read_sent, verified
from trials import LONG, report, scale
from waiting import eventually_sync

from recorder.errors import EXIT_CONFIG

pytestmark = [pytest.mark.trial, pytest.mark.timeout(scale(120, 3600))]

LIMITED_SECS = 60.0
"""The least wait after `max_connections`, and after a key that was good is refused."""


async def echo_the_key(socket: web.WebSocketResponse, request: web.Request) -> None:
    """Refuse the key and say it, as no exchange should."""
    await socket.send_str(status("connected", "Connected Successfully"))
    key = json.loads((await socket.receive()).data)["params"]
    await socket.send_str(status("auth_failed", f"the key {key} is unknown"))


async def limit_and_echo_the_key(socket: web.WebSocketResponse, request: web.Request) -> None:
    """Say that the key, which it says, has too many connections."""
    await socket.send_str(status("connected", "Connected Successfully"))
    key = json.loads((await socket.receive()).data)["params"]
    await socket.send_str(status("max_connections", f"key {key} has too many connections"))
    await asyncio.wait_for(socket.receive(), 60)


def test_a_refused_key_ends_the_start_with_78(tmp_path: Path) -> None:
    """One line says which cluster refused it, the status is 78, and the key is not shown, whatever the exchange says."""
    with simulating("--cluster", "stocks", "--fault", "refuse-auth", cwd=tmp_path) as port:
        settings = live_settings(port, tmp_path / "refused")
        with running("run", cwd=tmp_path, **settings) as recorder:
            assert recorder.wait() == EXIT_CONFIG
    with exchange(echo_the_key) as port:
        settings = live_settings(port, tmp_path / "echoed")
        with running("run", cwd=tmp_path, **settings) as echoed:
            assert echoed.wait() == EXIT_CONFIG
    for command in (recorder, echoed):
        (line,) = [line for line in command.lines if line.startswith("recorder:")]
        assert "stocks: the exchange refused the key" in line
        assert KEY not in "\n".join([*command.lines, *command.out])
    for folder in ("refused", "echoed"):
        assert KEY not in (tmp_path / folder / "polygon.manifest.ndjson").read_text()
        (ended,) = read_manifest(tmp_path / folder, "run_ended")
        assert ended["balance"]["difference"] == 0
    report(
        9,
        fault="refused key at start",
        injected="simulator refuse-auth; a scripted exchange that says the key back",
        holds="exit 78, one clear line, the key never shown",
        figure="2 of 2",
    )


def test_a_key_that_was_good_is_tried_again_after_a_minute(tmp_path: Path) -> None:
    """Refused later, the recorder lives on, waits for 60 s at least, then goes on with a gap."""
    folder, log = tmp_path / "archive", tmp_path / "sent.ndjson"
    faults = ("--fault=close:after=2000,code=1001", "--fault=refuse-auth:after=1500,times=1")
    market = ("--rate", "5000", "--log", str(log))
    with (
        simulating("--cluster", "stocks", *market, *faults, cwd=tmp_path) as port,
        running("run", cwd=tmp_path, **live_settings(port, folder)) as recorder,
    ):
        refused = recorder.wait_for("connect_failed")
        assert refused["reason"] == "key_refused"
        assert refused["retry_in_secs"] >= LIMITED_SECS
        assert recorder.get("/ready")[0] == 503
        assert recorder.get("/health")[0] == 200
        assert recorder.metric("polygon_connects_total") == 2
        if LONG:
            eventually_sync(lambda: len(recorder.logged("subscribed")) == 2, "the next try", 120)
        assert recorder.stop() == 0
    gaps = read_manifest(folder, "gap")
    assert len(gaps) == scale(0, 1)
    assert all(gap["to"] - gap["from"] >= LIMITED_SECS * 1000 for gap in gaps)
    assert KEY not in "\n".join(recorder.lines)
    found = account(log, folder)
    assert found.faultless, found
    verified(folder)
    report(
        9,
        fault="key refused after it was good",
        injected="simulator close, then refuse-auth once",
        holds="the process lives, waits 60 s at least, goes on by itself; nothing received is lost",
        figure=f"wait of {refused['retry_in_secs']:.0f} s"
        + (" announced and kept, then a new session" if LONG else " announced"),
    )


def test_twins_do_not_kill_each_other_in_a_loop(tmp_path: Path) -> None:
    """Of two recorders with one key, the loser waits at least 60 s and doubles that; both archives are faultless."""
    log = tmp_path / "sent.ndjson"
    folders = tmp_path / "one", tmp_path / "other"
    watch_secs = scale(0, 600)
    with ExitStack() as stack:
        market = ("--rate", "1000", "--connections-max", "1", "--log", str(log))
        port = stack.enter_context(simulating("--cluster", "stocks", *market, cwd=tmp_path))
        twins = []
        for folder in folders:
            twin = stack.enter_context(running("run", cwd=tmp_path, **live_settings(port, folder)))
            twin.wait_for("subscribed")
            eventually_sync(lambda twin=twin: twin.received() > 100, "data")
            twins.append(twin)
        one, other = twins
        one.wait_for("disconnected")
        if LONG:
            # One wait each, the second ones twice as long, and so on: in ten minutes a handful.
            eventually_sync(lambda: len(one.logged("subscribed")) == 3, "the second return", watch_secs)
        received = other.received()
        eventually_sync(lambda: other.received() > received or LONG, "data for who is left")
        assert one.stop() == 0
        assert other.stop() == 0
    ends = [end for twin in twins for end in twin.logged("disconnected")]
    assert {end["reason"] for end in ends} == {"max_connections"}
    assert all(end["advice"] for end in ends)
    for twin in twins:
        waits = [end["retry_in_secs"] for end in twin.logged("disconnected")]
        assert all(wait >= LIMITED_SECS * 2**place for place, wait in enumerate(waits))
        assert KEY not in "\n".join(twin.lines)
    connections = sorted(set(read_sent(log).connections))
    assert len(connections) == len(ends) + 1
    # They take turns: each new connection ends the other's.
    for place, folder in enumerate(folders):
        found = account(log, folder, connections=connections[place::2])
        assert found.faultless, found
        verified(folder)
        reasons = {gap["reason"] for gap in read_manifest(folder, "gap")}
        assert reasons == ({"max_connections"} if LONG else set())
    shortest_secs = min(end["retry_in_secs"] for end in ends)
    report(
        9,
        fault="max_connections by a twin",
        injected="two recorders, one key; simulator --connections-max 1 ends the older connection",
        holds="no kill loop: 60 s at least, doubling; advice in the log; both archives faultless",
        figure=f"{len(ends)} ends, shortest wait {shortest_secs:.0f} s",
    )


def test_a_limit_that_answers_the_key_is_waited_out(tmp_path: Path) -> None:
    """`max_connections` before any session: no exit, 60 s at least, and no page shows the key that it says back."""
    folder = tmp_path / "archive"
    with (
        exchange(limit_and_echo_the_key) as port,
        running("run", cwd=tmp_path, **live_settings(port, folder)) as recorder,
    ):
        limited = recorder.wait_for("connect_failed")
        assert limited["reason"] == "max_connections"
        assert limited["retry_in_secs"] >= LIMITED_SECS
        pages = [recorder.get(path)[1] for path in ("/status", "/ready", "/ready?verbose", "/metrics")]
        assert "has too many connections" in pages[1]
        assert recorder.stop() == 0
    manifest = (folder / "polygon.manifest.ndjson").read_text()
    assert KEY not in "\n".join([*recorder.lines, *recorder.out, *pages, manifest])
    report(
        9,
        fault="max_connections as the answer to the key",
        injected="a scripted exchange that says the key back",
        holds="the process lives and waits 60 s at least; neither log nor page shows the key",
        figure=f"wait of {limited['retry_in_secs']:.0f} s announced",
    )


def test_slow_and_missing_answers(tmp_path: Path) -> None:
    """Slow acknowledgements are waited for, missing ones are done without, a missing greeting is a new attempt."""
    cases = {
        "slow-acks": "slow-acks:delay=3s",
        "no-acks": "no-acks",
        "no-greeting": "no-greeting:times=1",
        "not-authorized": "not-authorized:topics=Q",
    }
    with ExitStack() as stack:
        recorders = {}
        for name, fault in cases.items():
            market = ("--rate", "500", "--log", str(tmp_path / f"{name}.ndjson"), "--fault", fault)
            port = stack.enter_context(simulating("--cluster", "stocks", *market, cwd=tmp_path))
            settings = live_settings(port, tmp_path / name)
            recorders[name] = stack.enter_context(running("run", cwd=tmp_path, **settings))
        for name, recorder in recorders.items():
            recorder.wait_for("subscribed")
            eventually_sync(lambda recorder=recorder: recorder.received() > 100, f"data with {name}")
        (unheard,) = recorders["no-acks"].logged("topics_unacknowledged")
        assert unheard["topics"] == "T.*, Q.*"
        (waited,) = recorders["no-greeting"].logged("connect_failed")
        assert waited["reason"] == "step_timeout"
        assert 0 <= waited["retry_in_secs"] <= 0.2
        denied = recorders["not-authorized"].wait_for("exchange_error")
        assert "not authorized" in denied["messages"][0]
        assert not recorders["slow-acks"].logged("disconnected")
        statuses = {name: recorder.stop() for name, recorder in recorders.items()}
    assert set(statuses.values()) == {0}
    recorded = 0
    for name in cases:
        found = account(tmp_path / f"{name}.ndjson", tmp_path / name)
        assert found.faultless, (name, found)
        assert {loss.explained for loss in found.losses} <= {"after the end"}, name
        verified(tmp_path / name)
        recorded += found.recorded
    report(
        9,
        fault="slow, missing and refusing answers",
        injected="simulator: acknowledgements 3 s late, none at all, no greeting, one channel not in the plan",
        holds="waited for; done without once 10 s have passed; tried again after 10 s; the other channel recorded",
        figure=f"4 of 4, {recorded:,} events recorded, none lost",
    )


def test_the_way_to_the_exchange_fails_in_every_way(tmp_path: Path) -> None:
    """TCP, TLS, HTTP and DNS failures are named, waited out, and got over; then the session is as any other."""
    folder, log = tmp_path / "archive", tmp_path / "sent.ndjson"
    good = certificate(tmp_path, "good")
    stranger = certificate(tmp_path, "stranger")
    elsewhere = certificate(tmp_path, "elsewhere", "elsewhere.example")
    expired = certificate(tmp_path, "expired", LD_PRELOAD=library(), FAKETIME="-60d")
    trusted = "".join((tmp_path / f"{name}.pem").read_text() for name in ("good", "elsewhere", "expired"))
    (tmp_path / "trusted.pem").write_text(trusted)
    market = ("--rate", "2000", "--log", str(log))
    with ExitStack() as stack:
        port = stack.enter_context(simulating("--cluster", "stocks", *market, cwd=tmp_path))
        failures = {
            "RST": (reset, "reset"),
            "FIN in the handshake": (hang_up, "closed in the handshake"),
            "no TLS": (answering(b"HTTP/1.1 400 Bad Request\r\n\r\n"), "speaks no TLS"),
            "half a TLS record": (answering(b"\x16\x03\x03\x40\x00\x02"), "closed in the handshake"),
            "unknown certificate": (over_tls(stranger, hang_up), "self-signed certificate"),
            "wrong host name": (over_tls(elsewhere, hang_up), "Hostname mismatch"),
            "expired certificate": (over_tls(expired, hang_up), "certificate has expired"),
            "502": (over_tls(good, answering(b"HTTP/1.1 502 Bad Gateway\r\n\r\n")), "answered 502"),
            "200": (
                over_tls(good, answering(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")),
                "answered 200",
            ),
            "no HTTP": (over_tls(good, answering(b"\x00\xff garbage\r\n\r\n")), "wss://"),
            **scale({}, {"silence": (stay_silent, "no connection within 15 s")}),
        }
        behaviours = [behaviour for behaviour, _ in failures.values()]
        cut, through = relaying(port, 20_000), relaying(port)
        door = stack.enter_context(front(*behaviours, over_tls(good, cut), over_tls(good, through)))
        settings = live_settings(
            port,
            folder,
            POLYGON_WS_URL=f"wss://localhost:{door.port}",
            SSL_CERT_FILE=str(tmp_path / "trusted.pem"),
        )
        nowhere = live_settings(port, tmp_path / "nowhere", POLYGON_WS_URL="wss://no-such-host.invalid")
        recorder = stack.enter_context(running("run", cwd=tmp_path, **settings))
        lost = stack.enter_context(running("run", cwd=tmp_path, **nowhere))
        recorder.wait_for("subscribed", 2)
        eventually_sync(lambda: recorder.metric("polygon_feed_ready") == 1, "data through TLS")
        tries = [lost.wait_for("connect_failed", count) for count in (1, 2, 3)]
        assert "no-such-host.invalid" in lost.get("/ready")[1]
        assert recorder.stop() == 0
        assert lost.stop() == 0
    found_failures = recorder.logged("connect_failed")
    assert len(found_failures) == len(failures)
    for (name, (_, words)), failure in zip(failures.items(), found_failures, strict=True):
        assert failure["reason"] == "connect_failed", name
        assert words.lower() in failure["message"].lower(), (name, failure["message"])
        assert 0 <= failure["retry_in_secs"] <= 0.2, name
    assert {failed["reason"] for failed in tries} == {"connect_failed"}
    assert all("no-such-host.invalid" in failed["message"] for failed in tries)
    (cut_end,) = recorder.logged("disconnected")
    assert cut_end["reason"] == "disconnected"
    assert [gap["reason"] for gap in read_manifest(folder, "gap")] == ["disconnected"]
    assert KEY not in "\n".join([*recorder.lines, *lost.lines])
    found = account(log, folder)
    assert found.faultless, found
    verified(folder)
    report(
        9,
        fault="DNS, TCP, TLS and HTTP failures, then a cut in the middle of TLS",
        injected="a front door on the way to the simulator: "
        + ", ".join(failures)
        + "; a name that does not resolve",
        holds="each is named in one line, waits stay within the backoff, then a session as any other",
        figure=f"{len(failures) + 2} failures named, {found.recorded:,} events recorded, {found.lost:,} lost in the gap",
    )
