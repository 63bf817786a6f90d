"""The supervisor: order of start and stop, what each failure means, and that everything is closed whatever happens."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from typing import Any

import pytest
from fakes import FakeClock
from structlog.testing import capture_logs
from waiting import eventually

from recorder.backoff import STABLE_SECS
from recorder.errors import ArchiveConfigError, ConfigError, KeyRefused, RecorderError
from recorder.part import Part
from recorder.signals import SECOND_SIGNAL_STATUS, Signals
from recorder.supervisor import (
    RESTART_FIRST_SECS,
    RESTART_SECS_MAX,
    FailureTable,
    Level,
    OnFailure,
    Supervisor,
)


class FakePart:
    """A part that does what it is told, and writes down what is done to it."""

    def __init__(self, name: str, story: list[str], **raising: Exception | list[Exception | None]) -> None:
        """`raising`: what `open`, `run` or `close` raises; of a list one entry a call, then nothing."""
        self.name = name
        self.story = story
        self._raising = {call: _endless(errors) for call, errors in raising.items()}
        self.opens = asyncio.Event()
        """`open` returns once it is set; it is, unless a test clears it."""
        self.opens.set()
        self.closes = asyncio.Event()
        """The same for `close`."""
        self.closes.set()
        self.breaks = asyncio.Event()
        """`run` raises once it is set."""
        self.ends = asyncio.Event()
        """`run` returns once it is set."""
        self.deadlines_ns: list[int] = []

    def _do(self, call: str) -> None:
        self.story.append(f"{call} {self.name}")
        error = self._raising[call]() if call in self._raising else None
        if error is not None:
            raise error

    async def open(self) -> None:
        await self.opens.wait()
        self._do("open")

    async def run(self) -> None:
        self._do("run")
        for event in (self.breaks, self.ends):
            event.clear()
        waits = [asyncio.ensure_future(event.wait()) for event in (self.breaks, self.ends)]
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
        if self.breaks.is_set():
            raise ZeroDivisionError(self.name)

    async def close(self, deadline_ns: int) -> None:
        self.deadlines_ns.append(deadline_ns)
        await self.closes.wait()
        self._do("close")


def _endless(errors: Exception | list[Exception | None]) -> Callable[[], Exception | None]:
    if isinstance(errors, Exception):
        return lambda: errors
    rest = iter(errors)
    return lambda: next(rest, None)


class Bench:
    """Parts of two levels under one supervisor on a fake clock: `ops`, then `archive`, `zmq` and `servers`."""

    def __init__(self, close_secs: float = 10.0, **raising: dict[str, Any]) -> None:
        self.story: list[str] = []
        self.clock = FakeClock()
        self.parts = {
            name: FakePart(name, self.story, **raising.get(name, {}))
            for name in ("ops", "archive", "zmq", "servers")
        }
        ops, *edges = self.parts.values()
        part: Part = ops  # a fake has the real interface
        self.supervisor = Supervisor(
            [Level([part], 1.0, carries_data=False), Level(edges, close_secs)],
            FailureTable(essential={"archive"}, fatal=(KeyRefused,)),
            self.clock,
            stopping=lambda reason: self.story.append(f"stopping {reason}"),
            uniform=lambda low, high: high,
        )
        self.states = {stats.name: stats for stats in self.supervisor.parts}
        self.task: asyncio.Task[None] | None = None

    def start(self) -> asyncio.Task[None]:
        self.task = asyncio.create_task(self.supervisor.run(lambda: self.story.append("started")))
        return self.task

    async def up(self) -> asyncio.Task[None]:
        """Start, and wait until every part runs."""
        task = self.start()
        await eventually(lambda: {"started", *(f"run {name}" for name in self.parts)} <= set(self.story))
        return task

    @property
    def closed(self) -> list[str]:
        return [entry.removeprefix("close ") for entry in self.story if entry.startswith("close ")]


async def test_parts_start_in_order_and_stop_in_reverse() -> None:
    """Each part runs before the next one is opened; levels close in reverse, the parts of one together."""
    bench = Bench()
    task = await bench.up()
    assert [entry for entry in bench.story if not entry.startswith("run")] == [
        *("open ops", "open archive", "open zmq", "open servers", "started")
    ]
    assert bench.story.index("run ops") < bench.story.index("open archive")
    bench.supervisor.stop("SIGTERM")
    await task
    assert bench.story[-5:] == [
        "stopping SIGTERM",
        "close archive",
        "close zmq",
        "close servers",
        "close ops",
    ]
    assert {stats.state for stats in bench.states.values()} == {"closed"}
    assert bench.supervisor.reason == "SIGTERM"


async def test_every_part_is_told_its_deadline() -> None:
    """The parts of a level have that level's time, counted from when its turn comes."""
    bench = Bench()
    task = await bench.up()
    now_ns = bench.clock.monotonic_ns()
    bench.supervisor.stop("over")
    await task
    assert bench.parts["archive"].deadlines_ns == [now_ns + 10_000_000_000]
    assert bench.parts["ops"].deadlines_ns == [now_ns + 1_000_000_000]


@pytest.mark.parametrize("name", ["ops", "zmq", "archive"])
async def test_a_config_error_at_start_ends_the_process_with_everything_released(name: str) -> None:
    """A used port, a bad certificate, an archive that another owns: exit 78, and what was opened is closed."""
    bench = Bench(**{name: {"open": ArchiveConfigError("owned by another")}})
    with pytest.raises(ConfigError, match="owned by another"):
        await bench.start()
    opened = [entry.removeprefix("open ") for entry in bench.story if entry.startswith("open ")]
    assert sorted(bench.closed) == sorted(opened)
    assert "started" not in bench.story
    assert opened[-1] == name


async def test_any_other_failure_at_start_degrades_the_part_alone() -> None:
    """The next parts are opened without it, and it comes back by itself."""
    bench = Bench(zmq={"open": [OSError("no processes left"), None]})
    bench.parts["zmq"].opens.clear()
    task = bench.start()
    await eventually(lambda: bench.states["zmq"].state == "starting")
    bench.parts["zmq"].opens.set()
    await eventually(lambda: bench.states["servers"].state == "up" and bench.states["zmq"].state == "up")
    assert bench.states["zmq"].restarts == 1
    assert bench.story.count("started") == 1
    bench.supervisor.stop("over")
    await task


async def test_a_part_that_fails_while_running_is_closed_and_opened_again() -> None:
    """Nobody else notices; the log names the defect, and the count stays."""
    bench = Bench()
    task = await bench.up()
    before = len(bench.story)
    with capture_logs() as logs:
        bench.parts["servers"].breaks.set()
        await eventually(lambda: bench.story[-1] == "run servers" and len(bench.story) > before)
    assert bench.story[before:] == ["close servers", "open servers", "run servers"]
    [line] = logs
    assert (line["log_level"], line["part"], line["restarts"]) == ("error", "servers", 1)
    assert "ZeroDivisionError" in line["error"]
    assert (bench.states["servers"].state, bench.states["servers"].restarts) == ("up", 1)
    bench.supervisor.stop("over")
    await task


async def test_a_degraded_part_says_why_until_it_is_up_again() -> None:
    """Meanwhile its state is `degraded`, in words; what it failed with last, and when, stays."""
    bench = Bench(servers={"open": [None, ConfigError("the port is in use")]})
    task = await bench.up()
    servers = bench.parts["servers"]
    servers.closes.clear()
    servers.breaks.set()
    await eventually(lambda: bench.states["servers"].state == "degraded")
    assert bench.states["servers"].reason == "a defect: ZeroDivisionError: servers"
    servers.closes.set()
    await eventually(lambda: bench.states["servers"].state == "up")
    assert bench.states["servers"].reason == ""
    assert bench.states["servers"].failure == "the port is in use"
    waited_secs = 2 * RESTART_FIRST_SECS
    assert bench.states["servers"].failed_at == (bench.clock.now_ns - int(waited_secs * 1e9)) // 1_000_000
    assert (bench.states["zmq"].failure, bench.states["zmq"].failed_at) == ("", 0)
    assert bench.states["servers"].restarts == 2, "a ConfigError ends nothing once the process has started"
    bench.supervisor.stop("over")
    await task


async def test_restarts_back_off_up_to_a_bound_and_begin_again_after_a_stable_time() -> None:
    """The waits double and are capped; a part that then works for a minute starts with short waits again."""
    failures: list[Exception | None] = [None, *[OSError("again")] * 8, None, OSError("once more"), None]
    bench = Bench(servers={"open": failures})
    task = await bench.up()
    servers = bench.parts["servers"]
    servers.breaks.set()
    await eventually(lambda: bench.states["servers"].restarts == 9 and bench.states["servers"].state == "up")
    doubling = [RESTART_FIRST_SECS * 2**power for power in range(9)]
    assert bench.clock.slept == [min(secs, RESTART_SECS_MAX) for secs in doubling]
    bench.clock.advance(STABLE_SECS)
    servers.breaks.set()
    await eventually(lambda: bench.states["servers"].restarts == 11 and bench.states["servers"].state == "up")
    assert bench.clock.slept[9:] == doubling[:2]
    bench.supervisor.stop("over")
    await task


async def test_the_archive_that_fails_stops_everything_in_order() -> None:
    """Without it the process has no purpose: all parts are closed, then its error is raised."""
    bench = Bench()
    task = await bench.up()
    bench.parts["archive"].breaks.set()
    with pytest.raises(ZeroDivisionError, match="archive"):
        await task
    assert (set(bench.closed[:-1]), bench.closed[-1]) == ({"archive", "zmq", "servers"}, "ops")
    assert "stopping failed" in bench.story
    assert bench.states["archive"].reason


async def test_an_error_that_only_an_operator_can_mend_stops_everything() -> None:
    """A key that was refused for every feed ends the process, whichever part says so."""
    bench = Bench(zmq={"run": KeyRefused("wrong key")})
    with pytest.raises(KeyRefused):
        await bench.start()
    opened = [entry.removeprefix("open ") for entry in bench.story if entry.startswith("open ")]
    assert set(bench.closed) == set(opened)
    assert bench.closed[-1] == "ops"


async def test_a_part_that_raises_while_closing_keeps_no_other_open() -> None:
    """All are closed; then the first of the errors is raised, and every one is in the log."""
    bench = Bench(archive={"close": OSError("archive")}, servers={"close": OSError("servers")})
    task = await bench.up()
    bench.supervisor.stop("SIGTERM")
    with capture_logs() as logs, pytest.raises(OSError, match="archive"):
        await task
    assert bench.closed == ["archive", "zmq", "servers", "ops"]
    assert [line["part"] for line in logs] == ["archive", "servers"]


async def test_two_parts_that_fail_at_once_are_both_started_again() -> None:
    """Failures are independent of each other."""
    bench = Bench()
    task = await bench.up()
    bench.parts["servers"].breaks.set()
    bench.parts["zmq"].breaks.set()
    await eventually(lambda: all(bench.states[name].restarts for name in ("servers", "zmq")))
    await eventually(lambda: {stats.state for stats in bench.states.values()} == {"up"})
    bench.supervisor.stop("over")
    await task


async def test_the_archive_and_another_part_that_fail_at_once() -> None:
    """The archive's failure is the one that is raised, and the other part is closed once for good."""
    bench = Bench()
    task = await bench.up()
    bench.parts["servers"].breaks.set()
    bench.parts["archive"].breaks.set()
    with pytest.raises(ZeroDivisionError, match="archive"):
        await task
    assert set(bench.closed) == {"archive", "zmq", "servers", "ops"}
    assert {stats.state for stats in bench.states.values()} == {"closed"}


async def test_a_stop_during_the_start_closes_what_was_opened() -> None:
    """The `open` that is under way is cancelled, its part is closed; the parts behind it are never touched."""
    bench = Bench()
    bench.parts["archive"].opens.clear()
    task = bench.start()
    await eventually(lambda: bench.states["archive"].state == "starting")
    bench.supervisor.stop("SIGTERM")
    await task
    assert bench.story == ["open ops", "run ops", "stopping SIGTERM", "close archive", "close ops"]
    assert bench.states["zmq"].state == "waiting"


async def test_a_stop_while_a_part_waits_for_its_restart() -> None:
    """The wait ends at once, and the part counts as closed, without an error."""
    bench = Bench()
    never = asyncio.Event()

    async def sleep(seconds: float) -> None:
        await never.wait()

    bench.clock.sleep = sleep  # type: ignore[method-assign]
    task = await bench.up()
    bench.parts["servers"].breaks.set()
    await eventually(lambda: bench.states["servers"].restarts == 1)
    bench.supervisor.stop("SIGTERM")
    await task
    assert bench.states["servers"].state == "closed"


async def test_a_part_that_misses_its_deadline_is_left_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """The others are closed all the same, and the error names the part."""
    monkeypatch.setattr("recorder.supervisor.CLOSE_GRACE_SECS", 0.05)
    bench = Bench(close_secs=0.05)
    task = await bench.up()
    bench.parts["zmq"].closes.clear()
    bench.supervisor.stop("SIGTERM")
    with capture_logs(), pytest.raises(RecorderError, match=r"zmq was not closed within 0\.05 s"):
        await task
    assert bench.closed == ["archive", "servers", "ops"]


async def test_a_part_that_is_over_is_not_started_again() -> None:
    """A source may come to its end; that is no failure, and it stops nothing."""
    bench = Bench()
    task = await bench.up()
    bench.parts["zmq"].ends.set()
    await eventually(lambda: bench.states["zmq"].state == "over")
    assert not task.done()
    bench.supervisor.stop("over")
    await task
    assert bench.story.count("open zmq") == 1
    assert bench.closed.count("zmq") == 1


async def test_a_cancellation_that_comes_from_outside_is_a_failure() -> None:
    """A part whose own task was cancelled by something else is started again."""

    class Cancelled(FakePart):
        async def run(self) -> None:
            self._do("run")
            if self.story.count("run servers") == 1:
                future = asyncio.get_running_loop().create_future()
                future.cancel()
                await future
            await asyncio.Event().wait()

    story: list[str] = []
    supervisor = Supervisor([Level([Cancelled("servers", story)], 1.0)], FailureTable(()), FakeClock())
    task = asyncio.create_task(supervisor.run())
    await eventually(lambda: story.count("run servers") == 2)
    supervisor.stop("over")
    await task


async def test_a_cancelled_supervisor_closes_everything() -> None:
    """Also whoever cancels `run` leaves nothing open."""
    bench = Bench()
    task = await bench.up()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert bench.closed == ["archive", "zmq", "servers", "ops"]


def test_the_table_is_what_its_docstring_says() -> None:
    """Each row of it, for an essential part and for another."""
    table = FailureTable({"archive"}, (KeyRefused,))

    def meanings(error: Exception, *, is_first_open: bool) -> tuple[OnFailure, OnFailure]:
        essential, other = (
            table.meaning(name, error, is_first_open=is_first_open) for name in ("archive", "page")
        )
        return essential, other

    stop, restart = OnFailure.STOP, OnFailure.RESTART
    assert meanings(KeyRefused(""), is_first_open=False) == (stop, stop)
    assert meanings(ConfigError(""), is_first_open=True) == (stop, stop)
    assert meanings(OSError(), is_first_open=True) == (stop, restart)
    assert meanings(ZeroDivisionError(), is_first_open=False) == (stop, restart)
    assert table.meaning("page", ConfigError(""), is_first_open=False) is restart


class OneDrain:
    """Drains for the first stop, if it is to."""

    def __init__(self, story: list[object], *, drains: bool) -> None:
        self._story = story
        self._drains = drains

    def before_stop(self, reason: str) -> bool:
        drains, self._drains = self._drains, False
        if drains:
            self._story.append(f"drain for {reason}")
        return drains

    def toggle(self) -> None:
        self._story.append("toggle")


def heard(*, drains: bool = False) -> tuple[Signals, list[object]]:
    """Return signals and the list of what they do."""
    story: list[object] = []
    signals = Signals(
        story.append,
        lambda: story.append("reopen"),
        lambda: story.append("rotate"),
        OneDrain(story, drains=drains),
        end=story.append,
    )
    return signals, story


def test_the_second_stop_signal_ends_the_process() -> None:
    """The first asks for a stop in order; the next one does not wait for it."""
    signals, story = heard()
    signals.handle(signal.SIGTERM)
    assert story == ["SIGTERM"]
    signals.handle(signal.SIGINT)
    assert story[1] == SECOND_SIGNAL_STATUS


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_a_drain_is_no_stop_yet(second: signal.Signals) -> None:
    """The signal that begins it takes none of the operator's patience: the next one stops in order, the third at once."""
    signals, story = heard(drains=True)
    signals.release()
    for number in (signal.SIGTERM, second, signal.SIGTERM):
        signals.handle(number)
    assert story[:3] == ["drain for SIGTERM", second.name, SECOND_SIGNAL_STATUS]


def test_ctrl_c_drains_nobody() -> None:
    """Who sits before the terminal waits for nothing."""
    signals, story = heard(drains=True)
    signals.release()
    signals.handle(signal.SIGINT)
    assert story == ["SIGINT"]


def test_signals_that_come_too_early_wait() -> None:
    """The other signals are remembered until everything is open; a stop is not, and drains nobody."""
    signals, story = heard(drains=True)
    for number in (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP, signal.SIGTERM):
        signals.handle(number)
    assert story == ["SIGTERM"]
    signals.release()
    assert story == ["SIGTERM", "reopen", "rotate", "toggle"]
    signals.handle(signal.SIGHUP)
    assert story[-1] == "reopen"
