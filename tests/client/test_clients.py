"""Unmodified clients against `recorder run`: what works with the vendor works with the filtered port."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from client.programs import HERE, Browser, Kind, Told, make_installation, make_kind, serving_page, symbol_of
from commands import Running, live_settings, running, simulating
from tools import tool
from waiting import eventually_sync

Facts = tuple[Any, ...]
"""Channel, symbol and whatever else tells one event from all others."""

KEY = "test-key-0123456789"
CLIENTS = (
    "massive for Python",
    "polygon-api-client for Python",
    "websockets for Python",
    "@polygon.io/client-js for JavaScript",
    "@massive.com/client-js for JavaScript",
    "gorilla for Go",
    Browser.name,
)
RECONNECTS_UNSEEN = {"massive for Python", "polygon-api-client for Python"}
"""Clients that reconnect without telling the application."""
RAW_PAYLOADS = msgspec.json.Decoder(msgspec.defstruct("Line", [("payload", msgspec.Raw)]))
SILENT_EVENTS = 100
"""So many events in a row without a topic that made up a good part of them: it is unsubscribed."""
MARKET = ("--symbols", "12", "--rate", "600", "--no-bursts")
"""Twelve stocks, NVDA to the symbol T."""


@pytest.fixture(params=CLIENTS)
def kind(request: pytest.FixtureRequest) -> Iterator[Kind]:
    """Each client in turn."""
    if request.param == Browser.name:
        tool("chromium")
        with serving_page((HERE / "browser" / "page.html").read_bytes()) as server:
            yield Browser(server)
    else:
        yield make_kind(request.param, make_installation(request.config))


@pytest.fixture
def simulator(tmp_path: Path) -> Iterator[int]:
    """The port of an exchange for stocks."""
    with simulating("--cluster", "stocks", *MARKET, cwd=tmp_path) as port:
        yield port


def archived(folder: Path) -> list[bytes]:
    """Return the payload of each record, exactly as the recorder wrote it."""
    lines = (folder / "polygon.ndjson").read_bytes().splitlines()
    return [bytes(RAW_PAYLOADS.decode(line).payload) for line in lines]


def facts_of(payload: bytes) -> Facts:
    """Return what the vendor's models keep of a trade or a quote."""
    event = json.loads(payload)
    return tuple(event.get(name) for name in ("ev", "sym", "t", "q", "p", "bp", "ap"))


def facts_of_model(model: dict[str, Any]) -> Facts:
    """Return the same from a model of the vendor's Python clients."""
    names = ("event_type", "symbol", "timestamp", "sequence_number", "price", "bid_price", "ask_price")
    return tuple(model.get(name) for name in names)


def facts_told(told: Told) -> list[Facts]:
    """Return the facts of each event that a client told, in order."""
    return [facts_of_model(model) for model in told.models] or [facts_of(raw) for raw in told.raw]


def topic_of(facts: Facts) -> str:
    """Return the topic of an event."""
    return f"{facts[0]}.{facts[1]}"


def assert_piece(piece: Sequence[Any], whole: Sequence[Any]) -> None:
    """The piece is in the whole as it is: nothing missing, twice, altered or in another order."""
    begin = whole.index(piece[0])
    assert piece == whole[begin : begin + len(piece)]


def assert_each_topic_is_whole(told: Told, folder: Path, topics: Iterable[str]) -> None:
    """What the client got of each topic is a piece of the archive, to the byte where the client shows bytes."""
    stored = archived(folder)
    for topic in topics:
        mine = [raw for raw in told.raw if topic_of(facts_of(raw)) == topic]
        if mine:
            assert_piece(mine, [payload for payload in stored if topic_of(facts_of(payload)) == topic])
        else:
            facts = [facts for facts in facts_told(told) if topic_of(facts) == topic]
            assert_piece(facts, [facts for facts in map(facts_of, stored) if topic_of(facts) == topic])


def test_topics_come_and_go(kind: Kind, simulator: int, tmp_path: Path) -> None:
    """Subscribing to one topic, then to two more, then giving one back, brings exactly those, whole and unaltered."""
    settings = live_settings(simulator, tmp_path, **kind.recorder_settings)
    with running("run", cwd=tmp_path, **settings) as recorder:
        with kind.running(tmp_path, recorder.address_of("filtered"), KEY) as program:
            told = program.told
            program.subscribe("T.NVDA")
            told.wait_until(lambda told: len(told.topics) >= 5, "five trades")
            assert set(told.topics) == {"T.NVDA"}
            program.subscribe("Q.TSLA", "T.T")
            told.wait_until(lambda told: {"Q.TSLA", "T.T"} <= set(told.topics), "events of the new topics")
            program.unsubscribe("T.NVDA")
            told.wait_until(
                lambda told: (
                    len(told.topics) > SILENT_EVENTS and "T.NVDA" not in told.topics[-SILENT_EVENTS:]
                ),
                "an end of the topic that was given back",
            )
        assert set(told.topics) == {"T.NVDA", "Q.TSLA", "T.T"}
        assert not told.failure
        assert recorder.stop() == 0
    assert_each_topic_is_whole(told, tmp_path, ("T.NVDA", "Q.TSLA", "T.T"))


def test_a_refused_token_is_told(kind: Kind, simulator: int, tmp_path: Path) -> None:
    """A client with a bad token learns that it is refused, and gets nothing, in the way its users know."""
    settings = live_settings(simulator, tmp_path, **kind.recorder_settings)
    with (
        running("run", cwd=tmp_path, **settings) as recorder,
        kind.running(tmp_path, recorder.address_of("filtered"), "no-such-token") as program,
    ):
        program.subscribe("T.NVDA")
        failure = eventually_sync(lambda: program.told.failure, "a failure that the client shows")
        assert "authentication failed" in failure
        assert program.told.topics == []
        refused = recorder.wait_for("client_refused")
        assert "no-such-token" not in json.dumps(refused)


def test_a_restart_is_a_pause(kind: Kind, simulator: int, tmp_path: Path) -> None:
    """A recorder that restarts closes with 1012; the client comes back by itself and gets its topics again."""
    # Nothing else uses this address, so the port stays free while the recorder is away.
    settings = live_settings(simulator, tmp_path, BIND_HOST="127.0.0.2", **kind.recorder_settings)
    with running("run", cwd=tmp_path, **settings) as first:
        port = first.port_of("filtered")
        with kind.running(tmp_path, first.address_of("filtered"), KEY) as program:
            told = program.told
            program.subscribe("T.NVDA", "Q.TSLA")
            told.wait_until(lambda told: {"T.NVDA", "Q.TSLA"} <= set(told.topics), "events of both topics")
            assert first.stop() == 0
            if kind.name not in RECONNECTS_UNSEEN:
                told.wait_until(lambda told: told.closes, "the end of the connection")
                assert told.closes[0] == 1012
            recorded_before = set(map(facts_of, archived(tmp_path)))
            with running("run", cwd=tmp_path, **{**settings, "FILTERED_PROXY_PORT": port}):
                told.wait_until(
                    lambda told: (
                        {topic_of(facts) for facts in facts_told(told) if facts not in recorded_before}
                        == {"T.NVDA", "Q.TSLA"}
                    ),
                    "events of both topics that only the second recorder had",
                )
    assert not told.failure
    assert set(told.topics) == {"T.NVDA", "Q.TSLA"}


def test_one_connection_for_everything_keeps_the_order_and_every_byte(
    request: pytest.FixtureRequest, simulator: int, tmp_path: Path
) -> None:
    """A client of `*` and topics within it gets each event once, in upstream order, exactly as it was recorded."""
    kind = make_kind("websockets for Python", make_installation(request.config))
    with running("run", cwd=tmp_path, **live_settings(simulator, tmp_path)) as recorder:
        with kind.running(tmp_path, recorder.address_of("filtered"), KEY) as program:
            program.subscribe("*", "T.*", "Q.TSLA", "T.T")
            program.told.wait_until(lambda told: len(told.raw) > 1500, "many events")
        assert recorder.stop() == 0
    assert_piece(program.told.raw, archived(tmp_path))


@pytest.mark.parametrize(
    ("cluster", "upstream", "topic", "model", "field"),
    [
        ("options", "T.*", "T.*", "EquityTrade", "price"),
        ("crypto", "XT.*", "XT.BTC-USD", "CryptoTrade", "price"),
        ("forex", "C.*", "C.EUR-USD", "ForexQuote", "ask_price"),
        ("indices", "V.*", "V.I:SPX", "IndexValue", "value"),
        ("futures", "T.*", "T.*", "FuturesTrade", "price"),
    ],
)
def test_other_clusters(
    cluster: str,
    upstream: str,
    topic: str,
    model: str,
    field: str,
    request: pytest.FixtureRequest,
    tmp_path: Path,
) -> None:
    """The vendor's client follows every other cluster, with topics as its users write them."""
    kind = make_kind("massive for Python", make_installation(request.config))
    with simulating("--cluster", cluster, *MARKET, cwd=tmp_path) as port:
        settings = live_settings(port, tmp_path, POLYGON_CLUSTER=cluster, SUBSCRIPTION=upstream)
        with (
            running("run", cwd=tmp_path, **settings) as recorder,
            kind.running(tmp_path, recorder.address_of("filtered"), KEY, cluster) as program,
        ):
            program.subscribe(topic)
            program.told.wait_until(lambda told: len(told.models) >= 10, "ten events")
            models = program.told.models
            assert {found["class"] for found in models} == {model}
            assert all(found[field] > 0 for found in models)
            wanted = topic.partition(".")[2]
            if wanted != "*":
                assert {symbol_of(found).replace("/", "-") for found in models} == {wanted}


def test_a_page_from_elsewhere_is_refused(simulator: int, tmp_path: Path) -> None:
    """Without ALLOWED_ORIGINS, a page of another origin cannot connect, and the recorder counts it."""
    tool("chromium")
    with (
        serving_page((HERE / "browser" / "page.html").read_bytes()) as server,
        running("run", cwd=tmp_path, **live_settings(simulator, tmp_path)) as recorder,
        Browser(server).running(tmp_path, recorder.address_of("filtered"), KEY) as program,
    ):
        program.subscribe("T.NVDA")
        eventually_sync(lambda: program.told.closes, "the end of the connection")
        assert program.told.closes[0] == 1006
        assert program.told.topics == []
        assert not recorder.logged("client_joined")
        assert _refused_origins(recorder) >= 1


def _refused_origins(recorder: Running) -> float:
    _, text = recorder.get("/metrics")
    lines = [line for line in text.splitlines() if 'reason="origin"' in line]
    return sum(float(line.rpartition(" ")[2]) for line in lines)


def test_workers_serve_the_vendors_client(
    simulator: int, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """With SERVE_WORKERS two clients, each with another process, get their topics whole, and come back after its end."""
    kind = make_kind("massive for Python", make_installation(request.config))
    settings = live_settings(simulator, tmp_path, SERVE_WORKERS="2", **kind.recorder_settings)
    with running("run", cwd=tmp_path, **settings) as recorder:
        address = recorder.address_of("filtered")
        with kind.running(tmp_path, address, KEY) as one, kind.running(tmp_path, address, KEY) as other:
            for program in (one, other):
                program.subscribe("T.NVDA", "Q.TSLA")
                program.told.wait_until(lambda told: len(told.topics) >= 50, "events")
            joined = eventually_sync(
                lambda: len(found := recorder.logged("client_joined")) == 2 and found, "two clients"
            )
            assert {entry["worker"] for entry in joined} == {1, 2}
            before = len(one.told.topics), len(other.told.topics)
            workers = json.loads(recorder.get("/status")[1])["workers"]
            os.kill(workers[0]["pid"], signal.SIGKILL)
            for program, had in zip((one, other), before, strict=True):
                program.told.wait_until(lambda told, had=had: len(told.topics) >= had + 50, "more events")
        assert recorder.stop() == 0
    topics = ("T.NVDA", "Q.TSLA")
    for program in (one, other):
        assert set(program.told.topics) == set(topics)
