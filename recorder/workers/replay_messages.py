"""PURE. What the recording process and its workers say to each other while something is replayed."""

from __future__ import annotations

import msgspec


class Say(msgspec.Struct, tag=True, frozen=True):
    """A status of a replay for every client that has subscribed, in order with the batches."""

    payload: bytes


class Look(msgspec.Struct, tag=True, frozen=True):
    """How much the clients have yet to take is asked for, once everything before this has been passed on to them."""

    number: int


class Finish(msgspec.Struct, tag=True, frozen=True):
    """A replay is over: clients are to take what is pending, and to be closed with 1000."""

    words: str


class Stand(msgspec.Struct, tag=True, frozen=True):
    """The answer to `Look`."""

    number: int
    fullest: float
    """How much the slowest client has not taken yet, as a share of what it may leave."""


class Finished(msgspec.Struct, tag=True, frozen=True):
    """The answer to `Finish`: no client is left."""


Replied = Stand | Finished
