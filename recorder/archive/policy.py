"""What is recorded and where: include patterns, sampling of quotes, and the file each type belongs to. No I/O."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from itertools import compress
from pathlib import Path
from typing import TypeVar

from recorder.polygon.events import QUOTE_CHANNELS, Header
from recorder.polygon.topics import Pattern

_WORDS = {
    "T": "trades",
    "XT": "trades",
    "Q": "quotes",
    "XQ": "quotes",
    "C": "quotes",
    "A": "second_aggs",
    "XAS": "second_aggs",
    "CAS": "second_aggs",
    "AM": "minute_aggs",
    "XA": "minute_aggs",
    "CA": "minute_aggs",
    "V": "values",
    "XL2": "level2",
}
_PLAIN_CODE = re.compile(r"[A-Za-z0-9_]{1,16}")
T = TypeVar("T")
OTHER = "other"
_TYPES_MAX = 64
"""Files that unheard-of types may open; what comes after them shares `other`."""


def type_word(channel: str) -> str:
    """Give the word that stands for a channel in file names: `trades`, `quotes`, …, else its lower-case code."""
    if channel in _WORDS:
        return _WORDS[channel]
    return channel.lower() if _PLAIN_CODE.fullmatch(channel) else OTHER


class FileNames:
    """Names the active file of each cluster and channel, under one template.

    `{cluster}` and `{type}` in the template are filled in; `split_per_type` puts the type before the last suffix:
    `polygon.ndjson` becomes `polygon.trades.ndjson`. Manifest, rejects and lock stand where the template stops
    naming clusters and types.
    """

    def __init__(self, template: str, split_per_type: bool) -> None:
        self.template = template
        self.split_per_type = split_per_type or "{type}" in template
        fixed = Path(template)
        while "{" in str(fixed.parent):
            fixed = fixed.parent
        self.folder = fixed.parent
        plain = re.sub(r"\{(cluster|type)\}", "", Path(template).name)
        plain = re.sub(r"[._-]{2,}", ".", plain).strip("._-")
        name, dot, suffix = plain.rpartition(".")
        self._stem, self._suffix = (name or "polygon", dot + suffix) if dot else (plain or "polygon", "")
        self._paths: dict[tuple[str, str], str] = {}
        self._words: set[str] = set()

    @property
    def manifest(self) -> Path:
        """The ledger of the archive."""
        return self.folder / f"{self._stem}.manifest.ndjson"

    @property
    def rejects(self) -> Path:
        """Where what could not be read is kept."""
        return self.folder / f"{self._stem}.rejected.ndjson"

    @property
    def lock(self) -> Path:
        """Held by the recorder that owns the archive."""
        return self.folder / f"{self._stem}.lock"

    def active(self, cluster: str, channel: str) -> str:
        """Give the path of the file that takes this cluster's records of this channel."""
        key = (cluster, channel)
        found = self._paths.get(key)
        if found is None:
            found = self._paths[key] = self._active(cluster, channel)
        return found

    def _active(self, cluster: str, channel: str) -> str:
        if not self.split_per_type:
            return self.template.replace("{cluster}", cluster)
        word = type_word(channel)
        if word not in self._words:
            if len(self._words) >= _TYPES_MAX:
                word = OTHER
            self._words.add(word)
        if "{type}" in self.template:
            return self.template.replace("{cluster}", cluster).replace("{type}", word)
        path = Path(self.template.replace("{cluster}", cluster))
        return str(path.with_name(f"{path.stem}.{word}{path.suffix}"))


class Selection:
    """Decides which events become records: include patterns first, then 1 in N quotes, counted per symbol."""

    def __init__(self, include: Sequence[Pattern], sample_quotes: int) -> None:
        self.include = tuple(include)
        self.sample_quotes = sample_quotes
        self._included: dict[tuple[str, str], bool] = {}
        self._quotes: dict[tuple[str, str, str], int] = {}

    @property
    def takes_all(self) -> bool:
        """Whether nothing is left out."""
        return not self.include and self.sample_quotes == 1

    def filter(self, headers: Iterable[Header]) -> list[bool]:
        """Tell for each event whether the include patterns take it."""
        if not self.include:
            return [True for _ in headers]
        return [self._includes(header.channel, header.symbol) for header in headers]

    def sample(self, cluster: str, headers: Iterable[Header]) -> list[bool]:
        """Tell for each event whether it is kept: everything but quotes, and every N-th quote of a symbol."""
        every = self.sample_quotes
        kept = []
        for header in headers:
            if every == 1 or header.channel not in QUOTE_CHANNELS:
                kept.append(True)
                continue
            key = (cluster, header.channel, header.symbol)
            count = self._quotes.get(key, 0)
            self._quotes[key] = count + 1 if count + 1 < every else 0
            kept.append(count == 0)
        return kept

    def _includes(self, channel: str, symbol: str) -> bool:
        key = (channel, symbol)
        found = self._included.get(key)
        if found is None:
            if len(self._included) >= 500_000:
                self._included.clear()
            found = self._included[key] = any(pattern.matches(channel, symbol) for pattern in self.include)
        return found


def keep(column: Sequence[T], selectors: Sequence[bool]) -> list[T]:
    """Give the elements whose selector is true."""
    return list(compress(column, selectors))
