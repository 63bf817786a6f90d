"""Recorders behind a recorder: what the first one archives is what the clients of the others get."""

from __future__ import annotations

import json
import signal
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import pairwise
from pathlib import Path

import msgspec
import pytest
from commands import Running, live_settings, running, simulating
from waiting import eventually_sync

KEY = "test-key-0123456789"
_payload = msgspec.json.Decoder(msgspec.defstruct("Line", [("payload", msgspec.Raw)])).decode


@pytest.fixture
def exchange_port(tmp_path: Path) -> Iterator[int]:
    """The port of a simulated exchange."""
    with simulating("--cluster", "stocks", "--symbols", "50", "--rate", "3000", cwd=tmp_path) as port:
        yield port


@contextmanager
def first_tier(folder: Path, exchange_port: int, firehose_port: str = "0") -> Iterator[Running]:
    """Run the recorder that has the one upstream connection: archive and firehose."""
    settings = live_settings(exchange_port, folder, ROLES="archive,firehose,ops", FIREHOSE_PORT=firehose_port)
    with running("run", cwd=folder.parent, **settings) as recorder:
        recorder.wait_for("subscribed")
        yield recorder


def second_tier_settings(folder: Path, first: Running, **variables: str) -> dict[str, str]:
    """Return the settings of a recorder whose source is another one's firehose."""
    settings = live_settings(0, folder, FIREHOSE_URL=f"ws://{first.address_of('firehose')}", SINK="none")
    del settings["POLYGON_WS_URL"], settings["SUBSCRIPTION"], settings["NDJSON_DEST"]
    return {**settings, **variables}


@contextmanager
def second_tier(folder: Path, first: Running, **variables: str) -> Iterator[Running]:
    """Run a recorder that serves what another one's firehose sends."""
    with running("run", cwd=folder, **second_tier_settings(folder, first, **variables)) as recorder:
        recorder.wait_for("subscribed")
        yield recorder


@contextmanager
def client(folder: Path, address: str, *topics: str) -> Iterator[Running]:
    """Run a client that prints the events it gets."""
    with running("tail", f"ws://{address}", *topics, cwd=folder, POLYGON_API_KEY=KEY) as tail:
        yield tail


def archived(folder: Path) -> list[str]:
    """Return the events of an archive, byte for byte."""
    lines = (folder / "polygon.ndjson").read_text().splitlines()
    return [bytes(_payload(line).payload).decode() for line in lines]


def wait_for_events(tail: Running, count: int) -> None:
    """Wait until a client has got `count` more events."""
    before = len(tail.out)
    eventually_sync(lambda: len(tail.out) >= before + count, f"{count} events more")


def breaks(places: list[int]) -> int:
    """Count where a rising row of places leaves some out."""
    steps = [after - before for before, after in pairwise(places)]
    assert min(steps) > 0, "in order, none twice"
    return sum(step > 1 for step in steps)


def test_a_client_of_the_second_tier_gets_what_the_first_archives(tmp_path: Path, exchange_port: int) -> None:
    """Every event, byte for byte and in order; a restart of either recorder is a pause, logged and counted, no more."""
    first_folder, second_folder = tmp_path / "first", tmp_path / "second"
    with ExitStack() as stack:
        first = stack.enter_context(first_tier(first_folder, exchange_port))
        firehose_port = first.port_of("firehose")
        second = stack.enter_context(second_tier(tmp_path, first, ROLES="filtered,bars,ops"))
        filtered_port = second.port_of("filtered")
        tail = stack.enter_context(client(tmp_path, second.address_of("filtered"), "*"))
        wait_for_events(tail, 3000)
        assert second.get("/ready") == (200, "READY")

        assert first.stop() == 0
        until_restart = archived(first_folder)
        eventually_sync(lambda: tail.out[-1] == until_restart[-1], "the last event of the first archive")
        served = len(tail.out)
        assert tail.out == until_restart[-served:]
        second.wait_for("disconnected")
        assert second.get("/ready")[0] == 503

        first = stack.enter_context(first_tier(second_folder, exchange_port, firehose_port))
        wait_for_events(tail, 3000)
        gap = second.wait_for("gap")
        assert gap["reason"] == "disconnected"
        assert 0 < gap["from_ms"] < gap["to_ms"]
        assert second.metric("polygon_gaps_total") == 1
        assert second.metric("polygon_gap_seconds_total") == pytest.approx(gap["secs"], abs=0.001)
        assert second.metric("polygon_server_connections_total") == 1
        assert tail.lines == ["subscribed to: *"]

        assert second.stop() == 0
        eventually_sync(lambda: any("1012" in line for line in tail.lines), "1012 told to the client")
        stack.enter_context(
            second_tier(tmp_path, first, ROLES="filtered,bars,ops", FILTERED_PROXY_PORT=filtered_port)
        )
        wait_for_events(tail, 3000)
        assert first.stop() == 0
        since_restart = archived(second_folder)
        eventually_sync(lambda: tail.out[-1] == since_restart[-1], "the last event of the second archive")
        assert tail.stop(signal.SIGINT) == 0

    place_of = {event: place for place, event in enumerate(since_restart)}
    assert breaks([place_of[event] for event in tail.out[served:]]) <= 1, "the restart of the second tier"
    numbers = [json.loads(event)["q"] for event in tail.out]
    assert len(set(numbers)) == len(numbers)


def test_a_token_that_the_first_tier_refuses_ends_the_second(tmp_path: Path, exchange_port: int) -> None:
    """Exit status 78 and whose token is wrong, since only an operator can help."""
    with first_tier(tmp_path / "first", exchange_port) as first:
        settings = second_tier_settings(tmp_path, first, POLYGON_API_KEY="another-key-0123456789")
        with running("run", cwd=tmp_path, **settings) as second:
            assert second.wait() == 78
            assert second.lines[-1].startswith(
                f"recorder: stocks: the recorder at ws://{first.address_of('firehose')}/stocks refused the token"
            )


def test_bars_of_another_recorder_are_passed_on(tmp_path: Path, exchange_port: int) -> None:
    """With MS_AGGREGATOR_URL a client gets the bars of the other recorder, the same bytes, also after its restart."""
    with ExitStack() as stack:
        first = stack.enter_context(first_tier(tmp_path / "first", exchange_port))
        maker = stack.enter_context(second_tier(tmp_path, first, ROLES="bars,ops"))
        bars_port = maker.port_of("bars")
        relay = stack.enter_context(
            second_tier(
                tmp_path, first, ROLES="filtered,ops", MS_AGGREGATOR_URL=f"ws://127.0.0.1:{bars_port}"
            )
        )
        relayed = stack.enter_context(client(tmp_path, relay.address_of("filtered"), "100Ms.*", "T.*"))
        with client(tmp_path, f"127.0.0.1:{bars_port}", "100Ms.*") as direct:
            eventually_sync(lambda: len(of_channel(relayed, "MB")) >= 300, "relayed bars")
            eventually_sync(lambda: len(direct.out) >= 300, "the same bars, directly")
            last = of_channel(relayed, "MB")[-1]
            eventually_sync(lambda: last in list(direct.out), "the last of them, directly")
            got, made = of_channel(relayed, "MB"), list(direct.out)
            joined = got.index(made[0]) if made[0] in got else 0
            begun = made.index(got[joined])
            both = min(len(got) - joined, len(made) - begun)
            assert both >= 100
            assert got[joined:][:both] == made[begun:][:both]
        assert of_channel(relayed, "T"), "the client's other topics come from the firehose"
        assert relay.metric("polygon_bars_relayed_total") >= len(got)

        assert maker.stop() == 0
        count = len(of_channel(relayed, "MB"))
        stack.enter_context(second_tier(tmp_path, first, ROLES="bars,ops", AGGREGATOR_PORT=bars_port))
        eventually_sync(lambda: len(of_channel(relayed, "MB")) >= count + 100, "bars after the restart")
        assert relay.metric("polygon_server_connections_total") == 1
        assert relayed.stop(signal.SIGINT) == 0
        bars = of_channel(relayed, "MB")
        assert len(set(bars)) == len(bars)


def test_in_a_silent_market_the_last_bar_reaches_a_worker_of_the_second_tier(tmp_path: Path) -> None:
    """No trade closes its window: the exchange's pong does, told by the first tier to the second, and to its worker."""
    ticks = tmp_path / "ticks.ndjson"
    trades = [
        {"ev": "T", "sym": "AAPL", "p": 100 + number, "s": 1, "t": 1_790_000_000_000 + 100 * number}
        for number in range(16)
    ]
    ticks.write_text("".join(f"{json.dumps({'at_us': 1000 * trade['t'], 'm': trade})}\n" for trade in trades))
    patience = {"BAR_SILENCE_MAX_MS": "3600000", "BAR_CONDITIONS": "all"}
    with socket.create_server(("127.0.0.1", 0)) as reserved:
        port = reserved.getsockname()[1]
    with ExitStack() as stack:
        settings = live_settings(port, tmp_path / "first", ROLES="firehose,ops")
        first = stack.enter_context(running("run", cwd=tmp_path, **settings))
        first.wait_for("started")
        second = stack.enter_context(
            second_tier(tmp_path, first, ROLES="bars,ops", SERVE_WORKERS="1", **patience)
        )
        # The market opens once both tiers are there, so that none of its trades is missed.
        options = ("--cluster", "stocks", "--ticks", str(ticks), "--market-start", "subscriber")
        stack.enter_context(simulating(*options, "--port", str(port), cwd=tmp_path))
        eventually_sync(lambda: second.metric("polygon_messages_received_total") >= 16, "the last trade")
        tail = stack.enter_context(
            running(
                "tail",
                f"ws://{second.address_of('bars')}",
                "1000Ms.AAPL",
                "--since",
                "1",
                cwd=tmp_path,
                POLYGON_API_KEY=KEY,
            )
        )
        eventually_sync(lambda: len(tail.out) >= 2, "both bars")
        assert [json.loads(line)["n"] for line in tail.out] == [10, 6]


def test_a_client_makes_the_recorder_subscribe_upstream(tmp_path: Path) -> None:
    """SUBSCRIBE_ON_DEMAND: a topic comes with its client, survives a connection that is cut, and goes with its client."""
    fault = ("--fault", "close:code=1006,after=3000")
    with ExitStack() as stack:
        port = stack.enter_context(
            simulating("--cluster", "stocks", "--symbols", "10", "--rate", "3000", *fault, cwd=tmp_path)
        )
        settings = live_settings(
            port,
            tmp_path / "a",
            ROLES="filtered,ops",
            SUBSCRIPTION="T.NONE",
            SUBSCRIBE_ON_DEMAND="true",
            UNSUBSCRIBE_DELAY_SECS="0",
        )
        recorder = stack.enter_context(running("run", cwd=tmp_path, **settings))
        recorder.wait_for("subscribed")
        assert recorder.metric("polygon_topics_wanted") == 1
        tail = stack.enter_context(client(tmp_path, recorder.address_of("filtered"), "Q.*"))
        wait_for_events(tail, 1000)
        assert recorder.metric("polygon_topics_acknowledged") == 2
        recorder.wait_for("subscribed", 2)
        wait_for_events(tail, 1000)
        assert recorder.metric("polygon_topics_acknowledged") == 2
        assert tail.stop(signal.SIGINT) == 0
        eventually_sync(lambda: recorder.metric("polygon_topics_acknowledged") == 1, "the release")
        assert recorder.metric("polygon_server_connections_total") == 1
        assert recorder.metric("polygon_sessions_total") == 2


def of_channel(tail: Running, channel: str) -> list[str]:
    """Return a client's events of one channel."""
    return [line for line in list(tail.out) if line.startswith(f'{{"ev":"{channel}"')]
