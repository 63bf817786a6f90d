"""Trial 9: everything that an exchange, and the way to it, can do to a connection that stands."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
from commands import KEY, Running, live_settings, running, simulating
from networks import network
from oracle import Account, account, read_manifest, read_plain, read_sent, verified
from trials import report, scale
from waiting import eventually_sync

pytestmark = [pytest.mark.trial, pytest.mark.timeout(scale(120, 3600))]

CLOSE_CODES = scale(
    (1000, 1001, 1006, 1008, 1011, 1012, 1013, 1015, 3000, 4999),
    (*range(1000, 1017), 2999, 3000, 3008, 3999, 4000, 4001, 4999),
)
ODD_FRAMES = ("garbage", "not-array", "big-frame", "bad-element", "status-in-data")
REJECTED = ("garbage", "not-array", "bad-element")
"""Of those, what ends up in the reject file."""
BACKOFF_MAX_SECS = 0.2
"""As `live_settings` has it."""


def said(recorder: Running, folder: Path) -> str:
    """Return all that a recorder says to anybody while it runs: logs, pages, manifest."""
    pages = [
        recorder.get(path)[1] for path in ("/", "/metrics", "/status", "/ready?verbose", "/health?verbose")
    ]
    manifest = (folder / "polygon.manifest.ndjson").read_text()
    return "\n".join([*recorder.lines, *recorder.out, *pages, manifest])


def gaps(folder: Path) -> list[str]:
    """Return the reasons of the gaps in the manifest; each of them has its bounds."""
    found = read_manifest(folder, "gap")
    assert all(0 < gap["from"] <= gap["to"] for gap in found)
    return [gap["reason"] for gap in found]


def judged(log: Path, folder: Path, connections: list[int] | None = None) -> Account:
    """Account for an archive, which must be faultless."""
    found = account(log, folder, connections=connections)
    assert found.faultless, found
    verified(folder)
    return found


def test_each_end_of_a_connection_is_named_and_followed_by_a_new_one(tmp_path: Path) -> None:
    """Every close code, FIN, RST and a cut mid-frame cost a gap in the manifest, and not one good event."""
    folder, log = tmp_path / "archive", tmp_path / "sent.ndjson"
    ends = [*(f"close:code={code}" for code in CLOSE_CODES), "reset", "cut"]
    faults = [f"--fault={end}{',' if ':' in end else ':'}after=1000" for end in ends]
    market = ("--rate", "20000", "--frame-events", "10", "--symbols", "50")
    with (
        simulating("--cluster", "stocks", *market, "--log", str(log), *faults, cwd=tmp_path) as port,
        running(
            "run", cwd=tmp_path, **live_settings(port, folder, SUBSCRIPTION="T.*,Q.AAPL,Q.F,LULD.*")
        ) as recorder,
    ):
        recorder.wait_for("subscribed", len(ends) + 1)
        eventually_sync(lambda: recorder.metric("polygon_topics_acknowledged") == 4, "all topics again")
        assert KEY not in said(recorder, folder)
        assert recorder.stop() == 0
    reasons = ["server_disconnect" if code == 1008 else "disconnected" for code in CLOSE_CODES]
    reasons += ["disconnected", "disconnected"]
    losses = recorder.logged("disconnected")
    assert [loss["reason"] for loss in losses] == reasons
    assert gaps(folder) == reasons
    for code, loss in zip(CLOSE_CODES, losses, strict=False):
        assert (str(code) in loss["message"]) or code == 1006
    assert all(0 <= loss["retry_in_secs"] <= BACKOFF_MAX_SECS for loss in losses)
    found = judged(log, folder)
    # The exchange sends what is asked for: the same on each connection.
    sent = read_sent(log)
    asked = Counter(zip(sent.connections, (event[:10] for event in sent.events), strict=True))
    for connection in range(1, len(ends) + 1):
        assert asked[connection, b'{"ev":"T",'] > 0
        assert asked[connection, b'{"ev":"Q",'] > 0
    # What RST overtakes in the kernel is lost to any client, and lies in a gap; nothing else is lost.
    assert {loss.connection for loss in found.losses} <= {len(ends) - 1, len(ends) + 1}
    report(
        9,
        fault="a connection ends: every close code, FIN, RST, mid-frame",
        injected=f"simulator: {len(CLOSE_CODES)} close codes, those that nobody may send and an end without a close "
        "frame among them; SO_LINGER 0; half a frame, then FIN",
        holds="typed reason, a gap in the manifest for each, the same topics again, waits within the backoff, every "
        "event recorded, key never shown",
        figure=f"{len(ends)} ends, {found.recorded:,} of {found.sent:,} events recorded, {len(ends)} gaps written down",
    )


def test_odd_frames_cost_nothing_but_themselves(tmp_path: Path) -> None:
    """Garbage, no array, 10 MiB, one bad element, a status: every good event is recorded, what is bad is kept aside."""
    folder, log = tmp_path / "archive", tmp_path / "sent.ndjson"
    times = scale(2, 20)
    faults = [f"--fault={name}:after=1000,times={times}" for name in ODD_FRAMES]
    # 10 MiB every 50 ms would be a trial of the machine.
    market = ("--rate", scale("20000", "2000"), "--frame-events", "10")
    with (
        simulating("--cluster", "stocks", *market, "--log", str(log), *faults, cwd=tmp_path) as port,
        running("run", cwd=tmp_path, **live_settings(port, folder)) as recorder,
    ):
        enough = (times + 1) * 1000
        eventually_sync(lambda: recorder.received() > enough, "all odd frames", deadline_secs=600)
        assert recorder.metric("polygon_sessions_total") == 1
        assert recorder.stop() == 0
    assert not recorder.logged("disconnected")
    found = account(log, folder)
    # The 10 MiB frames hold one good event each, which the simulator's log leaves out: all alike, they are no lines.
    assert found.unknown == times
    found.unknown = 0
    assert found.faultless, found
    assert {loss.explained for loss in found.losses} <= {"after the end"}
    large = [
        record["payload"]
        for line in read_plain(folder / "polygon.ndjson").splitlines()
        if len(line) > 100_000 and (record := json.loads(line))["symbol"] == "BIG"
    ]
    assert len(large) == times
    assert all(len(payload["padding"]) > 10_000_000 for payload in large)
    rejects = (folder / "polygon.rejected.ndjson").read_text().splitlines()
    reasons = Counter(json.loads(line)["reason"].partition(":")[0] for line in rejects)
    assert reasons == {"the frame is not a JSON array": 2 * times, "the element is not JSON": times}
    (ended,) = read_manifest(folder, "run_ended")
    assert ended["balance"]["rejected"] == len(REJECTED) * times
    verified(folder)
    report(
        9,
        fault="frames that are no market data",
        injected="simulator, amid data: text that is no JSON, an object, 10 MiB with one event, one broken element "
        "among good ones, a status",
        holds="the session stands; every good event is recorded, what is bad is kept in the reject file and counted",
        figure=f"{times * len(ODD_FRAMES)} odd frames, {found.recorded:,} of {found.sent:,} events recorded, "
        f"{len(rejects)} rejects kept",
    )


def test_silence_ends_a_connection_and_pongs_alone_do_not(tmp_path: Path) -> None:
    """No byte for READ_TIMEOUT_SECS: a new connection and a gap; as long as pongs come, patience and no loss."""
    folder, log = tmp_path / "archive", tmp_path / "sent.ndjson"
    quiet_secs = scale(3, 180)
    faults = (f"--fault=stall:after=1000,for={quiet_secs}s", "--fault=stall:after=5000,pings=no")
    patience = {"READ_TIMEOUT_SECS": scale("1.5", "60"), "HEARTBEAT_INTERVAL_SECS": scale("0.5", "20")}
    with (
        simulating(
            "--cluster", "stocks", "--rate", "20000", "--log", str(log), *faults, cwd=tmp_path
        ) as port,
        running("run", cwd=tmp_path, **live_settings(port, folder, **patience)) as recorder,
    ):
        recorder.wait_for("subscribed")
        quiet_from = eventually_sync(lambda: recorder.metric("polygon_heartbeats_sent_total"), "a ping")
        eventually_sync(lambda: recorder.received() > 2000, "data behind the pause", quiet_secs + 30)
        assert not recorder.logged("disconnected")
        pings = recorder.metric("polygon_heartbeats_sent_total") - quiet_from
        (end,) = [
            eventually_sync(lambda: recorder.logged("disconnected"), "silence noticed", quiet_secs + 60)[0]
        ]
        recorder.wait_for("subscribed", 2)
        assert recorder.metric("polygon_read_timeouts_total") == 1
        assert recorder.stop() == 0
    assert end["reason"] == "read_timeout"
    assert gaps(folder) == ["read_timeout"]
    (gap,) = read_manifest(folder, "gap")
    gap_secs = (gap["to"] - gap["from"]) / 1000
    timeout_secs = float(patience["READ_TIMEOUT_SECS"])
    # The gap begins with the last data, not with the moment at which somebody noticed.
    assert timeout_secs * 0.95 <= gap_secs <= timeout_secs * 2 + 5
    found = judged(log, folder)
    assert {loss.explained for loss in found.losses} <= {"after the end"}
    report(
        9,
        fault="pongs without data, then silence",
        injected=f"simulator: no data for {quiet_secs} s, pongs going on; later neither data nor pongs",
        holds="pongs are life: same session, nothing lost; silence: reconnect, gap from the last byte on",
        figure=f"{quiet_secs} s with {pings:.0f} pongs survived; silence of {timeout_secs:g} s: a gap of {gap_secs:.1f} s "
        f"written down, {found.recorded:,} of {found.sent:,} events recorded",
    )


def test_a_half_open_connection_is_left_for_a_new_one(tmp_path: Path) -> None:
    """The network swallows every packet, and neither FIN nor RST comes: noticed by silence, healed by itself."""
    folder, log = tmp_path / "archive", tmp_path / "sent.ndjson"
    patience = {"READ_TIMEOUT_SECS": scale("2", "60"), "HEARTBEAT_INTERVAL_SECS": scale("1", "20")}
    with (
        network() as net,
        simulating(
            "--cluster", "stocks", "--rate", "1000", "--log", str(log), cwd=tmp_path, prefix=net.prefix
        ) as port,
        running(
            "run", cwd=tmp_path, prefix=net.prefix, **live_settings(port, folder, **patience)
        ) as recorder,
    ):
        recorder.wait_for("subscribed")
        eventually_sync(lambda: (folder / "polygon.ndjson").stat().st_size > 100_000, "data")
        net.swallow(port)
        # In the long form an attempt to connect runs into the same hole, too.
        noticed = scale("disconnected", "connect_failed")
        eventually_sync(lambda: recorder.logged(noticed), noticed, deadline_secs=180)
        net.heal()
        recorder.wait_for("subscribed", 2)
        assert recorder.stop() == 0
    assert recorder.logged("disconnected")[0]["reason"] == "read_timeout"
    assert all(failure["reason"] == "connect_failed" for failure in recorder.logged("connect_failed"))
    assert gaps(folder) == ["read_timeout"]
    assert KEY not in "\n".join(recorder.lines)
    (gap,) = read_manifest(folder, "gap")
    found = judged(log, folder)
    assert {loss.explained for loss in found.losses} <= {"gap", "after the end"}
    report(
        9,
        fault="half-open connection",
        injected="iptables drops every packet of the connection, in a network namespace",
        holds="noticed after READ_TIMEOUT_SECS of silence; reconnects by itself; a gap; nothing else is missing",
        figure=f"gap of {(gap['to'] - gap['from']) / 1000:.1f} s with READ_TIMEOUT_SECS="
        f"{patience['READ_TIMEOUT_SECS']}, {found.lost:,} events lost, all in the gap",
    )


def test_a_burst_is_recorded_whole(tmp_path: Path) -> None:
    """Ten times the rate: nothing is dropped, nothing lost, the session stands."""
    folder, log = tmp_path / "archive", tmp_path / "sent.ndjson"
    burst_secs = scale(2, 60)
    fault = f"--fault=burst:after=1s,factor=10,for={burst_secs}s"
    market = ("--rate", "5000", "--no-bursts")
    with (
        simulating("--cluster", "stocks", *market, "--log", str(log), fault, cwd=tmp_path) as port,
        running("run", cwd=tmp_path, **live_settings(port, folder)) as recorder,
    ):
        enough = 5000 * (10 * burst_secs + 1)
        eventually_sync(lambda: recorder.received() > enough, "the burst", deadline_secs=burst_secs * 3 + 30)
        peak = int(recorder.metric("polygon_sink_pending_peak_bytes"))
        assert recorder.stop() == 0
    assert not recorder.logged("disconnected")
    found = judged(log, folder)
    assert {loss.explained for loss in found.losses} <= {"after the end"}
    report(
        9,
        fault="burst",
        injected=f"simulator: 50,000 events/s instead of 5,000 for {burst_secs} s",
        holds="no drop, no loss, one session",
        figure=f"{found.recorded:,} events recorded, 0 dropped, at most {peak / 1e6:.1f} MB waited for the disk",
    )
