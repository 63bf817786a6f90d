"""Trial 4, by degrees: a disk that fills is met with one step after another, and all is undone when there is space."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from commands import Running, live_settings, running, simulating
from listening import listening
from mounts import Ballast, tmpfs
from oracle import account, follow, read_manifest, read_plain, read_sent, record_files, verified
from trials import report
from waiting import eventually_sync

pytestmark = [pytest.mark.trial, pytest.mark.timeout(240)]

MIB = 2**20
MIN_FREE = 10 * MIB
FREE_AT = {"warn": 35, "compress": 27, "delete": 22, "sample": 17, "no_quotes": 12, "stop": 5}
"""MiB that are within each step's reach and no other's."""
DOWN = list(FREE_AT)
UP = [*reversed(DOWN[:-1]), "none"]
DATA_IS_LEFT_OUT = ("sample", "no_quotes", "stop")


def step_of(recorder: Running) -> int:
    """Return the step at hand."""
    return int(recorder.metric("polygon_disk_pressure_step"))


def assert_told(recorder: Running, step: str) -> None:
    """`/ready` and `/status` say what is done about the disk; not ready means that data is left out."""
    code, text = recorder.get("/ready?verbose")
    answer = json.loads(text)
    words = "\n".join(answer["reasons"] if step in DATA_IS_LEFT_OUT else answer["warnings"])
    assert code == (503 if step in DATA_IS_LEFT_OUT else 200)
    assert ("disk pressure" in words) == (step != "none")
    assert json.loads(recorder.get("/status")[1])["archive"]["pressure"]["step"] == step


def test_a_disk_that_fills_and_empties(tmp_path: Path) -> None:
    """Each step comes, says so, and goes; no trade is lost but in the pause, and clients notice nothing of it."""
    log, folder = tmp_path / "sent.ndjson", tmp_path / "disk" / "archive"
    with (
        tmpfs(tmp_path / "disk", 128 * MIB) as disk,
        simulating("--cluster", "stocks", "--rate", "1000", "--log", str(log), cwd=tmp_path) as port,
    ):
        settings = live_settings(
            port,
            folder,
            NDJSON_MIN_FREE_BYTES=str(MIN_FREE),
            NDJSON_PRESSURE="sample",
            NDJSON_COMPRESSION="zstd",
            NDJSON_RETAIN_BYTES="1GiB",
        )
        ballast = Ballast(disk)
        with running("run", cwd=tmp_path, **settings) as recorder:
            with listening(f"ws://{recorder.address_of('firehose')}") as client:
                eventually_sync(lambda: recorder.get("/ready")[0] == 200, "data")
                assert_told(recorder, "none")
                for number, step in enumerate(DOWN, 1):

                    def is_taken(number: int = number, step: str = step) -> bool:
                        ballast.leave(FREE_AT[step] * MIB)
                        return step_of(recorder) == number

                    eventually_sync(is_taken, step)
                    assert_told(recorder, step)
                eventually_sync(
                    lambda: not recorder.metric("polygon_sink_pending_bytes"), "what came before the pause"
                )
                written = recorder.metric("polygon_sink_written_bytes_total")
                got = len(client.frames)
                dropped = recorder.metric("polygon_ndjson_drops_total")
                eventually_sync(
                    lambda: recorder.metric("polygon_ndjson_drops_total") > dropped + 500, "the pause"
                )
                assert recorder.metric("polygon_sink_written_bytes_total") == written
                assert len(client.frames) > got
                begun = time.monotonic()
                ballast.remove()
                eventually_sync(lambda: step_of(recorder) == 0, "all undone", deadline_secs=90)
                assert_told(recorder, "none")
                undone_secs = time.monotonic() - begun
                before = recorder.received()
                eventually_sync(lambda: recorder.received() > before + 3000, "whole data again")
                left_out = {
                    state: recorder.metric(f'polygon_disk_pressure_left_out_total{{state="{state}"}}')
                    for state in ("sampled_out", "dropped")
                }
                assert client.close_code is None
                assert recorder.metric("polygon_server_evictions_total") == 0
                assert recorder.stop() == 0
            events = client.events
        entries = read_manifest(folder, "pressure")
        assert [entry["step"] for entry in entries] == [*DOWN, *UP]
        assert [entry["before"] for entry in entries] == ["none", *DOWN, *UP][:-1]
        assert {entry["reason"] for entry in entries} == {"free_bytes", "space_is_back"}
        assert "pressure" in {entry["reason"] for entry in read_manifest(folder, "segment_closed")}
        (ended,) = read_manifest(folder, "run_ended")
        balance = ended["balance"]
        assert balance["difference"] == 0
        assert (balance["sampled_out"], balance["dropped"]) == (left_out["sampled_out"], left_out["dropped"])
        assert {drop["reason"] for drop in read_manifest(folder, "drop")} == {"disk_pressure"}

        trades = account(log, folder, kept=lambda event: event.startswith(b'{"ev":"T"'))
        assert trades.unknown == balance["recorded"] - trades.recorded, "what else is recorded are quotes"
        trades.unknown = 0
        assert trades.faultless, trades
        assert trades.dropped == balance["dropped"]
        assert_whole_at_the_end(read_sent(log).events, folder)
        stream = follow(read_sent(log).events, events)
        assert stream.faultless, stream
        assert not verified(folder)["problems"]
    report(
        4,
        fault="disk that fills by degrees",
        injected="a ballast file on a tmpfs of 128 MiB of which NDJSON_MIN_FREE_BYTES keeps 10 MiB; then it is removed",
        holds="warn, compress, delete, sample, no quotes, pause: each in manifest, metric, /ready, and undone in order; "
        "no trade lost but in the pause, which the manifest explains; clients get every frame",
        figure=f"{len(entries)} changes of step; {int(left_out['sampled_out']):,} quotes sampled out, "
        f"{int(left_out['dropped']):,} events dropped in the pause, 0 unexplained; all undone {undone_secs:.0f} s "
        f"after there was space; client got {stream.got:,} events, 0 missing",
    )


def assert_whole_at_the_end(sent: list[bytes], folder: Path) -> None:
    """The last thousands of events that were recorded stand there without a hole, quotes and all."""
    places = {event: place for place, event in enumerate(sent)}
    recorded = {
        places[b'{"ev"' + line.partition(b'"payload":{"ev"')[2].partition(b',"hostname":')[0]]
        for path in record_files(folder)
        for line in read_plain(path).splitlines()
    }
    last = max(recorded)
    assert set(range(last - 2000, last + 1)) <= recorded
