"""Checks of the machine: ports, the limit of open files, and who keeps the clock."""

from __future__ import annotations

import ctypes
import errno
import os
import resource
import socket
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from recorder.checks.findings import Finding, failure, ok, skipped, warning
from recorder.checks.scene import Scene, in_thread
from recorder.checks.sockets import listener_on
from recorder.descriptors import BESIDE_CLIENTS
from recorder.settings.relations import Endpoint, endpoints

_IPC: Final = "ipc://"
_UNSYNCHRONISED: Final = 5
"""`TIME_ERROR` of adjtimex(2)."""
_TIMEX_BYTES: Final = 512
"""More than `struct timex` has anywhere; zeros in `modes`, its first field, mean: only read."""


async def check_ports(scene: Scene) -> list[Finding]:
    """Check that each address to listen on is free, permitted, and of this machine."""
    found = await in_thread(lambda: [_check_port(scene, place) for place in endpoints(scene.settings)])
    zmq = scene.settings.zmq
    if "zmq" in scene.settings.sinks and zmq.bind and zmq.endpoint.startswith(_IPC):
        found.append(await in_thread(lambda: _check_ipc(scene, Path(zmq.endpoint.removeprefix(_IPC)))))
    return found or [skipped("ports", "no port is used")]


def _check_port(scene: Scene, endpoint: Endpoint) -> Finding:
    where = f"{endpoint.variable} {endpoint.host}:{endpoint.port}"
    if not endpoint.port:
        return ok("ports", f"{endpoint.variable} {endpoint.host}: any free one")
    try:
        _bind(endpoint)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            return _taken(scene, endpoint, where)
        if error.errno in (errno.EACCES, errno.EPERM):
            advice = "choose a port above 1023, or give the service CAP_NET_BIND_SERVICE"
        else:
            advice = f"{endpoint.variable} must be an address of this machine"
        return failure("ports", f"{where} cannot be used to listen: {error.strerror or error}", advice)
    return ok("ports", f"{where} is free")


def _bind(endpoint: Endpoint) -> None:
    """Bind as the servers do, without listening: nobody can connect to what a check holds for a moment."""
    host = None if endpoint.host in ("", "*") else endpoint.host
    with ExitStack() as exits:
        for family, kind, protocol, _, address in socket.getaddrinfo(
            host, endpoint.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        ):
            one = exits.enter_context(socket.socket(family, kind, protocol))
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            one.bind(address)


def _taken(scene: Scene, endpoint: Endpoint, where: str) -> Finding:
    holder = listener_on(endpoint.port)
    recorder = scene.recorder
    if recorder is not None and (holder is None or holder.pid == recorder.pid):
        return ok("ports", f"{where} is in use, by {recorder} that runs already, it seems")
    by = f" by {holder}" if holder else ", by whom only root can see"
    return failure("ports", f"{where} is in use{by}", "stop that program, or choose another port")


def _check_ipc(scene: Scene, path: Path) -> Finding:
    """Binding would take the path from the program that listens there, so the path is only looked at."""
    where = f"ZMQ_ENDPOINT {_IPC}{path}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as asked:
        try:
            asked.connect(str(path))
        except OSError:
            pass
        else:
            if scene.recorder is not None:
                return ok("ports", f"{where} is in use, by {scene.recorder} that runs already, it seems")
            return failure(
                "ports", f"{where} is in use by another program", "stop it, or choose another path"
            )
    if not os.access(path.parent, os.W_OK | os.X_OK):
        return failure("ports", f"{where}: {path.parent} cannot be written", "choose another path")
    return ok("ports", f"{where} is free")


async def check_files(scene: Scene) -> list[Finding]:
    """How many files may be open, against CLIENTS_MAX. The recorder raises the soft limit by itself."""
    servers = scene.settings.servers
    needed = (servers.limits.clients_max if servers.enabled else 0) + BESIDE_CLIENTS
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    raised = (
        "raise it (`ulimit -Hn`, or LimitNOFILE of the service, which is another than that of this shell)"
    )
    if hard == resource.RLIM_INFINITY:
        return [ok("open files", f"no limit; {needed:,} are needed")]
    if hard < BESIDE_CLIENTS:
        text = f"{hard:,} are allowed, and the recorder needs {BESIDE_CLIENTS} for itself"
        return [failure("open files", text, raised, allowed=hard, needed=needed)]
    if hard < needed:
        text = f"{hard:,} are allowed, {needed:,} needed for CLIENTS_MAX clients of one server"
        return [warning("open files", text, f"{raised}, or lower CLIENTS_MAX", allowed=hard, needed=needed)]
    return [ok("open files", f"{hard:,} are allowed, {needed:,} needed", allowed=hard, needed=needed)]


async def check_time_service(scene: Scene) -> list[Finding]:
    """Whether the kernel says that its clock is kept: adjtimex(2), which chrony, ntpd and timesyncd set."""
    try:
        state = ctypes.CDLL(None).adjtimex(ctypes.create_string_buffer(_TIMEX_BYTES))
    except (OSError, AttributeError):
        return [skipped("clock", "this system does not say whether a time service keeps it")]
    if state < 0:
        return [skipped("clock", "the kernel does not say whether a time service keeps it")]
    if state == _UNSYNCHRONISED:
        return [
            warning(
                "clock",
                "the kernel knows of no time service that keeps it",
                "run chrony or systemd-timesyncd here, or on the host of this container",
            )
        ]
    return [ok("clock", "a time service keeps it")]
