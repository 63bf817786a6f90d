"""What is recorded and where: include patterns, sampling of quotes, and the file each type belongs to. No I/O."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from recorder.archive.pressure import LoadShedding
from recorder.polygon.channels import CHANNELS, QUOTE_CHANNELS
from recorder.polygon.rows import Rows
from recorder.polygon.topics import Pattern

_PLAIN_CODE = re.compile(r"[A-Za-z0-9_]{1,16}")
_TAKEN = frozenset({"manifest", "rejected", "positions"})
"""Words that name other files of the archive."""
OTHER = "other"
_DECISIONS_MAX = 500_000
"""Answers of the include patterns that are remembered."""
_QUOTE_COUNTS_MAX = 500_000
"""Symbols whose quotes are counted for sampling. Options have more contracts in a year than memory is for."""
_ALL_QUOTES = ("", "", "")
"""Stands for the quotes of all symbols where they are counted together."""
_TYPES_MAX = 64
"""Files that unheard-of types may open; what comes after them shares `other`."""


def type_word(channel: str) -> str:
    """Return the word that stands for a channel in file names: `trades`, `quotes`, …, else its lower-case code."""
    if channel in CHANNELS:
        return CHANNELS[channel].word
    word = channel.lower()
    return word if _PLAIN_CODE.fullmatch(channel) and word not in _TAKEN else OTHER


class FileNames:
    """Names the active file of each cluster and channel, under one template.

    `{cluster}` and `{type}` in the template are filled in; `split_per_type` puts the type before the last suffix:
    `polygon.ndjson` becomes `polygon.trades.ndjson`. Manifest, rejects, positions and lock stand where the template stops
    naming clusters and types.
    """

    def __init__(self, template: str, split_per_type: bool) -> None:
        self.template = template = str(Path(template))
        self.split_per_type = split_per_type or "{type}" in template
        fixed = Path(template)
        while "{" in str(fixed.parent):
            fixed = fixed.parent
        self.folder = fixed.parent
        plain = re.sub(r"\{(cluster|type)\}", "", Path(template).name)
        stem = plain.rpartition(".")[0] if "." in plain else plain
        self._stem = re.sub(r"[._-]{2,}", ".", stem).strip("._-") or "polygon"
        self._paths: dict[tuple[str, str], str] = {}
        """By cluster and word, hence as many as there are files; the wire makes up channels without end."""
        self._unheard_of: set[str] = set()
        """Words of types that nobody knows and that have files of their own."""

    @property
    def manifest(self) -> Path:
        """The ledger of the archive."""
        return self.folder / f"{self._stem}.manifest.ndjson"

    @property
    def rejects(self) -> Path:
        """Where what could not be read is kept."""
        return self.folder / f"{self._stem}.rejected.ndjson"

    @property
    def positions(self) -> Path:
        """Where the positions of another recorder's stream are kept."""
        return self.folder / f"{self._stem}.positions.ndjson"

    @property
    def sides(self) -> tuple[Path, Path]:
        """The files beside those of records, of which rotated ones stay plain."""
        return self.rejects, self.positions

    @property
    def lock(self) -> Path:
        """Held by the recorder that owns the archive."""
        return self.folder / f"{self._stem}.lock"

    def active(self, cluster: str, channel: str) -> str:
        """Return the path of the file that takes this cluster's records of this channel."""
        key = (cluster, self._word(channel) if self.split_per_type else "")
        found = self._paths.get(key)
        if found is None:
            found = self._paths[key] = self._active(*key)
        return found

    def relative(self, path: Path) -> str:
        """Return a file's name as the manifest has it."""
        return path.relative_to(self.folder).as_posix()

    def _word(self, channel: str) -> str:
        """Return the word of a channel's file. An unheard-of type beyond the first `_TYPES_MAX` shares that of others."""
        word = type_word(channel)
        if channel not in CHANNELS and word != OTHER and word not in self._unheard_of:
            if len(self._unheard_of) >= _TYPES_MAX:
                return OTHER
            self._unheard_of.add(word)
        return word

    def _active(self, cluster: str, word: str) -> str:
        if not self.split_per_type:
            return self._of_cluster(cluster)
        if "{type}" in self.template:
            return self._of_cluster(cluster).replace("{type}", word)
        path = Path(self._of_cluster(cluster))
        return str(path.with_name(f"{path.stem}.{word}{path.suffix}"))

    def _of_cluster(self, cluster: str) -> str:
        return self.template.replace("{cluster}", cluster.replace("/", "-"))


class Selection:
    """Decides which events become records: include patterns first, then 1 in N quotes, counted for each symbol or for all.

    While the disk fills, `shedding` may leave out more of the quotes, or all.
    """

    def __init__(
        self,
        include: Sequence[Pattern],
        sample_quotes: int,
        shedding: LoadShedding | None = None,
        *,
        by_symbol: bool = True,
    ) -> None:
        """`by_symbol`: whether each symbol has a count of its own, so that a quiet one keeps its first quote."""
        self.include = tuple(include)
        self.sample_quotes = sample_quotes
        self.shedding = shedding or LoadShedding()
        self._by_symbol = by_symbol
        self._included: dict[tuple[str, str], bool] = {}
        self._quotes: dict[tuple[str, str, str], int] = {}

    @property
    def takes_all(self) -> bool:
        """Whether nothing is left out."""
        return not self.include and self.sample_quotes == 1 and self.shedding.quotes_kept_one_in == 1

    def filter(self, events: Rows) -> list[bool]:
        """Return for each event whether the include patterns take it."""
        return [
            self._includes(channel, symbol)
            for channel, symbol in zip(events.channels, events.symbols, strict=True)
        ]

    def sample(self, cluster: str, events: Rows, included: Sequence[bool]) -> list[bool]:
        """Return for each event whether it is kept: of the included ones all but quotes, and every N-th quote."""
        share = self.shedding.quotes_kept_one_in
        every = self.sample_quotes * share
        kept = list(included)
        left_out = 0
        for place, (channel, symbol) in enumerate(zip(events.channels, events.symbols, strict=True)):
            if not kept[place] or channel not in QUOTE_CHANNELS:
                continue
            key = (cluster, channel, symbol) if self._by_symbol else _ALL_QUOTES
            count = self._quotes.get(key)
            if count is None:
                if len(self._quotes) >= _QUOTE_COUNTS_MAX:
                    # Every symbol begins a new count, so each keeps its next quote: a little more than asked for.
                    self._quotes.clear()
                count = 0
            self._quotes[key] = count + 1 if count + 1 < every else 0
            if count or not every:
                kept[place] = False
                left_out += 1
        if share != 1:
            self.shedding.stats.sampled_out += left_out
        return kept

    def _includes(self, channel: str, symbol: str) -> bool:
        if not self.include:
            return True
        key = (channel, symbol)
        found = self._included.get(key)
        if found is None:
            if len(self._included) >= _DECISIONS_MAX:
                self._included.clear()
            found = self._included[key] = any(pattern.matches(channel, symbol) for pattern in self.include)
        return found
