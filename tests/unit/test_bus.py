"""The bus: one fan-out, one isolation, and a stage that runs once before all consumers."""

from __future__ import annotations

from fakes import CollectingConsumer, batch_of, recording_bus

from recorder.archive.policy import Selection
from recorder.bus import Batch, Bus, SessionChange, SessionOpened, TopicsAnswered
from recorder.ledger import Ledger
from recorder.polygon.rows import ScannedRows
from recorder.polygon.topics import parse_pattern
from recorder.sinks.stage import Stage

TRADES = b'[{"ev":"T","sym":"A","t":1760375617662},{"ev":"Q","sym":"A","t":1760375617662}]'


class Broken:
    """A consumer with a defect: it raises whenever it is called."""

    def accept(self, batch: Batch) -> None:
        raise ZeroDivisionError("a defect")

    def session_changed(self, change: SessionChange) -> None:
        raise ZeroDivisionError("a defect")


class Told:
    """A consumer that keeps what the exchange says of topics."""

    def __init__(self) -> None:
        self.answers: list[TopicsAnswered] = []

    def accept(self, batch: Batch) -> None:
        """Events are of no interest."""

    def session_changed(self, change: SessionChange) -> None:
        """Nor are sessions."""

    def topics_answered(self, answered: TopicsAnswered) -> None:
        self.answers.append(answered)


class BrokenTold(Told):
    """The same with a defect."""

    def topics_answered(self, answered: TopicsAnswered) -> None:
        raise ZeroDivisionError("a defect")


class Numbers:
    """A sink that keeps the number of each record, and the lines."""

    def __init__(self) -> None:
        self.seqs: list[int] = []
        self.positions: list[int] = []
        self.lines: list[bytes] = []

    def accept(self, batch: Batch) -> None:
        if batch.recorded is not None:
            self.seqs += batch.recorded.seqs
            self.positions += batch.recorded.positions
            self.lines.append(batch.lines)

    def session_changed(self, change: SessionChange) -> None:
        """Sessions have no numbers."""


def test_a_sink_that_raises_costs_itself_alone() -> None:
    """Sinks before and behind one with a defect get every batch and every session, and no number is skipped."""
    first, last, port = Numbers(), Numbers(), CollectingConsumer()
    bus = recording_bus(Ledger(), first, Broken(), last, port)
    bus.announce(SessionOpened("stocks", 1))
    for _ in range(3):
        bus.publish(batch_of(TRADES))
    assert first.seqs == last.seqs == [1, 2, 3, 4, 5, 6]
    assert len(port.batches) == 3
    assert len(port.changes) == 1
    assert bus.failures == 4


def test_whoever_promises_topics_hears_of_refusals() -> None:
    """Those that promise none do not; one with a defect costs itself alone, and one that is detached hears no more."""
    bus, first, last = Bus(), Told(), Told()
    for consumer in (first, BrokenTold(), CollectingConsumer(), last):
        bus.attach(consumer)
    answered = TopicsAnswered("stocks", ("T.A",), "the plan")
    bus.answer(answered)
    bus.detach(first)
    bus.answer(answered)
    assert (first.answers, last.answers) == ([answered], [answered, answered])
    assert bus.failures == 2


def test_a_stage_that_raises_costs_the_records_and_no_client() -> None:
    """Where no records can be made, the ports still get every batch; sinks have nothing of it."""
    bus, port, sink = Bus(), CollectingConsumer(), Numbers()

    def broken(batch: Batch) -> None:
        raise ZeroDivisionError("a defect")

    bus.stage = broken
    bus.attach(sink)
    bus.attach(port)
    bus.publish(batch_of(TRADES))
    assert port.frames == [TRADES]
    assert sink.seqs == []
    assert bus.failures == 1


def test_positions_count_what_is_left_out_and_seq_does_not() -> None:
    """The records of a filtered stream have numbers without holes, and positions that say where they stood."""
    bus, sink, ledger = Bus(), Numbers(), Ledger()
    bus.stage = Stage(Selection([parse_pattern("Q.*")], 1), ledger, "h", "0")
    bus.attach(sink)
    for _ in range(3):
        bus.publish(batch_of(TRADES))
    assert sink.seqs == [1, 2, 3]
    assert sink.positions == [2, 4, 6]
    assert ledger.channel("stocks", "T").filtered == 3


def test_sinks_share_the_lines() -> None:
    """However many sinks want them, the lines of a batch are made once."""
    first, second = Numbers(), Numbers()
    bus = recording_bus(Ledger(), first, second)
    bus.publish(batch_of(TRADES))
    assert first.lines[0] is second.lines[0]


def test_frames_are_plain_only_if_they_are_the_rows() -> None:
    """What Python had to look at may hold statuses, rejects or white space, and is joined from its events instead."""
    frames = [TRADES, b"[]", TRADES]
    is_scanned = isinstance(batch_of(*frames).rows, ScannedRows)
    assert list(batch_of(*frames).plain_frames) == (frames if is_scanned else [])
    for odd in (b'[{"ev":"status","status":"success"}]', b'[{"ev":"T"}]', b"[ ]", TRADES + b"\n", b"5"):
        assert batch_of(TRADES, odd).plain_frames == ()


def test_the_newest_event_is_that_with_the_latest_time() -> None:
    """Wherever it stands in the batch; events without a time, and batches that nobody decoded, have none."""
    late, early = b'{"ev":"T","sym":"A","t":1760375617662}', b'{"ev":"T","sym":"A","t":1760375617660}'
    batch = batch_of(b'[%b,%b,{"ev":"T","sym":"A"}]' % (late, early))
    assert batch.newest_event_ms == 0
    assert batch.rows.span_ms == (1760375617660, 1760375617662)
    assert batch.newest_event_ms == 1760375617662
    timeless = batch_of(b'[{"ev":"T","sym":"A"}]')
    assert timeless.rows.span_ms == (0, 0)
    assert timeless.newest_event_ms == 0


class Patient(Numbers):
    """A sink that says whether it is awaited."""

    def __init__(self, *, awaited: bool) -> None:
        super().__init__()
        self.awaited = awaited

    def is_awaited(self) -> bool:
        return self.awaited


def test_a_batch_is_awaited_unless_every_consumer_says_that_it_is_not() -> None:
    """A consumer that says nothing may have somebody behind it."""
    assert not recording_bus(Ledger()).is_awaited()
    assert not recording_bus(Ledger(), Patient(awaited=False), Patient(awaited=False)).is_awaited()
    assert recording_bus(Ledger(), Patient(awaited=False), Patient(awaited=True)).is_awaited()
    assert recording_bus(Ledger(), Patient(awaited=False), Numbers()).is_awaited()
