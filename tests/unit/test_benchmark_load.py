"""What the load of the serving benchmarks plays, and how it tells that nothing is missing."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks import units
from benchmarks.serving import matches_per_event, unequal
from benchmarks.stages import EVERYTHING
from benchmarks.units import Market, Units
from recorder.frames import frame

EVENTS = 20_000


@pytest.fixture(scope="module")
def market() -> Market:
    return units.market(50, 10, EVENTS)


def payload(market: Market, number: int) -> bytes:
    """Return a frame's payload as the simulator sends it."""
    return b"[" + b",".join(market.frames[number]) + b"]"


def counts(fed: Units, rounds: int, rest: int, *clients: float) -> dict[str, Any]:
    """Return what the load says after `fed` units."""
    progress = rounds * fed.weight_of_all + sum(fed.weights[:rest])
    return {"units": rounds * len(fed.texts) + rest, "progress": progress, "clients": list(clients)}


def test_frames_are_those_of_the_simulator(market: Market) -> None:
    """Trades and quotes of the symbols asked for, one frame a unit, and what a client progresses by is its size."""
    fed = units.frames(market)
    assert market.events == sum(market.shares().values()) > 0.99 * EVENTS
    assert {topic[0] for topic in market.shares()} == {"T", "Q"}
    assert len(market.symbols) == 50
    assert list(fed.texts) == [frame(payload(market, number)) for number in range(len(market.frames))]
    assert list(fed.weights) == list(map(len, fed.texts))


def test_a_stamp_has_its_place_in_every_frame(market: Market) -> None:
    """Nineteen digits at the end of the first event, where the index says."""
    fed = units.frames(market, stamped=True)
    for text, at in zip(fed.texts, fed.stamps_at, strict=True):
        assert text[at - 6 : at + 21] == b'"ns":"' + b"0" * 19 + b'"}'


def test_a_masked_frame_is_delivered_unmasked(market: Market) -> None:
    """A publisher's frame is longer than what its subscribers get: by the mask, which changes nothing."""
    plain, masked = units.frames(market), units.frames(market, masked=True)
    assert masked.weights == plain.weights
    assert masked.texts[0].endswith(b"\0\0\0\0" + payload(market, 0))
    assert len(masked.texts[0]) == len(plain.texts[0]) + 4


def test_an_event_counts_the_same_in_whatever_array_it_comes(market: Market) -> None:
    """One array of all, or one for each: payloads less one byte a frame are the sum of the weights."""
    fed = units.arrays(market)
    events = [event for number in range(3) for event in market.frames[number]]
    together = len(b"[" + b",".join(events) + b"]") - fed.overhead
    apart = sum(len(b"[" + event + b"]") - fed.overhead for event in events)
    assert together == apart == sum(fed.weights[:3])


def test_a_nats_message_is_published_with_its_topic(market: Market) -> None:
    """PUB in, MSG out, one an event; the subscription's id is as long as any."""
    fed = units.nats_messages(market)
    topic, event = market.topics[0][0], market.frames[0][0]
    assert fed.texts[0].startswith(f"PUB {topic} {len(event)}\r\n".encode() + event + b"\r\n")
    assert fed.topic_weights[0][0] == len(f"MSG {topic} 1000 {len(event)}\r\n") + len(event) + 2


@pytest.mark.parametrize(("rounds", "rest"), [(0, 0), (0, 7), (3, 0), (2, 1234)])
def test_what_topics_brought_is_all_that_was_fed(market: Market, rounds: int, rest: int) -> None:
    """After any number of units, whole rounds and a part of one."""
    fed = units.arrays(market)
    said = counts(fed, rounds, rest)
    assert sum(fed.topics_weights(said["units"]).values()) == said["progress"]


def test_a_client_that_lacks_a_byte_is_found() -> None:
    """Too little and too much fail a run, whatever the client asked for; what is due passes."""
    market = units.market(50, 10, EVENTS)
    fed = units.arrays(market)
    topics = [f"T.{market.symbols[0]}", f"Q.{market.symbols[1]}", "T.NONE"]
    audience = [EVERYTHING, topics, ["T.NONE"]]
    said = counts(fed, 1, 5)
    due = sum(fed.topics_weights(said["units"])[topic] for topic in topics)
    assert unequal({**said, "clients": [said["progress"], due, 0]}, fed, audience) == []
    for wrong in ([said["progress"] - 1, due, 0], [said["progress"], due + 1, 0], [said["progress"], due, 9]):
        assert len(unequal({**said, "clients": wrong}, fed, audience)) == 1


def test_deliveries_are_events_times_their_clients(market: Market) -> None:
    """A client of one topic gets that topic's share."""
    [(topic, count)] = market.shares().most_common(1)
    assert matches_per_event(market, [EVERYTHING, EVERYTHING]) == 2
    assert matches_per_event(market, [EVERYTHING, [topic]]) == pytest.approx(1 + count / market.events)
