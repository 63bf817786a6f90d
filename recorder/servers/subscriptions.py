"""PURE. From topics to audiences: one look-up finds the clients that get an event; clients with equal topics share bytes."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from itertools import chain
from typing import Any, Final, Generic, TypeVar

from recorder.polygon.clusters import CLUSTERS

C = TypeVar("C")
V = TypeVar("V")

EVERYTHING: Final = "*"
_MATCHES_MAX: Final = 500_000
"""Remembered answers; options have more contracts in a year than memory is for."""


class Audience(Generic[C]):
    """Clients that hold the same topics, and so are served the same bytes."""

    __slots__ = ("append", "clients", "taken", "topics")

    def __init__(self, topics: frozenset[str]) -> None:
        self.topics = topics
        self.clients: dict[C, None] = {}
        self.taken: list[Any] = []
        """What this audience gets of the pass that is under way; empty between passes."""
        self.append = self.taken.append

    def take(self) -> list[Any]:
        """Return what there is for this audience, and begin anew."""
        taken = self.taken.copy()
        self.taken.clear()
        return taken

    def __repr__(self) -> str:
        return f"Audience({len(self.topics)} topics, {len(self.clients)} clients)"


_Match = tuple[tuple[Callable[[Any], None], ...], tuple[Audience[C], ...]]
"""The audiences of a channel and a symbol, and what takes an event for each of them."""


class Subscriptions(Generic[C]):
    """The index of one cluster: which audiences an event of a channel and a symbol goes to.

    Topics overlap in a client without ever giving it an event twice: an audience is found once for an event, whatever
    its topics. `*` is every channel; bars, which are asked for by name, have an index of their own.
    """

    def __init__(self, cluster: str) -> None:
        self.cluster = cluster
        self.topics: dict[C, dict[str, None]] = {}
        """The topics that each client holds, as it asked for them."""
        self._audiences: dict[frozenset[str], Audience[C]] = {}
        self._of: dict[C, Audience[C]] = {}
        self._unsettled: dict[C, None] = {}
        self._everything: dict[Audience[C], None] = {}
        self._channels: dict[str, dict[Audience[C], None]] = {}
        self._symbols: dict[str, dict[str, dict[Audience[C], None]]] = {}
        self._matches: dict[str, dict[str, _Match[C]]] = {}
        self._matches_count = 0

    def subscribe(self, client: C, topics: Iterable[str]) -> None:
        """Add topics; they count from the next pass on."""
        gained = dict.fromkeys(topics)
        if gained:
            self.topics.setdefault(client, {}).update(gained)
            self._unsettled[client] = None

    def unsubscribe(self, client: C, topics: Iterable[str]) -> None:
        """Remove topics."""
        held = self.topics.get(client)
        if held is None:
            return
        for topic in topics:
            held.pop(topic, None)
        self._unsettled[client] = None
        if not held:
            self.forget(client)

    def forget(self, client: C) -> None:
        """Remove a client with all its topics; nothing of it is kept, even if no further pass comes."""
        if self.topics.pop(client, None) is not None:
            self._unsettled.pop(client, None)
            self._leave(client)

    @property
    def audiences_count(self) -> int:
        """Different sets of topics."""
        return len(self._audiences)

    def everybody(self) -> list[C]:
        """Return the clients that hold `*`: nothing need be looked up for them."""
        self.settle()
        return [client for audience in self._everything for client in audience.clients]

    @property
    def has_others(self) -> bool:
        """Whether somebody holds topics without holding `*`, as far as is settled."""
        return len(self._audiences) > len(self._everything)

    def match(
        self, channels: Sequence[str], symbols: Sequence[str], events: Sequence[V]
    ) -> list[tuple[Collection[C], list[V]]]:
        """Return the clients of each audience that gets some of these events, with the events in order.

        Those that hold `*` are left out. Nothing of a pass is kept: a pass that ends early takes nothing from the next one.
        """
        self.settle()
        seen: dict[int, _Match[C]] = {}
        try:
            self._share_out(channels, symbols, events, seen)
        except BaseException:
            for audience in self._audiences.values():
                audience.take()
            raise
        touched = dict.fromkeys(chain.from_iterable([audiences for _, audiences in seen.values()]))
        return [(audience.clients, audience.take()) for audience in touched]

    def _share_out(
        self, channels: Sequence[str], symbols: Sequence[str], events: Sequence[V], seen: dict[int, _Match[C]]
    ) -> None:
        """Append each event to what its audiences get. `seen` takes the matches, by their identity."""
        matches = self._matches
        for channel, symbol, event in zip(channels, symbols, events, strict=True):
            try:
                match = matches[channel][symbol]
            except KeyError:
                match = self._look_up(channel, symbol)
            appends = match[0]
            if appends:
                seen[id(match)] = match
                # The dearest line of a wide audience: a bound method costs a third of two look-ups.
                for append in appends:
                    append(event)

    @property
    def channels(self) -> set[str]:
        """The channels of which clients hold topics; `*` is of none."""
        self.settle()
        return {*self._channels, *self._symbols}

    def holders(self, channel: str, symbol: str | None) -> Iterator[tuple[C, str]]:
        """Yield each client that holds a topic of a channel and a symbol, and the topic as the client spells it.

        As a symbol, `*` is the wildcard itself, and None is the wildcard and every symbol.
        """
        self.settle()
        named = self._symbols.get(channel, {})
        audiences = dict(self._channels.get(channel, {})) if symbol in (EVERYTHING, None) else {}
        for held in named.values() if symbol is None else [named.get(symbol, {})]:
            audiences.update(held)
        for audience in audiences:
            if symbol is None:
                topics = [topic for topic in audience.topics if topic.startswith(f"{channel}.")]
            else:
                topics = [f"{channel}.{name}" for name in spellings(self.cluster, symbol)]
            for topic in sorted(audience.topics.intersection(topics)):
                for client in audience.clients:
                    yield client, topic

    def settle(self) -> None:
        """Put every client whose topics changed into the audience that holds the same."""
        if not self._unsettled:
            return
        for client in self._unsettled:
            key = frozenset(self.topics[client])
            audience = self._audiences.get(key)
            before = self._of.get(client)
            if before is not None:
                if before is audience:
                    continue
                if audience is None and len(before.clients) == 1:
                    # Nobody else held or holds the same: only what changed costs time.
                    self._change(before, key)
                    continue
            self._leave(client)
            if audience is None:
                audience = Audience(key)
                self._add(audience, key)
                self._audiences[key] = audience
            audience.clients[client] = None
            self._of[client] = audience
        self._unsettled.clear()
        self._forget_matches()

    def _leave(self, client: C) -> None:
        """Remove a client from its audience."""
        audience = self._of.pop(client, None)
        if audience is None:
            return
        del audience.clients[client]
        if not audience.clients:
            del self._audiences[audience.topics]
            self._discard_all(audience, audience.topics)
            self._forget_matches()

    def _change(self, audience: Audience[C], key: frozenset[str]) -> None:
        """Change the topics of an audience."""
        del self._audiences[audience.topics]
        self._discard_all(audience, audience.topics - key)
        # Where a symbol has several spellings, what went may have been spelled by what stays.
        self._add(audience, key if CLUSTERS[self.cluster].has_spellings else key - audience.topics)
        audience.topics = key
        self._audiences[key] = audience

    def _forget_matches(self) -> None:
        self._matches.clear()
        self._matches_count = 0

    def _look_up(self, channel: str, symbol: str) -> _Match[C]:
        audiences = {**self._channels.get(channel, {}), **self._symbols.get(channel, {}).get(symbol, {})}
        if self._matches_count >= _MATCHES_MAX:
            self._forget_matches()
        self._matches_count += 1
        found = tuple([audience for audience in audiences if audience not in self._everything])
        match = tuple([audience.append for audience in found]), found
        self._matches.setdefault(channel, {})[symbol] = match
        return match

    def _add(self, audience: Audience[C], topics: Iterable[str]) -> None:
        for topic in topics:
            if topic == EVERYTHING:
                self._everything[audience] = None
                continue
            channel, _, symbol = topic.partition(".")
            if symbol == EVERYTHING:
                self._channels.setdefault(channel, {})[audience] = None
                continue
            for spelling in spellings(self.cluster, symbol):
                self._symbols.setdefault(channel, {}).setdefault(spelling, {})[audience] = None

    def _discard_all(self, audience: Audience[C], topics: Iterable[str]) -> None:
        for topic in topics:
            if topic == EVERYTHING:
                self._everything.pop(audience, None)
                continue
            channel, _, symbol = topic.partition(".")
            if symbol == EVERYTHING:
                self._discard(self._channels, channel, audience)
                continue
            by_symbol = self._symbols.get(channel)
            if by_symbol is None:
                continue
            for spelling in spellings(self.cluster, symbol):
                self._discard(by_symbol, spelling, audience)
            if not by_symbol:
                del self._symbols[channel]

    @staticmethod
    def _discard(index: dict[str, dict[Audience[C], None]], key: str, audience: Audience[C]) -> None:
        audiences = index.get(key)
        if audiences is not None:
            audiences.pop(audience, None)
            if not audiences:
                del index[key]

    def __repr__(self) -> str:
        return f"Subscriptions({self.cluster}, {len(self.topics)} clients, {len(self._audiences)} audiences)"


def spellings(cluster: str, symbol: str) -> set[str]:
    """Return every form in which the vendor delivers what a client calls `symbol`.

    Forex pairs are asked for as `EUR-USD` and delivered as `EUR/USD`; pairs of forex and crypto are also asked for
    with the prefix of the vendor's other interfaces, `C:EUR-USD`, `X:BTC-USD`.
    """
    found = {symbol}
    row = CLUSTERS[cluster]
    if row.prefix and not row.prefix_sent:
        bare = symbol.removeprefix(row.prefix)
        found |= {bare, row.prefix + bare}
    if row.slashed:
        found |= {name.replace("-", "/") for name in found} | {name.replace("/", "-") for name in found}
    return found
