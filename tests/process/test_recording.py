"""`recorder run` against a real exchange server: what goes in comes out, byte for byte."""

from __future__ import annotations

import gzip
import json
import re
import signal
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

import duckdb
import msgspec
import pytest
from commands import finished, live_settings, running, simulating
from exchange import exchange, sending
from shared_data import shared_file
from tools import tool
from waiting import eventually_sync

RAW_PAYLOADS = msgspec.json.Decoder(msgspec.defstruct("Line", [("payload", msgspec.Raw)]))
RAW_FRAMES = msgspec.json.Decoder(msgspec.defstruct("Sent", [("frame", list[msgspec.Raw])]))
RAW_TICKS = msgspec.json.Decoder(msgspec.defstruct("Tick", [("m", msgspec.Raw)]))


def payloads(*files: Path) -> list[bytes]:
    """Return the payload of each record, exactly as it is in the files."""
    return [
        bytes(RAW_PAYLOADS.decode(line).payload) for file in files for line in file.read_bytes().splitlines()
    ]


def events_of(line: bytes) -> list[bytes]:
    """Return the events of one line of a simulator's log, exactly as they were sent."""
    return [bytes(raw) for raw in RAW_FRAMES.decode(line).frame]


def manifest(folder: Path, kind: str) -> list[dict[str, Any]]:
    """Return the manifest's entries of one kind."""
    lines = (folder / "polygon.manifest.ndjson").read_text().splitlines()
    return [entry for entry in map(json.loads, lines) if entry["kind"] == kind]


def assert_verified(folder: Path) -> None:
    """`recorder verify` finds nothing wrong."""
    result = finished("verify", str(folder), cwd=folder)
    assert result.returncode == 0, result.stdout + result.stderr


def test_every_sample_of_the_vendor_is_recorded_byte_for_byte(tmp_path: Path) -> None:
    """Each sample frame of each cluster and channel lands in the archive exactly as it was sent, or in the rejects."""
    by_cluster: dict[str, list[dict[str, Any]]] = {}
    for line in shared_file("data/polygon_samples.ndjson").read_text().splitlines():
        sample = json.loads(line)
        cluster = sample["cluster"].rpartition("/")[2]
        by_cluster.setdefault("stocks" if cluster == "*" else cluster, []).append(sample)
    for cluster, samples in by_cluster.items():
        fatal = (
            "auth_timeout",
            "auth_failed",
            "max_connections",
            "slow_consumer",
            "force_disconnect",
            "auth_required",
        )
        frames = [
            s["frame"]
            for s in samples
            if s["ev"] != "status" or not any(word in s["frame"] for word in fatal)
        ]
        folder = tmp_path / cluster
        with exchange(sending([frame.encode() for frame in frames])) as port:
            variables = live_settings(port, folder, POLYGON_CLUSTER=cluster, SUBSCRIPTION="T.*")
            with running("run", cwd=tmp_path, **variables) as recorder:
                expected = sum(frame.count('"ev"') for frame in frames if '"status"' not in frame)
                eventually_sync(lambda: recorder.received() >= expected, "all samples")
                assert recorder.stop() == 0
        data = [s for s in samples if s["ev"] != "status"]
        sent = b"".join(s["frame"].encode() for s in data if s["frame"].lstrip().startswith("["))
        found = payloads(folder / "polygon.ndjson")
        for payload in found:
            assert payload in sent
        assert len(found) == sum(
            len(json.loads(s["frame"])) for s in data if s["frame"].lstrip().startswith("[")
        )
        records = [json.loads(line) for line in (folder / "polygon.ndjson").read_text().splitlines()]
        assert [r["type"] for r in records if r["symbol"]] == [r["payload"]["ev"] for r in records]
        not_arrays = [s["frame"] for s in data if not s["frame"].lstrip().startswith("[")]
        rejected = folder / "polygon.rejected.ndjson"
        kept = (
            [json.loads(line)["raw"] for line in rejected.read_text().splitlines()]
            if rejected.exists()
            else []
        )
        assert kept == not_arrays
        assert_verified(folder)


@pytest.mark.parametrize(
    ("file", "cluster", "topics"),
    [("ticks_stocks_20131007", "stocks", "T.*,Q.*"), ("ticks_forex_20140501", "forex", "C.*")],
)
def test_real_ticks_are_equal_in_and_out(tmp_path: Path, file: str, cluster: str, topics: str) -> None:
    """All real ticks, through simulator and recorder, rotated and compressed, come out as they went in, in order."""
    path = shared_file(f"data/{file}.ndjson.gz")
    ticks = [bytes(RAW_TICKS.decode(line).m) for line in gzip.decompress(path.read_bytes()).splitlines()]
    variables = {
        "POLYGON_CLUSTER": cluster,
        "SUBSCRIPTION": topics,
        "NDJSON_MAX_BYTES": "500KB",
        "NDJSON_COMPRESSION": "gzip",
    }
    with (
        simulating(
            "--ticks", str(path), "--cluster", cluster, "--rate", "0", "--frame-events", "50", cwd=tmp_path
        ) as port,
        running("run", cwd=tmp_path, **live_settings(port, tmp_path / "a", **variables)) as recorder,
    ):
        eventually_sync(lambda: recorder.received() >= len(ticks), "all ticks")
        assert recorder.stop() == 0
    rotated = sorted((tmp_path / "a").glob("polygon.2*.ndjson.gz"))
    assert rotated
    lines = [line for segment in rotated for line in gzip.decompress(segment.read_bytes()).splitlines()]
    lines += (tmp_path / "a" / "polygon.ndjson").read_bytes().splitlines()
    assert [bytes(RAW_PAYLOADS.decode(line).payload) for line in lines] == ticks
    assert [json.loads(line)["seq"] for line in lines] == list(range(1, len(ticks) + 1))
    assert_verified(tmp_path / "a")


def test_everything_that_was_sent_is_recorded_under_load(tmp_path: Path) -> None:
    """At high load, with rotation, types split and zstd: no drop, the books balance, and jq and DuckDB agree with them."""
    folder = tmp_path / "a"
    variables = {
        "SUBSCRIPTION": "T.*,Q.*,A.*",
        "NDJSON_SPLIT_PER_TYPE": "true",
        "NDJSON_MAX_BYTES": "4MiB",
        "NDJSON_COMPRESSION": "zstd",
    }
    with (
        simulating("--cluster", "stocks", "--rate", "50000", cwd=tmp_path) as port,
        running("run", cwd=tmp_path, **live_settings(port, folder, **variables)) as recorder,
    ):
        eventually_sync(lambda: recorder.received() >= 100_000, "enough events")
        aggregates = re.compile(r'^polygon_events_total\{[^}]*channel="A"', re.MULTILINE)
        eventually_sync(lambda: aggregates.search(recorder.get("/metrics")[1]), "aggregates")
        assert recorder.stop() == 0
        balance = recorder.logged("balance")[0]
    assert balance["received"] == balance["recorded"] >= 100_000
    assert balance["dropped"] == 0
    [ended] = manifest(folder, "run_ended")
    assert ended["balance"]["difference"] == 0
    counts: Counter[str] = Counter()
    for segment in manifest(folder, "segment_closed"):
        counts.update(segment["counts"])
    assert counts.total() == balance["recorded"]
    for word, channel in (("trades", "T"), ("quotes", "Q"), ("second_aggs", "A")):
        rows = duckdb.sql(
            "SELECT count(*), min(type), max(type), count(DISTINCT seq) "
            f"FROM read_ndjson_auto('{folder}/polygon.{word}*.ndjson*')"
        ).fetchall()
        assert rows == [(counts[channel], channel, channel, counts[channel])]
    jq = subprocess.run(
        [tool("jq"), "-r", ".topic", str(folder / "polygon.trades.ndjson")],
        capture_output=True,
        text=True,
        check=True,
    )
    assert all(topic.startswith("T:") for topic in jq.stdout.splitlines())
    assert_verified(folder)


def test_sigterm_under_load_loses_nothing_that_was_received(tmp_path: Path) -> None:
    """Stopped at full speed, the recorder writes all it has received, exits 0 and says that the books balance."""
    folder = tmp_path / "a"
    with (
        simulating(
            "--cluster", "stocks", "--rate", "0", "--log", str(tmp_path / "sent.log"), cwd=tmp_path
        ) as port,
        running("run", cwd=tmp_path, **live_settings(port, folder)) as recorder,
    ):
        eventually_sync(lambda: recorder.received() >= 50_000, "enough events")
        assert recorder.stop() == 0
        [balance] = recorder.logged("balance")
    found = payloads(folder / "polygon.ndjson")
    assert len(found) == balance["recorded"] == balance["received"]
    sent = [
        element for line in (tmp_path / "sent.log").read_bytes().splitlines() for element in events_of(line)
    ]
    assert found == sent[: len(found)]
    assert_verified(folder)


def test_several_clusters_share_an_archive(tmp_path: Path) -> None:
    """One connection per cluster, one `seq` over all; `{cluster}` in the path keeps the files apart."""
    variables = {
        "POLYGON_CLUSTER": "stocks,crypto,forex",
        "SUBSCRIPTION": "T.*",
        "SUBSCRIPTION_CRYPTO": "XT.*",
        "SUBSCRIPTION_FOREX": "C.*",
        "NDJSON_DEST": str(tmp_path / "a" / "{cluster}" / "polygon.ndjson"),
    }
    with (
        simulating("--rate", "2000", cwd=tmp_path) as port,
        running("run", cwd=tmp_path, **live_settings(port, tmp_path / "a", **variables)) as recorder,
    ):
        eventually_sync(lambda: recorder.get("/ready")[0] == 200 and recorder.received() > 3000, "ready")
        assert recorder.stop() == 0
    seqs = []
    for cluster in ("stocks", "crypto", "forex"):
        records = [
            json.loads(line)
            for line in (tmp_path / "a" / cluster / "polygon.ndjson").read_text().splitlines()
        ]
        assert {record["feed"] for record in records} == {cluster}
        seqs += [record["seq"] for record in records]
    assert sorted(seqs) == list(range(1, len(seqs) + 1))
    assert_verified(tmp_path / "a")


@pytest.mark.parametrize("by", ["symbol", "all"])
def test_include_and_sampling_balance(tmp_path: Path, by: str) -> None:
    """What patterns and sampling leave out is counted, and `seq` has no hole for it; by all, it is 1 in N to the record."""
    folder = tmp_path / "a"
    with (
        simulating("--cluster", "stocks", "--rate", "20000", "--symbols", "50", cwd=tmp_path) as port,
        running(
            "run",
            cwd=tmp_path,
            **live_settings(
                port, folder, NDJSON_INCLUDE="T:A*,Q:*", NDJSON_SAMPLE_QUOTES="10", NDJSON_SAMPLE_BY=by
            ),
        ) as recorder,
    ):
        eventually_sync(lambda: recorder.received() >= 20_000, "enough events")
        assert recorder.stop() == 0
        [balance] = recorder.logged("balance")
    records = [json.loads(line) for line in (folder / "polygon.ndjson").read_text().splitlines()]
    assert all(r["type"] == "Q" or r["symbol"].startswith("A") for r in records)
    assert [r["seq"] for r in records] == list(range(1, len(records) + 1))
    assert balance["filtered"] > 0
    assert balance["sampled_out"] > balance["recorded"] > 0
    quotes = Counter(record["type"] for record in records)["Q"]
    in_all = quotes + balance["sampled_out"]
    if by == "all":
        assert quotes == -(-in_all // 10)
    else:
        assert quotes > in_all / 10
    left_out = balance["filtered"] + balance["sampled_out"]
    assert balance["received"] == balance["recorded"] + left_out
    assert_verified(folder)


def test_logrotate_renames_under_load_and_nothing_is_lost(tmp_path: Path) -> None:
    """The real logrotate renames the file and sends SIGHUP, five times at full load: every `seq` is there, once."""
    folder = tmp_path / "a"
    with (
        simulating("--cluster", "stocks", "--rate", "30000", cwd=tmp_path) as port,
        running("run", cwd=tmp_path, **live_settings(port, folder)) as recorder,
    ):
        eventually_sync(lambda: recorder.received() > 1000, "data")
        configuration = tmp_path / "logrotate.conf"
        configuration.write_text(
            f"{folder}/polygon.ndjson {{\n  rotate 20\n  nocompress\n  nocreate\n  su root root\n  postrotate\n"
            f"    kill -HUP {recorder.process.pid}\n  endscript\n}}\n"
        )
        configuration.chmod(0o644)
        for turn in range(1, 6):
            subprocess.run(
                [tool("logrotate"), "--force", "--state", str(tmp_path / "state"), str(configuration)],
                check=True,
            )
            eventually_sync(
                lambda: recorder.metric("polygon_reopens_total") >= turn,
                "the file opened again",
            )
            before = recorder.received()
            eventually_sync(lambda: recorder.received() > before + 3000, "more data")
        assert recorder.stop() == 0
        [balance] = recorder.logged("balance")
    files = [*(folder / f"polygon.ndjson.{number}" for number in range(5, 0, -1)), folder / "polygon.ndjson"]
    seqs = [json.loads(line)["seq"] for file in files for line in file.read_text().splitlines()]
    assert seqs == list(range(1, balance["recorded"] + 1))
    assert_verified(folder)


def test_sigusr1_rotates_now(tmp_path: Path) -> None:
    """The signal seals the active file and begins a new one."""
    folder = tmp_path / "a"
    with (
        simulating("--cluster", "stocks", "--rate", "5000", cwd=tmp_path) as port,
        running("run", cwd=tmp_path, **live_settings(port, folder)) as recorder,
    ):
        eventually_sync(lambda: recorder.metric("polygon_ndjson_written_total") > 100, "data")
        recorder.send(signal.SIGUSR1)
        eventually_sync(lambda: list(folder.glob("polygon.2*.ndjson")), "the rotated file")
        eventually_sync(lambda: (folder / "polygon.ndjson").exists(), "the new file")
        assert recorder.stop() == 0
    assert [entry["reason"] for entry in manifest(folder, "segment_closed")] == ["signal", "shutdown"]
    assert_verified(folder)


def test_a_lost_connection_is_a_gap(tmp_path: Path) -> None:
    """The exchange drops us in mid-stream; we are back, and the manifest knows from when to when nothing came."""
    folder = tmp_path / "a"
    with (
        simulating(
            "--cluster", "stocks", "--rate", "5000", "--fault", "close:code=1006,after=2000", cwd=tmp_path
        ) as port,
        running("run", cwd=tmp_path, **live_settings(port, folder)) as recorder,
    ):
        recorder.wait_for("subscribed", 2)
        eventually_sync(lambda: recorder.received() > 4000, "data again")
        assert recorder.stop() == 0
    [gap] = manifest(folder, "gap")
    assert gap["cluster"] == "stocks"
    assert gap["from"] <= gap["to"]
    assert gap["reason"] == "disconnected"
    assert len(manifest(folder, "session_opened")) == len(manifest(folder, "session_closed")) == 2
    assert_verified(folder)


@pytest.mark.parametrize(("number", "reason"), [(signal.SIGTERM, "not_running"), (signal.SIGKILL, "killed")])
def test_the_time_between_two_runs_is_a_gap(tmp_path: Path, number: signal.Signals, reason: str) -> None:
    """Stopped or killed, and started again: the manifest says from when to when nothing was recorded, and why."""
    folder = tmp_path / "a"
    with simulating("--cluster", "stocks", "--rate", "5000", cwd=tmp_path) as port:
        for _ in range(2):
            with running("run", cwd=tmp_path, **live_settings(port, folder)) as recorder:
                eventually_sync(lambda: recorder.metric("polygon_ndjson_written_total") > 1000, "data")
                recorder.stop(number)
    [gap] = manifest(folder, "gap")
    assert gap["reason"] == reason
    first_run, second_run = manifest(folder, "run_started")
    records = [json.loads(line) for line in (folder / "polygon.ndjson").read_text().splitlines()]
    restart = next(place for place, record in enumerate(records) if place and record["seq"] == 1)
    assert gap["from"] == records[restart - 1]["ingest_ts"]
    assert first_run["ts"] < gap["from"] < second_run["ts"] <= gap["to"] <= records[restart]["ingest_ts"]
    assert_verified(folder)
