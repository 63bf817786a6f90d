"""The real commands as processes: started, watched through their logs, stopped."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from waiting import eventually_sync

KEY = "test-key-0123456789"
"""The API key of every recorder here, and so the token of its clients."""
RECORDER = (sys.executable, "-m", "recorder")
_TRUSTS_NOBODY = {"SSL_CERT_FILE": os.devnull}
"""No recorder of a test asks a server of the world, and to read whom this machine trusts takes longer than most imports."""


def free_port() -> int:
    """Return a port that nobody listens on at this moment."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def clean_environment(**variables: str) -> dict[str, str]:
    """Return an environment with nothing of the machine's settings, plus `variables`."""
    kept = {
        name: os.environ[name]
        for name in ("PATH", "HOME", "LANG", "TMPDIR", "RECORDER_NATIVE")
        if name in os.environ
    }
    return {**kept, "ENV_FILE": os.devnull, **variables}


def get(address: str, path: str) -> tuple[int, str]:
    """Ask an ops server; return status and body."""
    try:
        with urllib.request.urlopen(f"http://{address}{path}", timeout=20) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def is_alive(pid: int | None) -> bool:
    """Return whether a process exists and has not ended; a zombie has."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


class Running:
    """A recorder command that runs. Its log lines are read as they come."""

    def __init__(
        self, arguments: list[str], environment: Mapping[str, str], cwd: Path, stdout: Any = subprocess.PIPE
    ) -> None:
        self.process = subprocess.Popen(
            arguments, env=dict(environment), cwd=cwd, stdout=stdout, stderr=subprocess.PIPE, text=True
        )
        self.lines: list[str] = []
        self.out: list[str] = []
        self._readers = [
            threading.Thread(target=self._read, args=(self.process.stderr, self.lines), daemon=True)
        ]
        if stdout == subprocess.PIPE:
            self._readers.append(
                threading.Thread(target=self._read, args=(self.process.stdout, self.out), daemon=True)
            )
        for reader in self._readers:
            reader.start()

    @staticmethod
    def _read(stream: Any, into: list[str]) -> None:
        into.extend(line.rstrip("\n") for line in stream)

    @property
    def events(self) -> list[dict[str, Any]]:
        """The log so far."""
        return [json.loads(line) for line in list(self.lines) if line.startswith("{")]

    def logged(self, event: str) -> list[dict[str, Any]]:
        """Return the log lines of one event."""
        return [entry for entry in self.events if entry["event"] == event]

    def wait_for(self, event: str, count: int = 1) -> dict[str, Any]:
        """Wait until an event was logged so often; return the last of them."""

        def found() -> dict[str, Any] | None:
            entries = self.logged(event)
            if len(entries) >= count:
                return entries[count - 1]
            if self.process.poll() is not None and len(self.logged(event)) < count:
                raise AssertionError(
                    f"ended with {self.process.returncode} before {event!r}: {self.lines[-20:]}"
                )
            return None

        return eventually_sync(found, f"{event!r} in the log")

    def address_of(self, server: str) -> str:
        """Where a server listens: `metrics`, `firehose`, `filtered` or `bars`."""
        address: str = self.wait_for("started")[server]
        return address

    def port_of(self, server: str) -> str:
        """Return the number of a server's port."""
        return self.address_of(server).rpartition(":")[2]

    @property
    def address(self) -> str:
        """Where the ops server listens."""
        return self.address_of("metrics")

    def get(self, path: str) -> tuple[int, str]:
        """Ask the ops server; return status and body."""
        return get(self.address, path)

    def metric(self, name: str) -> float:
        """Return the sum of a metric's samples whose line begins with `name`, labels included."""
        _, text = self.get("/metrics")
        return sum(
            float(line.rpartition(" ")[2])
            for line in text.splitlines()
            if re.match(re.escape(name) + r"[ {,]", line + " ")
        )

    def received(self) -> float:
        """Events received so far."""
        return self.metric("polygon_events_total")

    def send(self, number: signal.Signals) -> None:
        """Send a signal."""
        self.process.send_signal(number)

    def stop(self, number: signal.Signals = signal.SIGTERM, timeout: float = 40) -> int:
        """End it; return its exit status."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.wait(timeout)

    def wait(self, timeout: float = 40) -> int:
        """Wait for its end; return its exit status."""
        status = self.process.wait(timeout)
        for reader in self._readers:
            reader.join(timeout)
        return status

    def kill(self) -> None:
        """End it at once if it still runs, and let go of what it wrote."""
        if self.process.poll() is None:
            self.process.kill()
        self.wait()
        for stream in (self.process.stdout, self.process.stderr):
            if stream is not None:
                stream.close()


@contextmanager
def running(
    *arguments: str, cwd: Path, stdout: Any = subprocess.PIPE, prefix: tuple[str, ...] = (), **variables: str
) -> Iterator[Running]:
    """Yield a running `recorder` command; kill it at the end if the test has not stopped it, or it does not stop."""
    environment = clean_environment(**{**_TRUSTS_NOBODY, **variables})
    command = Running([*prefix, *RECORDER, *arguments], environment, cwd, stdout)
    try:
        yield command
    finally:
        if command.process.poll() is None:
            command.process.terminate()
            with suppress(subprocess.TimeoutExpired):
                command.wait(10)
        command.kill()


@contextmanager
def simulating(*arguments: str, cwd: Path, prefix: tuple[str, ...] = ()) -> Iterator[int]:
    """Yield the port of a running simulator."""
    with running("simulate", "--port", "0", *arguments, cwd=cwd, prefix=prefix) as simulator:

        def port() -> int:
            assert simulator.process.poll() is None, f"the simulator ended: {simulator.lines}"
            found = re.search(r":(\d+)", simulator.out[0]) if simulator.out else None
            return int(found[1]) if found else 0

        yield eventually_sync(port, "the simulator's port")


def finished(
    *arguments: str, cwd: Path, text: str | None = None, timeout_secs: float = 60, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run a `recorder` command to its end."""
    return subprocess.run(
        [*RECORDER, *arguments],
        env=clean_environment(**{**_TRUSTS_NOBODY, **variables}),
        cwd=cwd,
        input=text,
        capture_output=True,
        text=True,
        timeout=timeout_secs,
    )


def live_settings(port: int, folder: Path, **variables: str) -> dict[str, str]:
    """Return the settings of a recorder that follows a simulator's stocks into `folder`."""
    return {
        "POLYGON_API_KEY": KEY,
        "POLYGON_WS_URL": f"ws://127.0.0.1:{port}",
        "POLYGON_CLUSTER": "stocks",
        "SUBSCRIPTION": "T.*,Q.*",
        "SINK": "ndjson",
        "NDJSON_DEST": str(folder / "polygon.ndjson"),
        "NDJSON_MIN_FREE_BYTES": "0",  # no test depends on how full this machine's disk is
        "METRICS_ADDR": "127.0.0.1:0",
        "FIREHOSE_PORT": "0",
        "FILTERED_PROXY_PORT": "0",
        "AGGREGATOR_PORT": "0",
        "LOG_FORMAT": "json",
        "SESSION_CALENDAR": "off",  # the simulated market is open day and night
        "BACKOFF_INITIAL_SECS": "0.05",
        "BACKOFF_MAX_SECS": "0.2",
        **variables,
    }
