"""A start that would silently not do what somebody expects says so, or ends: the real command, with real `.env` files."""

from __future__ import annotations

import signal
from pathlib import Path

from commands import KEY, finished, live_settings, running, simulating
from volumes import small
from waiting import eventually_sync

NO_FILE = "no file is written: SINK is not set, so events go to standard output as log lines"
NO_CLUSTER = "the cluster is futures and the topics are T.*, because POLYGON_CLUSTER is not set"

DEFAULT_CLUSTER = (
    "subscribed to: T.AAPL (of futures, the default here: this recorder's POLYGON_CLUSTER is not set)"
)


def env_file(folder: Path, text: str) -> str:
    """Write a `.env`; return its path."""
    path = folder / "given.env"
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_a_key_alone_is_said_to_write_no_file_and_to_follow_futures(tmp_path: Path) -> None:
    """The `.env` of the proxies: the log, /ready, the status and the page's warnings say what the defaults decided."""
    named = env_file(tmp_path, f"POLYGON_API_KEY={KEY}\nFIREHOSE_PORT=0\nLOG_LEVEL=info\n")
    with simulating("--cluster", "futures", "--rate", "500", cwd=tmp_path) as port:
        settings = live_settings(port, tmp_path, ENV_FILE=named)
        for name in (
            "POLYGON_API_KEY",
            "POLYGON_CLUSTER",
            "SUBSCRIPTION",
            "SINK",
            "NDJSON_DEST",
            "FIREHOSE_PORT",
        ):
            del settings[name]
        with running("run", cwd=tmp_path, **settings) as recorder:
            eventually_sync(lambda: recorder.get("/ready")[0] == 200, "ready")
            warned = [line for line in recorder.lines if '"WARNING"' in line]
            assert any(NO_FILE in line for line in warned)
            assert any(NO_CLUSTER in line for line in warned)
            first, *told = recorder.get("/ready")[1].splitlines()
            assert first == "READY"
            assert told[0].startswith(NO_CLUSTER)
            assert told[1].startswith(NO_FILE)
            assert NO_CLUSTER in recorder.get("/status")[1]
            eventually_sync(lambda: recorder.out, "events on standard output")
            with running(
                "tail", f"ws://{recorder.address_of('filtered')}", "T.AAPL", cwd=tmp_path, POLYGON_API_KEY=KEY
            ) as tail:
                eventually_sync(lambda: any(DEFAULT_CLUSTER in line for line in tail.lines), "the remark")
            assert recorder.stop() == 0
    assert not list(tmp_path.glob("**/*.ndjson"))


def test_nothing_is_recorded_at_a_level_that_leaves_events_out(tmp_path: Path) -> None:
    """The default sink writes log lines of level info: with LOG_LEVEL=warn nothing is recorded, and that is said."""
    with simulating("--cluster", "stocks", "--rate", "500", cwd=tmp_path) as port:
        settings = live_settings(port, tmp_path, LOG_LEVEL="warn,polygon_config=info")
        del settings["SINK"], settings["NDJSON_DEST"]
        with running("run", cwd=tmp_path, **settings) as recorder:
            eventually_sync(lambda: recorder.get("/ready")[0] == 200, "ready")
            told = eventually_sync(
                lambda: [
                    line
                    for line in recorder.lines
                    if "nothing is recorded: LOG_LEVEL=warning,polygon_config=info leaves out" in line
                ],
                "the warning",
            )
            assert "set SINK=ndjson and NDJSON_DEST=" in told[0]
            assert recorder.stop() == 0
            assert not recorder.out


def test_a_tier_without_a_cluster_takes_those_of_the_firehose(tmp_path: Path) -> None:
    """The `.env` of the filtered proxy, but for what a recorder does itself; another cluster is told with the cure."""
    with (
        simulating("--cluster", "stocks", "--cluster", "crypto", "--rate", "500", cwd=tmp_path) as port,
        running(
            "run",
            cwd=tmp_path,
            **live_settings(
                port, tmp_path, SINK="none", POLYGON_CLUSTER="stocks,crypto", SUBSCRIPTION_CRYPTO="XT.*"
            ),
        ) as first,
    ):
        settings = {
            "POLYGON_API_KEY": KEY,
            "FIREHOSE_URL": f"ws://{first.address_of('firehose')}",
            "FILTERED_PROXY_PORT": "0",
            "ROLES": "filtered,ops",
            "METRICS_ADDR": "127.0.0.1:0",
            "LOG_FORMAT": "json",
        }
        with running("run", cwd=tmp_path, **settings) as second:
            assert second.wait_for("started")["clusters"] == ["crypto", "stocks"]
            eventually_sync(lambda: second.get("/ready") == (200, "READY"), "ready")
            second.send(signal.SIGHUP)
            assert second.wait_for("reloaded")["changed"] == []
            assert not second.logged("restart_needed"), "nobody has set what the firehose offers"
            assert second.stop() == 0
        with running("run", cwd=tmp_path, **settings, POLYGON_CLUSTER="forex") as wrong:
            told = wrong.wait_for("connect_failed")
            assert "404" in told["message"]
            assert (
                "a recorder with the clusters crypto, stocks: name one of them in POLYGON_CLUSTER"
                in told["message"]
            )
            assert wrong.stop() == 0
        assert first.stop() == 0


def test_the_environment_of_the_filtered_proxy_names_the_cure(tmp_path: Path) -> None:
    """Verbatim, on one machine: the addresses are this recorder's own, and the line says what to leave out."""
    ended = finished(
        "run",
        cwd=tmp_path,
        POLYGON_API_KEY=KEY,
        FIREHOSE_URL="ws://127.0.0.1:8767",
        MS_AGGREGATOR_URL="ws://127.0.0.1:8768",
        FILTERED_PROXY_PORT="8765",
    )
    assert ended.returncode == 78
    lines = [line for line in ended.stderr.splitlines() if not line.startswith("{")]
    assert len(lines) == 2
    assert "Leave FIREHOSE_URL out" in lines[0]
    assert "Leave MS_AGGREGATOR_URL out" in lines[1]


def test_a_small_partition_is_recorded_to(tmp_path: Path) -> None:
    """With less than 1 GiB free: what recording leaves free follows the size of the file system, and is said."""
    with (
        small(tmp_path / "disk", 200 << 20) as disk,
        simulating("--cluster", "stocks", "--rate", "500", cwd=tmp_path) as port,
    ):
        settings = live_settings(port, disk)
        del settings["NDJSON_MIN_FREE_BYTES"]
        with running("run", cwd=tmp_path, **settings) as recorder:
            eventually_sync(lambda: recorder.get("/ready") == (200, "READY"), "ready")
            eventually_sync(lambda: recorder.received() > 100, "data")
            assert recorder.metric("polygon_disk_pressure_step") == 0
            (disk / "ballast").write_bytes(bytes(195 << 20))
            said = "NDJSON_MIN_FREE_BYTES is 10.0 MiB"
            eventually_sync(lambda: said in recorder.get("/ready")[1], "the pause, with the variable")
            assert "recording is paused" in recorder.get("/ready")[1]
            (disk / "ballast").unlink()
            eventually_sync(lambda: recorder.get("/ready") == (200, "READY"), "ready again")
            levels = {entry["step"]: entry["level"] for entry in recorder.logged("archive_disk_pressure")}
            (paused,) = [e for e in recorder.logged("archive_disk_pressure") if e["step"] == "stop"]
            assert said in paused["message"]
            assert paused["level"] == "ERROR"
            assert levels["warn"] == "INFO", "the pause is undone"
            assert recorder.stop() == 0


def test_a_misspelt_name_ends_the_start(tmp_path: Path) -> None:
    """In the environment and in `.env`, each with its line; what would have been set is not silently left out."""
    named = env_file(tmp_path, "ROTATE_SECS=60\nCOMPRESSION=zstd\nDATABASE_URL=x\n")
    settings = live_settings(9, tmp_path / "a", ENV_FILE=named, NDJSON_RETAIN_SEC="60")
    ended = finished("run", cwd=tmp_path, **settings)
    assert ended.returncode == 78
    plain = [line for line in ended.stderr.splitlines() if not line.startswith("{")]
    meant = ("NDJSON_RETAIN_SECS", "NDJSON_COMPRESSION", "NDJSON_ROTATE_SECS")
    assert len(plain) == len(meant)
    for line, variable in zip(plain, meant, strict=True):
        assert f"did you mean {variable}" in line
    assert f"COMPRESSION ({named})" in ended.stderr
    assert not (tmp_path / "a").exists()


def test_an_empty_destination_ends_the_start(tmp_path: Path) -> None:
    """As a script leaves it that fills in a variable that does not exist."""
    ended = finished("run", cwd=tmp_path, **live_settings(9, tmp_path, NDJSON_DEST=""))
    assert ended.returncode == 78
    assert "NDJSON_DEST='': must not be empty" in ended.stderr


def test_names_of_other_programs_are_told_with_what_replaces_them(tmp_path: Path) -> None:
    """The variables of the programs before this one: `config` prints each with its successor, and one line for the rest."""
    named = env_file(tmp_path, "RUST_LOG=warn\nPROXY_STOCKS_PORT=8765\nDATABASE_URL=x\nREDIS_HOST=y\n")
    shown = finished("config", cwd=tmp_path, ENV_FILE=named, POLYGON_CLUSTER="stocks", SINK="none")
    assert shown.returncode == 0
    assert shown.stderr.splitlines() == [
        f"warning: PROXY_STOCKS_PORT ({named}) is not read by this program: FILTERED_PROXY_PORT is the port",
        f"warning: RUST_LOG ({named}) is not read by this program: "
        "LOG_LEVEL sets the levels, as in LOG_LEVEL=warning,polygon_events=info",
        f"warning: DATABASE_URL, REDIS_HOST ({named}) are not read by this program; FOREIGN_NAMES silences this",
    ]
    quiet = finished(
        "config", cwd=tmp_path, ENV_FILE=named, POLYGON_CLUSTER="stocks", SINK="none", FOREIGN_NAMES="*"
    )
    assert quiet.stderr == ""
