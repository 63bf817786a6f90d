"""`recorder gaps`: the completeness of each day, in every form, with the status that a job of cron looks at."""

from __future__ import annotations

import csv
import json
import signal
from pathlib import Path

import pytest
from commands import finished, live_settings, running, simulating
from manifests import WrittenManifest
from waiting import eventually_sync


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """Return an archive of the week of Thanksgiving; on Friday, stocks close at 13:00 and late trading at 17:00."""
    manifest = WrittenManifest(tmp_path)
    manifest.start("2026-11-25 23:00:00", "stocks", "crypto")
    manifest.open("2026-11-25 23:00:00")
    manifest.open("2026-11-25 23:00:00", "crypto")
    # Thanksgiving: no stocks are traded, so that only crypto misses something.
    manifest.gap("2026-11-26 15:00:00", "2026-11-26 16:00:00", "disconnected")
    manifest.gap("2026-11-26 15:00:00", "2026-11-26 16:00:00", "disconnected", "crypto")
    # Over the close of Friday: of the hour, the last minute counts.
    manifest.gap("2026-11-27 21:59:00", "2026-11-27 22:59:00", "read_timeout")
    manifest.stop("2026-11-28 12:00:00", "stocks", "crypto")
    return tmp_path


def test_a_week_in_every_form(archive: Path) -> None:
    """The real calendars: a holiday is closed, half a day is 13 hours; crypto has 24; the table, CSV and JSON agree."""
    days = ("gaps", str(archive), "--day", "2026-11-26..2026-11-27")
    table = finished(*days, "--budget", "99.8", cwd=archive)
    assert table.returncode == 1, table.stderr
    lines = [" ".join(line.split()) for line in table.stdout.splitlines()]
    assert "2026-11-26 crypto 1 d 0 h 1 h 0 min 95.833 % 1" in lines
    assert "2026-11-26 stocks closed" in lines
    assert "2026-11-27 crypto 1 d 0 h 100.000 % 0" in lines
    assert "2026-11-27 stocks 13 h 0 min 1 min 0 s 99.871 % 1" in lines
    assert "crypto 2026-11-26 15:00:00 16:00:00 3,600.000 disconnected run-1" in lines
    assert "stocks 2026-11-27 21:59:00 22:00:00 60.000 read_timeout run-1" in lines
    assert "Budget 99.8 %: 1 of 4 below it." in lines
    [*rows] = csv.DictReader(finished(*days, "--csv", cwd=archive).stdout.splitlines())
    [*gaps] = csv.DictReader(finished(*days, "--gaps-csv", cwd=archive).stdout.splitlines())
    found = json.loads(finished(*days, "--json", cwd=archive).stdout)
    assert [row["complete_percent"] for row in rows] == ["95.833", "", "100.0", "99.871"]
    assert [day["complete_percent"] for day in found["days"]] == [95.833, None, 100.0, 99.871]
    assert [gap["from"] for gap in gaps] == ["2026-11-26T15:00:00.000Z", "2026-11-27T21:59:00.000Z"]
    assert [gap["secs"] for gap in found["gaps"]] == [3600.0, 60.0]


def test_statuses(archive: Path, tmp_path: Path) -> None:
    """0 within the budget, 2 for what is no archive or no day, with words that say what to do."""
    good = finished("gaps", str(archive), "--day", "2026-11-27", "--budget", "99.8", cwd=tmp_path)
    assert good.returncode == 0
    assert "Budget 99.8 %: none below it." in good.stdout
    nowhere = finished("gaps", str(tmp_path / "nowhere"), cwd=tmp_path)
    assert nowhere.returncode == 2
    assert "does not exist; name the folder of an archive" in nowhere.stderr
    no_day = finished("gaps", str(archive), "--day", "monday", cwd=tmp_path)
    assert no_day.returncode == 2
    assert "'monday' is no day, such as 2026-11-27" in no_day.stderr


def test_a_recorder_that_was_killed_and_records_again(tmp_path: Path) -> None:
    """Beside a recorder at work: the lost connection and the kill are gaps, each with its run; the present is none."""
    folder = tmp_path / "a"
    with simulating(
        "--cluster", "stocks", "--rate", "5000", "--fault", "close:code=1006,after=2000", cwd=tmp_path
    ) as port:
        for number, sessions in ((signal.SIGKILL, 2), (signal.SIGTERM, 1)):
            with running("run", cwd=tmp_path, **live_settings(port, folder)) as recorder:
                recorder.wait_for("subscribed", sessions)
                eventually_sync(lambda: recorder.metric("polygon_ndjson_written_total") > 4000, "data")
                if number == signal.SIGTERM:
                    live = finished(
                        "gaps", str(folder), "--all-hours", "--json", "--budget", "100", cwd=tmp_path
                    )
                recorder.stop(number)
    assert live.returncode == 1, live.stderr
    found = json.loads(live.stdout)
    reasons = [gap["reason"] for gap in found["gaps"]]
    assert reasons == ["not_running", "disconnected", "killed"]
    runs = [gap["run_id"] for gap in found["gaps"]]
    assert runs[0] == runs[1] != runs[2]
    assert not any(gap["open"] for gap in found["gaps"])
    [day] = found["days"]
    assert day["missing_secs"] == pytest.approx(sum(gap["secs"] for gap in found["gaps"]))


def test_a_gap_of_the_run_before_is_open_until_data_comes(tmp_path: Path) -> None:
    """Killed, and started again while the exchange is away: it is seen while it lasts, since the last record."""
    folder = tmp_path / "a"
    with simulating("--cluster", "stocks", "--rate", "500", cwd=tmp_path) as port:
        settings = live_settings(port, folder)
        with running("run", cwd=tmp_path, **settings) as recorder:
            eventually_sync(lambda: recorder.metric("polygon_ndjson_written_total") > 100, "data")
            recorder.send(signal.SIGKILL)
            recorder.wait()
    last = json.loads((folder / "polygon.ndjson").read_bytes().rpartition(b"\n")[0].splitlines()[-1])
    with running("run", cwd=tmp_path, **settings) as recorder:
        recorder.wait_for("connect_failed")
        [feed] = json.loads(recorder.get("/status")[1])["feeds"]
        assert (feed["gap_since"], feed["gap_reason"]) == (last["ingest_ts"], "killed")
        assert recorder.metric("polygon_gap_open_seconds") > 0
        recorder.stop()
