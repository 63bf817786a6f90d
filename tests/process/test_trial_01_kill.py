"""Trial 1: `kill -9` at every n-th write, fsync, rename and delete, and at random under load."""

from __future__ import annotations

import math
import random
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

import pytest
from commands import live_settings, running, simulating
from lives import WAKE_SECS, Life, Moment, Remains, killed_gaps, moments, remains
from oracle import account, verified
from tools import tool
from trials import report, scale
from waiting import eventually_sync

pytestmark = [pytest.mark.trial, pytest.mark.timeout(scale(120, 7200))]

RATE: Final = 5000
LIVES_MAX: Final = 40
"""Lives of one archive; then it is judged, and another one begins."""
KINDS: Final = {
    "write": scale((3, 40), range(1, 201)),
    "fsync": scale((25,), range(1, 201)),
    "rename": scale((8,), range(1, 201)),
    "unlink": scale((3,), range(1, 51)),
}
"""At which of its calls a recorder dies."""
HOLDS: Final = (
    "sealed files hold whole valid lines only; nothing lost that was flushed; none twice or out of order; `verify` "
    "passes and names each end as a gap"
)


@dataclass
class Verdict:
    """What the archives of a trial have lost."""

    kills: int = 0
    recorded: int = 0
    lost_ms_max: int = 0
    """The longest time between the last record of a run and its death."""

    def __str__(self) -> str:
        return (
            f"{self.kills} kills, {self.recorded:,} records, 0 flushed ones lost, 0 torn, doubled or out of order; "
            f"at most the last {self.lost_ms_max:,} ms of a run are missing"
        )


class Archive:
    """An archive whose recorder is killed again and again while it splits, rotates and compresses."""

    def __init__(self, port: int, folder: Path) -> None:
        self.port = port
        self.folder = folder
        self.lives: list[tuple[Life, float]] = []
        """Each with the seconds that a record may wait for its flush; infinite where fsyncs and strace are the limit."""

    def settings(self, **variables: str) -> dict[str, str]:
        rotating = {
            "ROLES": "archive,ops",
            "NDJSON_SPLIT_PER_TYPE": "true",
            "NDJSON_MAX_BYTES": "25000",
            "NDJSON_COMPRESSION": "zstd",
        }
        return live_settings(self.port, self.folder, **{**rotating, **variables})

    def kill_at(self, call: str, number: int) -> None:
        """Let a run live until one of its threads makes a call for the n-th time."""
        names = ("polygon.trades", "polygon.quotes", "polygon.manifest") if call == "write" else ()
        only = [word for name in names for word in ("-P", str(self.folder / f"{name}.ndjson"))]
        fault = ("-e", f"trace={call}", "-e", f"inject={call}:signal=KILL:when={number}")
        prefix = ("strace", "-D", "-f", "-qq", "-o", "/dev/null", *only, *fault)
        life = Life()
        with running("run", cwd=self.folder.parent, prefix=prefix, **self.settings()) as recorder:
            life.watch(recorder)
            assert recorder.wait() == -signal.SIGKILL, recorder.lines[-5:]
        life.find_name(recorder, self.folder)
        self.lives.append((life, math.inf))

    def kill_at_moment(self, moment: Moment, **variables: str) -> None:
        """Kill a run at some moment."""
        life = Life()
        with running("run", cwd=self.folder.parent, **self.settings(**variables)) as recorder:
            with life.strike(recorder, moment, recorder.process.kill):
                life.watch(recorder)
            assert recorder.wait() == -signal.SIGKILL, recorder.lines[-5:]
        life.find_name(recorder, self.folder)
        self.lives.append((life, int(variables["NDJSON_FLUSH_INTERVAL_MS"]) / 1000))

    def live_on(self) -> None:
        """Let a last run repair, record, and stop in order."""
        with running("run", cwd=self.folder.parent, **self.settings()) as recorder:
            eventually_sync(lambda: recorder.received() > RATE / 10, "data again")
            assert recorder.stop(signal.SIGTERM) == 0


Fault = TypeVar("Fault")


def survive(tmp_path: Path, faults: Sequence[Fault], strike: Callable[[Archive, Fault], None]) -> Verdict:
    """Strike recorders with each fault, many in a row on one archive; judge each archive."""
    verdict = Verdict()
    for begin in range(0, len(faults), LIVES_MAX):
        folder, log = tmp_path / f"archive-{begin}", tmp_path / f"sent-{begin}.ndjson"
        folder.mkdir()
        market = ("--cluster", "stocks", "--rate", str(RATE), "--no-bursts", "--frame-events", "10")
        with simulating(*market, "--log", str(log), cwd=tmp_path) as port:
            archive = Archive(port, folder)
            for fault in faults[begin : begin + LIVES_MAX]:
                strike(archive, fault)
            verified(folder)
            archive.live_on()
        judge(archive, log, verdict)
    return verdict


def judge(archive: Archive, log: Path, verdict: Verdict) -> None:
    """Hold what is left against what was sent, and against what each run was known to have."""
    findings = verified(archive.folder)
    found = account(log, archive.folder)
    assert found.faultless, found
    assert {loss.explained for loss in found.losses} <= {"killed", "after the end"}
    left = remains(archive.folder)
    ends = {begin for begin, _ in killed_gaps(findings)}
    for life, flush_secs in archive.lives:
        run = left.get(life.run_id, Remains())
        assert run.records >= life.recorded, life
        assert run.records >= life.flushed_by(flush_secs + WAKE_SECS), life
        assert not run.records or run.last_ingest_ms in ends, f"no gap is named behind {life.run_id}"
        if run.records and life.struck_ms:
            verdict.lost_ms_max = max(verdict.lost_ms_max, life.struck_ms - run.last_ingest_ms)
    verdict.kills += len(archive.lives)
    verdict.recorded += found.recorded


@pytest.mark.parametrize("call", KINDS)
def test_a_kill_at_every_nth_call(tmp_path: Path, call: str) -> None:
    """Killed at its n-th call, a recorder has lost nothing that it had flushed, and the next one continues."""
    tool("strace")
    verdict = survive(tmp_path, KINDS[call], lambda archive, number: archive.kill_at(call, number))
    numbers = KINDS[call]
    report(
        1,
        fault=f"kill -9 at the n-th {call}",
        injected=f"strace injects SIGKILL at the n-th {call} of any thread, n of {min(numbers)}…{max(numbers)} "
        f"({len(numbers)} of them), again and again on one archive; split, rotated each 25 kB, compressed",
        holds=HOLDS,
        figure=str(verdict),
    )


def test_a_kill_at_random(tmp_path: Path) -> None:
    """Killed at any moment, while it starts, repairs or records, a recorder has lost at most one flush interval."""
    chance = random.Random(1)
    struck = moments(scale(4, 300), "kill")

    def kill(archive: Archive, moment: Moment) -> None:
        every, interval_ms = chance.choice([("100", "1000"), ("1000000", "300")])
        archive.kill_at_moment(
            moment, NDJSON_FLUSH_EVERY=every, NDJSON_FLUSH_INTERVAL_MS=interval_ms, NDJSON_MAX_BYTES="500000"
        )

    verdict = survive(tmp_path, struck, kill)
    report(
        1,
        fault="kill -9 at random under load",
        injected="`kill -9` up to 2.5 s after it began to record, or after its start, again and again on one archive; "
        "flushed after 100 records, or after 300 ms alone; split, rotated each 500 kB, compressed",
        holds=f"{HOLDS}; everything is there that was received one flush interval before",
        figure=str(verdict),
    )
