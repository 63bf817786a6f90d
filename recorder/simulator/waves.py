"""Where prices are at each moment of a market without end, known without what was before.

A price is a sum of waves, each four times as long and twice as high as the one before, as a random walk is; so a
subscriber that comes after days finds its prices at once. The longest wave bounds how far they ever go.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Final

_FIRST_HEIGHT: Final = 0.0001
"""A basis point, within one stretch."""
_WAVES: Final = 9
"""The longest one takes 65,536 stretches, and with all of them no price goes further than 511 basis points."""
_LONGER: Final = 4
_HIGHER: Final = 2
_BYTE_MIDDLE: Final = 127.5


class Waves:
    """The waves of a number of symbols: random heights at regular places, and straight lines between them."""

    def __init__(self, seed: str, symbols: int) -> None:
        self._seed = seed
        self._symbols = symbols
        self._crests: dict[tuple[int, int], bytes] = {}

    def heights(self, places: Sequence[int], moment: int) -> list[float]:
        """Return how far above its middle each of these symbols is, as a fraction of the middle."""
        found = [0.0] * len(places)
        needed = {}
        for wave in range(_WAVES):
            length = _LONGER**wave
            begin, passed = divmod(moment, length)
            first = needed[wave, begin] = self._crest(wave, begin)
            last = needed[wave, begin + 1] = self._crest(wave, begin + 1)
            height = _FIRST_HEIGHT * _HIGHER**wave / _BYTE_MIDDLE
            later = height * passed / length
            earlier = height - later
            found = [
                value + (first[place] - _BYTE_MIDDLE) * earlier + (last[place] - _BYTE_MIDDLE) * later
                for value, place in zip(found, places, strict=True)
            ]
        self._crests = needed
        return found

    def _crest(self, wave: int, place: int) -> bytes:
        known = self._crests.get((wave, place))
        return known or Random(f"{self._seed}/{wave}/{place}").randbytes(self._symbols)
