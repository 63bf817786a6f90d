"""Recorders in a chain, cut from each other again and again: each has all of the exchange, once and in order."""

from __future__ import annotations

import json
import random
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import pytest
from commands import Running, finished, live_settings, running, simulating
from cutting import CutClient, events_of
from front import Behaviour, front, relaying
from listening import listening
from waiting import eventually_sync

EVENTS = 8000
MARKET = ("--cluster", "stocks", "--rate", "4000", "--market-start", "subscriber")
CUTS = 6
_payload = msgspec.json.Decoder(msgspec.defstruct("Line", [("payload", msgspec.Raw)])).decode


def cuts(port: int, dice: random.Random) -> list[Behaviour]:
    """Return what cuts a number of connections to a port somewhere, and leaves those that follow alone."""
    return [*(relaying(port, dice.randint(2_000, 120_000)) for _ in range(CUTS)), relaying(port)]


@contextmanager
def tier(folder: Path, port: int, **variables: str) -> Iterator[Running]:
    """Run a recorder that follows the firehose behind a port, and has an archive."""
    settings = live_settings(0, folder, FIREHOSE_URL=f"ws://127.0.0.1:{port}", **variables)
    del settings["POLYGON_WS_URL"], settings["SUBSCRIPTION"]
    with running("run", cwd=folder.parent, **settings) as recorder:
        recorder.wait_for("subscribed")
        yield recorder


def manifest(folder: Path) -> list[dict[str, Any]]:
    """Return the lines of an archive's manifest."""
    return [json.loads(line) for line in (folder / "polygon.manifest.ndjson").read_text().splitlines()]


def archived(folder: Path) -> list[bytes]:
    """Return the events of an archive, byte for byte."""
    lines = (folder / "polygon.ndjson").read_bytes().splitlines()
    return [bytes(_payload(line).payload) for line in lines]


def wait_for_all(*recorders: Running) -> None:
    """Wait until each recorder has all that the exchange sent."""
    eventually_sync(
        lambda: all(recorder.received() >= EVENTS for recorder in recorders), "all events", every_secs=0.1
    )


def wait_for_more(recorder: Running, events: int) -> None:
    """Wait until a recorder has received so many events more."""
    seen = recorder.received()
    eventually_sync(lambda: recorder.received() >= seen + events, "more events", every_secs=0.05)


@pytest.mark.parametrize("workers", ["0", "2"])
def test_a_chain_that_is_cut_at_random_has_the_whole_stream(tmp_path: Path, workers: str) -> None:
    """All three archives are equal and without a gap, and so is what a client has that goes from recorder to recorder."""
    dice = random.Random(int(workers))
    folders = [tmp_path / name for name in ("first", "second", "third")]
    with socket.create_server(("127.0.0.1", 0)) as reserved:
        port = reserved.getsockname()[1]
    with ExitStack() as stack:
        settings = live_settings(port, folders[0], SERVE_WORKERS=workers)
        first = stack.enter_context(running("run", cwd=tmp_path, **settings))
        door = stack.enter_context(front(*cuts(int(first.port_of("firehose")), dice)))
        second = stack.enter_context(tier(folders[1], door.port, SERVE_WORKERS=workers))
        door = stack.enter_context(front(*cuts(int(second.port_of("firehose")), dice)))
        third = stack.enter_context(tier(folders[2], door.port))
        recorders = [first, second, third]
        urls = [f"ws://{recorder.address_of('firehose')}/stocks" for recorder in recorders]
        whole = stack.enter_context(listening(urls[0]))
        # The market opens once all are there, so that none misses its beginning.
        options = ("--fault", f"stall:after={EVENTS}", "--port", str(port))
        stack.enter_context(simulating(*MARKET, *options, cwd=tmp_path))
        client = CutClient(urls, "*", 3)
        client.follow(lambda: first.received() >= EVENTS)
        wait_for_all(*recorders)

        def is_whole() -> bool:
            client.listen(None)
            return client.frames[-1:] == whole.frames[-1:]

        eventually_sync(is_whole, "the last event")
        assert client.frames == whole.frames[whole.frames.index(client.frames[0]) :]
        assert len(client.frames) > len(whole.frames) / 2
        assert [answer["reason"] for answer in client.answers if not answer["recovered"]] == []
        for recorder in (second, third):
            assert recorder.metric("polygon_resumes_total") > 0
            assert recorder.metric("polygon_gaps_total") == 0
        for recorder in reversed(recorders):
            assert recorder.stop() == 0
    for folder in folders[1:]:
        compared = finished("compare", str(folders[0]), str(folder), cwd=tmp_path)
        assert compared.returncode == 0, compared.stdout
        lines = manifest(folder)
        assert sum(line.get("resumed", 0) for line in lines if line["kind"] == "session_opened") > 0
        assert not [line for line in lines if line["kind"] == "gap"]
        assert finished("verify", str(folder), cwd=tmp_path).returncode == 0


def test_a_tier_goes_on_where_its_archive_ends(tmp_path: Path) -> None:
    """A restart of it costs nothing that the recorder before it still has; what that one has missed itself is a gap."""
    first_folder, second_folder = tmp_path / "first", tmp_path / "second"
    with ExitStack() as stack:
        port = stack.enter_context(simulating("--cluster", "stocks", "--rate", "2000", cwd=tmp_path))
        settings = live_settings(port, first_folder)
        first = stack.enter_context(running("run", cwd=tmp_path, **settings))
        door = int(first.port_of("firehose"))
        for run in range(3):
            with tier(second_folder, door) as second:
                wait_for_more(second, 500)
                assert second.metric("polygon_resumes_total") == min(run, 1)
                if run == 2:
                    assert first.stop() == 0
                    second.wait_for("disconnected")
                    settings["FIREHOSE_PORT"] = str(door)
                    stack.enter_context(running("run", cwd=tmp_path, **settings))
                    second.wait_for("gap")
                    wait_for_more(second, 500)
                assert second.stop() == 0
    kinds = [line["kind"] for line in manifest(second_folder) if line["kind"] in ("gap", "session_opened")]
    assert kinds == [*(["session_opened"] * 3), "gap", "session_opened"]
    place_of = {event: place for place, event in enumerate(archived(first_folder))}
    steps = [
        after - before for before, after in pairwise(place_of[event] for event in archived(second_folder))
    ]
    assert min(steps) == 1
    assert sum(step > 1 for step in steps) <= 1, "the restart of the first one"


def test_old_positions_of_the_first_recorder_hold_at_every_tier(tmp_path: Path) -> None:
    """Where memory keeps nothing, the archive of a tier has them: of before a kill of it, with workers, and further down."""
    folders = [tmp_path / name for name in ("first", "second", "third")]
    poor = {"RESUME_BUFFER_BYTES": "0", "NDJSON_FLUSH_INTERVAL_MS": "200"}
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as other:
        port, door = one.getsockname()[1], other.getsockname()[1]
    with ExitStack() as stack:
        first = stack.enter_context(running("run", cwd=tmp_path, **live_settings(port, folders[0])))
        follows = folders[1], int(first.port_of("firehose"))
        urls = [f"ws://{first.address_of('firehose')}/stocks"]
        whole = stack.enter_context(listening(urls[0]))
        with tier(*follows, FIREHOSE_PORT=str(door), **poor) as second:
            third = stack.enter_context(tier(folders[2], door, **poor))
            options = ("--fault", f"stall:after={EVENTS}", "--port", str(port))
            stack.enter_context(simulating(*MARKET, *options, cwd=tmp_path))
            wait_for_more(third, 500)
            clients = [CutClient(urls, "*", seed) for seed in range(3)]
            for client in clients:
                client.listen(None)
            wait_for_more(third, 500)
            second.process.kill()
        second = stack.enter_context(tier(*follows, FIREHOSE_PORT=str(door), SERVE_WORKERS="2", **poor))
        for client, recorder in zip(clients, (second, third, third), strict=True):
            client.urls = [f"ws://{recorder.address_of('firehose')}/stocks"]
        clients[2].urls += clients[0].urls
        wait_for_all(first, third)

        def is_whole(client: CutClient) -> bool:
            client.listen(None)
            return events_of(client.frames)[-1:] == events_of(whole.frames)[-1:]

        for client in clients:
            eventually_sync(lambda client=client: is_whole(client), f"the last event, but {client.answers}")
            expected, got = events_of(whole.frames), events_of(client.frames)
            assert got == expected[expected.index(got[0]) :]
            assert [answer["reason"] for answer in client.answers if not answer["recovered"]] == []
        reads = "polygon_server_archive_reads_total"
        eventually_sync(lambda: second.metric(reads) and third.metric(reads), "reads of the archives")
        assert [recorder.stop() for recorder in (third, second, first)] == [0, 0, 0]
    for folder in folders[1:]:
        assert finished("verify", str(folder), cwd=tmp_path).returncode == 0
        compared = finished("compare", str(folders[0]), str(folder), cwd=tmp_path)
        assert compared.returncode == 0, compared.stdout
