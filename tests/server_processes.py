"""Servers of others as processes: started, killed, made to stand still, started again."""

from __future__ import annotations

import atexit
import signal
import subprocess
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Self, TypeVar


class ServerProcess(ABC):
    """A server in a folder of its own, where its log is."""

    def __init__(self, log: Path) -> None:
        self._log = log
        self.process: subprocess.Popen[bytes] | None = None

    @abstractmethod
    def command(self) -> list[str]:
        """Return what it is started with."""

    @abstractmethod
    def wait(self) -> None:
        """Return once it answers."""

    def start(self) -> Self:
        """Start it; return once it answers."""
        self.launch()
        self.wait()
        return self

    def launch(self) -> None:
        """Start it, and do not wait."""
        command = self.command()
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)

    def assert_runs(self) -> None:
        """Fail, with its log, where it has ended."""
        assert self.is_alive, self._log.read_text()[-2000:]

    @property
    def is_alive(self) -> bool:
        """Whether its process runs."""
        return self.process is not None and self.process.poll() is None

    @property
    def pid(self) -> int:
        """The number of its process."""
        assert self.process is not None
        return self.process.pid

    def kill(self) -> None:
        """End it as `kill -9` does."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def pause(self) -> None:
        """Let it stand still."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on."""
        if self.is_alive:
            assert self.process is not None
            self.process.send_signal(signal.SIGCONT)

    def stop(self) -> None:
        """End it, whatever state it is in."""
        if self.is_alive:
            self.kill()


S = TypeVar("S", bound=ServerProcess)


@contextmanager
def all_of(servers: Sequence[S]) -> Iterator[list[S]]:
    """Yield servers that run, which are started at once and stopped in the end."""
    try:
        for server in servers:
            server.launch()
        for server in servers:
            server.wait()
        yield list(servers)
    finally:
        for server in servers:
            server.stop()


def kept(make: Callable[[Path], S]) -> S:
    """Return a server that was not started yet, for all tests of this process: it is stopped when the process ends."""
    folder = tempfile.TemporaryDirectory(prefix="server-")
    server = make(Path(folder.name))
    atexit.register(folder.cleanup)
    atexit.register(server.stop)
    return server
