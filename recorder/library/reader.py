"""Which records of an archive are chosen, and how their segments are read: no file that the manifest rules out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Set
from dataclasses import dataclass

from recorder.archive.cutting import Records, cut
from recorder.archive.proofs import Proofs
from recorder.archive.recorded_segment import Segment
from recorder.polygon.channels import CHANNELS
from recorder.polygon.topics import WILDCARD, Pattern

_OTHER = "other"
"""As what a manifest counts types that nobody knows, behind the first of them."""


@dataclass(frozen=True, slots=True)
class Choice:
    """What is asked for."""

    types: tuple[str, ...] | None = None
    symbols: tuple[str, ...] | None = None
    start_ms: int = 0
    end_ms: int = 1 << 62

    def may_be_in(self, counts: Mapping[str, int]) -> bool:
        """Return whether a segment with these counts may have some of it; one without counts may."""
        if self.symbols == ():
            return False
        if self.types is None or not counts or counts.get(_OTHER):
            return True
        return any(counts.get(code) for code in self.types)

    def takes_all_of(self, counts: Mapping[str, int]) -> bool:
        """Return whether each record of a segment with these counts is chosen, whenever it came."""
        if self.symbols is not None:
            return False
        if self.types is None:
            return True
        has = {code for code, count in counts.items() if count}
        return bool(counts) and _OTHER not in has and has <= set(self.types)


class SegmentReader:
    """Reads what is chosen of segments, and remembers which of the symbols came, and which of some types."""

    def __init__(self, proofs: Proofs, choice: Choice, doubtful_types: Iterable[str] = ()) -> None:
        """`doubtful_types` are chosen ones of which the manifest does not say whether there is anything."""
        self._proofs = proofs
        self._choice = choice
        self._types: Set[str] | None = None if choice.types is None else frozenset(choice.types)
        self._patterns = [Pattern(WILDCARD, symbol) for symbol in choice.symbols or ()]
        self._chosen: dict[str, bool] = {}
        """Of each symbol that came."""
        self._missed_types = set(doubtful_types)
        self.has_read = False
        """Whether any record came at all."""

    def __call__(self, segment: Segment, first_seq: int = 0) -> Iterator[Records]:
        """Yield what is chosen by type and symbol. Raise `ArchiveError`; `Altered` before anything of the segment comes."""
        name = str(segment.path)
        takes_all = self._choice.takes_all_of(segment.counts)
        for block in segment.blocks(self._proofs):
            records = cut(block, name)
            if not len(records):
                continue
            self.has_read = True
            chosen = records if takes_all else records.pick(self._places(records))
            if self._missed_types:
                self._missed_types.difference_update(code for code, _ in chosen.names())
            yield chosen

    def missed(self) -> list[str]:
        """Return the types and symbols without any record."""
        came = [symbol for symbol, is_chosen in self._chosen.items() if is_chosen]
        return sorted(self._missed_types) + [
            pattern.symbol
            for pattern in self._patterns
            if not any(pattern.matches(WILDCARD, symbol) for symbol in came)
        ]

    def _places(self, records: Records) -> list[int]:
        types, chosen = self._types, self._chosen
        if self._choice.symbols is None:
            return [
                place for place, (code, _) in enumerate(records.names()) if types is None or code in types
            ]
        places: list[int] = []
        for place, (code, symbol) in enumerate(records.names()):
            if types is None or code in types:
                is_chosen = chosen.get(symbol)
                if is_chosen is None:
                    is_chosen = any(pattern.matches(WILDCARD, symbol) for pattern in self._patterns)
                    chosen[symbol] = is_chosen
                if is_chosen:
                    places.append(place)
        return places


def type_counts(read: SegmentReader, segment: Segment) -> Mapping[str, int]:
    """Return the records of a segment by type, read from its file, with an entry for each known type as in a manifest."""
    found: Counter[str] = Counter()
    for records in read(segment):
        found.update(code for code, _ in records.names())
    return {**dict.fromkeys(CHANNELS, 0), **found} if found else {}
