"""A hundred clients that want everything since ever, at once: the live ones beside them get theirs all the same."""

from __future__ import annotations

import selectors
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from commands import live_settings, running, simulating
from listening import listening
from rawclient import RawClient, raw_client
from waiting import eventually_sync

FOLLOWERS = 100
KEPT_BYTES = 1024 * 1024
"""Some 7,000 events. At EVENTS_PER_SEC whoever takes longer than that for its past falls out of memory, and is cut."""
EVENTS_PER_SEC = 1000
PENDING_BYTES_MAX = 1024 * 1024
"""That a client may leave unread; half of it is what its past may fill."""
WISHES = (("firehose", "*"), ("filtered", "*"), ("filtered", "T.*"), ("bars", "AM.*"))
_END = b'"status":"resume_complete"'


def resident_bytes(pid: int) -> int:
    """Return the memory that a process has."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS:"))


def read_all(clients: list[RawClient], look: Callable[[], None]) -> None:
    """Read until each client has come to the end of its past; `look` is called again and again."""
    selector = selectors.DefaultSelector()
    tails = dict.fromkeys(clients, b"")
    for client in clients:
        client.socket.setblocking(False)
        selector.register(client.socket, selectors.EVENT_READ, client)
    deadline = time.monotonic() + 60
    while selector.get_map():
        assert time.monotonic() < deadline, f"{len(selector.get_map())} clients have not got their past"
        look()
        for key, _ in selector.select(0.1):
            client: RawClient = key.data
            data = client.socket.recv(1 << 18)
            assert data, "a client was cut"
            seen = tails[client] + data
            tails[client] = seen[-len(_END) :]
            if _END in seen:
                selector.unregister(client.socket)
                client.close()  # it has what it wanted
    selector.close()


def test_those_who_want_everything_cost_nobody_anything(tmp_path: Path) -> None:
    """Memory stays within what each client may leave unread, and no event of a live client waits long."""
    options = ("--cluster", "stocks", "--symbols", "100", "--rate", str(EVENTS_PER_SEC))
    with ExitStack() as stack:
        port = stack.enter_context(simulating(*options, cwd=tmp_path))
        settings = live_settings(
            port,
            tmp_path,
            SINK="none",
            RESUME_BUFFER_BYTES=str(KEPT_BYTES),
            CLIENT_PENDING_BYTES_MAX=str(PENDING_BYTES_MAX),
        )
        recorder = stack.enter_context(running("run", cwd=tmp_path, **settings))
        eventually_sync(lambda: recorder.received() > 4000, "much in memory", every_secs=0.1)
        live = stack.enter_context(listening(f"ws://{recorder.address_of('filtered')}/stocks", "Q.*"))
        eventually_sync(lambda: len(live.frames) > 50, "live events")
        before = resident_bytes(recorder.process.pid)
        clients: list[RawClient] = []
        for number in range(FOLLOWERS):
            name, _ = WISHES[number % len(WISHES)]
            client = stack.enter_context(raw_client(recorder.address_of(name), receive_bytes=65536))
            client.subscribe("AM.NONE")
            clients.append(client)
        for number, client in enumerate(clients):
            _, topics = WISHES[number % len(WISHES)]
            client.say(action="subscribe", params=topics, since=0, partial=True)
        peaks = [before]
        begun = len(live.times_ns)
        read_all(clients, lambda: peaks.append(resident_bytes(recorder.process.pid)))
        steps = [
            after - since
            for since, after in zip(live.times_ns[begun:], live.times_ns[begun + 1 :], strict=False)
        ]
        print(f"{(max(peaks) - before) / 1e6:.1f} MB, longest silence {max(steps) / 1e6:.1f} ms")  # noqa: T201
        assert max(peaks) - before < FOLLOWERS * PENDING_BYTES_MAX
        assert max(steps) < 1_000_000_000
        assert recorder.metric("polygon_server_resumes_total") == FOLLOWERS
        assert recorder.metric("polygon_server_evictions_total") == 0
        assert recorder.stop() == 0
