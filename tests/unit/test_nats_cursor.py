"""The proof that nothing of a stream is missing: whatever happens to the stream, what a reader has is known."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from recorder.sources.nats.cursor import CAUSES, DELETED, MISSING, ROLLED_BACK, Cursor, epoch_of
from recorder.stream_message import Away, Heading

MADE = "2026-11-29T03:14:20.123Z"


def heading(first: int, events: int, writer: str = "w", **facts: object) -> Heading:
    """Return what a message says."""
    return Heading(first, events, first * 1000, writer, **facts)  # type: ignore[arg-type]


def begun(event: int = 0, seq: int = 0) -> Cursor:
    """Return a cursor behind an event."""
    return Cursor(f"{epoch_of(MADE)}:{event}:{seq}")


@given(st.lists(st.tuples(st.integers(1, 5), st.booleans()), max_size=20))
def test_every_event_is_had_or_missing(messages: list[tuple[int, bool]]) -> None:
    """Whichever messages are lost: events that came and events that are missing are all there are."""
    cursor, next_first, had, missing = begun(), 1, 0, 0
    for seq, (events, is_lost) in enumerate(messages, 1):
        if not is_lost:
            taken = cursor.take(seq, heading(next_first, events))
            missing += (taken.hole.events or 0) if taken.hole is not None else 0
            assert taken.hole is None or taken.hole.cause == MISSING
            assert not taken.known
            had += events
            assert cursor.event == next_first + events - 1 == had + missing
        next_first += events


@given(st.data())
def test_what_is_sent_again_is_known(data: st.DataObject) -> None:
    """A writer sends again what was not acknowledged, in any bounds: each event is taken once."""
    cursor, had = begun(), 0
    for seq in range(1, 12):
        first = data.draw(st.integers(1, had + 1))
        events = data.draw(st.integers(1, 6))
        taken = cursor.take(seq, heading(first, events))
        if seq == 1:
            had = events  # of the first message nobody knows the writer
            continue
        assert taken.hole is None
        assert 0 <= taken.known <= events
        assert first + taken.known == max(first, min(had + 1, first + events))
        had = max(had, first + events - 1)
        assert cursor.event == had


def test_what_the_writer_dropped() -> None:
    """The events are counted, though no number is missing."""
    cursor = begun(4)
    hole = cursor.take(2, heading(5, 1, dropped=7)).hole
    assert hole is not None
    assert (hole.cause, hole.events, hole.reason) == ("dropped", 7, "stream_dropped")
    hole = cursor.take(3, heading(8, 1, dropped=7)).hole
    assert hole is not None
    assert (hole.cause, hole.events, hole.from_ns, hole.to_ns) == (MISSING, 9, 5000, 8000)


def test_what_has_happened_to_a_stream_takes_nothing_from_who_has_read_it() -> None:
    """The header Gap explains a hole, and is none."""
    for gap in ("deleted", "purged", "rolled back"):
        assert begun(4).take(2, heading(5, 1, gap=gap)).hole is None
        hole = begun(3).take(2, heading(5, 1, gap=gap)).hole
        assert hole is not None
        assert (hole.cause, hole.events) == (gap, 1)
    hole = begun(4).take(2, heading(10**9, 1, gap="emptied")).hole
    assert hole is not None
    assert (hole.cause, hole.events) == ("emptied", None)
    assert all(cause in CAUSES for cause in ("deleted", "purged", "rolled back", "emptied"))


def test_numbers_that_run_backwards() -> None:
    """Another recorder goes on where the servers have gone back to: these events are new, and so are their positions."""
    cursor = begun(0)
    cursor.take(1, heading(1, 10))
    taken = cursor.take(2, heading(6, 2, writer="another"))
    assert taken.hole is not None
    assert (taken.known, taken.hole.cause, taken.hole.events) == (0, ROLLED_BACK, None)
    assert cursor.after == f"{epoch_of(MADE)}~2:7:2"
    assert cursor.is_of(MADE), "it is the same stream"
    assert Cursor(cursor.after).is_of(MADE)


def test_another_stream_of_the_same_name() -> None:
    """Its positions are others; whether something is missing, the numbers say."""
    cursor = begun(10, 3)
    cursor.begin("2026-11-30T00:00:00Z")
    assert cursor.take(1, heading(11, 1)).hole is None
    assert cursor.after == "2026-11-30T000000Z:11:1"
    cursor.begin("2026-12-01T00:00:00Z")
    hole = cursor.take(1, heading(1, 1, writer="another")).hole
    assert hole is not None
    assert hole.cause == DELETED
    assert cursor.after == "2026-12-01T000000Z:1:1"


def test_a_beginning() -> None:
    """Before the first message nothing can be missing; a text that is no position is none."""
    for text in ("", "nonsense", "run:7", "a:b:c"):
        cursor = Cursor(text)
        assert not cursor.after
        cursor.begin(MADE)
        assert cursor.take(9, heading(500, 1, dropped=3)).hole is None
        assert cursor.after == f"{epoch_of(MADE)}:500:9"
    cursor = Cursor("")
    cursor.begin(MADE, 9, heading(5, 5))
    assert cursor.after == f"{epoch_of(MADE)}:9:9"
    assert cursor.take(10, heading(12, 1)).hole is not None


def test_a_stream_that_nobody_wrote_to_while_it_was_handed_over() -> None:
    """No number is missing, and nobody knows how much the exchange sent meanwhile."""
    cursor = begun(4)
    hole = cursor.take(2, heading(5, 1, "other", gap="handed over")).hole
    assert hole is not None
    assert (hole.cause, hole.events, hole.reason) == ("handed over", None, "stream_handed_over")


def test_what_the_writer_was_away() -> None:
    """It is told once, though a message comes again, and not before a beginning; a handover has it in its own gap."""
    missed = (Away(17, 18, "disconnected"),)
    cursor = begun(4)
    assert cursor.take(2, heading(5, 1, missed=missed)).missed == missed
    assert cursor.take(3, heading(5, 1, missed=missed)) == (1, None, ())
    assert cursor.take(4, heading(6, 1)).missed == ()
    assert cursor.take(5, heading(9, 1, missed=missed)).missed == missed, "numbers are missing, too"
    assert cursor.take(6, heading(10, 1, gap="handed over", missed=missed)).missed == ()
    fresh = Cursor("")
    fresh.begin(MADE)
    assert fresh.take(9, heading(500, 1, missed=missed)).missed == ()
