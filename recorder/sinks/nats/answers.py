"""PURE. What the servers answer to a message: where it is stored, where the stream has come to instead, or why not."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final, NamedTuple

import orjson

_LAST_SEQUENCE: Final = re.compile(r"wrong last sequence: (\d+)")


class Answer(NamedTuple):
    """One of the three is set."""

    seq: int = 0
    """Where the message is stored."""
    end_seq: int = 0
    """The last message of the stream, where another one was stored first."""
    problem: str = ""
    """Why it is not stored, in words."""


def answer_of(content: bytes, headers: Mapping[str, str], sent_seq: int) -> Answer:
    """Return what an answer says of a message that was sent to a place of the stream."""
    if not content:
        nobody = headers.get("Status") == "503"
        return Answer(problem="no stream takes its subject now" if nobody else "an acknowledgement is empty")
    answer = orjson.loads(content)
    if "error" in answer:
        words = str(answer["error"].get("description", "an error"))
        place = _LAST_SEQUENCE.fullmatch(words)
        # A stream that ends before the place has lost what it had.
        return Answer(end_seq=int(place[1])) if place and int(place[1]) >= sent_seq else Answer(problem=words)
    if answer.get("duplicate"):
        return Answer(end_seq=int(answer["seq"]))
    if answer["seq"] != sent_seq:
        return Answer(problem="it is another one now")
    return Answer(seq=sent_seq)
