"""What a feed takes off another recorder's stream: whole reads with their positions, in whatever pieces they come."""

from __future__ import annotations

import hypothesis.strategies as st
from hypothesis import given

from recorder.frames import frame
from recorder.overlap import Overlap, Recorded
from recorder.polygon.control import RESUME, RESUME_COMPLETE, encode_position, encode_status
from recorder.polygon.rows import Status
from recorder.sources.exchange import marks as marks_module
from recorder.sources.exchange.marks import Marks, Outage, Part

ACK = encode_status(Status("success", "subscribed to: *"))
COMPLETE = encode_status(Status(RESUME_COMPLETE, "that was all you missed: 1"), count=1)


def mark(number: int, epoch: str = "run") -> bytes:
    return encode_position(f"{epoch}:{number}", each=True)


def answer(*, recovered: bool, **facts: object) -> bytes:
    return encode_status(Status(RESUME, "words"), recovered=recovered, each=True, **facts)


def taken(marks: Marks, *frames: bytes, wire: bytes = b"") -> list[Part]:
    return list(marks.take(list(frames), wire))


def told(after: str = "") -> Marks:
    """Return those of a feed that is connected, and is told positions."""
    marks = Marks(after)
    marks.begin()
    first = answer(recovered=True, gaps=[]) if after else mark(5)
    taken(marks, ACK, first)
    return marks


READS = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 200)), max_size=8)


@given(READS, st.lists(st.integers(1, 6), max_size=20))
def test_every_read_comes_whole_and_with_its_position(reads: list[tuple[int, int]], cuts: list[int]) -> None:
    """However the frames are cut into pieces; and the bytes of the wire are those of the frames."""
    marks = told()
    stream: list[bytes] = []
    expected: list[tuple[list[bytes], str]] = []
    for number, (count, size) in enumerate(reads, 6):
        frames = [b"[%d,%b]" % (number, b"1" * size)] * count
        stream += [*frames, mark(number)]
        expected.append((frames, f"run:{number}"))
    got: list[tuple[list[bytes], str]] = []
    while stream:
        cut = cuts.pop() if cuts else len(stream)
        piece, stream = stream[:cut], stream[cut:]
        for part in taken(marks, *piece, wire=b"".join(map(frame, piece))):
            assert part.wire == b"".join(map(frame, part.frames))
            got.append((part.frames, part.after))
    assert got == expected
    assert marks.after == f"run:{len(reads) + 5}"


def test_what_is_held_at_a_cut_comes_again() -> None:
    """A read whose end had not come is passed on once, as what was missed, and counted as that."""
    marks = told()
    assert taken(marks, b"[1]", b"[2]") == []
    marks.begin()
    assert marks.is_catching_up
    [ack] = taken(marks, ACK)
    assert ack.frames == [ACK]
    assert [part.after for part in taken(marks, answer(recovered=True))] == [""]
    assert taken(marks, b"[1]", b"[2]", b"[3]", mark(8)) == [Part([b"[1]", b"[2]", b"[3]"], b"", "run:8")]
    assert [part.frames for part in taken(marks, COMPLETE)] == [[COMPLETE]]
    assert marks.is_catching_up
    assert taken(marks, mark(8)) == [Part([], b"", "run:8")]
    assert not marks.is_another_run
    assert (marks.is_catching_up, marks.recovered, marks.count) == (False, True, 3)


def test_what_is_held_and_does_not_come_again_is_passed_on() -> None:
    """The other recorder has begun anew: what it has received since is another stream, behind a gap."""
    marks = told()
    assert taken(marks, b"[1]") == []
    marks.begin()
    parts = taken(
        marks, ACK, answer(recovered=False, reason="from before"), mark(0, "next"), b"[2]", mark(1, "next")
    )
    assert [(part.frames[-1:], part.after) for part in parts if b"status" not in b"".join(part.frames)] == [
        ([b"[1]"], ""),
        ([], "next:0"),
        ([b"[2]"], "next:1"),
    ]
    assert (marks.recovered, marks.reason, marks.is_catching_up) == (False, "from before", False)


def test_what_came_from_another_recorder_before_is_left_out() -> None:
    """One that lags behind sends what was passed on already; a read behind the last position is new."""
    marks = told("run:7")
    taken(marks, COMPLETE)
    parts = taken(marks, b"[6]", mark(6), b"[7]", mark(7), b"[8]", mark(8))
    assert [part for part in parts if part.frames] == [Part([b"[8]"], b"", "run:8")]
    assert {part.after for part in parts} == {"run:7", "run:8"}


def test_that_the_other_recorder_was_started_anew_is_known() -> None:
    """Its archive has what was missed of the run before, and it has missed something itself in between."""
    marks = told("run:7:9")
    parts = taken(marks, b"[8]", encode_position("run::10", each=True), COMPLETE, mark(2, "next"))
    assert [part.after for part in parts] == ["run::10", "", "next:2"]
    assert (marks.recovered, marks.is_catching_up, marks.is_another_run) == (True, False, True)


def test_a_recorder_that_tells_no_positions_is_followed_without() -> None:
    """Older ones: everything is passed on as it comes, and nothing is asked for behind a cut."""
    marks = Marks()
    marks.begin()
    once = encode_position("run:3")
    assert [part.frames for part in taken(marks, ACK, once, b"[1]", b"[2]")] == [
        [ACK],
        [once],
        [b"[1]", b"[2]"],
    ]
    assert marks.after == ""
    marks = told()
    marks.begin()  # it was replaced by an older one
    assert [part.frames for part in taken(marks, ACK, b"[1]")] == [[ACK], [b"[1]"]]
    assert (marks.after, marks.is_catching_up, marks.recovered) == ("", False, False)


def test_a_read_without_an_end_is_passed_on() -> None:
    """What is held has a limit. Behind it there is no position to go on from until the next is told."""
    marks = told()
    large = b"[%b]" % (b"1" * marks_module.HELD_BYTES_MAX)
    assert taken(marks, large, wire=frame(large)) == [Part([large], frame(large), "")]
    assert marks.after == ""
    assert taken(marks, b"[2]", mark(9)) == [Part([b"[2]"], b"", "run:9")]
    taken(marks, large)
    assert taken(marks, b"[3]") == []
    marks.begin()  # cut before there was a position again
    assert taken(marks, ACK, mark(12)) == [
        Part([b"[3]"], b"", ""),
        Part([ACK], b"", ""),
        Part([], b"", "run:12"),
    ]


def test_what_is_no_status_of_the_other_recorder_is_data() -> None:
    """A frame that begins like one, or holds one beside events, or cannot be read."""
    marks = told()
    odd = [b'[{"ev":"status","status":"x"},{"ev":"T"}]', b'[{"ev":"status"', b'[{"ev":"status","each":5}]']
    assert taken(marks, *odd, mark(6)) == [Part(odd, b"", "run:6")]


def test_gaps_of_the_other_recorder_are_known() -> None:
    """They stand in its answer; one that lasts has no end."""
    marks = Marks("run:5")
    marks.begin()
    gaps = [
        {"cluster": "stocks", "from": 1, "to": 2, "reason": "disconnected"},
        {"cluster": "stocks", "from": 3, "to": None, "reason": "read_timeout"},
    ]
    taken(marks, answer(recovered=True, gaps=gaps))
    assert marks.outages == [Outage("disconnected", "stocks", 1, 2), Outage("read_timeout", "stocks", 3)]
    assert repr(marks) == "Marks('run:5', 0 frames held)"


def event(number: int) -> bytes:
    return b'{"ev":"T","sym":"A","t":%d}' % number


def read(*numbers: int) -> bytes:
    return b"[" + b",".join(map(event, numbers)) + b"]"


def killed(*recorded: int) -> Marks:
    """Return those of a feed that goes on behind position 5, and has recorded more than that."""
    marks = Marks()
    marks.go_on(Recorded("run:5", Overlap(map(event, recorded))))
    marks.begin()
    return marks


def passed(parts: list[Part]) -> list[tuple[list[bytes], str]]:
    """Return what was passed on of the stream."""
    return [
        (part.frames, part.after) for part in parts if part.after or b"status" not in b"".join(part.frames)
    ]


def test_what_is_recorded_behind_the_position_is_left_out() -> None:
    """What remains of these reads comes as one, and no position is told before; a cut between them changes nothing."""
    marks = killed(6, 7, 8)
    taken(marks, ACK, answer(recovered=True, gaps=[]))
    assert passed(taken(marks, read(6), mark(6), read(7), mark(7))) == [([], ""), ([], "")]
    assert (marks.settled, marks.after, marks.is_catching_up) == ("", "run:5", True)
    marks.begin()
    taken(marks, ACK, answer(recovered=True, gaps=[]))
    got = taken(marks, read(6), mark(6), read(7), mark(7), read(8, 9), read(10), mark(8), read(11), mark(9))
    assert passed(got)[2:] == [([read(9), read(10)], "run:8"), ([read(11)], "run:9")]
    assert marks.settled == "run:9"
    taken(marks, COMPLETE, mark(9))
    assert (marks.is_catching_up, marks.recovered) == (False, True)


def test_what_is_recorded_stays_where_it_does_not_come_again() -> None:
    """The other recorder no longer has it, or has a part of it; nothing waits for the rest."""
    marks = killed(6, 7)
    taken(marks, ACK, answer(recovered=False, gaps=[]))
    assert passed(taken(marks, read(9), mark(9))) == [([read(9)], "run:9")]
    marks = killed(6, 7)
    taken(marks, ACK, answer(recovered=False, partial=True, gaps=[]))
    assert passed(taken(marks, read(7), mark(7), read(8), mark(8))) == [([], ""), ([], "")]
    got = taken(marks, COMPLETE, mark(8), read(9), mark(9))
    assert passed(got) == [([read(8)], "run:8"), ([read(9)], "run:9")]


def test_another_recorder_that_lags_sends_what_is_recorded_later() -> None:
    """It has less than this one has recorded, and comes to it only when all that was missed has come."""
    marks = killed(6, 7, 8)
    taken(marks, ACK, answer(recovered=True, gaps=[]))
    taken(marks, read(6), mark(6), COMPLETE, mark(6))
    assert (marks.is_catching_up, marks.settled) == (False, "")
    assert passed(taken(marks, mark(5), read(7), mark(7))) == [([], ""), ([], "")]
    assert passed(taken(marks, read(8), mark(8), read(9), mark(9))) == [([], "run:8"), ([read(9)], "run:9")]


def test_without_positions_nothing_is_left_out() -> None:
    """A recorder of an earlier version cannot be asked for what was missed."""
    marks = killed(6)
    taken(marks, ACK)
    assert passed(taken(marks, read(6))) == [([read(6)], "")]
    assert marks.settled == ""
