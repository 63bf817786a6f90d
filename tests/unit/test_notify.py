"""What the service manager is told, and what it takes for a sign of life."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from fakes import FakeClock
from ops_parts import HeldClock, feed_of, make_ready
from structlog.testing import capture_logs

from recorder.ledger import Ledger
from recorder.ops.notify import WRITER_STUCK_SECS, Manager, Notifier, Service, StatusLine, manager_of


class Listener:
    """A manager's socket."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(f"\0{address[1:]}" if address.startswith("@") else address)
        self._socket.setblocking(False)

    def messages(self) -> list[list[str]]:
        """Return what has arrived, each message as its lines."""
        found = []
        while True:
            try:
                found.append(self._socket.recv(4096).decode().split("\n"))
            except BlockingIOError:
                return found

    def close(self) -> None:
        self._socket.close()


@pytest.fixture(params=["path", "abstract"])
def listener(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Listener]:
    """A manager's socket, under a path and under an abstract name."""
    address = str(tmp_path / "notify") if request.param == "path" else f"@recorder-test-{os.getpid()}"
    found = Listener(address)
    yield found
    found.close()


class FakeWriter:
    """A writer thread."""

    def __init__(self) -> None:
        self.stuck_secs = 0.0


class SteppedClock(FakeClock):
    """A clock on which that many sleeps end, the last of them late; the next one never does."""

    def __init__(self, sleeps: int, late_secs: float = 0.0) -> None:
        super().__init__()
        self.sleeps = sleeps
        self.late_secs = late_secs
        self.done = asyncio.Event()

    async def sleep(self, seconds: float) -> None:
        if len(self.slept) == self.sleeps:
            self.done.set()
            await asyncio.get_running_loop().create_future()
        await super().sleep(seconds)
        self.advance(self.late_secs)


async def reports(
    listener: Listener, clock: SteppedClock, *, watchdog_secs: float | None, writer: FakeWriter | None = None
) -> list[list[str]]:
    """Let a service report as often as its clock lets it; return the messages."""
    line = StatusLine([feed_of("stocks")], Ledger(), clock)
    task = asyncio.create_task(Service(Manager(listener.address, watchdog_secs), line, writer, clock).run())
    await asyncio.wait_for(clock.done.wait(), 10)
    task.cancel()
    await asyncio.wait({task})
    return listener.messages()


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "30000000"}, None),
        ({"NOTIFY_SOCKET": ""}, None),
        ({"NOTIFY_SOCKET": "/run/notify"}, Manager("/run/notify", None)),
        ({"NOTIFY_SOCKET": "@notify", "WATCHDOG_USEC": "30000000"}, Manager("@notify", 30.0)),
        ({"NOTIFY_SOCKET": "@n", "WATCHDOG_USEC": "500000", "WATCHDOG_PID": "7"}, Manager("@n", 0.5)),
        ({"NOTIFY_SOCKET": "@n", "WATCHDOG_USEC": "500000", "WATCHDOG_PID": "8"}, Manager("@n", None)),
        ({"NOTIFY_SOCKET": "@n", "WATCHDOG_USEC": "0"}, Manager("@n", None)),
        ({"NOTIFY_SOCKET": "@n", "WATCHDOG_USEC": "soon"}, Manager("@n", None)),
        ({"NOTIFY_SOCKET": "vsock:2:1234"}, None),
        ({"NOTIFY_SOCKET": "@"}, None),
    ],
)
def test_who_is_to_be_told(environ: dict[str, str], expected: Manager | None) -> None:
    """The variables of sd_notify(3) and sd_watchdog_enabled(3); what cannot be used is left alone."""
    assert manager_of(environ, pid=7) == expected


def test_states_arrive_as_one_message(listener: Listener) -> None:
    """READY with a status line, a reload with its time, its end, and a stop with the time that it may take."""
    clock = FakeClock()
    clock.mono_ns = 5_000_000_000
    feed = feed_of("stocks")
    make_ready(feed, clock)
    service = Service(Manager(listener.address, None), StatusLine([feed], Ledger(), clock), None, clock)
    service.started()
    service.reloading()
    service.reloaded()
    service.draining(12)
    service.stopping(10)
    assert listener.messages() == [
        ["READY=1", "STATUS=stocks streaming; 0 frames/s; lag 0.0 ms; 0 bytes pending"],
        ["RELOADING=1", "MONOTONIC_USEC=5000000"],
        ["READY=1"],
        ["EXTEND_TIMEOUT_USEC=22000000", "STATUS=draining"],
        ["STOPPING=1", "EXTEND_TIMEOUT_USEC=20000000", "STATUS=stopping"],
    ]


async def test_a_sign_of_life_at_least_at_half_of_the_time(listener: Listener) -> None:
    """With a watchdog of 4 s one every 2 s, with a lazy one every 5 s with the status."""
    clock = SteppedClock(3)
    messages = await reports(listener, clock, watchdog_secs=4)
    assert clock.slept == [2, 2, 2]
    assert [message[0] for message in messages] == ["WATCHDOG=1"] * 3
    clock = SteppedClock(2)
    await reports(listener, clock, watchdog_secs=60)
    assert clock.slept == [5, 5]


async def test_no_sign_of_life_where_nobody_watches(listener: Listener) -> None:
    """Without a watchdog only the status line comes."""
    messages = await reports(listener, SteppedClock(2), watchdog_secs=None)
    assert [[line.partition("=")[0] for line in message] for message in messages] == [["STATUS"]] * 2


async def test_no_sign_of_life_from_a_stuck_writer(listener: Listener) -> None:
    """A writer that is stuck for longer than a disk may hang ends the signs, and the log says why."""
    writer = FakeWriter()
    writer.stuck_secs = WRITER_STUCK_SECS
    messages = await reports(listener, SteppedClock(1), watchdog_secs=4, writer=writer)
    assert [message[0] for message in messages] == ["WATCHDOG=1"]
    writer.stuck_secs = WRITER_STUCK_SECS + 1
    with capture_logs() as logged:
        messages = await reports(listener, SteppedClock(3), watchdog_secs=4, writer=writer)
    assert [message[0].partition("=")[0] for message in messages] == ["STATUS"] * 3
    assert [line["event"] for line in logged].count("writer_stuck") == 1


async def test_the_status_says_how_late_the_loop_is(listener: Listener) -> None:
    """Half a second late shows as such."""
    messages = await reports(listener, SteppedClock(1, late_secs=0.5), watchdog_secs=None)
    assert "lag 500.0 ms" in messages[0][0]


def test_the_status_names_feeds_rate_pending_drops_and_failures() -> None:
    """Each feed that does not stream says why; the rate is that since the last line; a key is never shown."""
    clock = FakeClock()
    good, bad = feed_of("stocks"), feed_of("crypto")
    make_ready(good, clock)
    bad.reason = "could not connect:\nconnection refused"
    ledger = Ledger()
    sink = ledger.sink("ndjson")
    sink.pending_bytes = 3 * 1024 * 1024
    sink.dropped["stocks", "T"] = 1234
    sink.failure = "No space left on device"
    line = StatusLine([good, bad], ledger, clock)
    good.frames_received = 50_000
    clock.advance(5)
    assert line.next(0.0012) == (
        "stocks streaming; crypto: could not connect: connection refused; 10,000 frames/s; lag 1.2 ms; "
        "3.0 MiB pending; 1,234 dropped; ndjson: No space left on device"
    )
    clock.advance(5)
    assert "; 0 frames/s;" in line.next(0)


def test_a_manager_that_does_not_read_is_told_later(listener: Listener) -> None:
    """While its socket is full nothing waits or fails; the last messages come, in order, when it reads again."""
    notifier = Notifier(listener.address, FakeClock())
    sent = 0
    while not notifier._unsent:
        notifier.send(f"N={sent}")
        sent += 1
        assert sent < 100_000, "the socket never fills"
    notifier.send("READY=1")
    assert len(listener.messages()) == sent - 1
    notifier.send("WATCHDOG=1")
    assert listener.messages() == [[f"N={sent - 1}"], ["READY=1"], ["WATCHDOG=1"]]


@pytest.mark.parametrize("address", ["/nowhere/notify", "/" + "x" * 200])
def test_a_manager_that_is_gone_is_a_warning(address: str) -> None:
    """It is said once in a while, and nothing is kept."""
    notifier = Notifier(address, HeldClock())
    with capture_logs() as logged:
        notifier.send("READY=1")
        notifier.send("WATCHDOG=1")
    assert not notifier._unsent
    assert [line["event"] for line in logged] == ["notify_failed"]
