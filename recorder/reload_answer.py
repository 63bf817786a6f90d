"""What a reload came to, told to the `recorder reload` that waits for it: one message between two processes.

It goes over a socket of the kernel's that has no file: it needs no port, no disk and no archive, and a recorder that
nobody waits for opens none. Both sides ask the kernel who the other one is.
"""

from __future__ import annotations

import errno
import json
import os
import re
import signal
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, NamedTuple

from recorder.errors import RecorderError

WAIT_SECS: Final = 60.0
"""How long a recorder may take: a disk that hangs holds up the files."""
_LOOK_SECS: Final = 0.1
_MESSAGE_SECS: Final = 5.0
_LINES_MAX: Final = 50
_CHARS_MAX: Final = 1000
"""Of a line. All lines fit into what the kernel holds for one message, so that the recorder never waits."""
_MESSAGE_BYTES_MAX: Final = 1 << 20
_PEER: Final = struct.Struct("3i")
"""pid, uid and gid: `struct ucred`, unix(7)."""


class Answer(NamedTuple):
    """What a recorder says of one reload."""

    asked_ns: int
    """Monotonic time at which it heard SIGHUP."""
    lines: tuple[str, ...]
    """For people: what is new, and what is refused and why. No secret is in it."""
    is_whole: bool
    """Whether everything is as the files say."""


def tell(answer: Answer) -> None:
    """Send it to the command that waits for this process, if one does. Never waits, never raises."""
    lines = [line[:_CHARS_MAX] for line in answer.lines[:_LINES_MAX]]
    message = json.dumps(answer._replace(lines=tuple(lines))._asdict()).encode()
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as teller:
        teller.setblocking(False)
        teller.connect(_address(os.getpid()))
        _, uid = _peer_of(teller)
        # Anybody can listen there; names of tokens and paths are for those who could read the files.
        if uid in (0, os.geteuid()):
            teller.sendall(message)


def reload_of(pid: int, wait_secs: float = WAIT_SECS) -> Answer:
    """Send SIGHUP to a recorder, and return what it says once it has reloaded. Raise `RecorderError`."""
    deadline = time.monotonic() + wait_secs
    _require_recorder(pid)
    with _listening(pid, deadline) as listener:
        asked_ns = time.monotonic_ns()
        _send(pid, signal.SIGHUP)
        while time.monotonic() < deadline:
            answer = _next(listener, pid)
            # One that began before belongs to somebody else, and may not have seen what has changed since.
            if answer is not None and answer.asked_ns >= asked_ns:
                return answer
            if not _send(pid, 0):
                raise RecorderError(f"the recorder with pid {pid} has ended")
    raise RecorderError(
        f"the recorder with pid {pid} has SIGHUP, and did not say within {wait_secs:g} s that it has reloaded. It does so "
        "later by itself where it is still repairing its archive, or where its disk hangs: its log says `reloaded`"
    )


def _address(pid: int) -> str:
    """Return where the command waits that has sent SIGHUP to a process: a name that is no file (unix(7), abstract)."""
    return f"\0recorder-reload-{pid}"


def _require_recorder(pid: int) -> None:
    """Raise `RecorderError` where SIGHUP would end the process, or where its answer could not come here."""
    with suppress(OSError):
        if Path(f"/proc/{pid}/ns/net").readlink() != Path("/proc/self/ns/net").readlink():
            raise RecorderError(
                f"the process with pid {pid} has a network of its own, as in a container: run `recorder reload` in there"
            )
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace")
    except OSError:
        return  # there is none, or it is hidden from this one, as a hardened unit hides it
    caught = re.search(r"^SigCgt:\s*([0-9a-f]+)$", status, re.MULTILINE)
    if caught is not None and not int(caught[1], 16) >> (signal.SIGHUP - 1) & 1:
        raise RecorderError(
            f"the process with pid {pid} is no recorder that takes a reload: SIGHUP would end it, or do nothing. "
            "A worker of a recorder takes none either: name the process that records"
        )


@contextmanager
def _listening(pid: int, deadline: float) -> Iterator[socket.socket]:
    """Yield the socket on which the answer comes; wait for another command that has it."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        while True:
            try:
                listener.bind(_address(pid))
                break
            except OSError as error:
                if error.errno != errno.EADDRINUSE or time.monotonic() > deadline:
                    raise RecorderError(
                        f"the answer of the recorder with pid {pid} cannot be waited for, so it was not told to reload: "
                        f"{error.strerror}; another `recorder reload` may wait for it"
                    ) from error
                time.sleep(_LOOK_SECS)
        listener.listen()
        listener.settimeout(_LOOK_SECS)
        yield listener


def _send(pid: int, number: int) -> bool:
    """Send a signal; 0 asks only whether the process is there. Return whether it is; raise `RecorderError`."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        if number:
            raise RecorderError(f"no process has the pid {pid}") from None
        return False
    except PermissionError:
        if number:
            raise RecorderError(
                f"the process with pid {pid} is another user's: ask as that user, or as root"
            ) from None
    return True


def _next(listener: socket.socket, pid: int) -> Answer | None:
    """Return the next answer of the process, None where none comes for a moment."""
    try:
        connection, _ = listener.accept()
        with connection:
            if _peer_of(connection)[0] != pid:
                return None
            connection.settimeout(_MESSAGE_SECS)
            message = bytearray()
            while piece := connection.recv(_MESSAGE_BYTES_MAX):
                message += piece
                if len(message) > _MESSAGE_BYTES_MAX:
                    return None
        fields = json.loads(message)
        return Answer(int(fields["asked_ns"]), tuple(fields["lines"]), bool(fields["is_whole"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _peer_of(connection: socket.socket) -> tuple[int, int]:
    """Return pid and uid of the process at the other end, as the kernel knows them."""
    pid, uid, _ = _PEER.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size))
    return pid, uid
