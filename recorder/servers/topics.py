"""What clients may ask for: vendor topics, `*`, and bars by their length, `100Ms.AAPL`."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from recorder.polygon.channels import AGGREGATE_CHANNELS
from recorder.polygon.client import listed
from recorder.polygon.control import ERROR, acknowledgement
from recorder.polygon.manner import Manner
from recorder.polygon.rows import Status
from recorder.polygon.server import Verdict
from recorder.polygon.topics import parse_topic
from recorder.servers.port import KeyCheck
from recorder.servers.subscriptions import EVERYTHING
from recorder.words import shortened

TOPIC_CHARS_MAX: Final = 64
"""Three times the longest symbol there is; what clients hold must not grow with what they send."""
_BAR_CHANNEL: Final = re.compile(r"([1-9][0-9]{0,8})Ms")


class BarTopic(NamedTuple):
    """Bars of one length, of one symbol or, with `*`, of all."""

    interval_ms: int
    symbol: str

    def __str__(self) -> str:
        return f"{bar_channel(self.interval_ms)}.{self.symbol}"


def bar_channel(interval_ms: int) -> str:
    """Return the channel of bars of this length, as clients ask for it."""
    return f"{interval_ms}Ms"


def parse_bar_topic(topic: str) -> BarTopic | None:
    """Read `100Ms.AAPL`; None if the topic is not of bars."""
    channel, dot, symbol = topic.partition(".")
    found = _BAR_CHANNEL.fullmatch(channel)
    if not found or not dot or not symbol or (EVERYTHING in symbol and symbol != EVERYTHING):
        return None
    return BarTopic(int(found[1]), symbol)


class TopicPolicy:
    """The grammar of 8765 and 8768. What it does not allow is answered with an error that names the topic."""

    repeats_are_acknowledged = True
    everything = ""

    def __init__(
        self,
        refuse_key: KeyCheck,
        topics_max: int,
        *,
        bars_ms: tuple[int, int] | None,
        bars_only: bool,
        amend_refusal: Callable[[], str] = lambda: "",
        unfollowed: Callable[[str], str] = lambda topic: "",
        manner_refusals: Callable[[Manner], list[str]] = lambda manner: [],
    ) -> None:
        """`bars_ms`: the lengths of bars that there are, None: no bars. `bars_only`: of the vendor's topics, only
        aggregates. `unfollowed` returns what an acknowledgement says about a topic of which nothing will come,
        `amend_refusal` why no bars are amended, `manner_refusals` what is not to be had of a manner."""
        self.refuse_key = refuse_key
        self.topics_max = topics_max
        self._bars_ms = bars_ms
        self._bars_only = bars_only
        self._amend_refusal = amend_refusal
        self._unfollowed = unfollowed
        self._manner_refusals = manner_refusals

    def check(self, topic: str) -> Verdict:
        """Decide on a topic."""
        problem = self._problem(topic)
        if problem:
            return Verdict(held=False, answer=Status(ERROR, f"{shortened(topic, 60)}: {problem}"))
        answer = acknowledgement("subscribed", topic)
        remark = self._unfollowed(topic)
        if remark:
            answer = Status(answer.status, answer.message + remark)
        return Verdict(held=True, answer=answer)

    def amend_refusal(self, topic: str) -> str:
        """Return why a topic cannot be amended; empty if it can."""
        return self._amend_refusal() if parse_bar_topic(topic) is not None else "only bars are amended"

    def manner_refusals(self, topics: Sequence[str], manner: Manner) -> list[str]:
        """Return what this recorder has not, and that bars come as they are made."""
        found = self._manner_refusals(manner)
        bars = [topic for topic in topics if parse_bar_topic(topic) is not None]
        words = [word for word in manner.words if word != "slow"]
        if bars and words:
            found.append(
                f"{' and '.join(words)}: only events come so, and bars as they are made ({listed(bars)})"
            )
        return found

    def _problem(self, topic: str) -> str:
        """Return what is wrong with a topic; empty if it is good."""
        if len(topic) > TOPIC_CHARS_MAX:
            return f"a topic has at most {TOPIC_CHARS_MAX} characters"
        if topic == EVERYTHING:
            return (
                "* is not served here; name bars, as 100Ms.*, or aggregates, as AM.*"
                if self._bars_only
                else ""
            )
        bars = parse_bar_topic(topic)
        if bars is not None:
            if self._bars_ms is None:
                return "this recorder makes no bars"
            shortest, longest = self._bars_ms
            if not shortest <= bars.interval_ms <= longest:
                return f"bars have {shortest} to {longest} ms"
        try:
            # What a symbol may be is the same for bars.
            parsed = parse_topic(f"MB.{bars.symbol}" if bars is not None else topic)
        except ValueError as error:
            return str(error).partition(": ")[2] or str(error)
        if bars is not None:
            return ""
        if not topic.startswith(f"{parsed.channel}."):
            return "the channel ends at a dot, as in T.AAPL"
        if self._bars_only and parsed.channel not in AGGREGATE_CHANNELS:
            return "this port has bars, as 100Ms.AAPL, and aggregates; trades and quotes are on the filtered port"
        return ""
