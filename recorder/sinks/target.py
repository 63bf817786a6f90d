"""What a sink writes to: the items that it takes, and what its methods promise, on the loop or on a thread of its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar


class Item(Protocol):
    """Records of one batch in the form that a target takes."""

    @property
    def cluster(self) -> str:
        """The cluster of the batch."""

    @property
    def counts(self) -> Mapping[str, int]:
        """The number of records by channel."""

    @property
    def size(self) -> int:
        """The bytes that the item takes in memory."""


@dataclass(slots=True)
class LinesItem:
    """The lines of a batch, for a target that takes nothing else."""

    cluster: str
    counts: Mapping[str, int]
    data: bytes

    @property
    def size(self) -> int:
        """The bytes of the lines."""
        return len(self.data)


T = TypeVar("T", bound=Item)
T_contra = TypeVar("T_contra", bound=Item, contravariant=True)


class Target(Protocol[T_contra]):
    """What a sink writes to, on the event loop. Each method may await as long as it takes.

    At the deadline for closing the call at hand is cancelled. `failure` and `bytes_done` are read from anywhere.
    """

    @property
    def failure(self) -> str:
        """Why nothing can be written now; empty while it can. No item is handed over meanwhile."""

    @property
    def bytes_done(self) -> int:
        """Bytes of items that were handed over and are no longer in memory."""

    async def open(self) -> None:
        """Acquire what is written to.

        :raises RecorderError: it cannot be had.
        """

    async def write(self, item: T_contra) -> None:
        """Take one item and count its records as recorded once they are. What it raises is a defect."""

    async def tick(self) -> float:
        """Do what is due; return the seconds until something is due again."""

    async def close(self, deadline_ns: int) -> None:
        """Release everything, by `deadline_ns` on the monotonic clock. What was not handed over is given up already."""


class BlockingTarget(Protocol[T_contra]):
    """A target whose methods block, each called from one thread of its own."""

    @property
    def failure(self) -> str:
        """Why nothing can be written now; empty while it can. No item is handed over meanwhile."""

    @property
    def bytes_done(self) -> int:
        """Bytes of items that were handed over and are no longer in memory."""

    def open(self) -> None:
        """Acquire what is written to.

        :raises RecorderError: it cannot be had.
        """

    def write(self, item: T_contra) -> None:
        """Take one item; may keep it until a later `tick`. Never raises for what the outside does."""

    def tick(self) -> float:
        """Do what is due; return the seconds until something is due again."""

    def close(self, deadline_ns: int) -> None:
        """Release everything, by `deadline_ns` on the monotonic clock. What was not handed over is given up already."""


class Blocking(Generic[T]):
    """A blocking target in the form that the queue knows: its coroutines never suspend."""

    def __init__(self, target: BlockingTarget[T]) -> None:
        self._target = target

    @property
    def failure(self) -> str:
        """Why nothing can be written now."""
        return self._target.failure

    @property
    def bytes_done(self) -> int:
        """Bytes that are no longer in memory."""
        return self._target.bytes_done

    async def open(self) -> None:
        """Acquire what is written to."""
        self._target.open()

    async def write(self, item: T) -> None:
        """Take one item."""
        self._target.write(item)

    async def tick(self) -> float:
        """Do what is due."""
        return self._target.tick()

    async def close(self, deadline_ns: int) -> None:
        """Release everything."""
        self._target.close(deadline_ns)
