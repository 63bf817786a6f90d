"""What `recorder reload` hears of a process that is told to reload, and what it does not believe."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from recorder.errors import RecorderError
from recorder.reload_answer import Answer, reload_of, tell

_CHILD = """
import signal, sys, time
from recorder.reload_answer import Answer, tell

def hang_up(*_):
    heard_ns = time.monotonic_ns()
    {body}

signal.signal(signal.SIGHUP, hang_up)
print("ready", flush=True)
while True:
    signal.pause()
"""


@contextmanager
def child(code: str) -> Iterator[subprocess.Popen[str]]:
    """Yield a Python process that has said that it is ready."""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        try:
            yield process
        finally:
            process.kill()


def test_the_answer_is_that_of_a_reload_that_began_behind_the_question() -> None:
    """Of two answers the first belongs to an earlier reload; long ones are cut, so that the recorder never waits."""
    body = 'tell(Answer(0, ("earlier",), True)); tell(Answer(heard_ns, ("x" * 2000,) * 99, False))'
    with child(_CHILD.format(body=body)) as recorder:
        answer = reload_of(recorder.pid)
    assert answer.lines == ("x" * 1000,) * 50
    assert not answer.is_whole


def test_what_another_process_says_is_not_believed() -> None:
    """The kernel says who speaks: a stranger that says to be the recorder is not heard."""
    with child(_CHILD.format(body="")) as recorder:
        stranger = f"""
import socket, time
print("ready", flush=True)
while True:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as teller:
        try:
            teller.connect("\\0recorder-reload-{recorder.pid}")
            teller.sendall(b'{{"asked_ns": 9000000000000000000, "lines": [], "is_whole": true}}')
        except OSError:
            time.sleep(0.01)
"""
        with child(stranger), pytest.raises(RecorderError, match="did not say within 1 s"):
            reload_of(recorder.pid, 1)


def test_a_recorder_that_ends_is_not_waited_for() -> None:
    """The end of the process ends the waiting, too."""
    with child(_CHILD.format(body="sys.exit()")) as recorder:
        # The number of a child is its own until its parent has taken note of its end.
        parent = threading.Thread(target=recorder.wait)
        parent.start()
        with pytest.raises(RecorderError, match="has ended"):
            reload_of(recorder.pid)
        parent.join()


def test_a_process_that_the_signal_would_end_is_left_alone() -> None:
    """A slip in --pid ends no other program."""
    with child('import signal; print("ready", flush=True); signal.pause()') as other:
        with pytest.raises(RecorderError, match="is no recorder that takes a reload"):
            reload_of(other.pid)
        assert other.poll() is None


def test_nobody_has_to_wait() -> None:
    """To tell costs nothing where nobody listens, and a process that has gone is named."""
    tell(Answer(1, ("nobody hears it",), True))
    with child('print("ready", flush=True)') as gone:
        gone.wait()
        with pytest.raises(RecorderError, match=f"no process has the pid {gone.pid}"):
            reload_of(gone.pid)


def test_one_waits_for_the_other() -> None:
    """The name is taken while another command waits: that is said where it lasts too long."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as taken:
        taken.bind(f"\0recorder-reload-{os.getpid()}")
        signal.signal(signal.SIGHUP, lambda *_: None)
        try:
            with pytest.raises(RecorderError, match="another `recorder reload` may wait for it"):
                reload_of(os.getpid(), 0.2)
        finally:
            signal.signal(signal.SIGHUP, signal.SIG_DFL)
