"""One simulation: a recorder, an exchange for each cluster, clients, and faults of every kind, all from one seed."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from archives import archive_settings

from recorder.errors import RecorderError
from simulation.audience import Audience, ClientSide, Visit, check_visit
from simulation.checks import Broken, Checks
from simulation.disk import FAILING, Storage
from simulation.exchange import CLOSE_CODES, Exchange, Mood, Tape
from simulation.loop import Killed, Stuck, VirtualClock, VirtualLoop
from simulation.process import FILTERED, FIREHOSE, Life, Plan, Process
from simulation.programs import Program, check_program

CLUSTERS = ("stocks", "crypto")
DEST = "/archive/polygon.ndjson"
CLIENTS = 4
PROGRAMS = 2
QUIET_SECS_MAX = 3000.0
"""After `max_connections` the recorder may wait for more than twenty minutes."""


@dataclass
class Result:
    """What a simulation came to."""

    seed: int
    hours: float
    faults: Counter[str] = field(default_factory=Counter)
    events: int = 0
    records: int = 0
    runs: int = 0
    digest: str = ""
    """Of all that happened; equal for equal seeds."""
    failure: str = ""


def make_plan(rng: random.Random) -> Plan:
    """Draw the settings."""
    archive = archive_settings(
        DEST,
        max_bytes=rng.choice((None, 2_000, 20_000, 200_000)),
        rotate_secs=rng.choice((None, None, 10, 60)),
        compression=rng.choice(("none", "gzip", "zstd")),
        split_per_type=rng.random() < 0.3,
        flush_every=rng.choice((1, 20, 100)),
        flush_interval_ms=rng.choice((100, 1000)),
        fsync=rng.choice(("never", "rotate", "rotate", "flush", "flush")),
        channel_cap=rng.choice((4, 2048)),
        buffer_bytes=rng.choice((20_000, 1 << 28)),
        retain_bytes=rng.choice((None, None, None, 100_000)),
        retain_secs=rng.choice((None, None, None, 120)),
        pressure=rng.choice(("stop", "sample")),
        min_free_bytes=rng.choice((0, 0, 5_000)),
    )
    return Plan(
        archive=archive,
        include=rng.choice(((), (), ("T:*",), ("T:S1", "Q:*"))),
        sample_quotes=rng.choice((1, 1, 3)),
        read_timeout_secs=rng.choice((5.0, 60.0)),
        heartbeat_interval_secs=rng.choice((0.0, 2.0, 30.0)),
        shutdown_secs=rng.choice((0.5, 10.0)),
        clusters=CLUSTERS[: rng.randint(1, 2)],
        resume_bytes=rng.choice((0, 3_000, 100_000, 1 << 20)),
    )


class World:
    """Everything there is. `run` raises `Broken` where something that must hold does not."""

    def __init__(self, seed: int, hours: float, change: Callable[[Plan], Plan] = lambda plan: plan) -> None:
        self.rng = random.Random(seed)
        self.loop = VirtualLoop()
        self.clock = VirtualClock(self.loop)
        self.plan = change(make_plan(self.rng))
        self.result = Result(seed, hours)
        self.tape = Tape()
        self.exchanges = {
            cluster: Exchange(cluster, 9000 + place, self.tape, self.loop, self.clock, self._fork())
            for place, cluster in enumerate(self.plan.clusters)
        }
        self.storage = Storage(self._fork(), self.clock.wall_ns)
        self.checks = Checks(self.plan, self.storage, self.tape)
        self.audience = Audience(self.loop, self._fork(), self.plan.clusters)
        self.programs = [Program(self.clock, self._fork(), self.plan.clusters) for _ in range(PROGRAMS)]
        self.process: Process | None = None
        self.began_at = self.loop.time()
        self.faults_end = self.began_at + hours * 3600
        self.calm_since = 0.0
        self.is_quiet = False
        self.moved = 0
        self._doom = ""
        """How the process dies at the disk call that its end is set to."""
        self._trace = hashlib.sha256()

    def _fork(self) -> random.Random:
        return random.Random(self.rng.random())

    def run(self) -> Result:
        """Live through it all."""
        asyncio.set_event_loop(self.loop)
        try:
            self.loop.run_until_complete(self._run())
        except Stuck:
            raise Broken("nothing is scheduled any more: a part waits for ever") from None
        finally:
            pending = asyncio.all_tasks(self.loop)
            for task in pending:
                task.cancel()
            self.loop.run_until_complete(asyncio.gather(*pending, return_exceptions=True))
            self.loop.run_until_complete(self.loop.shutdown_asyncgens())
            asyncio.set_event_loop(None)
            self.loop.close()
        result = self.result
        result.events = len(self.tape.events)
        result.runs = len(self.checks.lives)
        result.hours = (self.loop.time() - self.began_at) / 3600
        for name, inode in sorted(self.storage.names.items()):
            if not name.endswith(".lock"):  # the number of a real process
                self._trace.update(name.encode() + inode.data)
        self._trace.update(repr((self.loop.time(), sorted(result.faults.items()), result.runs)).encode())
        result.digest = self._trace.hexdigest()
        return result

    async def _run(self) -> None:
        tasks = [
            asyncio.ensure_future(self._supervise()),
            asyncio.ensure_future(self._make_trouble()),
            *(asyncio.ensure_future(self.audience.run(n, self._present_life)) for n in range(CLIENTS)),
            *(asyncio.ensure_future(program.run()) for program in self.programs),
        ]
        main = asyncio.ensure_future(self._follow())
        done, _ = await asyncio.wait([main, *tasks], return_when=asyncio.FIRST_COMPLETED)
        for task in (*tasks, main):
            task.cancel()
        for task in done:
            task.result()

    def _present_life(self) -> Life | None:
        process = self.process
        return process.life if process is not None and not process.is_stopping else None

    # The machine: it starts the recorder again whenever it has ended.

    async def _supervise(self) -> None:
        while True:
            life = Life(len(self.checks.lives) + 1)
            self.checks.lives.append(life)
            process = Process(
                life,
                self.plan,
                self.storage,
                self.exchanges,
                self.loop,
                self.clock,
                self._fork(),
                self._died,
                self.checks.began,
                self.checks.ticked,
            )
            self.process = process
            if self._doom == "next":
                process.disk.dies_after = self.rng.randint(0, 40)
                self._doom = self.rng.choice(("kill", "power"))
            try:
                await process.start()
                await process.ended
            except Killed:
                self.result.faults["died while starting"] += 1
            except RecorderError:
                life.end = "refused"
                self.result.faults["refused to start"] += 1
                if self.is_quiet:
                    raise
            await self._bury(process)
            await asyncio.sleep(self.rng.uniform(0.1, 20))

    async def _bury(self, process: Process) -> None:
        self.process = None
        if not life_ended_by_fault(process.life):
            process.life.end = process.life.end or "exit"
            if process.life.end == "exit" and not process.disk.is_dead:
                # Whatever a hung thread has left undone is as after a kill.
                self.checks.died(process.life, "exit", self.loop.time(), 0.0, 0)
        await process.bury()
        for visit in self.audience.visits:
            self._check_visit(visit)
        self.audience.visits = [side.visit for side in self.audience.sides]

    def _check_programs(self) -> None:
        for program in self.programs:
            wrong = check_program(program, self.checks.lives, self.tape)
            if wrong:
                raise Broken(wrong)

    def _check_visit(self, visit: Visit) -> None:
        wrong = check_visit(visit, self.tape)
        if wrong:
            raise Broken(wrong)

    def _died(self) -> None:
        self._kill(self._doom or "kill")

    def _kill(self, kind: str) -> None:
        """End the process without a word, or the whole machine."""
        process = self.process
        if process is None or process.disk.is_dead:
            return
        self._doom = ""
        process.life.end = kind
        now = self.loop.time()
        calm_since = max(self.calm_since, self.storage.stalled_until)
        try:
            calm_secs = now - calm_since if self.storage.is_well else 0.0
            dropped = sum(process.sink.stats.dropped.values())
            self.checks.died(process.life, kind, now, calm_secs, dropped)
        except Broken as error:
            process.fail(error)
        process.die()
        if kind == "power":
            self.storage.lose_power()

    # Trouble.

    async def _make_trouble(self) -> None:
        rng = self._fork()
        pace_secs = rng.choice((3.0, 20.0, 100.0))
        kinds: list[tuple[str, Callable[[random.Random], object]]] = [
            ("disk error", self._fail_disk),
            ("disk error", self._fail_disk),
            ("disk full", self._fill_disk),
            ("short writes", self._shorten_writes),
            ("slow disk", self._slow_disk),
            ("hung disk", self._hang_disk),
            ("kill", lambda rng: self._kill("kill")),
            ("kill at a disk call", lambda rng: self._kill_at_call(rng, "kill")),
            ("power loss", lambda rng: self._kill("power")),
            ("power loss at a disk call", lambda rng: self._kill_at_call(rng, "power")),
            ("death while starting", self._kill_next),
            ("SIGTERM", self._terminate),
            ("SIGHUP", self._hang_up),
            ("SIGHUP", self._hang_up),
            ("moved and SIGHUP", self._move),
            ("SIGUSR1", self._rotate),
            ("clock jump", self._jump),
            ("upstream refused", self._refuse),
            ("upstream mute", self._mute),
            ("upstream slow steps", lambda rng: self._mood(rng, step_secs=rng.choice((0.5, 8.0)))),
            ("upstream odd", lambda rng: self._mood(rng, odd=rng.uniform(0.1, 0.9))),
            ("upstream burst", lambda rng: self._mood(rng, burst=rng.choice((10, 60)))),
            ("upstream forgets acks", lambda rng: self._mood(rng, forgets_acks=rng.uniform(0.2, 1))),
            ("upstream cut mid-frame", self._each("cut")),
            ("upstream closed", self._close),
            ("upstream FIN", self._each("finish")),
            ("upstream half-open", self._each("hang")),
            ("max_connections", self._limit),
            ("client stops reading", self._stop_reading),
            ("program cut", lambda rng: self._break_program(rng, "reset")),
            ("program cut", lambda rng: self._break_program(rng, "reset")),
            ("program half-open", lambda rng: self._break_program(rng, "hang")),
        ]
        while True:
            await asyncio.sleep(rng.expovariate(1 / pace_secs))
            if self.loop.time() >= self.faults_end:
                break
            name, act = rng.choice(kinds)
            self.result.faults[name] += 1
            act(rng)
        await asyncio.get_running_loop().create_future()

    def _for_a_while(self, rng: random.Random, undo: Callable[[], object], secs: float = 20.0) -> None:
        self.loop.call_later(rng.expovariate(1 / secs), undo)

    def _fail_disk(self, rng: random.Random) -> None:
        call = rng.choice(FAILING)
        number = rng.choice((errno.EIO, errno.ENOSPC, errno.EACCES))
        self.storage.errors[call] = (number, rng.choice((0.3, 1.0)))
        self._for_a_while(rng, self._heal_disk)

    def _heal_disk(self) -> None:
        self.storage.heal()
        self.calm_since = self.loop.time()

    def _fill_disk(self, rng: random.Random) -> None:
        self.storage.capacity_bytes = self.storage.used_bytes + rng.choice((0, 3_000, 30_000))
        self._for_a_while(rng, self._heal_disk)

    def _shorten_writes(self, rng: random.Random) -> None:
        self.storage.is_short = True
        self._for_a_while(rng, self._heal_disk)

    def _slow_disk(self, rng: random.Random) -> None:
        self.storage.delay = (rng.uniform(0.1, 1), rng.choice((0.05, 0.5, 3)))
        self._for_a_while(rng, self._heal_disk)

    def _hang_disk(self, rng: random.Random) -> None:
        self.storage.delay = (1.0, 60.0)
        self.loop.call_later(0.5, self._heal_disk)

    def _kill_at_call(self, rng: random.Random, kind: str) -> None:
        if self.process is not None and not self.process.disk.is_dead:
            self._doom = kind
            self.process.disk.dies_after = rng.randint(0, 60)

    def _kill_next(self, rng: random.Random) -> None:
        self._kill(rng.choice(("kill", "power")))
        self._doom = "next"

    def _terminate(self, rng: random.Random) -> None:
        if self.process is not None:
            self.process.stop()

    def _hang_up(self, rng: random.Random) -> None:
        if self._present_life() is not None and self.process is not None:
            self.process.hang_up()

    def _move(self, rng: random.Random) -> None:
        """What logrotate does: rename, then signal."""
        if DEST in self.storage.names and self._present_life() is not None and self.process is not None:
            self.moved += 1
            self.storage.rename(DEST, f"{DEST}.{self.moved}")
            self.storage.sync_folder("/archive")
            if rng.random() < 0.7:
                self.process.hang_up()

    def _rotate(self, rng: random.Random) -> None:
        if self._present_life() is not None and self.process is not None:
            self.process.rotate()

    def _jump(self, rng: random.Random) -> None:
        self.clock.offset_ns += int(rng.choice((-3600, -5, -0.5, 0.5, 60, 86_400)) * 1e9)

    def _some(self, rng: random.Random) -> Exchange:
        return rng.choice(list(self.exchanges.values()))

    def _refuse(self, rng: random.Random) -> None:
        exchange = self._some(rng)
        self.loop.network.refused.add(exchange.address)
        for side in list(exchange.live):
            side.finish()
        self._for_a_while(rng, lambda: self.loop.network.refused.discard(exchange.address))

    def _mute(self, rng: random.Random) -> None:
        exchange = self._some(rng)
        self.loop.network.silent.add(exchange.address)
        for side in list(exchange.live):
            side.hang()
        self._for_a_while(rng, lambda: self.loop.network.silent.discard(exchange.address))

    def _mood(self, rng: random.Random, **changes: object) -> None:
        exchange = self._some(rng)
        exchange.mood = replace(exchange.mood, **changes)  # type: ignore[arg-type]
        self._for_a_while(rng, lambda: setattr(exchange, "mood", Mood()))

    def _limit(self, rng: random.Random) -> None:
        exchange = self._some(rng)
        for side in list(exchange.live):
            side.say("max_connections", "Maximum number of websocket connections exceeded.")
            side.close(1008, ours=False)
        self._mood(rng, refuses="max_connections")

    def _close(self, rng: random.Random) -> None:
        for side in list(self._some(rng).live):
            side.close(rng.choice(CLOSE_CODES))

    def _each(self, what: str) -> Callable[[random.Random], None]:
        def act(rng: random.Random) -> None:
            for side in list(self._some(rng).live):
                getattr(side, what)()

        return act

    def _stop_reading(self, rng: random.Random) -> None:
        if self.audience.sides:
            rng.choice(self.audience.sides).stop_reading()

    def _break_program(self, rng: random.Random, how: str) -> None:
        """Break the connection of a program, with its knowledge or without."""
        pipes = [
            pipe
            for pipe in self.loop.network.pipes
            if pipe.near.get_extra_info("peername") in (FIREHOSE, FILTERED)
            and not isinstance(pipe.near.get_protocol(), ClientSide)
        ]
        if pipes:
            pipe = rng.choice(pipes)
            if how == "reset":
                pipe.reset()
            else:
                pipe.is_dead = True

    # The end: after the faults, everything must be well again.

    async def _follow(self) -> None:
        await asyncio.sleep(self.faults_end - self.loop.time())
        self.is_quiet = True
        self._heal_disk()
        self._doom = ""
        self.loop.network.refused.clear()
        self.loop.network.silent.clear()
        for exchange in self.exchanges.values():
            exchange.mood = Mood()
        if self.process is not None:
            self.process.disk.dies_after = None
        self.audience.steady = True
        for program in self.programs:
            program.steady = True
        for client in list(self.audience.sides):
            client.leave()
        process = await self._until_well()
        await self._until_recorded(process)
        await self._until_followed(process)
        process.stop()
        await process.ended
        if process.refused is not None:
            raise process.refused
        self.checks.check_books(process)
        self.checks.check_connections(self.exchanges.values())
        for visit in self.audience.visits:
            self._check_visit(visit)
        self._check_programs()
        self.result.records = self.checks.ended().records

    async def _until_well(self) -> Process:
        """Wait until the recorder is ready, as it says itself and as its data shows."""
        deadline = self.loop.time() + QUIET_SECS_MAX
        reasons: object = "no process"
        while self.loop.time() < deadline:
            await asyncio.sleep(5)
            process = self.process
            if process is None or process.is_stopping or not process.feed_stats:
                continue
            reasons = process.reasons_not_ready
            if not reasons:
                return process
        raise Broken(f"not ready {QUIET_SECS_MAX:g} s after the faults have ended: {reasons}")

    async def _until_recorded(self, process: Process) -> None:
        """Wait until what comes now is on the disk, nothing is pending, and the clients have it."""
        began_at = self.loop.time()
        for _ in range(120):
            await asyncio.sleep(5)
            fresh = {cluster for at, cluster, _ in process.life.received if at > began_at}
            done = sum(process.sink.stats.recorded.values()) and process.sink.queue.pending_bytes < 20_000
            if fresh == set(self.plan.clusters) and done:
                break
        else:
            raise Broken(f"not recording again: {process.sink!r}, {process.feeds!r}")
        steady = [side.visit for side in self.audience.sides if side.visit.subscribed and not side.visit.over]
        await asyncio.sleep(30)
        numbers = process.life.received
        for visit in steady:
            if visit.port == "firehose" and visit.life is process.life and not visit.over:
                last = max(
                    (
                        number
                        for at, cluster, number in numbers
                        if cluster == visit.cluster and visit.began_at + 1 < at < self.loop.time() - 1
                    ),
                    default=0,
                )
                if max(visit.numbers, default=0) < last:
                    raise Broken(f"a firehose client stands still at {visit.numbers[-1:]}")

    async def _until_followed(self, process: Process) -> None:
        """Wait until the programs have what has come by now."""
        due = {program: program.last_of(process.life, self.tape) for program in self.programs}
        for _ in range(40):
            if all((program.numbers or [0])[-1] >= number for program, number in due.items()):
                return
            await asyncio.sleep(5)
        raise Broken(f"a program stands still: {self.programs!r}")


def life_ended_by_fault(life: Life) -> bool:
    """Return whether it was killed."""
    return life.end in ("kill", "power", "refused")
