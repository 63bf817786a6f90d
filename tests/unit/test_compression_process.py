"""The process that compresses: it does what the work in place does, yields to everything, and outlives nobody."""

from __future__ import annotations

import ctypes
import os
import platform
import signal
import struct
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from commands import is_alive
from waiting import eventually_sync

from recorder.archive.codec import SUFFIXES
from recorder.archive.compression import Job, compress_file
from recorder.archive.compression_process import CompressionProcess
from recorder.archive.disk import Disk
from recorder.errors import ArchiveError

KERNEL = tuple(map(int, platform.release().split("-")[0].split(".")[:2]))
SCHED_GETATTR = {"x86_64": 315, "aarch64": 275}


@pytest.fixture
def process() -> Iterator[CompressionProcess]:
    started = CompressionProcess()
    yield started
    started.close()


def job(folder: Path, codec: str = "zstd", name: str = "a", sha256: str = "") -> Job:
    return Job(folder / name, folder / f"{name}.tmp", codec, sha256)


@pytest.mark.parametrize("codec", SUFFIXES)
def test_it_makes_the_same_files(tmp_path: Path, process: CompressionProcess, codec: str) -> None:
    """File, size and checksum are those of the work in place, also under a name that is no UTF-8."""
    name = os.fsdecode(b"n\xff\xc3\xa4 \n")
    for size in (0, 1, 3_000_000):
        (tmp_path / name).write_bytes(os.urandom(1000) * (size // 1000) or bytes(size))
        here = compress_file(job(tmp_path, codec, name), Disk())
        content = (tmp_path / f"{name}.tmp").read_bytes()
        (tmp_path / f"{name}.tmp").unlink()
        assert process.compress(job(tmp_path, codec, name)) == here
        assert (tmp_path / f"{name}.tmp").read_bytes() == content


def test_its_errors_are_words(tmp_path: Path, process: CompressionProcess) -> None:
    """What fails there is an error here, with the file and the reason, and the process goes on."""
    with pytest.raises(ArchiveError, match=r"/a was removed by another program"):
        process.compress(job(tmp_path))
    (tmp_path / "a").write_bytes(b"x")
    with pytest.raises(ArchiveError, match=r"/a does not have the checksum"):
        process.compress(job(tmp_path, sha256="0"))
    (tmp_path / "a.tmp").unlink()
    (tmp_path / "a.tmp").mkdir()
    with pytest.raises(ArchiveError, match=r"Is a directory \(.*/a\.tmp\)"):
        process.compress(job(tmp_path))
    (tmp_path / "a.tmp").rmdir()
    pid = process.pid
    assert process.compress(job(tmp_path)).bytes > 0
    assert process.pid == pid


@pytest.mark.skipif(not Path("/proc/self/oom_score_adj").exists(), reason="Linux only")
def test_it_yields_to_everything(
    tmp_path: Path, process: CompressionProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has the lowest priority, knows no settings or secrets, and is not hit by what is meant for the recorder."""
    monkeypatch.setenv("POLYGON_API_KEY", "secret")
    (tmp_path / "a").write_bytes(b"x")
    process.compress(job(tmp_path))
    pid = process.pid
    assert pid is not None
    assert os.getpriority(os.PRIO_PROCESS, pid) == 19
    assert int(Path(f"/proc/{pid}/oom_score_adj").read_text()) == 300
    assert b"secret" not in Path(f"/proc/{pid}/environ").read_bytes()
    assert os.getpgid(pid) != os.getpgid(0)
    assert os.getsid(pid) == os.getsid(0)


@pytest.mark.skipif(
    platform.machine() not in SCHED_GETATTR or KERNEL < (6, 12),
    reason="this machine has no turns of a process's own",
)
def test_its_turns_are_short(tmp_path: Path, process: CompressionProcess) -> None:
    """Who wakes on its core has it within a tenth of a millisecond, not after the 3 ms that Linux gives to anybody."""
    (tmp_path / "a").write_bytes(b"x")
    process.compress(job(tmp_path))
    found = ctypes.create_string_buffer(48)
    assert (
        ctypes.CDLL(None).syscall(SCHED_GETATTR[platform.machine()], process.pid, found, len(found), 0) == 0
    )
    _, policy, _, niceness, _, turn_ns, _, _ = struct.unpack("=IIQiIQQQ", found.raw)
    assert (policy, niceness, turn_ns) == (os.SCHED_OTHER, 19, 100_000)


def test_one_that_is_ended_meanwhile_fails(tmp_path: Path, process: CompressionProcess) -> None:
    """A job whose process is ended raises, leaves no zombie, and no further process is started."""
    os.mkfifo(tmp_path / "a")  # reading it does not end
    with ThreadPoolExecutor(1) as pool:
        result = pool.submit(process.compress, job(tmp_path))
        eventually_sync((tmp_path / "a.tmp").exists, "it has begun")
        pid = process.pid
        process.end()
        with pytest.raises(ArchiveError, match=r"/a was killed by SIGKILL"):
            result.result()
    assert not is_alive(pid)
    with pytest.raises(ArchiveError, match="ended"):
        process.compress(job(tmp_path))


PARENT = """
import sys
from pathlib import Path
from threading import Thread
from recorder.archive.compression import Job
from recorder.archive.compression_process import CompressionProcess

process = CompressionProcess()
print(process.start().pid, flush=True)
process.compress(Job(Path(sys.argv[1]), Path(sys.argv[2]), "zstd"))
"""


def test_it_ends_with_the_recorder(tmp_path: Path) -> None:
    """A recorder that is killed leaves no process behind, in the middle of a file, and not even one that stands still."""
    plain, temporary, *_ = job(tmp_path)
    os.mkfifo(plain)
    command = [sys.executable, "-c", PARENT, str(plain), str(temporary)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        eventually_sync(temporary.exists, "it has begun")
        os.kill(pid, signal.SIGSTOP)
        parent.kill()
    eventually_sync(lambda: not is_alive(pid), "the end of the process")
