"""SINK=nats with the real command: the stream holds what the archive holds, each event once, through kills and stops."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import msgspec
from commands import finished, live_settings, running, simulating
from nats_servers import (
    Asking,
    NatsServer,
    Read,
    clustered,
    contents_of,
    messages_of,
    nats_variables,
    proven,
    recorded,
    serving,
    stored,
)
from waiting import eventually_sync, lasting

_LOGGED = msgspec.json.Decoder(
    msgspec.defstruct("Logged", [("cluster", str), ("frame", msgspec.Raw, msgspec.Raw())])
)


def frames_sent(log: Path) -> Counter[bytes]:
    """Return every frame of data that the simulator's log has, byte for byte."""
    with log.open("rb") as lines:
        entries = [_LOGGED.decode(line) for line in lines if line.endswith(b"\n")]
    return Counter(bytes(entry.frame) for entry in entries if bytes(entry.frame))


def frames_of(messages: list[Read]) -> Counter[bytes]:
    """Return every frame of a stream."""
    return Counter(frame for message in messages for frame in message.frames)


def test_a_server_that_is_killed_and_one_that_stands_still(tmp_path: Path) -> None:
    """kill -9 of the server, and SIGSTOP for longer than an acknowledgement may take: streams and archive are equal."""
    log, folder = tmp_path / "sent.ndjson", tmp_path / "a"
    wanted = {"SUBSCRIPTION": "T.*,Q.*,A.*", "NATS_PER_SYMBOL": "A,AM,LULD"}
    with (
        serving(tmp_path / "nats") as server,
        simulating("--cluster", "stocks", "--rate", "3000", "--log", str(log), cwd=tmp_path) as port,
        running(
            "run", cwd=tmp_path, **live_settings(port, folder, **nats_variables(server, **wanted))
        ) as recorder,
    ):
        recorder.wait_for("started")
        eventually_sync(lambda: stored(recorder) > 1000, "events in the stream")
        server.kill()
        eventually_sync(lambda: recorder.logged("nats_interrupted"), "the interruption")
        code, text = recorder.get("/ready?verbose")
        assert code == 503
        assert "nats: " in text
        server.start()
        recorder.wait_for("nats_connected", 2)
        before = stored(recorder)
        eventually_sync(lambda: stored(recorder) > before + 1000, "events after the kill")
        server.pause()
        lasting(5.5)
        recorder.wait_for("nats_interrupted", 2)
        server.resume()
        recorder.wait_for("nats_connected", 3)
        before = stored(recorder)
        eventually_sync(lambda: stored(recorder) > before + 1000, "events after the stop")
        assert recorder.stop() == 0
        messages = messages_of(server)
        aggregates = contents_of(server, "MD_STOCKS_SYMBOLS", "md.stocks.symbols.A.>")
        balances = {entry["sink"]: entry for entry in recorder.logged("balance")}
    assert {balances[name]["dropped"] for name in ("nats", "nats-symbols")} == {0}
    assert balances["nats-symbols"]["recorded"] == len(aggregates) > 0
    archived = [event for event in map(json.loads, recorded(folder)) if event["ev"] == "A"]
    assert [json.loads(event) for event in aggregates] == archived
    assert proven(messages) == recorded(folder)
    frames = frames_of(messages)
    assert not frames - frames_sent(log), "frames are stored as they were received"
    assert {message.headers["Writer"] for message in messages} == {messages[0].headers["Writer"]}


def test_three_servers_of_which_the_leader_is_killed(tmp_path: Path) -> None:
    """The others elect another one; stream and archive are equal."""
    folder = tmp_path / "a"
    with (
        clustered(tmp_path / "nats", 3) as servers,
        simulating("--cluster", "stocks", "--rate", "3000", cwd=tmp_path) as port,
    ):
        urls = ",".join(server.url for server in servers)
        variables = nats_variables(servers[0], NATS_URL=urls, NATS_REPLICAS="3")
        with running("run", cwd=tmp_path, **live_settings(port, folder, **variables)) as recorder:
            recorder.wait_for("started")
            eventually_sync(lambda: stored(recorder) > 1000, "events in the stream")
            with Asking(servers[0]) as asking:
                leader = asking.ask("$JS.API.STREAM.INFO.MD_STOCKS")["cluster"]["leader"]
            killed = servers[int(leader.removeprefix("n"))]
            killed.kill()
            left = next(server for server in servers if server is not killed)
            recorder.wait_for("nats_interrupted")
            recorder.wait_for("nats_connected", 2)
            before = stored(recorder)
            eventually_sync(lambda: stored(recorder) > before + 1000, "events after the election")
            assert recorder.stop() == 0
        assert proven(messages_of(left)) == recorded(folder)


def test_a_recorder_that_is_killed(tmp_path: Path) -> None:
    """kill -9 of the recorder: the next one goes on with the numbers; no event is there twice."""
    log = tmp_path / "sent.ndjson"
    with (
        serving(tmp_path / "nats") as server,
        simulating("--cluster", "stocks", "--rate", "3000", "--log", str(log), cwd=tmp_path) as port,
    ):
        settings = live_settings(port, tmp_path / "a", **nats_variables(server, SINK="nats"))
        for _ in range(2):
            with running("run", cwd=tmp_path, **settings) as recorder:
                recorder.wait_for("started")
                eventually_sync(lambda: stored(recorder) > 1000, "events in the stream")
                recorder.kill()
        with running("run", cwd=tmp_path, **settings) as recorder:
            recorder.wait_for("started")
            eventually_sync(lambda: stored(recorder) > 1000, "events in the stream")
            assert recorder.stop() == 0
        messages = messages_of(server)
    events = proven(messages)
    assert len(events) == len(set(events))
    assert not frames_of(messages) - frames_sent(log)
    assert len({message.headers["Writer"] for message in messages}) == 3


def test_servers_that_are_away_at_the_start(tmp_path: Path) -> None:
    """The recorder runs, records, is not ready and says why; `recorder check` says it, too; then all arrives."""
    away = NatsServer(tmp_path / "nats")
    folder = tmp_path / "a"
    try:
        with simulating("--cluster", "stocks", "--rate", "1000", cwd=tmp_path) as port:
            settings = live_settings(port, folder, **nats_variables(away))
            checked = finished("check", "--json", "--offline", cwd=tmp_path, **settings)
            assert "--offline: the servers were not asked" in checked.stdout
            with running("run", cwd=tmp_path, **settings) as recorder:
                recorder.wait_for("started")
                eventually_sync(lambda: recorder.received() > 500, "events")
                code, text = recorder.get("/ready?verbose")
                assert code == 503
                assert f"nats: no NATS server can be reached: {away.url}: " in text
                away.start()
                eventually_sync(lambda: recorder.get("/ready")[0] == 200, "ready")
                assert recorder.stop() == 0
        assert proven(messages_of(away)) == recorded(folder)
    finally:
        away.stop()


def test_a_wrong_password_ends_the_start(tmp_path: Path) -> None:
    """78, one line that names what to look at, and no password in it."""
    secret = "another-secret-0123456789"
    password = tmp_path / "password"
    password.write_text("wrong-secret-0123456789")
    extra = f"authorization {{ user: me, password: {secret} }}"
    with serving(tmp_path / "nats", extra, user="me", **{"pass": secret}) as server:
        variables = nats_variables(server, NATS_USER="me", NATS_PASSWORD_FILE=str(password))
        result = finished("run", cwd=tmp_path, **live_settings(9, tmp_path / "a", **variables))
    assert result.returncode == 78
    [line] = [line for line in result.stderr.splitlines() if not line.startswith("{")]
    assert f"{server.url} refuses the credentials" in line
    assert "wrong-secret" not in result.stderr + result.stdout


def test_nothing_of_it_is_imported_where_sink_does_not_name_it() -> None:
    """A recorder without the sink pays nothing for it."""
    code = "import sys, recorder.app, recorder.checks.table; print('nats' in sys.modules or 'nkeys' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_without_nats_py_the_line_says_what_to_install(tmp_path: Path) -> None:
    """The extra is optional; asking for the sink without it is a clear error."""
    (tmp_path / "nats").mkdir()
    (tmp_path / "nats" / "__init__.py").write_text(
        "raise ModuleNotFoundError(\"No module named 'nats'\", name='nats')\n"
    )
    variables = live_settings(
        9,
        tmp_path / "a",
        SINK="nats",
        NATS_MAX_BYTES="1GiB",
        NATS_MAX_AGE_SECS="1h",
        PYTHONPATH=str(tmp_path),
    )
    result = finished("run", cwd=tmp_path, **variables)
    assert result.returncode == 78
    assert f"SINK=nats needs nats-py: {sys.executable} -m pip install nats-py" in result.stderr
