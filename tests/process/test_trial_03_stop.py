"""Trial 3: SIGTERM under load, with queues full."""

from __future__ import annotations

import random
import signal
import time
from pathlib import Path

import pytest
from commands import live_settings, running, simulating
from listening import listening
from oracle import account, follow, read_manifest, read_sent, verified
from tools import tool
from trials import report, scale
from waiting import eventually_sync

pytestmark = [pytest.mark.trial, pytest.mark.timeout(scale(120, 3600))]


SLOW_DISK = ("strace", "-D", "-f", "--seccomp-bpf", "-qq", "-o", "/dev/null", "-e", "trace=write")
"""Before a command: each write to the files of `-P` takes 30 ms more."""


@pytest.mark.parametrize("disk", ["fast", "slow"])
def test_what_was_received_before_a_stop_is_on_disk(tmp_path: Path, disk: str) -> None:
    """Every event that was received is recorded, clients are told 1012, the books balance, and the exit is clean."""
    stops = scale(2, 50)
    recorded = pending_max = 0
    longest_secs = 0.0
    for number in range(stops):
        folder, log = tmp_path / f"archive-{number}", tmp_path / f"sent-{number}.ndjson"
        enough = random.Random(number).randint(20_000, scale(60_000, 120_000))
        prefix: tuple[str, ...] = ()
        if disk == "slow":
            tool("strace")
            slowed = ("-P", str(folder / "polygon.ndjson"), "-e", "inject=write:delay_enter=30000")
            prefix = (*SLOW_DISK, *slowed)
        with simulating(
            "--cluster", "stocks", "--rate", "0", "--frame-events", "10", "--log", str(log), cwd=tmp_path
        ) as port:
            settings = live_settings(
                port,
                folder,
                NDJSON_MAX_BYTES="4000000",
                NDJSON_COMPRESSION="zstd",
                CLIENT_PENDING_BYTES_MAX="1GiB",
            )
            with running("run", cwd=tmp_path, prefix=prefix, **settings) as recorder:
                with (
                    listening(f"ws://{recorder.address_of('firehose')}") as everything,
                    listening(f"ws://{recorder.address_of('filtered')}", "T.*") as trades,
                ):
                    eventually_sync(lambda: recorder.received() > enough, "load")
                    pending_max = max(pending_max, int(recorder.metric("polygon_sink_pending_bytes")))
                    begun = time.monotonic()
                    assert recorder.stop(signal.SIGTERM) == 0
                    longest_secs = max(longest_secs, time.monotonic() - begun)
                    eventually_sync(lambda: everything.close_code and trades.close_code, "the close")
                    assert (everything.close_code, trades.close_code) == (1012, 1012)
                (ended,) = read_manifest(folder, "run_ended")
                assert ended["reason"] == "SIGTERM"
        found = account(log, folder)
        verified(folder)
        assert found.faultless, found
        # Without drops the archive holds what was received to the last event.
        assert {loss.explained for loss in found.losses} <= {"after the end"}
        assert found.recorded == ended["balance"]["received"] == ended["balance"]["recorded"]
        sent = read_sent(log).events
        for listener in (everything, trades):
            wanted = sent if listener is everything else [e for e in sent if e.startswith(b'{"ev":"T"')]
            stream = follow(wanted, listener.events)
            assert stream.faultless, stream
            assert stream.got > 0
        recorded += found.recorded
    report(
        3,
        fault=f"SIGTERM under load, {disk} disk",
        injected="`kill -TERM` at a random moment of a flood, two clients connected, rotation and zstd running"
        + (
            "; strace delays each write by 30 ms, so that the queue to the disk is full"
            if disk == "slow"
            else ""
        ),
        holds="every event received is on disk, none twice; clients are told 1012; exit 0; the books balance",
        figure=f"{stops} stops, {recorded:,} events received, 0 lost; up to {pending_max / 1e6:.1f} MB waited for the "
        f"disk; slowest stop {longest_secs:.1f} s",
    )


def test_what_a_disk_does_not_take_in_time_is_told(tmp_path: Path) -> None:
    """A disk too slow for the time of a stop: what it did not take is dropped by name, and the exit says that."""
    tool("strace")
    folder, log = tmp_path / "archive", tmp_path / "sent.ndjson"
    slowed = ("-P", str(folder / "polygon.ndjson"), "-e", "inject=write:delay_enter=300000")
    with simulating("--cluster", "stocks", "--rate", "0", "--log", str(log), cwd=tmp_path) as port:
        settings = live_settings(port, folder, SHUTDOWN_TIMEOUT_SECS="3")
        with running("run", cwd=tmp_path, prefix=(*SLOW_DISK, *slowed), **settings) as recorder:
            eventually_sync(lambda: recorder.received() > 50_000, "load")
            begun = time.monotonic()
            assert recorder.stop() == 1
            secs = time.monotonic() - begun
            [told] = recorder.logged("archive_shutdown_timeout")
    found = account(log, folder)
    assert found.faultless, found
    assert found.dropped == told["given_up"] > 0
    [ended] = read_manifest(folder, "run_ended")
    assert ended["balance"]["dropped"] == found.dropped
    verified(folder)
    report(
        3,
        fault="SIGTERM, disk too slow for the time given",
        injected="`SHUTDOWN_TIMEOUT_SECS=3`; strace delays each write by 300 ms in a flood",
        holds="what the disk did not take is dropped by name in manifest and balance, nothing else is lost; exit 1",
        figure=f"{found.recorded:,} recorded, {found.dropped:,} dropped, 0 unexplained; stopped in {secs:.1f} s",
    )
