"""Scenario 2: every frame, untouched, to 1, 10, 100 and 1,000 clients that read."""

from __future__ import annotations

from functools import partial

from benchmarks import serving, stages, units
from benchmarks.peers.option import Peer
from benchmarks.scenario import RECORDER, Case, Plan, Plot, Run, Scenario, Target
from benchmarks.serving import BARE_LOOP, STRAIGHT

WEBSOCKETS = "websockets, broadcast"
NCHAN = "nginx, nchan"
CLIENTS = (1, 10, 100, 1_000)
_SERVERS = {
    RECORDER: stages.recorder_firehose,
    WEBSOCKETS: stages.websockets_broadcast,
    NCHAN: stages.nchan,
    BARE_LOOP: stages.bare_loop,
    STRAIGHT: stages.nothing_between,
}


def work(clients: int) -> str:
    """Return the name of a load."""
    return f"{clients:,} client{'s' if clients > 1 else ''}"


def served(plan: Plan, who: str, clients: int) -> Run:
    """Measure a program."""
    fed = units.frames(serving.played(plan), masked=who == NCHAN)
    return serving.flood(plan, _SERVERS[who], fed, [stages.EVERYTHING] * clients)


def _by_peer(plan: Plan, peer: Peer, clients: int) -> Run:
    """Measure a program that may join frames: each event counts, in whatever array it comes."""
    fed = units.arrays(serving.played(plan))
    return serving.flood(plan, stages.peer(peer), fed, [stages.EVERYTHING] * clients)


def _cases(plan: Plan) -> list[Case]:
    return [
        case
        for clients in CLIENTS
        for case in (
            *(
                Case(work(clients), who, partial(served, who=who, clients=clients))
                for who in _SERVERS
                if clients == 1 or who != STRAIGHT
            ),
            *(
                Case(work(clients), peer.name, partial(_by_peer, peer=peer, clients=clients))
                for peer in plan.peers
                if peer.serves
            ),
        )
    ]


SCENARIO = Scenario(
    number=2,
    name="firehose",
    question="How fast does one core hand every frame to every client, and what does a delivery cost?",
    columns=serving.COLUMNS,
    cases=_cases,
    targets=tuple(
        Target(
            f"{text}, {work(clients)}",
            work(clients),
            "deliveries_per_sec",
            at_least=at_least,
            versus=(work(clients), peer),
            form=".2f",
        )
        for peer, text, at_least, clients_min in (
            (WEBSOCKETS, "≥ 10 × websockets' broadcast", 10, 100),
            (BARE_LOOP, "≥ half of a bare C loop", 0.5, 1),
            (BARE_LOOP, "≥ 0.7 of a bare C loop", 0.7, 10),
            (NCHAN, "ahead of nchan", 1, 1),
        )
        for clients in CLIENTS
        if clients >= clients_min and (at_least != 0.5 or clients == 1)
    ),
    plots=(
        Plot(
            "bench-firehose",
            "Firehose: deliveries by clients",
            x="clients",
            y={"deliveries_per_sec": ""},
            x_label="clients",
            y_label="deliveries/s",
            x_log=True,
            y_log=True,
        ),
        Plot(
            "bench-firehose-cost",
            "Firehose: CPU time of a delivery by clients",
            x="clients",
            y={"cpu_us_per_delivery": ""},
            x_label="clients",
            y_label="µs",
            x_log=True,
            y_log=True,
        ),
    ),
    note="Stocks, trades and quotes of 1,000 symbols in frames of 10 events, the simulator's own, played by a program "
    "in C that also reads for all clients. It is paced by the slowest client: at most 1 MiB is on its way to anybody. "
    "A delivery is one event that reached one client; each client's bytes are compared with what was fed, and a "
    "difference is a failed run. The bare loop reads from one socket and writes to the others without a look. `load "
    "alone` is the load writing to itself, on the one core where it feeds and reads.",
)
