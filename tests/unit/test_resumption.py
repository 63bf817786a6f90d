"""A client of our own that is cut and resumes: each event is passed on once, whatever comes again."""

from __future__ import annotations

import asyncio
from typing import Any

import hypothesis.strategies as st
from fakes import CollectingConsumer, batch_of
from hypothesis import HealthCheck, given, settings
from resuming import Follower, Recorder
from serving import event, frame_of

from recorder.bus import SessionClosed, SessionOpened
from recorder.polygon.control import POSITION, RESUME, RESUME_COMPLETE, encode_status
from recorder.polygon.manner import SNAPSHOT, SNAPSHOT_COMPLETE
from recorder.polygon.rows import Status
from recorder.sources.exchange.resumption import Resumption

STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("publish"), st.integers(1, 3)),
        st.tuples(st.just("read"), st.integers(1, 3000)),
        st.tuples(st.just("cut"), st.just(0)),
        st.tuples(st.just("step"), st.just(0)),
        st.tuples(st.just("tell"), st.just(0)),
    ),
    max_size=60,
)


def status(kind: str, message: str = "") -> bytes:
    """Return the frame of a status."""
    return encode_status(Status(kind, message))


class Reader:
    """The resumption of a client, and what it has passed on."""

    def __init__(self, after: str = "") -> None:
        self.shown = CollectingConsumer()
        self.kept: list[str] = []
        self.resumption = Resumption("stocks", self.shown, after, self.kept.append)

    @property
    def events(self) -> list[bytes]:
        """Every event, in order."""
        return [one for batch in self.shown.batches for one in batch.rows.objects]

    def take(self, *frames: bytes) -> None:
        """Take one read."""
        self.resumption.accept(batch_of(*frames))

    def cut(self) -> None:
        """Lose the connection, and have another."""
        self.resumption.session_changed(SessionClosed("stocks", 1, "disconnected", 1))
        self.resumption.session_changed(SessionOpened("stocks", 2))


@given(steps=STEPS, repeats=st.integers(1, 5))
@settings(deadline=None, max_examples=100, suppress_health_check=[HealthCheck.too_slow])
def test_every_event_is_passed_on_once(steps: list[tuple[str, int]], repeats: int) -> None:
    """Whenever the connection breaks, and though several events may have the same bytes."""

    async def live() -> None:
        recorder, reader = Recorder(2**20), Reader()
        sent: list[bytes] = []
        client = Follower(recorder, "filtered", "T.*")

        def connect() -> None:
            after = reader.resumption.after
            client.connect(**({"after": after, "partial": True} if after else {}))

        def read(bytes_max: int | None = None) -> None:
            frames = [payload for opcode, payload in client.transport.take(bytes_max) if opcode == 1]
            if frames:
                reader.take(*frames)

        connect()
        read()
        for step, number in steps:
            if step == "publish":
                made = [event("T", "A", len(sent) // repeats) for _ in range(number)]
                sent += made
                recorder.publish(frame_of(*made))
            elif step == "read":
                read(number)
            elif step == "cut":
                client.transport.written = b""
                client.cut()
                reader.cut()
                connect()
            elif step == "step":
                recorder.resumes.step()
            elif step == "tell" and client.client is not None:
                recorder.resumes.tell([client.client])
        while recorder.resumes.step():
            read()
        read()
        assert reader.events == sent
        assert reader.kept[-1] == reader.resumption.after

    asyncio.run(live())


def test_an_event_of_the_same_bytes_is_another_one_behind_the_past() -> None:
    """What was to come again and did not is forgotten with the end of the past, and with a position."""
    one = event("T", "A", 1)
    for end in (RESUME_COMPLETE, POSITION):
        reader = Reader()
        reader.take(status(POSITION, "run:1"), frame_of(one))
        reader.cut()
        reader.take(status(RESUME), status(RESUME_COMPLETE))
        reader.take(status(end, "run:2"), frame_of(one))
        assert reader.events == [one, one]


def test_what_is_asked_for_in_several_requests_has_several_pasts() -> None:
    """What was to come again is forgotten with the end of the last."""
    one = event("T", "A", 1)
    reader = Reader()
    reader.resumption.requests_count = 2
    reader.take(status(POSITION, "run:1"), frame_of(one))
    reader.cut()
    reader.take(
        status(RESUME), status(RESUME_COMPLETE), status(RESUME), frame_of(one), status(RESUME_COMPLETE)
    )
    assert reader.events == [one]
    reader.take(frame_of(one))
    assert reader.events == [one, one]


def test_last_values_are_no_part_of_the_stream() -> None:
    """They are passed on as they are, and what comes again behind a cut is still known."""
    one = event("T", "A", 1)
    reader = Reader()
    reader.take(status(POSITION, "run:1"), frame_of(one))
    reader.cut()
    reader.take(status(RESUME), status(SNAPSHOT), frame_of(one), status(SNAPSHOT_COMPLETE), frame_of(one))
    assert reader.events == [one, one]


def test_a_server_that_resumes_nothing_is_followed_as_ever() -> None:
    """The exchange itself knows no positions: everything that comes is passed on, and nothing is kept of it."""
    one = event("T", "A", 1)
    reader = Reader("run:1")
    reader.take(frame_of(one))
    reader.cut()
    reader.take(frame_of(one))
    assert reader.events == [one, one]
    assert reader.resumption.after == "run:1"
    assert repr(reader.resumption) == "Resumption('run:1', 0 events behind it)"


def test_statuses_are_passed_on_in_their_place() -> None:
    """The consumer sees them in order with the events, and a position once all before it has been passed on."""
    one, two = event("T", "A", 1), event("T", "A", 2)
    order: list[Any] = []

    class Consumer(CollectingConsumer):
        def accept(self, batch: Any) -> None:
            order.extend([*batch.rows.objects, *(found.status for found in batch.statuses)])

    resumption = Resumption("stocks", Consumer(), keep=order.append)
    resumption.accept(batch_of(frame_of(one), status(POSITION, "run:5"), frame_of(two)))
    assert order == [one, "position", "run:5", two]
