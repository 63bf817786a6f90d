"""What comes again and is recorded is left out: each event as often as it is recorded, and no other."""

from __future__ import annotations

from collections import Counter

import hypothesis.strategies as st
from hypothesis import given

from recorder import overlap as overlap_module
from recorder.overlap import Overlap, Read


def payload(number: int) -> bytes:
    return b'{"ev":"T","sym":"A","t":%d}' % number


def frame(*numbers: int) -> bytes:
    return b"[" + b",".join(map(payload, numbers)) + b"]"


READS = st.lists(st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=3), max_size=3), max_size=6)


@given(READS, st.data())
def test_what_is_recorded_and_what_is_passed_on_are_the_stream(
    reads: list[list[list[int]]], data: st.DataObject
) -> None:
    """Whatever part of the stream was recorded, with events that repeat, and wherever connections are cut."""
    stream = [number for read in reads for numbers in read for number in numbers]
    kept = data.draw(st.lists(st.booleans(), min_size=len(stream), max_size=len(stream)))
    recorded = [number for number, is_kept in zip(stream, kept, strict=True) if is_kept]
    overlap = Overlap(map(payload, recorded))
    for _ in range(data.draw(st.integers(0, 2))):
        overlap.begin()
        for number, read in enumerate(reads[: data.draw(st.integers(0, len(reads)))]):
            if (
                overlap.is_over
                or overlap.take([frame(*numbers) for numbers in read], f"e:{number}") is not None
            ):
                return  # something was passed on; the position is behind it
    overlap.begin()
    passed: list[Read] = []
    for number, read in enumerate(reads):
        frames = [frame(*numbers) for numbers in read]
        got = Read(frames, f"e:{number}") if overlap.is_over else overlap.take(frames, f"e:{number}")
        passed += [got] if got is not None else []
    assert overlap.is_over
    if reads:
        assert passed[-1].after == f"e:{len(reads) - 1}"
    left = b"".join(frame for read in passed for frame in read.frames)
    found = Counter({number: left.count(payload(number)) for number in set(stream)})
    assert found + Counter(recorded) == Counter(stream)


def test_what_remains_of_several_reads_is_one_read() -> None:
    """So no position stands between what was left out and what is passed on."""
    overlap = Overlap([payload(1), payload(4)])
    assert overlap.take([frame(1, 2), frame(3)], "e:1") is None
    assert not overlap.is_over
    assert overlap.take([frame(4, 5), frame(6)], "e:2") == Read(
        [frame(2), frame(3), frame(5), frame(6)], "e:2"
    )
    assert overlap.is_over


def test_what_does_not_come_again_holds_nothing_up() -> None:
    """At the end of what was missed, and past a bound, what is held is passed on."""
    overlap = Overlap([payload(9)])
    assert overlap.take([frame(1)], "e:1") is None
    assert overlap.end() == Read([frame(1)], "e:1")
    assert overlap.is_over
    overlap = Overlap([payload(9), payload(8)])
    big = b"[" + b",".join([payload(1)] * 1000) + b"]"
    reads = 0
    while (passed := overlap.take([big], "e:1")) is None:
        reads += 1
    assert reads == overlap_module.HELD_BYTES_MAX // len(big)
    assert (len(passed.frames), passed.after) == (reads + 1, "")
    assert overlap.take([frame(9)], "e:2") is None
    assert overlap.take([frame(8, 7)], "e:3") == Read([frame(7)], "e:3")


def test_an_event_with_line_breaks_is_known_by_its_record() -> None:
    """A record has blanks in their place."""
    overlap = Overlap([b'{"ev":"T", "sym":"A"}'])
    assert overlap.take([b'[{"ev":"T",\n"sym":"A"}]'], "e:1") == Read([], "e:1")
