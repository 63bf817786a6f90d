"""A network of its own for the programs of one test, in which packets can be lost."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from tools import tool


class Network:
    """A network namespace with a loopback; `prefix` before a command makes it run there."""

    def __init__(self, pid: int) -> None:
        self.prefix = (tool("nsenter"), f"--target={pid}", "--net", "--")

    def swallow(self, port: int) -> None:
        """Lose every packet from and to a port from now on, without a word to either side."""
        for option in ("--dport", "--sport"):
            self._run(tool("iptables"), "-A", "INPUT", "-p", "tcp", option, str(port), "-j", "DROP")

    def heal(self) -> None:
        """Lose nothing any more."""
        self._run(tool("iptables"), "-F", "INPUT")

    def _run(self, *command: str) -> None:
        subprocess.run([*self.prefix, *command], check=True, capture_output=True, timeout=20)


@contextmanager
def network() -> Iterator[Network]:
    """Yield a new network; skip the test where the system refuses one."""
    script = f"{tool('ip')} link set lo up && echo up && exec sleep infinity"
    holder = subprocess.Popen(
        [tool("unshare"), "--net", "sh", "-c", script],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with holder:
        try:
            assert holder.stdout is not None
            assert holder.stderr is not None
            if holder.stdout.readline() != "up\n":
                pytest.skip(f"no network namespace: {holder.stderr.read().strip()}")
            yield Network(holder.pid)
        finally:
            holder.kill()
