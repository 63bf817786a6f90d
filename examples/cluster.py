"""A whole cluster on this machine, to kill parts of: `make cluster`.

A simulated exchange; two recorders that write one stream, each event once; three NATS servers that keep it; two tiers
that serve it, and HAProxy before them. What ends is started again, Ctrl-C ends everything.
"""

from __future__ import annotations

import argparse
import http.client
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

HAPROXY: Final = Path(__file__).parents[1] / "proxy" / "haproxy.cfg"
"""The configuration of docs/proxies.md, which is used with the ports of this cluster."""
PAGES: Final = """\
listen pages
    bind 127.0.0.1:{port}
    balance first
    option httpchk GET /health
    # A page that was being asked when its recorder ended is asked at another one.
    option redispatch 1
    retry-on all-retryable-errors
"""
"""The live pages at one address, that of the first recorder that works."""
RECORDER: Final = (sys.executable, "-m", "recorder")
TOKEN: Final = "demo"  # noqa: S105 - nobody but this machine can use it
LOOK_SECS: Final = 0.25
ASK_SECS: Final = 2.0
STOP_SECS: Final = 20.0
START_SECS: Final = 120.0


@dataclass
class Program:
    """One process of the cluster, and what it is for."""

    name: str
    command: Sequence[str]
    folder: Path
    when_killed: str = ""
    """What the others do without it; empty: nobody is asked to kill it."""
    settings: Mapping[str, str] = field(default_factory=dict)
    ops: int = 0
    """The port on which a recorder says whether it is ready; 0: it is no recorder."""
    process: subprocess.Popen[bytes] | None = None
    again_at: float = 0.0
    is_ready: bool = False

    @property
    def pid(self) -> int:
        """The process; 0 before the first."""
        return self.process.pid if self.process is not None else 0

    def start(self) -> None:
        """Begin. What it writes goes into a file of its own."""
        self.folder.mkdir(parents=True, exist_ok=True)
        kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR") if name in os.environ}
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                self.command,
                cwd=self.folder,
                env={**kept, "ENV_FILE": "", **self.settings},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is ours to pass on, in order
            )

    def ask(self) -> bool:
        """Return whether it is ready, as far as it can be asked; where not, whether it runs."""
        if not self.ops:
            return self.process is not None and self.process.poll() is None
        asking = http.client.HTTPConnection("127.0.0.1", self.ops, timeout=ASK_SECS)
        try:
            asking.request("GET", "/ready")
            return asking.getresponse().status == http.HTTPStatus.OK
        except (OSError, http.client.HTTPException):
            return False
        finally:
            asking.close()

    def stop(self) -> None:
        """Ask it to end."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.terminate()

    def end(self, until: float) -> None:
        """See to it that it has ended."""
        if self.process is None:
            return
        try:
            self.process.wait(max(0.1, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


class Ports:
    """Numbers of ports that nobody listened on when the cluster began."""

    def __init__(self) -> None:
        self._held: list[socket.socket] = []

    def take(self) -> int:
        """Return one that was not returned before."""
        taken = socket.socket()
        taken.bind(("127.0.0.1", 0))
        self._held.append(taken)
        port: int = taken.getsockname()[1]
        return port

    def free(self) -> None:
        """Let programs listen on them."""
        for taken in self._held:
            taken.close()


class Cluster:
    """All programs, in the order of their start."""

    def __init__(self, folder: Path, rate: int, again_secs: float) -> None:
        """`again_secs`: how long what has ended stays away, so that somebody can see what the others do."""
        self.folder = folder
        self.again_secs = again_secs
        self._ports = Ports()
        take = self._ports.take
        self._exchange, self.page, self.feed = take(), take(), take()
        self._nats = [take() for _ in range(3)]
        self._ops = {name: take() for name in ("recorder-1", "recorder-2", "tier-1", "tier-2")}
        self._filtered = {name: take() for name in ("tier-1", "tier-2")}
        self.urls = [f"http://127.0.0.1:{port}" for port in self._ops.values()]
        self.programs = [
            self._make_exchange(rate),
            *self._make_nats(),
            *self._make_recorders(),
            *self._make_tiers(),
        ]
        self.programs.append(self._make_balancer())

    def start(self) -> None:
        """Start everything. Each waits for what it needs."""
        self._ports.free()
        for program in self.programs:
            program.start()

    def stop(self) -> None:
        """End everything, clients' side first."""
        until = time.monotonic() + STOP_SECS
        for kind in ("balancer", "tier", "recorder", "nats", "exchange"):
            ending = [program for program in self.programs if program.name.startswith(kind)]
            for program in ending:
                program.stop()
            for program in ending:
                program.end(until)

    def look(self) -> Iterator[str]:
        """Start again what has ended for a while; yield what has happened."""
        now = time.monotonic()
        for program in self.programs:
            process = program.process
            if process is not None and process.poll() is not None and not program.again_at:
                program.again_at, program.is_ready = now + self.again_secs, False
                status = process.returncode
                why = signal.Signals(-status).name if status < 0 else f"status {status}"
                yield f"{program.name} has ended ({why}); it is started again in {self.again_secs:g} s"
            elif program.again_at and now >= program.again_at:
                program.again_at = 0.0
                program.start()
                yield f"{program.name} is started again: kill -9 {program.pid}"
            elif not program.again_at and program.ask() is not program.is_ready:
                program.is_ready = not program.is_ready
                yield f"{program.name} {'works' if program.is_ready else 'does not work'}"

    def _make_exchange(self, rate: int) -> Program:
        command = (
            *RECORDER,
            "simulate",
            "--port",
            str(self._exchange),
            "--cluster",
            "stocks",
            "--rate",
            str(rate),
        )
        return Program("exchange", (*command, "--symbols", "50"), self.folder / "exchange")

    def _make_nats(self) -> Iterator[Program]:
        ports = [self._ports.take() for _ in self._nats]
        routes = ", ".join(f"nats://127.0.0.1:{port}" for port in ports)
        for number, (port, route) in enumerate(zip(self._nats, ports, strict=True), start=1):
            folder = self.folder / f"nats-{number}"
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "nats.conf").write_text(
                f"server_name: nats-{number}\nlisten: 127.0.0.1:{port}\n"
                f'jetstream {{ store_dir: "{folder / "store"}", max_file_store: 1GB }}\n'
                f"cluster {{ name: md, listen: 127.0.0.1:{route}, routes: [{routes}] }}\n"
            )
            words = (
                "the other two elect a leader, if it was that; what comes meanwhile waits in the recorders"
            )
            yield Program(f"nats-{number}", (installed("nats-server"), "-c", "nats.conf"), folder, words)

    def _recorder(self, name: str, words: str, settings: Mapping[str, str]) -> Program:
        common = {
            "POLYGON_CLUSTER": "stocks",
            "NATS_URL": ",".join(f"nats://127.0.0.1:{port}" for port in self._nats),
            "METRICS_ADDR": f"127.0.0.1:{self._ops[name]}",
            "PAGE_RECORDERS": ",".join(self.urls),
            "SESSION_CALENDAR": "off",  # this market never closes
            "STATS_INTERVAL_SECS": "0",
        }
        command = (*RECORDER, "run")
        return Program(name, command, self.folder / name, words, {**common, **settings}, self._ops[name])

    def _make_recorders(self) -> Iterator[Program]:
        for name, other in (("recorder-1", "recorder-2"), ("recorder-2", "recorder-1")):
            settings = {
                "POLYGON_API_KEY": f"key-of-{name}",
                "POLYGON_WS_URL": f"ws://127.0.0.1:{self._exchange}",
                "SUBSCRIPTION": "T.*,Q.*,A.*",
                "ROLES": "archive,ops",
                "SINK": "ndjson,nats",
                "NDJSON_DEST": str(self.folder / name / "data" / "polygon.ndjson"),
                "NDJSON_MAX_BYTES": "16MiB",
                "NDJSON_COMPRESSION": "zstd",
                "NDJSON_RETAIN_BYTES": "256MiB",
                "NATS_REPLICAS": "3",
                "NATS_MAX_BYTES": "256MiB",
                "NATS_MAX_AGE_SECS": "1h",
            }
            yield self._recorder(name, f"{other} leads the stream a second later, if it did not", settings)

    def _make_tiers(self) -> Iterator[Program]:
        for name, port in self._filtered.items():
            settings = {
                "SOURCE": "nats",
                "SINK": "none",
                "ROLES": "filtered,ops",
                "FILTERED_PROXY_PORT": str(port),
                "AUTH_TOKENS": f"demo:{TOKEN}",
                "ALLOWED_HOSTS": "feed.example.com",
                "DRAIN_SECS": "2",
            }
            yield self._recorder(
                name, "its clients go on at the other one; without -9 it drains first", settings
            )

    def _make_balancer(self) -> Program:
        folder = self.folder / "balancer"
        folder.mkdir(parents=True, exist_ok=True)
        text = re.sub(r"bind :443 .*", f"bind 127.0.0.1:{self.feed}", HAPROXY.read_text())
        for name, port in self._filtered.items():
            text = re.sub(rf"(server {name} )127\.0\.0\.1:\d+", rf"\g<1>127.0.0.1:{port}", text)
            text = re.sub(rf"(server {name} \S+ port )\d+", rf"\g<1>{self._ops[name]}", text)
        text += f"\n{PAGES.format(port=self.page)}"
        for name, port in self._ops.items():
            text += f"    server {name} 127.0.0.1:{port} check inter 1s\n"
        (folder / "haproxy.cfg").write_text(text)
        return Program("balancer", (installed("haproxy"), "-db", "-f", "haproxy.cfg"), folder)


def installed(name: str) -> str:
    """Return the path of a program. End the command with what to do where it is not installed."""
    found = shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin")
    if not found:
        sys.exit(f"{name} is not installed: apt-get install nats-server haproxy")
    return found


def introduce(cluster: Cluster, say: Says) -> None:
    """Say where everything is, and what can be killed."""
    command = "recorder" if shutil.which("recorder") else f"{Path(sys.executable).parent / 'recorder'}"
    say(f"  look     http://127.0.0.1:{cluster.page}/")
    say(f"           {command} top {' '.join(cluster.urls)}")
    say(f"  connect  {command} tail ws://127.0.0.1:{cluster.feed}/stocks 'T.*' --token {TOKEN}")
    say(f"  logs     {cluster.folder}/*/log")
    say(f"What to kill, beside that; what has ended is started again after {cluster.again_secs:g} s:")
    for one in cluster.programs:
        if one.when_killed:
            say(f"  kill -9 {one.pid:<8} {one.name:11} {one.when_killed}")


class Says:
    """Writes lines, each at once."""

    def __call__(self, text: str) -> None:
        print(text, flush=True)

    def at(self, text: str) -> None:
        """Write a line that begins with the time."""
        self(f"{time.strftime('%H:%M:%S')} {text}")


def run(cluster: Cluster, say: Says) -> int:
    """Keep the cluster until a signal; return the exit status."""
    stopping: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, frame: stopping.append(number))
    recorders = [program for program in cluster.programs if program.ops]
    begun, is_introduced, were_ready = time.monotonic(), False, False
    try:
        cluster.start()
        while not stopping:
            for news in cluster.look():
                if is_introduced:
                    say.at(news)
            are_ready = all(program.is_ready for program in recorders)
            if are_ready and not is_introduced:
                say(f"All {len(recorders)} recorders are ready, after {time.monotonic() - begun:.0f} s.")
                introduce(cluster, say)
                is_introduced = True
            elif are_ready and not were_ready:
                say.at(f"all {len(recorders)} recorders are ready")
            if not is_introduced and time.monotonic() - begun > START_SECS:
                names = ", ".join(program.name for program in cluster.programs if not program.is_ready)
                say(f"These do not work: {names}. Their logs say why: {cluster.folder}/*/log")
                return 1
            were_ready = are_ready
            time.sleep(LOOK_SECS)
    finally:
        say("Stopping.")
        cluster.stop()
    return 0


def main() -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="make cluster", description=__doc__)
    parser.add_argument("--dir", type=Path, help="where files are kept; else they are removed at the end")
    parser.add_argument("--rate", type=int, default=500, help="events a second")
    parser.add_argument(
        "--again", type=float, default=5.0, help="seconds until what has ended is started again"
    )
    options = parser.parse_args()
    say = Says()
    say("A cluster on this machine; Ctrl-C ends it. The NATS servers need some seconds to elect a leader.")
    if options.dir is not None:
        return run(Cluster(options.dir.resolve(), options.rate, options.again), say)
    with tempfile.TemporaryDirectory(prefix="recorder-cluster-") as folder:
        return run(Cluster(Path(folder), options.rate, options.again), say)


if __name__ == "__main__":
    sys.exit(main())
