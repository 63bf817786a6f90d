"""SERVE_WORKERS: `recorder run` has other processes serve, and keeps them running, whatever becomes of them."""

from __future__ import annotations

import json
import os
import signal
import socket
import ssl
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from commands import KEY, Running, live_settings, running, simulating
from front import certificate
from listening import Listener, listening
from oracle import account, follow, read_sent, verified
from waiting import eventually_sync
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

CLIENTS = 20
"""Of each port."""


@contextmanager
def recording(folder: Path, *market: str, **variables: str) -> Iterator[Running]:
    """Run a recorder with two workers on a simulated exchange whose log is `sent.ndjson`."""
    log = ("--log", str(folder / "sent.ndjson"))
    with simulating("--cluster", "stocks", "--symbols", "50", *market, *log, cwd=folder) as port:
        settings = live_settings(port, folder / "archive", **{"SERVE_WORKERS": "2", **variables})
        with running("run", cwd=folder, **settings) as recorder:
            recorder.wait_for("subscribed")
            yield recorder


def workers_of(recorder: Running) -> list[dict[str, Any]]:
    """Return what /status says of the workers."""
    found: list[dict[str, Any]] = json.loads(recorder.get("/status")[1])["workers"]
    return found


def clients_of(recorder: Running) -> list[int]:
    """Return the number of clients of each worker."""
    return [sum(worker["clients"].values()) for worker in workers_of(recorder)]


def join(stack: ExitStack, recorder: Running, count: int, port: str, topics: str = "*") -> list[Listener]:
    """Connect clients."""
    url = f"ws://{recorder.address_of(port)}"
    return [stack.enter_context(listening(url, topics)) for _ in range(count)]


def is_gone(pid: int) -> bool:
    """Return whether a process has ended."""
    return not Path(f"/proc/{pid}").exists()


def assert_faultless(folder: Path, listeners: Sequence[Listener]) -> None:
    """Each client got all that was archived since it came, once, in order, to the last event."""
    found = account(folder / "sent.ndjson", folder / "archive")
    assert found.faultless, found
    assert {loss.explained for loss in found.losses} <= {"after the end"}
    verified(folder / "archive")
    recorded = read_sent(folder / "sent.ndjson").events[: found.recorded]
    for listener in listeners:
        stream = follow(recorded, listener.events)
        assert stream.faultless, stream
        assert listener.events[-1] == recorded[-1]


def test_clients_of_all_workers_get_everything_once(tmp_path: Path) -> None:
    """Clients are spread evenly, each stream is whole, the metrics are the sums, and one SIGTERM ends it all in order."""
    with recording(tmp_path, "--rate", "2000") as recorder, ExitStack() as stack:
        listeners = [
            *join(stack, recorder, CLIENTS, "firehose"),
            *join(stack, recorder, CLIENTS, "filtered"),
        ]
        eventually_sync(lambda: clients_of(recorder) == [CLIENTS, CLIENTS], "the reports")
        eventually_sync(lambda: all(len(listener.frames) > 100 for listener in listeners), "data")
        assert recorder.get("/ready") == (200, "READY")
        assert recorder.metric('polygon_server_clients{port="firehose"}') == CLIENTS
        assert recorder.metric('polygon_serve_workers{state="up"}') == 2
        listed = json.loads(recorder.get("/status")[1])["clients"]
        assert Counter((client["port"], client["worker"]) for client in listed) == {
            (port, worker): CLIENTS // 2 for port in ("firehose", "filtered") for worker in (1, 2)
        }
        workers = workers_of(recorder)
        assert all(worker["cpu_secs"] > 0 and worker["memory_bytes"] > 2**20 for worker in workers)
        joined = Counter(entry["worker"] for entry in recorder.logged("client_joined"))
        assert joined == {1: CLIENTS, 2: CLIENTS}
        begun = time.monotonic()
        assert recorder.stop() == 0
        assert time.monotonic() - begun < 10, "SHUTDOWN_TIMEOUT_SECS"
        eventually_sync(lambda: all(listener.close_code for listener in listeners), "the close")
        assert {listener.close_code for listener in listeners} == {1012}
        assert all(is_gone(worker["pid"]) for worker in workers)
        assert {entry["level"] for entry in recorder.events if entry["target"] == "polygon_clients"} == {
            "INFO"
        }
    assert_faultless(tmp_path, listeners)


def test_counters_are_the_sums_of_what_clients_got(tmp_path: Path) -> None:
    """Once the exchange is silent, deliveries in /metrics are those that the clients of both workers count."""
    with (
        recording(tmp_path, "--rate", "2000", "--fault", "stall:after=6000,for=60s") as recorder,
        ExitStack() as stack,
    ):
        listeners = join(stack, recorder, 6, "filtered")
        eventually_sync(lambda: len(listeners[0].frames) > 100, "data")
        delivered = lambda: recorder.metric('polygon_server_events_total{port="filtered"}')  # noqa: E731
        eventually_sync(
            lambda: delivered() == sum(len(listener.events) for listener in listeners) > 6000, "equal sums"
        )
        assert min(clients_of(recorder)) == 3
        assert recorder.metric('polygon_server_requests_total{port="filtered"}') == 12


def test_a_worker_that_is_killed_costs_its_own_clients_a_reconnect(tmp_path: Path) -> None:
    """Under load: the archive loses nothing, the other worker's streams are faultless, and the place is filled again."""
    with recording(tmp_path, "--rate", "5000") as recorder, ExitStack() as stack:
        listeners = join(stack, recorder, CLIENTS, "filtered")
        eventually_sync(lambda: clients_of(recorder) == [CLIENTS // 2, CLIENTS // 2], "the reports")
        killed = workers_of(recorder)[0]["pid"]
        served = recorder.metric("polygon_server_events_total")
        os.kill(killed, signal.SIGKILL)
        [ended] = [recorder.wait_for("worker_ended")]
        assert (ended["worker"], ended["reason"], ended["exit_status"]) == (1, "ended", -signal.SIGKILL)
        assert recorder.get("/ready") == (200, "READY"), "one worker is enough"
        lost = eventually_sync(
            lambda: len(found := [one for one in listeners if one.close_code]) == CLIENTS // 2 and found,
            "the end of its clients",
        )
        recorder.wait_for("worker_started", 3)
        again = join(stack, recorder, CLIENTS // 2, "filtered")
        eventually_sync(
            lambda: clients_of(recorder) == [CLIENTS // 2, CLIENTS // 2], "the same spread as before"
        )
        assert recorder.metric('polygon_serve_worker_restarts_total{reason="ended",worker="1"}') == 1
        assert recorder.metric("polygon_server_events_total") > served, "counters never fall"
        eventually_sync(lambda: all(len(listener.frames) > 100 for listener in again), "data")
        assert recorder.stop() == 0
    survivors = [listener for listener in listeners if listener not in lost]
    assert_faultless(tmp_path, [*survivors, *again])
    sent = read_sent(tmp_path / "sent.ndjson").events
    assert all(follow(sent, listener.events).faultless for listener in lost), "whole until the end"


def test_a_worker_that_stands_still_is_replaced(tmp_path: Path) -> None:
    """SIGSTOP under load: it is cut at its limit, recording and the other worker notice nothing, and nothing is hidden."""
    with (
        recording(
            tmp_path, "--rate", "8000", "--no-bursts", SERVE_WORKER_PENDING_BYTES_MAX="1MiB"
        ) as recorder,
        ExitStack() as stack,
    ):
        listeners = join(stack, recorder, 6, "firehose")
        eventually_sync(lambda: clients_of(recorder) == [3, 3], "the reports")
        os.kill(workers_of(recorder)[1]["pid"], signal.SIGSTOP)
        eventually_sync(lambda: workers_of(recorder)[1]["pending_bytes"] > 0, "bytes that it leaves")
        ended = recorder.wait_for("worker_ended")
        assert (ended["worker"], ended["reason"], ended["exit_status"]) == (2, "slow", -signal.SIGKILL)
        assert recorder.metric('polygon_serve_worker_restarts_total{reason="slow",worker="2"}') == 1
        lost = eventually_sync(
            lambda: len(found := [one for one in listeners if one.close_code]) == 3 and found,
            "the end of its clients",
        )
        recorder.wait_for("worker_started", 3)
        assert recorder.metric("polygon_cap_reached_total") == 0, "no pass was held up"
        assert recorder.stop() == 0
    sent = read_sent(tmp_path / "sent.ndjson").events
    assert all(follow(sent, listener.events).faultless for listener in lost), "a beginning, and no hole"
    assert_faultless(tmp_path, [listener for listener in listeners if listener not in lost])


def test_workers_end_with_their_recorder(tmp_path: Path) -> None:
    """kill -9 of the recorder: the workers tell their clients 1012, end at once, and leave the ports free."""
    with recording(tmp_path, "--rate", "1000") as recorder, ExitStack() as stack:
        listeners = join(stack, recorder, 4, "filtered")
        eventually_sync(lambda: all(listener.frames for listener in listeners), "data")
        workers = workers_of(recorder)
        recorder.process.kill()
        eventually_sync(lambda: all(listener.close_code for listener in listeners), "the end")
        assert {listener.close_code for listener in listeners} == {1012}
        eventually_sync(lambda: all(is_gone(worker["pid"]) for worker in workers), "the end of the workers")
        with socket.create_server(("127.0.0.1", int(recorder.port_of("filtered")))):
            pass


def test_signals_to_all_processes_are_for_the_recorder(tmp_path: Path) -> None:
    """As systemd and a terminal send them to every process: a worker goes on until it is told."""
    with recording(tmp_path, "--rate", "1000") as recorder, ExitStack() as stack:
        listeners = join(stack, recorder, 4, "filtered")
        pids = [worker["pid"] for worker in workers_of(recorder)]
        for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
            for pid in pids:
                os.kill(pid, number)
        before = [len(listener.frames) for listener in listeners]
        eventually_sync(
            lambda: all(len(one.frames) > had for one, had in zip(listeners, before, strict=True)),
            "more data",
        )
        assert [worker["pid"] for worker in workers_of(recorder)] == pids
        assert recorder.stop(signal.SIGINT) == 0
        eventually_sync(lambda: all(listener.close_code for listener in listeners), "the close")
    assert_faultless(tmp_path, listeners)


def refusal(url: str, token: str = KEY) -> int | None:
    """Connect a client that is to be refused; return the close code."""
    with connect(url) as client, suppress(ConnectionClosed):
        client.send(json.dumps({"action": "auth", "params": token}))
        while True:
            client.recv(timeout=20)
    return client.close_code


@pytest.mark.parametrize(
    ("limit", "code"), [({"CLIENTS_MAX": "4"}, 1013), ({"CLIENTS_PER_TOKEN_MAX": "4"}, 1008)]
)
def test_limits_hold_over_all_workers(tmp_path: Path, limit: dict[str, str], code: int) -> None:
    """The client after the last one that may come is refused whichever worker has it; one that leaves makes room."""
    with recording(tmp_path, "--rate", "500", **limit) as recorder, ExitStack() as stack:
        url = f"ws://{recorder.address_of('filtered')}"
        listeners = join(stack, recorder, 4, "filtered")
        assert refusal(url) == code
        assert refusal(url) == code
        assert recorder.get("/health")[0] == 200
        for listener in listeners[:2]:
            listener.close()
        eventually_sync(lambda: sum(clients_of(recorder)) == 2, "room")
        join(stack, recorder, 2, "filtered")
        assert refusal(url) == code
        eventually_sync(lambda: sum(clients_of(recorder)) == 4, "the reports")
        killed = workers_of(recorder)[0]
        freed = sum(killed["clients"].values())
        os.kill(killed["pid"], signal.SIGKILL)
        recorder.wait_for("worker_started", 3)
        eventually_sync(lambda: sum(clients_of(recorder)) == 4 - freed, "room of those that it had")
        join(stack, recorder, freed, "filtered")
        assert freed > 0
        assert refusal(url) == code


def test_guesses_are_slow_over_all_workers(tmp_path: Path) -> None:
    """Who gives a wrong token at one worker waits at the other, too: the third guess, and twice as long the fourth."""
    with recording(tmp_path, "--rate", "100") as recorder:
        url = f"ws://{recorder.address_of('filtered')}"
        begun = time.monotonic()
        assert [refusal(url, f"guess-{number}") for number in range(4)] == [1008] * 4
        assert time.monotonic() - begun >= 1.0
        refused = Counter(entry["worker"] for entry in recorder.logged("client_refused"))
        assert len(refused) == 2, "no worker alone would have made it wait for so long"


def test_topics_on_demand_are_the_union_of_all_workers(tmp_path: Path) -> None:
    """A topic is asked for once, kept while any worker's client holds it, and survives the worker that asked first."""
    with (
        recording(
            tmp_path,
            "--rate",
            "2000",
            ROLES="filtered,bars,ops",
            SUBSCRIPTION="T.NONE",
            SUBSCRIBE_ON_DEMAND="true",
            UNSUBSCRIBE_DELAY_SECS="1",
        ) as recorder,
        ExitStack() as stack,
    ):
        wanted = lambda: recorder.metric("polygon_topics_wanted")  # noqa: E731
        first, second = join(stack, recorder, 2, "filtered", "Q.*")
        eventually_sync(lambda: first.frames and second.frames, "quotes")
        assert clients_of(recorder) == [1, 1] or eventually_sync(lambda: clients_of(recorder) == [1, 1])
        assert wanted() == 2
        first.close()
        eventually_sync(lambda: sum(clients_of(recorder)) == 1, "one client")
        join(stack, recorder, 1, "bars", "100Ms.*")
        eventually_sync(lambda: wanted() == 3, "trades, for the bars")
        had = len(second.frames)
        eventually_sync(lambda: len(second.frames) > had + 50, "quotes go on")
        [holder] = [worker for worker in workers_of(recorder) if worker["clients"]["filtered"]]
        os.kill(holder["pid"], signal.SIGKILL)
        eventually_sync(lambda: second.close_code, "its end")
        [third] = join(stack, recorder, 1, "filtered", "Q.*")
        eventually_sync(lambda: third.frames, "quotes again")
        third.close()
        eventually_sync(lambda: wanted() <= 2, "the release, when nobody of any worker holds quotes")


def test_bars_are_the_same_at_every_worker(tmp_path: Path) -> None:
    """Each worker makes the bars that its clients want, from the same trades: the same bytes, on both ports."""
    with recording(tmp_path, "--rate", "3000") as recorder, ExitStack() as stack:
        listeners = [
            *join(stack, recorder, 2, "bars", "100Ms.*"),
            *join(stack, recorder, 2, "filtered", "100Ms.*"),
        ]
        assert eventually_sync(lambda: clients_of(recorder) == [2, 2], "the reports")
        eventually_sync(lambda: all(len(listener.frames) > 20 for listener in listeners), "bars")
        assert recorder.stop() == 0
        eventually_sync(lambda: all(listener.close_code for listener in listeners), "the close")
    bars = [listener.events for listener in listeners]
    common = set.intersection(*map(set, bars))
    assert len(common) > 100
    begun = max(made.index(next(bar for bar in made if bar in common)) for made in bars)
    assert begun < min(map(len, bars))
    for made in bars:
        assert len(set(made)) == len(made)
        within = made[made.index(next(bar for bar in bars[0] if bar in common)) :]
        assert [bar for bar in within if bar in common] == [bar for bar in bars[0] if bar in common]


def test_bars_of_another_recorder_come_over_one_connection(tmp_path: Path) -> None:
    """MS_AGGREGATOR_URL with workers: the recording process takes the bars once, and every worker passes them on."""
    with recording(tmp_path, "--rate", "2000", SERVE_WORKERS="1") as maker, ExitStack() as stack:
        settings = live_settings(
            0,
            tmp_path,
            FIREHOSE_URL=f"ws://{maker.address_of('firehose')}",
            MS_AGGREGATOR_URL=f"ws://{maker.address_of('bars')}",
            ROLES="filtered,ops",
            SERVE_WORKERS="2",
        )
        del settings["POLYGON_WS_URL"], settings["SUBSCRIPTION"]
        with running("run", cwd=tmp_path, **settings) as relay:
            relay.wait_for("subscribed")
            listeners = join(stack, relay, 4, "filtered", "100Ms.*")
            eventually_sync(lambda: all(len(listener.frames) > 10 for listener in listeners), "bars")
            assert maker.metric('polygon_server_clients{port="bars"}') == 1
            assert relay.metric("polygon_bars_relayed_total") > 0
            for listener in listeners:
                listener.close()
            eventually_sync(
                lambda: maker.metric('polygon_server_subscriptions{port="bars"}') == 0, "nobody wants them"
            )


def test_clients_of_every_worker_learn_that_another_recorder_amends_no_bars(tmp_path: Path) -> None:
    """One that asked before it was known is told then; later ones at once, also by a worker that has just started."""

    def ask(relay: Running) -> list[str]:
        """Return what a new client of a worker is told until it is told that no bars are amended."""
        with connect(f"ws://{relay.address_of('filtered')}", compression=None) as client:
            client.send(json.dumps({"action": "auth", "params": KEY}))
            client.send(json.dumps({"action": "subscribe", "params": "100Ms.*", "amend": True}))
            told: list[str] = []
            while not told or words not in told[-1]:
                statuses = [event for event in json.loads(client.recv(20)) if event["ev"] == "status"]
                told += [event["message"] for event in statuses if "subscribed to" in event["message"]]
            return told

    words = "(amend is without effect: the recorder that makes the bars amends none)"
    maker_settings = {"SERVE_WORKERS": "1", "BAR_AMEND_SECS": "0"}
    with recording(tmp_path, "--rate", "500", **maker_settings) as maker, ExitStack() as stack:
        settings = live_settings(
            0,
            tmp_path,
            FIREHOSE_URL=f"ws://{maker.address_of('firehose')}",
            MS_AGGREGATOR_URL=f"ws://{maker.address_of('bars')}",
            ROLES="filtered,ops",
            SERVE_WORKERS="2",
        )
        del settings["POLYGON_WS_URL"], settings["SUBSCRIPTION"]
        relay = stack.enter_context(running("run", cwd=tmp_path, **settings))
        relay.wait_for("subscribed")
        assert ask(relay) == ["subscribed to: 100Ms.*", f"subscribed to: 100Ms.* {words}"]
        assert [ask(relay) for _ in range(2)] == [[f"subscribed to: 100Ms.* {words}"]] * 2
        pids = [worker["pid"] for worker in workers_of(relay)]
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        eventually_sync(
            lambda: all(
                worker["state"] == "up" and worker["pid"] not in pids for worker in workers_of(relay)
            ),
            "new workers",
        )
        assert ask(relay) == [f"subscribed to: 100Ms.* {words}"]


def test_an_address_in_use_is_told_before_anything_is_started(tmp_path: Path) -> None:
    """Exit status 78, one line that names the port, no worker, and the archive untouched."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        number = taken.getsockname()[1]
        settings = live_settings(1, tmp_path / "archive", SERVE_WORKERS="2", FILTERED_PROXY_PORT=str(number))
        with running("run", cwd=tmp_path, **settings) as recorder:
            assert recorder.wait() == 78
            assert recorder.lines[-1] == (
                f"recorder: FILTERED_PROXY_PORT: 127.0.0.1:{number} is in use by another program: "
                "stop that, or choose another port"
            )
            assert not recorder.logged("worker_started")
    assert not (tmp_path / "archive").exists()


def test_no_secret_is_where_others_can_read_it(tmp_path: Path) -> None:
    """Neither the key nor a token is in the command line or the environment of a worker."""
    with recording(tmp_path, "--rate", "100", AUTH_TOKENS="me:a-token-of-mine") as recorder:
        for worker in workers_of(recorder):
            process = Path(f"/proc/{worker['pid']}")
            seen = (process / "cmdline").read_bytes() + (process / "environ").read_bytes()
            assert KEY.encode() not in seen
            assert b"a-token-of-mine" not in seen
        with listening(f"ws://{recorder.address_of('filtered')}", token="a-token-of-mine") as client:
            eventually_sync(lambda: client.frames, "data")


def test_tls_ends_at_the_workers(tmp_path: Path) -> None:
    """wss:// is served, also by a worker that is replaced while the file of the key is broken: it gets the good one."""
    certificate(tmp_path, "tls")
    cert, key = tmp_path / "tls.pem", tmp_path / "tls.key"
    tls = {"TLS_CERT_FILE": str(cert), "TLS_KEY_FILE": str(key)}
    trusting = ssl.create_default_context(cafile=cert)
    with recording(tmp_path, "--rate", "500", **tls) as recorder:
        number = recorder.port_of("filtered")
        with socket.create_connection(("127.0.0.1", int(number))) as plain:
            plain.sendall(b"GET / HTTP/1.1\r\n\r\n")
            assert not plain.recv(100), "no TLS, no answer"
        with listening(f"wss://localhost:{number}", trust=trusting) as client:
            eventually_sync(lambda: client.frames, "data")
        key.write_text("")
        os.kill(workers_of(recorder)[0]["pid"], signal.SIGKILL)
        recorder.wait_for("worker_ended")
        recorder.wait_for("worker_started", 3)
        refused = recorder.wait_for("reload_refused")
        assert f"TLS_KEY_FILE: {key}: holds no private key (PEM)" in json.dumps(refused)
        with listening(f"wss://localhost:{number}", trust=trusting) as client:
            eventually_sync(lambda: client.frames, "data")
        assert recorder.stop() == 0
