"""What the recording process and its workers say: it arrives as it was said, whatever the reads cut it into."""

from __future__ import annotations

from collections import Counter

import pytest
from fakes import batch_of
from hypothesis import given
from hypothesis import strategies as st
from serving import LIMITS, SERVERS, bar_settings

from recorder.bars import BarStats
from recorder.bus import Mark, Missed, SessionChange, SessionClosed, SessionOpened, TopicsAnswered
from recorder.servers.stats import ClientStats, ReplayStats, ServerStats
from recorder.servers.tls import Pem
from recorder.settings import ClientLimits, ServersSettings
from recorder.workers.replay_messages import Finish, Finished, Look, Say, Stand
from recorder.workers.wire import (
    BARS,
    BATCH,
    MESSAGE,
    Admit,
    Advance,
    Answer,
    AskTime,
    Begun,
    Enter,
    FedBatch,
    Guessed,
    Leave,
    NewRules,
    Reader,
    Ready,
    Refused,
    Release,
    Report,
    Session,
    Setup,
    Stop,
    Topics,
    Up,
    Want,
    answered_of,
    change_of,
    decode_batch,
    decode_down,
    decode_up,
    encode,
    encode_batch,
    session_of,
    topics_of,
)

BEGUN = Begun(2**40, 2**41, (Session("stocks", 5, "disconnected", 7),), {"stocks": "run:5"})
BATCHES = st.lists(
    st.tuples(
        st.sampled_from([BATCH, BARS]),
        st.sampled_from(["stocks", "options", "crypto"]),
        st.integers(0, 2**63),
        st.lists(st.binary(max_size=200), max_size=5),
    ),
    max_size=8,
)


@given(BATCHES, st.lists(st.integers(1, 60), max_size=30))
def test_batches_arrive_as_they_were_sent(
    sent: list[tuple[int, str, int, list[bytes]]], reads: list[int]
) -> None:
    """Cluster, time and every frame, byte for byte and in order, for any cutting of the stream."""
    stream = b"".join(
        encode_batch(kind, batch_of(*frames, cluster=cluster, received_ns=received_ns))
        for kind, cluster, received_ns, frames in sent
    )
    reader = Reader()
    got = []
    for size in [*reads, len(stream)]:
        data, stream = stream[:size], stream[size:]
        for kind, content in reader.feed(data):
            batch = decode_batch(content)
            assert batch.read_ns == 1_000_000_000
            got.append((kind, batch.cluster, batch.received_ns, batch.frames))
    assert got == sent
    assert repr(reader) == "Reader(0 bytes wait)"


def test_a_piece_is_not_given_before_it_is_whole() -> None:
    """What a worker that was given up has half of is nothing to it."""
    piece = encode_batch(BATCH, batch_of(b"x" * 1000))
    reader = Reader()
    assert not list(reader.feed(piece[:-1]))
    assert repr(reader) == f"Reader({len(piece) - 1} bytes wait)"
    [received] = reader.feed(piece[-1:])
    assert decode_batch(received.content).frames == [b"x" * 1000]


def test_the_number_of_events_comes_along_where_it_is_known() -> None:
    """The firehose counts events without decoding them, where the recording process has."""
    batch = batch_of(b'[{"ev":"T","sym":"A","t":1},{"ev":"T","sym":"B","t":2}]')
    assert _through(encode_batch(BATCH, batch)).events_count == 0
    assert len(batch.rows) == 2
    assert _through(encode_batch(BATCH, batch)).events_count == 2


def test_the_position_comes_along() -> None:
    """Every worker knows each batch by the same numbers."""
    batch = batch_of(b"[]", b"[]")
    batch.marks = [Mark(1, "run:7"), Mark(2, "run:9")]
    told = _through(encode_batch(BATCH, batch, 2**40, 2**41))
    assert (told.position, told.seq) == (2**40, 2**41)
    assert (told.frames, list(told.marks)) == (batch.frames, batch.marks)


def _through(piece: bytes) -> FedBatch:
    [received] = Reader().feed(piece)
    return decode_batch(received.content)


def new_rules() -> NewRules:
    """Return rules with something in every field."""
    return NewRules(
        servers=ServersSettings(**{**SERVERS, "tokens": (), "limits": ClientLimits(**LIMITS)}),
        digests={"me": b"\x00\xff" * 16},
        pem=Pem("cert.pem", "key.pem", b"a chain", b"a key"),
    )


def setup() -> Setup:
    """Return a setup with something in every field."""
    return Setup(
        number=2,
        rules=new_rules(),
        bars=bar_settings(),
        on_demand=True,
        topics={"stocks": ("T.*", "Q.AAPL")},
        native=True,
        epoch="a run",
        manifest="/data/polygon.manifest.ndjson",
        follows=True,
        amend_refusal="it amends none",
        log_levels={"": "info", "polygon_clients": "debug"},
        log_format="json",
    )


def report() -> Report:
    """Return a report with something in every field."""
    server = ServerStats("filtered", clients=3, events_delivered=2**40, lag_secs_max=0.5)
    server.refused["full"] = 2
    server.evictions["slow_consumer"] = 1
    return Report(
        servers=[server],
        bars={"stocks": BarStats("stocks", event_time=5, trades=7)},
        replays=ReplayStats(1),
        connections=4,
        adopted=9,
        lag_secs=0.25,
        cpu_secs=1.5,
        memory_bytes=2**26,
        consumer_failures=0,
        log_lines_dropped=3,
        clients=[
            ClientStats(
                port="filtered",
                number=7,
                worker=1,
                address="192.0.2.7",
                address_port=50_000,
                cluster="",
                token="app",
                agent="a client",
                topics=("T.AAPL", "Q.*"),
                topics_count=2,
                unread_bytes=5,
                lag_secs=0.5,
                events=2**40,
                bytes=2**50,
                connected_secs=1.5,
            )
        ],
    )


@pytest.mark.parametrize(
    "message",
    [
        setup(),
        new_rules(),
        Answer(7, False),
        Guessed("::1"),
        Stop(2**62),
        Advance("stocks", 2**62),
        BEGUN,
        Say(b'[{"ev":"status"}]'),
        Look(3),
        Finish("replay complete"),
    ],
)
def test_what_is_said_to_a_worker_is_what_it_hears(message: object) -> None:
    """Settings too, down to their tuples."""
    [received] = Reader().feed(encode(message))  # type: ignore[arg-type]
    assert received.kind == MESSAGE
    assert decode_down(received.content) == message


@pytest.mark.parametrize(
    "message",
    [
        Ready(),
        Refused("TLS_KEY_FILE: is not the key"),
        Enter(1, "bars"),
        Admit(2, "filtered", "me"),
        Leave("filtered", ""),
        Guessed("192.0.2.1"),
        Want("stocks", ["T.AAPL"], False),
        Release("stocks", ["100Ms.*"], True),
        AskTime("crypto"),
        Stand(3, 0.5),
        Finished(),
        report(),
    ],
)
def test_what_a_worker_says_is_what_is_heard(message: Up) -> None:
    """Counts by reason stay counters, which can be added up."""
    [received] = Reader().feed(encode(message))
    heard = decode_up(received.content)
    assert heard == message
    if isinstance(heard, Report):
        assert heard.servers[0].refused + Counter(full=1) == {"full": 3}


@pytest.mark.parametrize(
    "change",
    [
        SessionOpened("stocks", 5),
        SessionOpened("stocks", 5, 1000, (Missed(3, 4, "disconnected"),)),
        SessionClosed("stocks", 9, "disconnected", 7),
    ],
)
def test_sessions_are_passed_on(change: SessionChange) -> None:
    """What the bus says of a session is what the bus of a worker says."""
    [received] = Reader().feed(encode(session_of(change)))
    heard = decode_down(received.content)
    assert change_of(heard) == change  # type: ignore[arg-type]


def test_refusals_are_passed_on() -> None:
    """What the bus says of topics is what the bus of a worker says."""
    answered = TopicsAnswered("stocks", ("T.AAPL", "Q.*"), "the plan")
    [received] = Reader().feed(encode(topics_of(answered)))
    heard = decode_down(received.content)
    assert isinstance(heard, Topics)
    assert answered_of(heard) == answered
