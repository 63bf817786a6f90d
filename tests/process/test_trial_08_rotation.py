"""Trial 8: files are rotated from outside and from inside, under load, very often."""

from __future__ import annotations

import re
import signal
import subprocess
import time
from pathlib import Path

import pytest
from commands import Running, live_settings, running, simulating
from oracle import account, read_manifest, verified
from tools import tool
from trials import report, scale
from waiting import another_second, eventually_sync

from recorder.archive.policy import FileNames
from recorder.polygon.channels import AGGREGATE_CHANNELS, QUOTE_CHANNELS, TRADE_CHANNELS

pytestmark = [pytest.mark.trial, pytest.mark.timeout(scale(120, 3600))]

LOGROTATE = Path(__file__).resolve().parents[2] / "logrotate"
CHANNELS = sorted(
    AGGREGATE_CHANNELS
    | QUOTE_CHANNELS
    | TRADE_CHANNELS
    | {"FMV", "LULD", "LV", "NOI", "V", "XL2", "no word!"}
)
LOAD = ("--cluster", "stocks", "--rate", "30000", "--frame-events", "20")
HOLDS = "records before and after add up, none twice, none torn, in order; `verify` passes"


def inode(path: Path) -> int:
    """Return what tells files of one name apart; 0 while the file does not exist."""
    try:
        return path.stat().st_ino
    except FileNotFoundError:
        return 0


def opened_again(recorder: Running, path: Path, before: int) -> None:
    """Wait until the recorder has another file under the name, with something in it."""
    eventually_sync(lambda: inode(path) not in (0, before) and path.stat().st_size > 0, "another file")
    assert recorder.process.poll() is None


def shipped(folder: Path, tell: str) -> str:
    """Return the configuration that the project ships, for files in `folder` that belong to the user of this test.

    `tell` takes the place of the command that has systemd reload the service; nothing is deleted.
    """
    text = (LOGROTATE / "recorder").read_text().replace("/var/lib/recorder", str(folder))
    owner = f"{folder.owner()} {folder.group()}"
    text = text.replace("recorder recorder", owner).replace("rotate 14", "rotate 9999")
    return re.sub(r"(?<=postrotate\n).*(?=^ +endscript)", f"{tell}\n", text, flags=re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("mode", ["create", "nocreate"])
def test_logrotate_loses_nothing(tmp_path: Path, mode: str) -> None:
    """The real logrotate, by the file in logrotate/: renames, makes new files or does not, SIGHUP, compresses."""
    rotations = scale(5, 200)
    folder, log = tmp_path / "archive", tmp_path / "sent.ndjson"
    settings = {"NDJSON_SPLIT_PER_TYPE": "true"}
    with (
        simulating(*LOAD, "--log", str(log), cwd=tmp_path) as port,
        running("run", cwd=tmp_path, **live_settings(port, folder, **settings)) as recorder,
    ):
        actives = [folder / "polygon.quotes.ndjson", folder / "polygon.trades.ndjson"]
        eventually_sync(lambda: recorder.received() > 1000 and all(map(inode, actives)), "data")
        configuration = tmp_path / "logrotate.conf"
        text = shipped(folder, f"kill -HUP {recorder.process.pid}")
        configuration.write_text(re.sub(r"\bcreate .*", mode, text) if mode == "nocreate" else text)
        configuration.chmod(0o644)
        command = [tool("logrotate"), "--force", "--state", str(tmp_path / "state"), str(configuration)]
        begun = time.monotonic()
        for turn in range(1, rotations + 1):
            before = [inode(path) for path in actives]
            told = subprocess.run(command, capture_output=True, text=True)
            assert (told.returncode, told.stdout, told.stderr) == (0, "", "")
            eventually_sync(
                lambda: recorder.metric("polygon_reopens_total") >= turn, "the files opened again"
            )
            for path, old in zip(actives, before, strict=True):
                opened_again(recorder, path, old)
            another_second()
        secs = time.monotonic() - begun
        assert recorder.stop() == 0
    moved = [path for active in actives for path in sorted(folder.glob(f"{active.name}-*"))]
    assert len(moved) == 2 * rotations
    assert sum(path.suffix == ".gz" for path in moved) == 2 * (rotations - 1), (
        "all but the newest are compressed"
    )
    found = account(log, folder, moved=moved)
    assert found.faultless, found
    assert found.lost == sum(loss.count for loss in found.losses if loss.explained == "after the end")
    verified(folder)
    report(
        8,
        fault=f"logrotate with `{mode}`",
        injected="the real logrotate by `logrotate/recorder`, `--force`, again and again at 30 k events/s; SIGHUP in "
        "`postrotate`, then compression",
        holds=HOLDS,
        figure=f"{rotations} rotations in {secs:.0f} s, {found.recorded:,} records, 0 lost, 0 twice",
    )


def test_logrotate_understands_what_is_shipped(tmp_path: Path) -> None:
    """`logrotate --debug` finds no error; it names every file that the recorder may write, and not the manifest."""
    configuration = tmp_path / "logrotate.conf"
    configuration.write_text(shipped(tmp_path, "true"))
    configuration.chmod(0o644)
    names = FileNames(str(tmp_path / "polygon.ndjson"), split_per_type=True)
    one_file = FileNames(names.template, split_per_type=False)
    written = {names.active("stocks", channel) for channel in CHANNELS}
    written |= {one_file.active("stocks", "T"), str(names.rejects)}
    for path in (*written, names.manifest, names.lock):
        Path(path).write_text("something")
    command = [
        tool("logrotate"),
        "--debug",
        "--force",
        "--state",
        str(tmp_path / "state"),
        str(configuration),
    ]
    told = subprocess.run(command, capture_output=True, text=True)
    assert told.returncode == 0
    assert "error" not in told.stderr
    assert set(re.findall(r"renaming (.*) to ", told.stderr)) == written


def test_renames_and_sighups_as_fast_as_they_go(tmp_path: Path) -> None:
    """A file that is renamed and asked for again, thousands of times a minute, is whole each time."""
    rotations = scale(100, 5000)
    folder, log = tmp_path / "archive", tmp_path / "sent.ndjson"
    moved = []
    with (
        simulating(*LOAD, "--log", str(log), cwd=tmp_path) as port,
        running("run", cwd=tmp_path, **live_settings(port, folder)) as recorder,
    ):
        active = folder / "polygon.ndjson"
        eventually_sync(lambda: recorder.received() > 1000, "data")
        begun = time.monotonic()
        for turn in range(rotations):
            moved.append(folder / f"moved-{turn:05}")
            before = inode(active)
            active.rename(moved[-1])
            recorder.send(signal.SIGHUP)
            opened_again(recorder, active, before)
        secs = time.monotonic() - begun
        assert recorder.stop() == 0
    found = account(log, folder, moved=moved)
    assert found.faultless, found
    assert found.lost == sum(loss.count for loss in found.losses if loss.explained == "after the end")
    verified(folder)
    report(
        8,
        fault="rename + SIGHUP, without a pause",
        injected="`rename` and SIGHUP as soon as the last one is done, at 30 k events/s",
        holds=HOLDS,
        figure=f"{rotations} rotations, {60 * rotations / secs:,.0f} a minute, {found.recorded:,} records, 0 lost, 0 twice",
    )


def test_rotation_by_size_thousands_of_times_a_minute(tmp_path: Path) -> None:
    """Segments of 32 KiB at 8 k events/s: every one is sealed, none is larger by more than a line."""
    secs = scale(2, 60)
    folder, log = tmp_path / "archive", tmp_path / "sent.ndjson"
    limit = 32 * 1024
    load = ("--cluster", "stocks", "--rate", "8000", "--no-bursts")
    # The disk may take longer for that many files than the market: it ends, and what waits is written.
    with simulating(*load, "--fault", f"stall:after={8000 * secs}", "--log", str(log), cwd=tmp_path) as port:
        settings = live_settings(port, folder, NDJSON_MAX_BYTES=str(limit), NDJSON_SPLIT_PER_TYPE="true")
        with running("run", cwd=tmp_path, **settings) as recorder:
            eventually_sync(
                lambda: (
                    recorder.received() >= 8_000 * secs and not recorder.metric("polygon_sink_pending_bytes")
                ),
                "all of the data, written",
                deadline_secs=10 * secs + 30,
            )
            assert recorder.stop() == 0
    found = account(log, folder)
    assert found.faultless, found
    segments = [entry for entry in read_manifest(folder, "segment_closed") if entry["reason"] == "size"]
    assert max(entry["bytes"] for entry in segments) < limit + 1000
    names = [entry["file"] for entry in segments]
    assert len(set(names)) == len(names)
    span_secs = (segments[-1]["ts"] - segments[0]["ts"]) / 1000
    verified(folder)
    report(
        8,
        fault="rotation by size, very small segments",
        injected="`NDJSON_MAX_BYTES=32768`, trades and quotes apart, at 8 k events/s",
        holds=HOLDS + "; no name twice, no file larger by more than a line",
        figure=f"{len(segments):,} segments, {60 * len(segments) / span_secs:,.0f} a minute, {found.recorded:,} records, "
        f"{found.dropped} dropped, 0 twice",
    )
