"""What was seen of one run: its sequence numbers, holes and doubles, and about when each was written."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from operator import itemgetter
from typing import Final

_PAGE: Final = 1 << 14
_WHOLE: Final = (1 << _PAGE) - 1
_NUMBER_0: Final = 1 << (_PAGE - 1)
"""Numbers begin with 1; the bit of 0 is set so that the first page can be whole."""
_SAMPLE_MS: Final = 1000


class SequenceCheck:
    """Takes the sequence numbers of a run, file by file, in any order of files.

    A page of numbers costs 2 KiB of memory while it is incomplete, and nothing once it was seen whole.
    """

    def __init__(self) -> None:
        self._pages: dict[int, int] = {}
        """The first number of a page is its highest bit."""
        self._staged: bytearray | None = None
        """Numbers of one page as they come, b"1" for each that was seen; they rise, so none comes twice in here."""
        self._staged_page = 0
        self._staged_last = 0
        self._doubles = 0
        self._first_double = 0
        self.last = 0

    @property
    def doubles(self) -> int:
        """How many numbers came again."""
        self.settle()
        return self._doubles

    @property
    def first_double(self) -> int:
        """The first number that was found to come again, 0 if none does."""
        self.settle()
        return self._first_double

    def add(self, numbers: Sequence[int]) -> None:
        """Take numbers, each at least 1, that rise."""
        begin = 0
        while begin < len(numbers):
            page = numbers[begin] // _PAGE
            end = len(numbers)
            if numbers[-1] // _PAGE != page:
                end = bisect_left(numbers, (page + 1) * _PAGE, begin)
            self._stage(page, numbers if end - begin == len(numbers) else numbers[begin:end])
            begin = end
        if numbers:
            self.last = max(self.last, numbers[-1])

    def merge(self, other: SequenceCheck) -> None:
        """Add everything that another one has seen."""
        self.settle()
        other.settle()
        for page, seen in other._pages.items():
            self._add_page(page, seen & ~_NUMBER_0 if page == 0 else seen)
        self._doubles += other._doubles
        self._first_double = self._first_double or other._first_double
        self.last = max(self.last, other.last)

    def holes(self) -> Iterator[tuple[int, int]]:
        """Yield the ranges `(first, last)` between 1 and the last number that were not seen."""
        self.settle()
        expected = 1
        for page in sorted(self._pages):
            for first, last in _ranges(self._pages[page], page * _PAGE):
                if first > expected:
                    yield expected, first - 1
                expected = last + 1

    def settle(self) -> None:
        """Free the memory that taking numbers needs."""
        if self._staged is not None:
            staged, self._staged = self._staged, None
            self._add_page(self._staged_page, int(staged, 2))

    def _stage(self, page: int, numbers: Sequence[int]) -> None:
        first, last = numbers[0], numbers[-1]
        if self._staged is None or page != self._staged_page or first <= self._staged_last:
            self.settle()
            self._staged = bytearray(b"0") * _PAGE
            self._staged_page = page
        self._staged_last = last
        staged, base = self._staged, page * _PAGE
        if last - first + 1 == len(numbers):
            staged[first - base : last - base + 1] = b"1" * len(numbers)
        else:
            for number in numbers:
                staged[number - base] = 49

    def _add_page(self, page: int, seen: int) -> None:
        before = self._pages.get(page, _NUMBER_0 if page == 0 else 0)
        doubles = before & seen
        if doubles:
            self._doubles += doubles.bit_count()
            self._first_double = self._first_double or page * _PAGE + _PAGE - doubles.bit_length()
        both = before | seen
        self._pages[page] = _WHOLE if both == _WHOLE else both


class RunCheck:
    """What was read of one run, over all files."""

    def __init__(self, run_id: str) -> None:
        self.run_id = run_id
        self.sequence = SequenceCheck()
        self._times: list[tuple[int, int]] = []
        """`(sequence number, ingest time)` at least once a second, file by file."""

    def add(self, numbers: list[int], times_ms: list[int], *, rising: bool) -> None:
        """Add the sequence numbers and ingest times of some lines of one file."""
        if rising:
            self.sequence.add(numbers)
        else:
            for number in numbers:
                self.sequence.add([number])
        last_ms = times_ms[0]
        self._times.append((numbers[0], last_ms))
        if times_ms[-1] - last_ms >= _SAMPLE_MS:
            for number, ms in zip(numbers, times_ms, strict=True):
                if ms - last_ms >= _SAMPLE_MS:
                    self._times.append((number, ms))
                    last_ms = ms

    def merge(self, other: RunCheck) -> None:
        """Add what was read of the same run in another file."""
        self.sequence.merge(other.sequence)
        self._times += other._times

    def time_of(self, number: int) -> int:
        """Return the ingest time of a record that was read, to a second."""
        self._times.sort()
        place = bisect_right(self._times, number, key=itemgetter(0))
        return self._times[place - 1][1] if place else 0


def _ranges(seen: int, base: int) -> Iterator[tuple[int, int]]:
    """Yield the ranges of a page that were seen."""
    if seen == _WHOLE:
        yield base, base + _PAGE - 1
        return
    bits = f"{seen:0{_PAGE}b}"
    begin = bits.find("1")
    while begin >= 0:
        end = bits.find("0", begin)
        if end < 0:
            end = _PAGE
        yield base + begin, base + end - 1
        begin = bits.find("1", end)
