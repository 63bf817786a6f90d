"""Names that are set and that no field declares: older ones, those of other programs, slips of ours. All in one place."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple

from recorder.objects.credentials import STORE_VARIABLES

OLDER_NAMES: Final = {
    "PROXY_PORT": "FIREHOSE_PORT",
    "MS_AGGREGATOR_PORT": "AGGREGATOR_PORT",
    "REPLAY_BUFFER_BYTES": "RESUME_BUFFER_BYTES",
    "REPLAY_BUFFER_SECS": "BAR_PAST_MAX_SECS",
}
"""An older name is a variable, too, and counts where the newer one is not set."""
OLDER_LIMITS: Final = ("NDJSON_CHANNEL_CAP", "ZMQ_CHANNEL_CAP")
"""Limits that count messages in the programs before this one. Here messages are merged, and bytes are what counts."""
EVERY_NAME: Final = "*"
"""Of FOREIGN_NAMES: all of them."""


class Successor(NamedTuple):
    """What takes the place of a name that is not read here."""

    variable: str
    """Where it is set, nothing is said of the other name; empty where nothing ever is."""
    words: str
    """What to set instead, as a sentence."""


FORMER_NAMES: Final[Mapping[str, Successor]] = {
    "RUST_LOG": Successor(
        "LOG_LEVEL", "`LOG_LEVEL` sets the levels, as in `LOG_LEVEL=warning,polygon_events=info`."
    ),
    "PROXY_STOCKS_PORT": Successor("FILTERED_PROXY_PORT", "`FILTERED_PROXY_PORT` is the port."),
    "MASSIVE_API_KEY": Successor("POLYGON_API_KEY", "`POLYGON_API_KEY` is the key."),
    "ENABLE_ZMQ_SINK": Successor(
        "SINK", "`SINK=zmq` publishes, or `SINK=ndjson,zmq`; the name is an argument of the image's build."
    ),
    "ZMQ_SUB_ENDPOINT": Successor("", "The recorder has `ZMQ_ENDPOINT`; the name is the subscriber's."),
}
"""What the programs that the recorder replaces, or those beside it, read."""

OUR_PREFIXES: Final = ("POLYGON_", "NDJSON_", "ZMQ_", "FIREHOSE_", "SUBSCRIPTION_", "SUBSCRIBE_")
"""Nothing else is likely to use these: whatever begins so is meant for us."""
_SHORTENED_PREFIXES: Final = ("NDJSON_", "POLYGON_")
"""`COMPRESSION` is short for one of these; `PORT` and `HOST` belong to everybody."""
_NOT_SLIPS: Final = frozenset({"SSL_CERT_FILE"})
"""Well-known names of other programs that resemble ours."""
_NEAR: Final = 0.8
"""Similarity (difflib) from which on a name with one of our prefixes counts as a slip, and others get a hint."""
_VERY_NEAR: Final = 0.88
"""The same for a slip among other names in the file, which is ours; `SINKS` and `ROLE` are as near."""
_ALMOST_EQUAL: Final = 0.9
"""The same in the environment, whose other names are mostly somebody else's."""
_MEANT_MAX: Final = 3


@dataclass(frozen=True, slots=True)
class Place:
    """Somewhere names are set."""

    where: str
    """In words: `environment`, or the path of the file."""
    names: Collection[str]
    is_file: bool


@dataclass(frozen=True, slots=True)
class Names:
    """What is known of names: the variables, those that are set, and those that the operator calls foreign."""

    variables: Collection[str]
    given: frozenset[str]
    foreign: Collection[str]

    def slips(self, place: Place) -> Iterator[tuple[str, str]]:
        """Yield each name that is probably a slip of a variable, and what to do about it."""
        for name in self._unread(place):
            meant = self._meant(name, place)
            if meant:
                hint = " or ".join(meant[:_MEANT_MAX])
                words = (
                    f"is not a variable of this program; did you mean {hint}? "
                    f"If another program reads it, set FOREIGN_NAMES={name}"
                )
                yield name, words

    def successions(self, place: Place) -> Iterator[tuple[str, Successor]]:
        """Yield each name of another program whose successor here is not set."""
        for name in sorted(place.names):
            successor = FORMER_NAMES.get(name)
            if successor is None or not successor.variable or self._is_foreign(name):
                continue
            if successor.variable not in self.given:
                yield name, successor

    def others(self, place: Place) -> list[str]:
        """Return the other names that nothing here reads; of the environment, those that begin like ours."""
        return [
            name
            for name in self._unread(place)
            if not self._meant(name, place) and (place.is_file or name.upper().startswith(OUR_PREFIXES))
        ]

    def _unread(self, place: Place) -> Iterator[str]:
        for name in sorted(place.names):
            known = name in self.variables or name in FORMER_NAMES or name in STORE_VARIABLES
            if not known and not self._is_foreign(name):
                yield name

    def _is_foreign(self, name: str) -> bool:
        return name in self.foreign or EVERY_NAME in self.foreign

    def _meant(self, name: str, place: Place) -> list[str]:
        """Return the variables that a name is probably a slip of."""
        upper = name.upper()
        if upper in _NOT_SLIPS:
            return []
        is_ours = upper.startswith(OUR_PREFIXES)
        found = [variable for variable in self.variables if _is_part(upper, variable)]
        if not found:
            cutoff = _NEAR if is_ours else _VERY_NEAR if place.is_file else _ALMOST_EQUAL
            found = difflib.get_close_matches(upper, self.variables, n=1, cutoff=cutoff)
        # Where the variable itself is set, a name without one of our prefixes is likely to be somebody else's.
        return found if is_ours or self.given.isdisjoint(found) else []


def _is_part(name: str, variable: str) -> bool:
    """Return whether a name is some words of a variable, in a row."""
    if "_" not in name:
        return any(variable == prefix + name for prefix in _SHORTENED_PREFIXES)
    return f"_{name}_" in f"_{variable}_"
