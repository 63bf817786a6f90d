"""Resume with the real command: a client that is cut at random has exactly what one has that never was."""

from __future__ import annotations

import json
import random
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from commands import KEY, Running, live_settings, running, simulating
from listening import listening
from waiting import eventually_sync
from websockets.sync.client import connect

from recorder.archive.recording import open_recordings

EVENTS = 8000
MARKET = ("--cluster", "stocks", "--rate", "4000", "--market-start", "subscriber")
_events = msgspec.json.Decoder(list[msgspec.Raw]).decode


class CutClient:
    """Keeps what came up to each position, and loses its connection again and again, with all that came behind."""

    def __init__(self, url: str, topics: str, seed: int) -> None:
        self.frames: list[bytes] = []
        self.url = url
        self.cuts = 0
        self.answers: list[dict[str, Any]] = []
        """What became of each wish to resume."""
        self._topics = topics
        self._dice = random.Random(seed)
        self._after: str | None = None

    def follow(self, is_over: Callable[[], bool]) -> None:
        """Be cut at random until it is over."""
        while not is_over():
            self.listen(self._dice.uniform(0.0, 0.3))
            self.cuts += 1

    def listen(self, secs: float | None) -> None:
        """Stay connected for some time; without one, until told a position."""
        loose: list[bytes] = []
        with connect(self.url, max_size=None, compression=None) as socket:
            socket.send(json.dumps({"action": "auth", "params": KEY}))
            request = {"action": "subscribe", "params": self._topics, "positions": True}
            socket.send(json.dumps({**request, **({"after": self._after} if self._after else {})}))
            until = time.monotonic() + (30.0 if secs is None else secs)
            while time.monotonic() < until:
                try:
                    frame = socket.recv(timeout=max(0.0, until - time.monotonic()), decode=False)
                except TimeoutError:
                    break
                if not frame.startswith(b'[{"ev":"status"'):
                    loose.append(frame)
                    continue
                [status] = json.loads(frame)
                if status["status"] == "resume":
                    self.answers.append(status)
                elif status["status"] == "position":
                    self._after = status["after"]
                    self.frames += loose
                    loose = []
                    if secs is None:
                        return
            assert secs is not None, "no position came"
            socket.socket.shutdown(2)  # no goodbye: the line is cut


def events_of(frames: list[bytes]) -> list[bytes]:
    """Return every event of some frames, byte for byte."""
    return [bytes(event) for frame in frames for event in _events(frame)]


@pytest.mark.parametrize("workers", ["0", "2"])
def test_a_client_that_is_cut_at_random_has_the_whole_stream(tmp_path: Path, workers: str) -> None:
    """On the firehose every frame, on the filtered port every event of its topics, in order and once; at any worker."""
    with (
        simulating(*MARKET, "--fault", f"stall:after={EVENTS}", cwd=tmp_path) as port,
        running(
            "run", cwd=tmp_path, **live_settings(port, tmp_path / "a", SERVE_WORKERS=workers, SINK="none")
        ) as recorder,
    ):
        urls = {name: f"ws://{recorder.address_of(name)}/stocks" for name in ("firehose", "filtered")}

        def is_over() -> bool:
            return recorder.received() >= EVENTS

        with listening(urls["firehose"]) as frames, listening(urls["filtered"], "T.*") as trades:
            clients = [CutClient(urls["firehose"], "*", 1), CutClient(urls["filtered"], "T.*", 2)]
            with ThreadPoolExecutor(2) as threads:
                list(threads.map(lambda client: client.follow(is_over), clients))
            references = [lambda: list(frames.frames), lambda: trades.events]
            for client, reference, parts in zip(clients, references, [list, events_of], strict=True):

                def is_whole(
                    client: CutClient = client, reference: Any = reference, parts: Any = parts
                ) -> bool:
                    client.listen(None)
                    return bool(parts(client.frames)[-1:] == reference()[-1:])

                eventually_sync(is_whole, "the last event")
                got, whole = parts(client.frames), reference()
                assert len(got) > len(whole) / 2
                assert got == whole[whole.index(got[0]) :]
        for client in clients:
            assert client.cuts > 3
            assert [answer["recovered"] for answer in client.answers] == [True] * len(client.answers)
        assert recorder.stop() == 0


@pytest.mark.parametrize(
    ("number", "compression", "workers", "memory"),
    [(signal.SIGKILL, "gzip", "0", "0"), (signal.SIGTERM, "zstd", "2", "64KiB")],
)
def test_a_client_goes_on_over_a_restart_of_the_recorder(
    tmp_path: Path, number: signal.Signals, compression: str, workers: str, memory: str
) -> None:
    """Killed or stopped, with hardly any memory: what came while the client was away is read from the archive's files,
    byte for byte and in order; the gap between the runs is named, and live events follow."""
    folder = tmp_path / "a"
    events = 4000

    def record(port: int) -> AbstractContextManager[Running]:
        return running(
            "run",
            cwd=tmp_path,
            **live_settings(
                port,
                folder,
                SERVE_WORKERS=workers,
                RESUME_BUFFER_BYTES=memory,
                NDJSON_MAX_BYTES="256KiB",
                NDJSON_COMPRESSION=compression,
            ),
        )

    def received(recorder: Running, count: int) -> None:
        eventually_sync(lambda: recorder.received() >= count, f"{count} events")

    client = CutClient("", "*", 1)
    with simulating(*MARKET, "--fault", f"stall:after={events},times=2", cwd=tmp_path) as port:
        with record(port) as recorder:
            client.url = f"ws://{recorder.address_of('firehose')}/stocks"
            received(recorder, 1)
            client.listen(None)
            client.listen(None)
            received(recorder, events // 2)
            client.listen(None)
            assert [answer["recovered"] for answer in client.answers] == [True, True]
            received(recorder, events)
            recorder.stop(number)
        with record(port) as recorder:
            client.url = f"ws://{recorder.address_of('firehose')}/stocks"
            received(recorder, events)

            def is_whole() -> bool:
                client.listen(None)
                return len(events_of(client.frames)) >= events + 1

            eventually_sync(is_whole, "all of both runs", every_secs=0.2)
            # Workers report each second.
            eventually_sync(
                lambda: recorder.metric("polygon_server_archive_reads_total") > 0, "a reader of the archive"
            )
            assert recorder.stop() == 0
    assert [answer["recovered"] for answer in client.answers] == [True] * len(client.answers)
    gaps = client.answers[2]["gaps"]
    assert [gap["reason"] for gap in gaps] == ["killed" if number == signal.SIGKILL else "not_running"]
    [recording] = open_recordings(folder)
    recorded = [bytes(event.payload) for block in recording.events() for event in block]
    got = events_of(client.frames)
    whole = recorded[recorded.index(got[0]) :]
    assert got == whole[: len(got)]
    assert len(whole) - len(got) < events / 2
    assert len({path.suffix for path in folder.iterdir()} & {".gz", ".zst"}) == 1
