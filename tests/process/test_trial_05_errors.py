"""Trial 5: calls that fail: EIO on write, fsync, close, rename, unlink and open, single and in rows; short writes."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any

import pytest
from commands import Running, live_settings, running, simulating
from injection import traced
from listening import listening
from oracle import account, follow, read_manifest, read_sent, verified
from trials import report, scale
from volumes import ext4, faulty, mounted
from waiting import eventually_sync

pytestmark = [pytest.mark.trial, pytest.mark.timeout(scale(120, 3600))]

EVENTS = scale(10_000, 15_000)


ON_ACTIVE_FILE = ["write", "fsync", "close", "openat"]
EVERYWHERE = ["rename", "unlink"]
"""Calls for files whose names cannot be known before."""
CALLS = scale(
    [["write", "close", "openat"], ["fsync"], EVERYWHERE], [[call] for call in [*ON_ACTIVE_FILE, *EVERYWHERE]]
)
WHEN = scale(["3+12"], [*map(str, range(1, 21)), "5..9", "2..30", "3+20"])
"""Which calls fail, as strace counts them on each thread: the n-th; from one to another; every n-th."""


@pytest.mark.parametrize("calls", CALLS, ids="-".join)
def test_a_call_that_fails_costs_nothing(tmp_path: Path, calls: list[str]) -> None:
    """Whatever call fails, every event ends up in the archive once, and nothing false is promised."""
    recorded = injected = unsafe = 0
    for number, when in enumerate(WHEN):
        folder, log, trace = tmp_path / f"archive-{number}", tmp_path / f"sent-{number}", tmp_path / "calls"
        prefix = traced(
            trace,
            ",".join(calls),
            *(f"{call}:error=EIO:when={when}" for call in calls),
            paths=() if calls[0] in EVERYWHERE else (folder / "polygon.ndjson",),
        )
        with simulating(
            "--cluster", "stocks", "--rate", "10000", "--frame-events", "10", "--log", str(log), cwd=tmp_path
        ) as port:
            settings = live_settings(
                port,
                folder,
                NDJSON_COMPRESSION="zstd",
                NDJSON_MAX_BYTES="300000",
                NDJSON_FSYNC="flush",
                NDJSON_FLUSH_INTERVAL_MS="50",
                CLIENT_PENDING_BYTES_MAX="1GiB",
            )
            with running("run", cwd=tmp_path, prefix=prefix, **settings) as recorder:
                if not _starts(recorder):
                    injected += trace.read_text().count("(INJECTED)")
                    continue
                with listening(f"ws://{recorder.address_of('firehose')}") as everything:
                    eventually_sync(
                        lambda: recorder.metric("polygon_ndjson_written_total") > EVENTS, "records"
                    )
                    assert recorder.stop() == 0
                    eventually_sync(lambda: everything.close_code, "the close")
        injected += trace.read_text().count("(INJECTED)")
        found = account(log, folder)
        verified(folder)
        assert found.faultless, found
        assert {loss.explained for loss in found.losses} <= {"after the end"}
        stream = follow(read_sent(log).events, everything.events)
        assert stream.faultless, stream
        unsafe += _judge_promises(folder, trace.read_text())
        recorded += found.recorded
    assert injected
    report(
        5,
        fault=f"EIO of {', '.join(f'`{call}`' for call in calls)}",
        injected=f"strace, {len(WHEN)} patterns: "
        + scale("one call in twelve", "the n-th call (n = 1…20), rows of 5 and 29, every 20th"),
        holds="every event is recorded once; clients miss nothing; a segment whose fsync failed is closed as not "
        "durable and never synced again",
        figure=f"{injected} calls failed, {recorded:,} events recorded, 0 lost; {unsafe} segments noted as not durable",
    )


def _judge_promises(folder: Path, calls: str) -> int:
    """Hold the manifest against the calls that failed; return the number of segments that it calls not durable."""
    unsafe = [entry for entry in read_manifest(folder, "segment_closed") if entry.get("durable") is False]
    failed = re.findall(r" (?:fsync|close)\(\d+<[^>]*/polygon\.ndjson>\) += -1 EIO", calls)
    # Were a file synced again after its fsync failed, there would be fewer.
    assert len(unsafe) == len(failed), (unsafe, failed)
    return len(unsafe)


@pytest.mark.parametrize("fault", ["short", "EIO"])
def test_a_file_system_that_errs_costs_nothing(tmp_path: Path, fault: str) -> None:
    """A time in which every write and fsync fails, also where half of each write is in the file all the same."""
    rounds = scale(1, 20)
    folder, log = tmp_path / "archive", tmp_path / "sent"
    with faulty(folder, tmp_path / "back", tmp_path / "control") as disk:
        with simulating(
            "--cluster", "stocks", "--rate", "5000", "--frame-events", "10", "--log", str(log), cwd=tmp_path
        ) as port:
            settings = live_settings(
                port,
                folder,
                NDJSON_COMPRESSION="zstd",
                NDJSON_MAX_BYTES="1000000",
                NDJSON_FSYNC="flush",
                CLIENT_PENDING_BYTES_MAX="1GiB",
            )
            with (
                running("run", cwd=tmp_path, **settings) as recorder,
                listening(f"ws://{recorder.address_of('firehose')}") as everything,
            ):
                for _ in range(rounds):
                    _await_records(recorder, 2000)
                    disk.fail(fault)
                    eventually_sync(lambda: "Input/output" in recorder.get("/ready")[1], "the reason")
                    disk.heal()
                    eventually_sync(lambda: recorder.get("/ready")[0] == 200, "readiness")
                _await_records(recorder, 2000)
                assert recorder.stop() == 0
                eventually_sync(lambda: everything.close_code, "the close")
        found = account(log, folder)
        verified(folder)
    assert found.faultless, found
    assert {loss.explained for loss in found.losses} <= {"after the end"}
    stream = follow(read_sent(log).events, everything.events)
    assert stream.faultless, stream
    report(
        5,
        fault="writes that fail half done" if fault == "short" else "EIO of a whole file system",
        injected="a FUSE file system "
        + (
            "that takes half of each write for a time, which Linux reports as EIO"
            if fault == "short"
            else "whose writes and fsyncs fail for a time"
        ),
        holds="no torn line, every event recorded once; clients miss nothing; it ends by itself",
        figure=f"{rounds} times; {found.recorded:,} events recorded, 0 lost",
    )


def _await_records(recorder: Running, count: int) -> None:
    written = recorder.metric("polygon_ndjson_written_total")
    eventually_sync(lambda: recorder.metric("polygon_ndjson_written_total") > written + count, "records")


def test_what_is_called_durable_is_on_the_device(tmp_path: Path) -> None:
    """Under a real ext4 whose device fails for a time, what the manifest calls durable is there after a remount."""
    rounds = scale(1, 10)
    folder, log = tmp_path / "archive", tmp_path / "sent"
    with faulty(tmp_path / "device", tmp_path / "back", tmp_path / "control") as disk:
        image = disk.folder / "image"
        # Without a journal, whose failure makes ext4 read-only for good.
        with ext4(folder, image, "-O", "^has_journal", "-E", "nodiscard"):
            with simulating(
                "--cluster",
                "stocks",
                "--rate",
                "5000",
                "--frame-events",
                "10",
                "--log",
                str(log),
                cwd=tmp_path,
            ) as port:
                settings = live_settings(port, folder, NDJSON_FSYNC="flush", NDJSON_FLUSH_INTERVAL_MS="100")
                with running("run", cwd=tmp_path, **settings) as recorder:
                    for _ in range(rounds):
                        _await_records(recorder, 3000)
                        errors = recorder.metric("polygon_fsync_errors_total")
                        disk.fail("EIO")
                        eventually_sync(
                            lambda before=errors: recorder.metric("polygon_fsync_errors_total") > before,
                            "a failed fsync",
                        )
                        disk.heal()
                        eventually_sync(lambda: recorder.get("/ready")[0] == 200, "readiness")
                    _await_records(recorder, 3000)
                    assert recorder.stop() == 0
            found = account(log, folder)
        with mounted(folder, "-o", "loop", str(image)):
            segments = read_manifest(folder, "segment_closed")
            sound = _intact(folder, segments)
    assert found.faultless, found
    assert 0 < len(sound) < len(segments)
    report(
        5,
        fault="EIO of the device under an ext4",
        injected="ext4 on a loop device, whose image stands on a FUSE file system that fails for a time; unmounted and "
        "mounted again",
        holds="each segment that is not noted as not durable has its checksum afterwards; the manifest has its chain",
        figure=f"{rounds} times; {len(segments)} segments, {len(segments) - len(sound)} noted as not durable, the other "
        f"{len(sound)} intact",
    )


def test_a_start_trusts_no_fsync_behind_one_that_failed(tmp_path: Path) -> None:
    """The fsync of a start fails; that of the next one succeeds, and writes nothing of what the first has left out."""
    rounds = scale(1, 10)
    folder = tmp_path / "archive"
    with faulty(tmp_path / "device", tmp_path / "back", tmp_path / "control") as disk:
        image = disk.folder / "image"
        with (
            ext4(folder, image, "-O", "^has_journal", "-E", "nodiscard"),
            simulating("--cluster", "stocks", "--rate", "5000", "--frame-events", "10", cwd=tmp_path) as port,
        ):
            settings = live_settings(port, folder, NDJSON_FSYNC="rotate")
            for _ in range(rounds):
                with running("run", cwd=tmp_path, **settings) as recorder:
                    _await_records(recorder, 3000)
                    recorder.kill()
                disk.fail("EIO")
                with running("run", cwd=tmp_path, **settings) as recorder:
                    assert recorder.wait() == 78
                    assert "Input/output error" in "".join(recorder.lines)
                disk.heal()
            with running("run", cwd=tmp_path, **settings) as recorder:
                _await_records(recorder, 3000)
                assert recorder.stop() == 0
        with mounted(folder, "-o", "loop", str(image)):
            segments = read_manifest(folder, "segment_closed")
            sound = _intact(folder, segments)
    taken_over = [entry for entry in segments if entry["reason"] == "recovered"]
    # What the device has lost of a file that is not durable is noticed: the file is taken over again, without it.
    assert len(taken_over) >= rounds
    assert not any(entry in sound for entry in taken_over)
    assert sum(entry["records"] for entry in sound) > 3000
    report(
        5,
        fault="a start whose fsync fails, and another",
        injected="ext4 on a device that fails while a start takes over what `kill -9` has left, and heals before the next; "
        "at the end unmounted and mounted again",
        holds="the next start does not call durable what its own fsync could not write",
        figure=f"{rounds} times; {len(taken_over)} segments taken over as not durable, the last one durable and intact",
    )


def _starts(recorder: Running) -> bool:
    """Return whether it comes to record. A start that cannot open its file says so; then there is nothing to lose."""
    eventually_sync(lambda: recorder.logged("started") or recorder.process.poll() is not None, "a start")
    if recorder.logged("started"):
        return True
    assert recorder.wait() == 78
    assert "Input/output error" in "".join(recorder.lines)
    return False


def _intact(folder: Path, segments: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the segments that the manifest calls durable, after a look at their bytes."""
    sound = [entry for entry in segments if entry.get("durable", True)]
    for entry in sound:
        with (folder / entry["file"]).open("rb") as file:
            file.seek(entry["offset"])
            data = file.read(entry["bytes"])
        assert hashlib.sha256(data).hexdigest() == entry["sha256"], entry
    return sound
