"""SINK=kafka with the real command: the topic holds what the archive holds, each event once, through kills and stops."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from commands import finished, live_settings, running, simulating
from kafka_brokers import (
    SECRET,
    USER,
    kafka_variables,
    messages_of,
    payloads,
    proven,
    recorded,
    shared_broker,
    stored,
)
from waiting import eventually_sync


def test_records_of_runs_that_are_killed(tmp_path: Path) -> None:
    """kill -9 of the recorder, twice: of each run every record is there once, but for the last ones at the most."""
    broker = shared_broker()
    settings = kafka_variables(broker, "runs", KAFKA_SHAPE="records", SINK="kafka")
    with simulating("--cluster", "stocks", "--rate", "3000", cwd=tmp_path) as port:
        for _ in range(2):
            with running("run", cwd=tmp_path, **live_settings(port, tmp_path / "a", **settings)) as recorder:
                recorder.wait_for("started")
                eventually_sync(lambda: stored(recorder) > 1000, "records in the topic")
                recorder.kill()
        settings["SINK"] = "ndjson,kafka"
        with running("run", cwd=tmp_path, **live_settings(port, tmp_path / "a", **settings)) as recorder:
            recorder.wait_for("started")
            eventually_sync(lambda: stored(recorder) > 1000, "records in the topic")
            assert recorder.stop() == 0
    values = [message.value for message in messages_of(broker, "runs.stocks.records")]
    assert len(values) == len(set(values))
    assert not set(recorded(tmp_path / "a")) - set(values)
    by_seq = Counter(json.loads(value)["seq"] for value in values)
    assert by_seq[1] == 3, "each run counts from 1"


def test_brokers_that_are_away_at_the_start(tmp_path: Path) -> None:
    """The recorder runs, records, is not ready and says why; `recorder check` says it, too; then all arrives."""
    broker = shared_broker()
    broker.kill()
    folder = tmp_path / "a"
    with simulating("--cluster", "stocks", "--rate", "1000", cwd=tmp_path) as port:
        settings = live_settings(port, folder, **kafka_variables(broker, "away"))
        checked = finished("check", "--json", "--offline", cwd=tmp_path, **settings)
        assert "--offline: the brokers were not asked" in checked.stdout
        with running("run", cwd=tmp_path, **settings) as recorder:
            recorder.wait_for("started")
            eventually_sync(lambda: recorder.received() > 500, "events")
            code, text = recorder.get("/ready?verbose")
            assert code == 503
            assert f"kafka: no broker of {broker.address} can be used: " in text
            broker.start()
            eventually_sync(lambda: recorder.get("/ready")[0] == 200, "ready")
            assert recorder.stop() == 0
    assert proven(messages_of(broker, "away.stocks.frames")) == payloads(folder)


def test_a_wrong_password_ends_the_start(tmp_path: Path) -> None:
    """78, one line that names what to look at, and no password in it."""
    broker = shared_broker()
    options = tmp_path / "options"
    options.write_text("sasl.password=wrong-secret-0123456789\n")
    settings = kafka_variables(
        broker,
        "wrong",
        KAFKA_BROKERS=broker.sasl_address,
        KAFKA_OPTIONS=f"security.protocol=sasl_plaintext; sasl.mechanism=PLAIN; sasl.username={USER}",
        KAFKA_OPTIONS_FILE=str(options),
    )
    result = finished("run", cwd=tmp_path, **live_settings(9, tmp_path / "a", **settings))
    assert result.returncode == 78
    [line] = [line for line in result.stderr.splitlines() if not line.startswith("{")]
    assert "Invalid username or password" in line
    assert "see KAFKA_OPTIONS and KAFKA_OPTIONS_FILE" in line
    assert "wrong-secret" not in result.stderr + result.stdout
    assert SECRET not in result.stderr + result.stdout


def test_nothing_of_it_is_imported_where_sink_does_not_name_it() -> None:
    """A recorder without the sink pays nothing for it."""
    code = "import sys, recorder.app, recorder.checks.table; print('confluent_kafka' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


@pytest.mark.parametrize("command", ["run", "check"])
def test_without_confluent_kafka_the_line_says_what_to_install(tmp_path: Path, command: str) -> None:
    """The extra is optional; asking for the sink without it is a clear error."""
    (tmp_path / "confluent_kafka").mkdir()
    (tmp_path / "confluent_kafka" / "__init__.py").write_text(
        "raise ModuleNotFoundError(\"No module named 'confluent_kafka'\", name='confluent_kafka')\n"
    )
    settings = live_settings(9, tmp_path / "a", SINK="kafka", PYTHONPATH=str(tmp_path))
    result = finished(command, cwd=tmp_path, **settings)
    if command == "run":
        assert result.returncode == 78
        words = f"SINK=kafka needs confluent-kafka: {sys.executable} -m pip install confluent-kafka"
        assert words in result.stderr
    else:
        assert "confluent-kafka is not installed" in result.stdout
