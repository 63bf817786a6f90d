"""Trial 2: power loss at random, for each value of NDJSON_FSYNC."""

from __future__ import annotations

import re
import signal
from pathlib import Path
from typing import Any, Final

import pytest
from commands import live_settings, running, simulating
from lives import WAKE_SECS, Life, Moment, Remains, killed_gaps, moments, remains
from oracle import account, family_of, problems_of, read_plain, record_files, verified
from power import Volume, volume
from trials import report, scale
from waiting import eventually_sync

pytestmark = [pytest.mark.trial, pytest.mark.timeout(scale(120, 3600))]

RATE: Final = 5000
LIVES_MAX: Final = 10
"""Losses of one archive; then it is judged, and another one begins."""
FLUSH_SECS: Final = 1.0
PROMISES: Final = {
    "flush": "every record that was flushed is there, at most one flush interval is lost; `verify` passes",
    "rotate": "every segment that was closed is there, under its name; `verify` passes",
    "never": "what was not synced may be gone, and `verify` names it",
}
NAMED_LOSS: Final = re.compile("had lost its end|is missing, with|no record has seq")
"""What `verify` may say where nothing was synced."""
EVERYWHERE: Final = "no torn, empty or zero-filled file, nothing twice, the manifest's chain holds"


def settings_of(port: int, folder: Path, fsync: str) -> dict[str, str]:
    """Return the settings of a recorder that splits, rotates and compresses."""
    return live_settings(
        port,
        folder,
        ROLES="archive,ops",
        NDJSON_SPLIT_PER_TYPE="true",
        NDJSON_MAX_BYTES="300000",
        NDJSON_COMPRESSION="zstd",
        NDJSON_FSYNC=fsync,
    )


def live(place: Volume, folder: Path, settings: dict[str, str], moment: Moment) -> Life:
    """Let a run live until the power fails at a moment; return it once the file system is mounted again."""
    life = Life()
    with running("run", cwd=folder.parent.parent, **settings) as recorder:
        with life.strike(recorder, moment, place.lose_power):
            life.watch(recorder)
        recorder.process.kill()
        recorder.wait()
    assert place.unmount()
    place.mount()
    life.find_name(recorder, folder)
    return life


@pytest.mark.parametrize(
    ("kind", "fsync"),
    [
        *(("ext4", fsync) for fsync in PROMISES),
        *(("xfs", fsync) for fsync in scale((), PROMISES)),
    ],
)
def test_a_power_loss_takes_no_more_than_was_promised(tmp_path: Path, kind: str, fsync: str) -> None:
    """After the power failed, the archive has what NDJSON_FSYNC promises, and the next run goes on with it."""
    losses = scale(2, 50)
    struck = moments(losses, f"{kind} {fsync}")
    recorded = lost = named = 0
    for begin in range(0, losses, LIVES_MAX):
        log, scratch = tmp_path / f"sent-{begin}.ndjson", tmp_path / str(begin)
        scratch.mkdir()
        market = ("--cluster", "stocks", "--rate", str(RATE), "--no-bursts", "--frame-events", "10")
        with volume(scratch, kind) as place:
            folder = place.folder / "archive"
            lives = []
            with simulating(*market, "--log", str(log), cwd=tmp_path) as port:
                settings = settings_of(port, folder, fsync)
                for moment in struck[begin : begin + LIVES_MAX]:
                    lives.append(live(place, folder, settings, moment))
                    if fsync != "never" and folder.exists():
                        verified(folder)
                with running("run", cwd=tmp_path, **settings) as recorder:
                    eventually_sync(lambda: recorder.received() > RATE / 10, "data again")
                    assert recorder.stop(signal.SIGTERM) == 0
            findings = judge(folder, lives, fsync)
            found = account(log, folder)
        wrong = found.torn + found.duplicated + found.misordered + found.unknown
        assert not wrong, found
        assert fsync == "never" or found.faultless, found
        recorded += found.recorded
        lost += found.lost
        named += len(problems_of(findings))
    report(
        2,
        fault=f"power loss, {kind}, NDJSON_FSYNC={fsync}",
        injected=f"file-system shutdown of a {kind} on a loop file at a random moment under load, without its journal's "
        "end; unmounted, mounted, and recorded on; split, rotated each 300 kB, compressed",
        holds=f"{PROMISES[fsync]}; {EVERYWHERE}",
        figure=f"{losses} losses, {recorded:,} records; {lost:,} lost with the power or sent while it was off"
        + (f"; `verify` names {named} damaged or missing stretches" if fsync == "never" else ""),
    )


def judge(folder: Path, lives: list[Life], fsync: str) -> dict[str, Any]:
    """Hold what is left against the promise; return what `verify` found."""
    findings = verified(folder, status=None if fsync == "never" else 0)
    for problem in problems_of(findings):
        assert NAMED_LOSS.search(problem), problem
    for path in record_files(folder):
        content = read_plain(path)
        assert b"\0" not in content, path
        assert content or family_of(path) == path.name, f"{path} is sealed and empty"
    left = remains(folder)
    gaps = killed_gaps(findings)
    for life in lives:
        run = left.get(life.run_id, Remains())
        # Exactly behind its last record; where sealed ones were lost, too, from before them on.
        last_ms, exact = run.last_ingest_ms, fsync != "never"
        named = any(begin == last_ms if exact else begin <= last_ms <= end for begin, end in gaps)
        assert named or not run.records, f"no gap is named behind {life.run_id}"
        if fsync == "flush":
            assert run.records >= life.synced, life
            assert run.records >= life.flushed_by(FLUSH_SECS + WAKE_SECS), life
        assert fsync == "never" or run.segments >= life.segments_sealed, life
    return findings
