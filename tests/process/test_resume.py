"""Resume with the real command: a client that is cut at random has exactly what one has that never was."""

from __future__ import annotations

import signal
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
from commands import Running, live_settings, running, simulating
from cutting import CutClient, events_of
from listening import listening
from waiting import eventually_sync

from recorder.archive.recording import open_recordings

EVENTS = 8000
MARKET = ("--cluster", "stocks", "--rate", "4000", "--market-start", "subscriber")


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
            clients = [CutClient([urls["firehose"]], "*", 1), CutClient([urls["filtered"]], "T.*", 2)]
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

    client = CutClient([], "*", 1)
    with simulating(*MARKET, "--fault", f"stall:after={events},times=2", cwd=tmp_path) as port:
        with record(port) as recorder:
            client.urls = [f"ws://{recorder.address_of('firehose')}/stocks"]
            received(recorder, 1)
            client.listen(None)
            client.listen(None)
            received(recorder, events // 2)
            client.listen(None)
            assert [answer["recovered"] for answer in client.answers] == [True, True]
            received(recorder, events)
            recorder.stop(number)
        with record(port) as recorder:
            client.urls = [f"ws://{recorder.address_of('firehose')}/stocks"]
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
