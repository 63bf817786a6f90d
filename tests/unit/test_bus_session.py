"""A session of a source: announced once, counted, and the time between two of them is a gap."""

from __future__ import annotations

from fakes import CollectingConsumer, FakeClock

from recorder.bus import Batch, Bus, SessionClosed, SessionOpened
from recorder.sources.source import FixedTopics, SourceContext, TopicSink
from recorder.sources.stats import FeedStats

TRADE = b'[{"ev":"T","sym":"A","t":1760375617662}]'


def context_of(bus: Bus, clock: FakeClock) -> SourceContext:
    return SourceContext(bus, "stocks", FeedStats("stocks", (1,), (1,)), clock, {})


def test_a_session_is_what_bus_and_figures_see_of_a_source() -> None:
    """It opens, brings batches with their times, and closes once, with the last read as the beginning of the gap."""
    bus, port, clock = Bus(), CollectingConsumer(), FakeClock()
    bus.attach(port)
    context = context_of(bus, clock)
    session = context.session()
    session.open()
    clock.advance(2)
    read_ns, wall_ns = clock.monotonic_ns(), clock.wall_ns()
    session.publish([TRADE, TRADE])
    clock.advance(3)
    session.close("disconnected")
    session.close("disconnected")
    opened, closed = port.changes
    assert isinstance(opened, SessionOpened)
    assert closed == SessionClosed("stocks", clock.wall_ns(), "disconnected", wall_ns)
    assert [(batch.received_ns, batch.read_ns, len(batch.rows)) for batch in port.batches] == [
        (wall_ns, read_ns, 2)
    ]
    stats = context.stats
    assert (stats.sessions, stats.frames_received, stats.frames_since_subscribed) == (1, 2, 2)
    assert not stats.subscribed
    assert session.lasted_secs == 5


def test_data_behind_the_status_that_opens_the_session_belongs_to_it() -> None:
    """One read may bring both: the status is taken before the data is counted."""
    bus, clock = Bus(), FakeClock()
    context = context_of(bus, clock)
    session = context.session()

    def answered(batch: Batch) -> None:
        assert [status.message for status in batch.statuses] == ["subscribed to: T.*"]
        session.open()

    status = b'[{"ev":"status","status":"success","message":"subscribed to: T.*"}]'
    session.publish([status, TRADE], answered)
    assert context.stats.frames_since_subscribed == 1


def test_a_source_that_cannot_change_topics_lets_time_pass_at_once() -> None:
    """Whatever it read has been passed on, so nothing of an earlier time can come any more."""
    bus, port, clock = Bus(), CollectingConsumer(), FakeClock()
    bus.attach(port)
    source: TopicSink = FixedTopics("stocks", bus, clock)
    source.subscribe(["T.A"])
    source.unsubscribe(["T.A"])
    source.ask_time()
    assert [(mark.cluster, mark.until_ns) for mark in port.watermarks] == [("stocks", clock.monotonic_ns())]
