"""What the recorder that writes a stream missed itself, with the real command: who follows the stream has it as a gap."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from commands import Running, live_settings, running, simulating
from nats_servers import NatsServer, messages_of, nats_variables, proven, serving, stored
from nats_tiers import reached, tier_settings
from oracle import read_manifest
from waiting import eventually_sync

TAKEOVER_SECS = "0.5"


class Line:
    """A way to the exchange that can be cut."""

    def __init__(self, port: int) -> None:
        self._target = ("127.0.0.1", port)
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listening.getsockname()[1]
        self._sockets: list[socket.socket] = []
        self.is_cut = False
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self._listening.accept()
                if self.is_cut:
                    near.close()
                    continue
                far = socket.create_connection(self._target)
                self._sockets += [near, far]
                for pair in ((near, far), (far, near)):
                    threading.Thread(target=self._carry, args=pair, daemon=True).start()

    @staticmethod
    def _carry(source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)
            target.shutdown(socket.SHUT_RDWR)

    def cut(self) -> None:
        """End all connections, and refuse others."""
        self.is_cut = True
        sockets, self._sockets = self._sockets, []
        for each in sockets:
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def mend(self) -> None:
        """Let connections be."""
        self.is_cut = False

    def close(self) -> None:
        """End it."""
        self.cut()
        self._listening.close()


@contextmanager
def line_to(port: int) -> Iterator[Line]:
    """Yield a way to the exchange."""
    line = Line(port)
    try:
        yield line
    finally:
        line.close()


def writing(line: int, folder: Path, server: NatsServer, **variables: str) -> dict[str, str]:
    """Return the settings of a recorder that writes the stream."""
    return live_settings(
        line, folder, **nats_variables(server, NATS_TAKEOVER_SECS=TAKEOVER_SECS, **variables)
    )


def goes_on(recorder: Running) -> None:
    """Wait until a recorder has appended more."""
    before = stored(recorder)
    eventually_sync(lambda: stored(recorder) > before, "more events in the stream")


def test_a_cut_and_a_time_without_the_recorder(tmp_path: Path) -> None:
    """Both are gaps of the recorder that follows: of the cut, the one that the writer's own archive has."""
    tier, folder = tmp_path / "tier", tmp_path / "a"
    with (
        serving(tmp_path / "nats") as server,
        simulating("--cluster", "stocks", "--rate", "300", cwd=tmp_path) as port,
        line_to(port) as line,
    ):
        settings = writing(line.port, folder, server)
        follow = tier_settings(server, tier, NATS_START="all")
        with running("run", cwd=tmp_path, **follow) as follower:
            with running("run", cwd=tmp_path, **settings) as first:
                eventually_sync(lambda: stored(first) > 50, "events in the stream")
                line.cut()
                first.wait_for("disconnected")
                line.mend()
                first.wait_for("gap")
                goes_on(first)
                first.kill()
            with running("run", cwd=tmp_path, **settings) as second:
                eventually_sync(lambda: stored(second) > 50, "events of the next run")
                assert second.stop() == 0
            messages = messages_of(server)
            last = len(proven(messages))
            reached(follower, last)
            assert follower.stop() == 0
    own = [(gap["from"], gap["to"], gap["reason"]) for gap in read_manifest(folder, "gap")]
    seen = [(gap["from"], gap["to"], gap["reason"]) for gap in read_manifest(tier, "gap")]
    cut, away = seen[-2:]
    assert cut in own
    assert away[2] == "not_running"
    assert away[1] == own[-1][1]
    covered_ms = [int(each.headers["Covers"].split("-")[1]) for each in messages if "Covers" in each.headers]
    assert away[0] in covered_ms
    assert [each.headers["Missed"] for each in messages if "Missed" in each.headers] == [
        "{}-{} {}".format(*gap) for gap in (cut, away)
    ]


def test_a_pair_of_which_one_is_cut(tmp_path: Path) -> None:
    """The other one was there all the time: long cuts and short ones of the one that leads are no gaps of the stream."""
    with (
        serving(tmp_path / "nats") as server,
        simulating("--cluster", "stocks", "--rate", "300", cwd=tmp_path) as port,
        line_to(port) as line,
        running("run", cwd=tmp_path, **writing(line.port, tmp_path / "a", server)) as one,
    ):
        eventually_sync(lambda: stored(one) > 50, "events in the stream")
        with running(
            "run", cwd=tmp_path, **writing(port, tmp_path / "b", server, NATS_ROLE="standby")
        ) as other:
            other.wait_for("nats_role")
            goes_on(other)
            for sessions in (1, 2):
                line.cut()
                one.wait_for("disconnected", sessions)
                if sessions == 2:
                    goes_on(other)
                line.mend()
                one.wait_for("gap", sessions)
                goes_on(one)
            assert one.stop() == 0
            assert other.stop() == 0
        messages = messages_of(server)
    assert len({each.headers["Writer"] for each in messages}) == 2
    assert not [each.headers for each in messages if "Missed" in each.headers]
    proven(messages)
