"""PURE. The positions of the recorder that has the exchange's connection, where this one follows it, cluster by cluster."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from recorder.bus import Mark
from recorder.polygon.careful import is_status_only
from recorder.polygon.position import Position, parse_position

_EPOCH_SHIFT: Final = 64
"""Positions have fewer bits."""
ARRIVAL_NS: Final = 3_000_000_000
"""How long a client waits for this recorder to come to its position: others, which told it, may be a moment ahead."""
START_NS: Final = 8_000_000_000
"""The same while this recorder has just been started, and has yet to learn how far the other one is."""
EPOCHS_MAX: Final = 64
"""Runs of the other recorder whose positions are known."""

NOT_YET: Final = "this recorder has not come as far as the position"
TOO_OLD: Final = "the position is older than what is kept (RESUME_BUFFER_BYTES)"
ANOTHER: Final = "the position is of another recorder, or from before this one was started"


class Upstream:
    """How far the other recorder's stream has come here, and from where on it is kept, by cluster.

    Positions of one run are numbers, and those of a later run come behind them: a *rank* orders all. Each cluster comes on
    a connection of its own, and has a rank of its own.
    """

    def __init__(self, clusters: Iterable[str], *, awaited: bool = False) -> None:
        self._clusters = tuple(clusters)
        self.is_awaited = awaited
        """Whether another recorder is followed, and nothing has come of it: neither a position nor anything without one."""
        self._ordinals: dict[str, int] = {}
        """Of each run, by its name; the newest last."""
        self._next = 1
        self._begun_again: dict[str, int] = {}
        """By run that came again behind another one, the first position then: those before it came twice."""
        self._here: dict[str, int] = {}
        """Rank up to which everything has come, by cluster."""
        self._told: dict[str, str] = {}
        """The same as the other recorder told it."""
        self._floor: dict[str, int] = {}
        """Rank behind which everything is kept, by cluster."""
        self._floor_told: dict[str, str] = {}
        self._lost: set[str] = set()
        """Clusters of which something came since, whose position is not known."""

    @property
    def patience_ns(self) -> int:
        """How long a client may wait for this recorder to come to its position."""
        return START_NS if self.is_awaited else ARRIVAL_NS

    @property
    def is_followed(self) -> bool:
        """Whether any position was told."""
        return bool(self._here)

    def follows(self, cluster: str) -> bool:
        """Return whether a client of a cluster (`""`: of all) is told these positions: all come on one connection."""
        return self._alone(cluster) in self._here

    @property
    def marks(self) -> Mapping[str, str]:
        """The last position of each cluster, where nothing came behind it that has none."""
        return {cluster: told for cluster, told in self._told.items() if cluster not in self._lost}

    def reach(self, cluster: str, told: str) -> int:
        """Note that everything of a cluster up to a position has come; return its rank. 0 where it is no position."""
        position = parse_position(told)
        if position is None:
            self._lost.add(cluster)
            return 0
        self.is_awaited = False
        before = self._here.get(cluster, 0)
        rank = self._ordinal(position, before >> _EPOCH_SHIFT) << _EPOCH_SHIFT | position.number
        if cluster not in self._here or cluster in self._lost:
            self._floor[cluster], self._floor_told[cluster] = rank, told
            self._lost.discard(cluster)
        self._here[cluster], self._told[cluster] = rank, told
        return rank

    def take(self, cluster: str, frames: Sequence[bytes], marks: Sequence[Mark]) -> None:
        """Note what one read brought."""
        for mark in marks:
            self.reach(cluster, mark.after)
        self.lose(cluster, frames[marks[-1].frames :] if marks else frames)

    def lose(self, cluster: str, frames: Sequence[bytes]) -> None:
        """Note frames whose position is not known: until the next is told nobody can go on behind one. Statuses are none."""
        if (cluster in self._here or self.is_awaited) and not all(map(is_status_only, frames)):
            self.is_awaited = False
            if cluster in self._here:
                self._lost.add(cluster)

    def forget(self, cluster: str, rank: int, told: str) -> None:
        """Note that what came up to a rank is kept no longer."""
        if rank > self._floor.get(cluster, 0):
            self._floor[cluster], self._floor_told[cluster] = rank, told

    def told(self, cluster: str) -> str:
        """Return the position up to which everything has come, for a client that `follows`; empty where none is known."""
        alone = self._alone(cluster)
        return "" if alone in self._lost else self._told[alone]

    def available(self, cluster: str) -> str:
        """Return the position behind which everything is kept, for a client that `follows`."""
        return self._floor_told[self._alone(cluster)]

    def find(self, position: Position, cluster: str) -> tuple[int, str]:
        """Return the rank of a position; behind it, why a client of a cluster cannot go on there, empty if it can."""
        ordinal = self._ordinals.get(position.epoch)
        if ordinal is None:
            return 0, ANOTHER
        rank = ordinal << _EPOCH_SHIFT | position.number
        if position.number < self._begun_again.get(position.epoch, 0):
            return rank, TOO_OLD
        for name in (cluster,) if cluster else self._clusters:
            if rank > self._here.get(name, 0):
                return rank, NOT_YET
            if rank < self._floor[name] or name in self._lost:
                return rank, TOO_OLD
        return rank, ""

    def begin(self, marks: Mapping[str, str]) -> None:
        """Begin behind these positions, by cluster, with nothing before them."""
        self._here.clear()
        self._lost.clear()
        for cluster, told in marks.items():
            self.reach(cluster, told)

    def _alone(self, cluster: str) -> str:
        """Return the one cluster that a client gets; empty where there are several."""
        return cluster or (self._clusters[0] if len(self._clusters) == 1 else "")

    def _ordinal(self, position: Position, present: int) -> int:
        """Return the ordinal of a position's run, which is not before the present one of its cluster."""
        epoch = position.epoch
        ordinal = self._ordinals.pop(epoch, 0)
        if ordinal < present:
            # A run that comes again behind another counts as a new one.
            if ordinal:
                self._begun_again[epoch] = position.number
            ordinal = 0
        if not ordinal:
            ordinal, self._next = self._next, self._next + 1
        self._ordinals[epoch] = ordinal
        while len(self._ordinals) > EPOCHS_MAX:
            oldest = next(iter(self._ordinals))
            del self._ordinals[oldest]
            self._begun_again.pop(oldest, None)
        return ordinal

    def __repr__(self) -> str:
        return f"Upstream({self._told!r})"
