"""Scenario 3: to each client the events of its topics, and to 1,000 clients nothing at all."""

from __future__ import annotations

from functools import partial
from random import Random

from benchmarks import serving, stages, units
from benchmarks.peers.option import Peer
from benchmarks.scenario import RECORDER, Case, Plan, Run, Scenario, Target
from benchmarks.serving import BARE_LOOP, STRAIGHT
from benchmarks.stages import EVERYTHING, Audience
from benchmarks.units import Market

NATS = "nats-server"
SYMBOLS_EACH = 20
SELECTIVE = "1,000 clients, 20 symbols each"
STARS = "100 clients, `*`"
ONE = "1 client, `*`"
IDLE_ONE = "1 client, `*`, beside 1 without a match"
IDLE = "1 client, `*`, beside 1,000 without a match"
_SERVERS = {RECORDER: stages.recorder_filtered, NATS: stages.nats}
_LIMITS = {BARE_LOOP: stages.bare_loop, STRAIGHT: stages.nothing_between}


def audience(work: str, played: Market, many: int) -> Audience:
    """Return what the clients of a load ask for. One of them gets everything, and sets the pace.

    `many` stands for 1,000.
    """
    if work == STARS:
        return [EVERYTHING] * min(many, 100)
    if work == SELECTIVE:
        choice = Random("filtered")
        return [
            EVERYTHING,
            *(
                [
                    f"{channel}.{symbol}"
                    for symbol in choice.sample(played.symbols, SYMBOLS_EACH)
                    for channel in "TQ"
                ]
                for _ in range(many)
            ),
        ]
    others = {ONE: 0, IDLE_ONE: 1, IDLE: many}[work]
    return [EVERYTHING, *([f"T.NONE{number}"] for number in range(others))]


def served(plan: Plan, work: str, who: str, peer: Peer | None = None) -> Run:
    """Measure a program; `peer` is one that was given by option."""
    played = serving.played(plan)
    clients = audience(work, played, int(plan.pick(1_000, 20)))
    if peer is not None:
        return serving.flood(plan, stages.peer(peer), units.arrays(played), clients)
    if who in _LIMITS:
        return serving.flood(plan, _LIMITS[who], units.frames(played), clients)
    fed = units.nats_messages(played) if who == NATS else units.arrays(played)
    return serving.flood(plan, _SERVERS[who], fed, clients)


def _cases(plan: Plan) -> list[Case]:
    return [
        Case(work, who, partial(served, work=work, who=who, peer=peer))
        for work, others in (
            (SELECTIVE, ()),
            (STARS, (BARE_LOOP,)),
            (ONE, (STRAIGHT,)),
            (IDLE_ONE, ()),
            (IDLE, ()),
        )
        for who, peer in (
            *((who, None) for who in (*_SERVERS, *others)),
            *((peer.name, peer) for peer in plan.peers if peer.serves),
        )
    ]


SCENARIO = Scenario(
    number=3,
    name="filtered",
    question="How many events a second can come in when each client gets its own, and what does a delivery cost?",
    columns=(*serving.COLUMNS[:3], serving.PER_EVENT, *serving.COLUMNS[3:]),
    cases=_cases,
    targets=(
        *(
            Target(f"≥ {at_least // 1000} k events/s in, {work}", work, "events_per_sec", at_least=at_least)
            for work, at_least in ((SELECTIVE, 180_000), (STARS, 350_000))
        ),
        Target(
            "1,000 clients without a match cost what one does (CPU an event, within 5 %)",
            IDLE,
            "cpu_us_per_event",
            at_most=1.05,
            versus=(IDLE_ONE, RECORDER),
            form=".2f",
        ),
    ),
    note="Stocks, trades and quotes of 1,000 symbols, played and counted as in scenario 2. A client with 20 symbols has "
    "40 topics, its trades and its quotes; beside the 1,000 of them one more client has everything, and the feed waits "
    "for it. nats-server gets one message an event, published to a subject for each topic, and its subscribers come "
    "over WebSocket. The bare loop, which does not look into frames, is the limit of any program that sends "
    "everything to everybody.",
)
