"""Which sequence numbers of one run were seen: holes and doubles, in memory that only disorder makes grow."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

_PAGE: Final = 1 << 16


class SequenceCheck:
    """Takes the sequence numbers of a run, file by file, in any order of files.

    A page of numbers costs memory only while it is incomplete, so reading the files about in the order of time is
    cheap however many there are.
    """

    def __init__(self) -> None:
        self._pages: dict[int, bytearray | None] = {}
        """None stands for a page that was seen whole."""
        self.doubles = 0
        self.first_double = 0
        self.last = 0

    def add(self, numbers: Sequence[int]) -> None:
        """Take numbers, each at least 1, that rise."""
        if not numbers:
            return
        self.last = max(self.last, numbers[-1])
        first = numbers[0]
        if numbers[-1] - first + 1 == len(numbers):
            self._add_range(first, numbers[-1] + 1)
        else:
            for number in numbers:
                self._add_range(number, number + 1)

    def holes(self) -> Iterator[tuple[int, int]]:
        """Yield the stretches `(first, last)` between 1 and the last number that were not seen."""
        expected = 1
        for page in sorted(self._pages):
            for first, last in _stretches(self._pages[page], page * _PAGE):
                if first > expected:
                    yield expected, first - 1
                expected = last + 1

    def _add_range(self, begin: int, end: int) -> None:
        while begin < end:
            page, at = divmod(begin, _PAGE)
            count = min(end - begin, _PAGE - at)
            if page not in self._pages:
                self._pages[page] = bytearray(_PAGE)
            seen = self._pages[page]
            doubles = count if seen is None else seen.count(1, at, at + count)
            if doubles:
                self.doubles += doubles
                self.first_double = self.first_double or begin
            if seen is not None:
                seen[at : at + count] = b"\1" * count
                if at + count == _PAGE and 0 not in seen[page == 0 :]:
                    self._pages[page] = None
            begin += count


def _stretches(seen: bytearray | None, base: int) -> Iterator[tuple[int, int]]:
    """Yield the stretches of a page that were seen."""
    if seen is None:
        yield max(1, base), base + _PAGE - 1
        return
    begin = seen.find(1)
    while begin >= 0:
        end = seen.find(0, begin)
        if end < 0:
            end = _PAGE
        yield base + begin, base + end - 1
        begin = seen.find(1, end)
