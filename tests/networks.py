"""Networks of their own for the programs of one test, in which packets can be lost."""

from __future__ import annotations

import ctypes
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

import pytest
from tools import tool

_LIBC: Final = ctypes.CDLL(None, use_errno=True)
_NEW_NETWORK: Final = 0x40000000
"""CLONE_NEWNET of sched.h; Python has `os.setns` from 3.12 on."""


class Network:
    """A network namespace with a loopback; `prefix` before a command makes it run there."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.address = "127.0.0.1"
        """Where others reach what listens here."""
        self.prefix = (tool("nsenter"), f"--target={pid}", "--net", "--")

    def swallow(self, port: int) -> None:
        """Lose every packet from and to a port from now on, without a word to either side."""
        for option in ("--dport", "--sport"):
            self._run(tool("iptables"), "-A", "INPUT", "-p", "tcp", option, str(port), "-j", "DROP")

    def cut(self, *others: Network) -> None:
        """Lose every packet from and to other networks from now on."""
        for other in others:
            self._run(tool("iptables"), "-A", "INPUT", "-s", other.address, "-j", "DROP")
            self._run(tool("iptables"), "-A", "OUTPUT", "-d", other.address, "-j", "DROP")

    def heal(self) -> None:
        """Lose nothing any more."""
        self._run(tool("iptables"), "-F")

    def plug(self, device: str, address: str) -> None:
        """Let a device of this network be up, with an address."""
        self.address = address
        self._run(tool("ip"), "address", "add", f"{address}/24", "dev", device)
        self._run(tool("ip"), "link", "set", device, "up")

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


@contextmanager
def entered(network: Network) -> Iterator[None]:
    """Let this thread, and the programs that it starts, be in a network."""
    with Path("/proc/self/ns/net").open("rb") as own, Path(f"/proc/{network.pid}/ns/net").open("rb") as other:
        _enter(other.fileno())
        try:
            yield
        finally:
            _enter(own.fileno())


def _enter(file: int) -> None:
    if _LIBC.setns(file, _NEW_NETWORK):
        raise OSError(ctypes.get_errno(), "setns")


@contextmanager
def switched(count: int) -> Iterator[tuple[Network, list[Network]]]:
    """Yield a network with a switch, and others that are plugged into it; each has an address that all can reach."""
    with ExitStack() as stack:
        switch, *hosts = (stack.enter_context(network()) for _ in range(count + 1))
        ip = tool("ip")
        switch._run(ip, "link", "add", "switch", "type", "bridge")
        for number, host in enumerate(hosts, 1):
            port = f"port{number}"
            switch._run(ip, "link", "add", port, "type", "veth", "peer", "cable", "netns", str(host.pid))
            switch._run(ip, "link", "set", port, "master", "switch", "up")
            host.plug("cable", f"10.77.0.{number}")
        switch.plug("switch", "10.77.0.254")
        yield switch, hosts
