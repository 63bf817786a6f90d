"""Trial 4: no room on the disk, of whatever kind, and room again."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import pytest
from commands import Running, live_settings, running, simulating
from injection import injecting
from listening import listening
from oracle import account, follow, read_manifest, read_sent, verified
from tools import tool
from trials import report, scale
from volumes import Filler, ext4, small
from waiting import eventually_sync

pytestmark = [pytest.mark.trial, pytest.mark.timeout(scale(120, 3600))]


FILE_BYTES = 1_000_000


@dataclass(frozen=True)
class Shortage:
    """One way in which a disk takes nothing more."""

    name: str
    injected: str
    reason: str
    """What `/ready` says."""
    volume: Callable[[Path, Path], object]
    """Gives the context manager of the archive's file system, from its folder and a place for an image."""
    begin: Callable[[Running, Path], object]
    """Gives the context manager of the shortage, from recorder and folder."""


@contextmanager
def no_bytes(recorder: Running, folder: Path) -> Iterator[None]:
    filler = Filler(folder)
    filler.take_bytes()
    yield
    filler.give_back()


@contextmanager
def no_inodes(recorder: Running, folder: Path) -> Iterator[None]:
    filler = Filler(folder)
    filler.take_files()
    yield
    filler.give_back()


def read_only(recorder: Running, folder: Path) -> object:
    calls = ["openat", "write", "fsync", "rename", "unlink", "ftruncate"]
    active = [folder / "polygon.ndjson", folder / "polygon.manifest.ndjson"]
    return injecting(recorder.process.pid, [f"{call}:error=EROFS" for call in calls], *active)


@contextmanager
def no_larger_files(recorder: Running, folder: Path) -> Iterator[None]:
    limit = [tool("prlimit"), "--pid", str(recorder.process.pid)]
    subprocess.run([*limit, f"--fsize={FILE_BYTES // 2}:unlimited"], check=True)
    yield
    subprocess.run([*limit, "--fsize=unlimited:unlimited"], check=True)


SHORTAGES = [
    Shortage(
        "bytes",
        "a tmpfs of 64 MB (`mount -o size=`), filled by another program, which then deletes its file",
        "No space left on device",
        lambda folder, image: small(folder, 64 << 20),
        no_bytes,
    ),
    Shortage(
        "inodes",
        "an ext4 with 1,024 inodes (`mkfs.ext4 -N`), all taken by another program, while files are rotated",
        "No space left on device",
        lambda folder, image: ext4(folder, image, "-N", "1024"),
        no_inodes,
    ),
    Shortage(
        "read-only",
        "strace answers EROFS to every call that changes a file (the kernel refuses `remount,ro` while one is open)",
        "Read-only file system",
        lambda folder, image: nullcontext(folder.mkdir()),
        read_only,
    ),
    Shortage(
        "file size",
        "`prlimit --fsize` on the running process",
        "File too large",
        lambda folder, image: nullcontext(folder.mkdir()),
        no_larger_files,
    ),
]


@pytest.mark.parametrize("shortage", SHORTAGES, ids=lambda shortage: shortage.name)
def test_what_does_not_fit_waits_or_is_counted(tmp_path: Path, shortage: Shortage) -> None:
    """A disk without room costs what passes the buffer, counted; nothing else, and no client; it ends by itself."""
    rounds = scale(1, 15)
    folder, log = tmp_path / "archive", tmp_path / "sent.ndjson"
    small_files = {"NDJSON_MAX_BYTES": "200000"} if shortage.name == "inodes" else {}
    with shortage.volume(folder, tmp_path / "image"):
        with simulating(
            "--cluster", "stocks", "--rate", "10000", "--frame-events", "10", "--log", str(log), cwd=tmp_path
        ) as port:
            settings = (
                live_settings(
                    port,
                    folder,
                    NDJSON_COMPRESSION="zstd",
                    NDJSON_MAX_BYTES=str(FILE_BYTES),
                    NDJSON_BUFFER_BYTES="1000000",
                    CLIENT_PENDING_BYTES_MAX="1GiB",
                )
                | small_files
            )
            with running("run", cwd=tmp_path, **settings) as recorder:
                with listening(f"ws://{recorder.address_of('firehose')}") as everything:
                    dropped = 0.0
                    for _ in range(rounds):
                        seen = recorder.received()
                        eventually_sync(lambda before=seen: recorder.received() > before + 3000, "load")
                        with shortage.begin(recorder, folder):  # type: ignore[attr-defined]
                            eventually_sync(
                                lambda: shortage.reason in recorder.get("/ready")[1], "the reason"
                            )
                            eventually_sync(
                                lambda before=dropped: recorder.metric("polygon_ndjson_drops_total") > before,
                                "drops",
                            )
                            served = len(everything.frames)
                            eventually_sync(lambda count=served: len(everything.frames) > count, "frames")
                        eventually_sync(lambda: recorder.get("/ready")[0] == 200, "readiness")
                        dropped = recorder.metric("polygon_ndjson_drops_total")
                    written = recorder.metric("polygon_ndjson_written_total")
                    eventually_sync(
                        lambda: recorder.metric("polygon_ndjson_written_total") > written + 3000, "records"
                    )
                    assert recorder.stop() == 0
                    eventually_sync(lambda: everything.close_code, "the close")
                (ended,) = read_manifest(folder, "run_ended")
                counted = sum(entry["count"] for entry in read_manifest(folder, "drop"))
        found = account(log, folder)
        verified(folder)
    assert found.faultless, found
    assert found.dropped == counted == ended["balance"]["dropped"] >= dropped
    stream = follow(read_sent(log).events, everything.events)
    assert stream.faultless, stream
    report(
        4,
        fault=f"no room on the disk: {shortage.name}",
        injected=shortage.injected,
        holds="clients miss nothing; `/ready` says why; no torn line; recording resumes by itself; what did not fit "
        "the buffer is counted, and in the manifest",
        figure=f"{rounds} times; {found.recorded:,} events recorded, {found.dropped:,} dropped, all of them explained",
    )


def test_a_stop_without_room_says_what_is_lost(tmp_path: Path) -> None:
    """SIGTERM on a full disk ends in time with status 1 and a count; the next start finds an archive in order."""
    folder, log = tmp_path / "archive", tmp_path / "sent.ndjson"
    with small(folder, 64 << 20):
        with simulating("--cluster", "stocks", "--rate", "10000", "--log", str(log), cwd=tmp_path) as port:
            settings = live_settings(port, folder, SHUTDOWN_TIMEOUT_SECS="2")
            with running("run", cwd=tmp_path, **settings) as recorder:
                eventually_sync(lambda: recorder.metric("polygon_ndjson_written_total") > 3000, "records")
                with no_bytes(recorder, folder):
                    eventually_sync(lambda: "No space" in recorder.get("/ready")[1], "the reason")
                    seen = recorder.received()
                    eventually_sync(lambda: recorder.received() > seen + 5000, "load")
                    begun = time.monotonic()
                    recorder.send(signal.SIGTERM)
                    recorder.wait_for("stopped")
                    stopped_secs = time.monotonic() - begun
                    assert recorder.wait() == 1
            (told,) = recorder.logged("archive_shutdown_timeout")
            assert "No space left on device" in told["reason"]
            (balance,) = [entry for entry in recorder.logged("balance") if entry["sink"] == "ndjson"]
            assert 0 < told["given_up"] == balance["dropped"]
            assert stopped_secs < 2 + scale(5, 0.5)  # in the short form other tests have the machine, too
            with running("run", cwd=tmp_path, **settings) as again:
                eventually_sync(lambda: again.metric("polygon_ndjson_written_total") > 3000, "records")
                assert again.stop() == 0
        found = account(log, folder)
        verified(folder)
    assert found.faultless, found
    report(
        4,
        fault="SIGTERM while there is no room",
        injected="a tmpfs that is full until the process has ended",
        holds="exit 1 within SHUTDOWN_TIMEOUT_SECS; the log says how many records are lost and why; the books balance; "
        "the next start has an archive in order, and names the gap",
        figure=f"stopped after {stopped_secs:.1f} s of 2 s; {balance['dropped']:,} records lost, all of them counted",
    )
