"""Trial 12: the wall clock is wrong, set, and set again, while files rotate."""

from __future__ import annotations

import json
import time
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest
from commands import Running, live_settings, running, simulating
from faketime import Clock
from listening import listening
from oracle import account, read_manifest, read_plain, read_sent, record_files, time_ms, verified
from trials import report, scale
from waiting import eventually_sync

pytestmark = [pytest.mark.trial, pytest.mark.timeout(scale(120, 3600))]

DAY_SECS = 86_400
HOUR_SECS = 3_600
ROTATE_SECS = 1
BAR_MS = 1000


def segments(folder: Path) -> list[dict[str, object]]:
    """Return the manifest's closed segments, in the order of their closing."""
    return read_manifest(folder, "segment_closed")


def before_midnight(secs: float) -> float:
    """Return how far the clock must be moved to stand `secs` before midnight, UTC."""
    return DAY_SECS - time.time() % DAY_SECS - secs


def recorded_ms(folder: Path) -> int:
    """Return the `ingest_ts` of the newest record in a closed segment: the recorder's own clock."""
    return max((int(str(closed["last_ingest_ts"])) for closed in segments(folder)[-1:]), default=0)


def rotates_on(recorder: Running, folder: Path, count: int) -> None:
    """Wait for `count` more segments that were closed because their time was over."""
    seen = len([s for s in segments(folder) if s["reason"] == "time"])
    eventually_sync(
        lambda: len([s for s in segments(folder) if s["reason"] == "time"]) >= seen + count,
        "rotation by time",
        60,
    )


def test_a_clock_that_jumps_costs_nothing(tmp_path: Path) -> None:
    """Back an hour, on a day, over midnight: no crash, no storm of rotations, unique names, every record, sane bars."""
    folder, log = tmp_path / "archive", tmp_path / "sent.ndjson"
    clock = Clock(tmp_path)
    rounds = scale(1, 20)
    market = ("--rate", "1000", "--symbols", "20", "--log", str(log))
    with (
        simulating("--cluster", "stocks", *market, cwd=tmp_path) as port,
        running(
            "run",
            cwd=tmp_path,
            **live_settings(
                port,
                folder,
                NDJSON_ROTATE_SECS=str(ROTATE_SECS),
                NDJSON_MAX_BYTES="100000",
                NDJSON_COMPRESSION="zstd",
                BAR_CONDITIONS="all",
                READ_TIMEOUT_SECS="5",
                **clock.variables,
            ),
        ) as recorder,
    ):
        recorder.wait_for("subscribed")
        begun = time.monotonic()
        with listening(f"ws://{recorder.address_of('bars')}", f"{BAR_MS}Ms.*") as bars:
            jumps = back = 0
            offset = 0.0
            for _ in range(rounds):
                for secs in (-HOUR_SECS, 0, DAY_SECS, 0, before_midnight(1.5)):
                    back += secs < offset
                    jumps, offset = jumps + 1, secs
                    clock.set(secs)
                    # The recorder's own clock moves: nothing here is true otherwise.
                    eventually_sync(
                        lambda secs=secs: abs(recorded_ms(folder) / 1000 - time.time() - secs) < 60,
                        "its clock",
                        30,
                    )
                    rotates_on(recorder, folder, 1)
                rotates_on(recorder, folder, 1)
                eventually_sync(lambda: recorded_ms(folder) % (DAY_SECS * 1000) < 60_000, "midnight")
            trades = recorder.metric("polygon_trades_total")
            eventually_sync(lambda: recorder.metric("polygon_trades_total") > trades + 300, "bars to come")
            assert recorder.get("/ready")[0] == 200
            assert recorder.stop() == 0
            elapsed_secs = time.monotonic() - begun
    assert not recorder.logged("disconnected")
    closed = segments(folder)
    names = [str(segment["file"]) for segment in closed]
    assert len(set(names)) == len(names)
    reasons = Counter(str(segment["reason"]) for segment in closed)
    # One for each period; two more for each jump, of which the second is a batch that was read before it and written
    # after it. Sizes rotate on their own account.
    assert reasons["time"] <= elapsed_secs / ROTATE_SECS + 2 * jumps + 2
    rotated = [name for name in names if name != "polygon.ndjson"]
    unsorted = sum(1 for a, b in pairwise(rotated) if b.split(".")[1] < a.split(".")[1])
    # Each step back sorts a file before its predecessor; and each jump may do so once for a batch that was read before it.
    assert unsorted <= jumps + back
    files = {path.name.removesuffix(".zst"): path for path in record_files(folder)}
    found = account(log, folder, moved=[files[name] for name in rotated])
    assert found.faultless, found
    assert {loss.explained for loss in found.losses} <= {"after the end"}
    seqs = [json.loads(line)["seq"] for name in names for line in read_plain(files[name]).splitlines()]
    assert seqs == list(range(1, found.recorded + 1))
    verified(folder)
    windows = judge_bars(bars.events, read_sent(log).events)
    report(
        12,
        fault="the wall clock jumps",
        injected="libfaketime, monotonic clock left alone: back an hour, true again, on a day, true again, then over "
        f"midnight UTC, with rotation every {ROTATE_SECS} s and by size",
        holds="no crash, no storm of rotations, names unique, and sorted but at the jumps, seq without a hole, "
        "every record, one bar for each window with trades",
        figure=f"{jumps} jumps, {reasons['time']} rotations by time in {elapsed_secs:.0f} s and {reasons['size']} by size, "
        f"{found.recorded:,} records, {windows:,} bars",
    )


def judge_bars(got: list[bytes], sent: list[bytes]) -> int:
    """Hold the bars that a client got against the windows with trades: each once, in order; return how many there were."""
    trades: Counter[tuple[str, int]] = Counter()
    for event in sent:
        if event.startswith(b'{"ev":"T"'):
            trade = json.loads(event)
            trades[trade["sym"], time_ms(event) // BAR_MS * BAR_MS] += 1
    bars = [json.loads(event) for event in got]
    places = [(bar["sym"], bar["s"]) for bar in bars]
    assert places
    assert len(set(places)) == len(places)
    by_symbol: dict[str, list[int]] = {}
    for symbol, start in places:
        by_symbol.setdefault(symbol, []).append(start)
    assert all(starts == sorted(starts) for starts in by_symbol.values())
    first, last = min(start for _, start in places), max(start for _, start in places)
    wanted = {place for place in trades if first < place[1] < last}
    assert wanted <= set(places)
    return len(places)
