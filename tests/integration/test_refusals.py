"""Topics that the exchange refuses: what clients of the ports are told, who is told, and who is not."""

from __future__ import annotations

import pytest
from serving import Peer, in_production_loop, serving

from recorder.bus import TopicsAnswered

WHY = "the plan"


def refused(*topics: str, cluster: str = "stocks") -> TopicsAnswered:
    """Return a refusal."""
    return TopicsAnswered(cluster, topics, WHY)


def taken_back(*topics: str, cluster: str = "stocks") -> TopicsAnswered:
    """Return its end."""
    return TopicsAnswered(cluster, topics, "")


async def told(peer: Peer) -> tuple[str, str]:
    """Return what a client is told next."""
    return await peer.status()


async def hears_nothing_more(peer: Peer) -> bool:
    """Return whether the next answer is that to an odd request."""
    await peer.send(action="nothing")
    return "unknown action" in (await peer.status())[1]


@in_production_loop
async def test_whoever_holds_a_refused_topic_is_told() -> None:
    """Once, in the form of the vendor's statuses, and again when it comes after all; nobody else hears of it."""
    async with serving() as ports:
        holder = await ports.client("filtered", "T.AAPL", "T.MSFT", path="/stocks")
        other = await ports.client("filtered", "*", "T.*", "Q.AAPL", path="/stocks")
        bars = await ports.client("bars", "100Ms.AAPL", path="/stocks")
        for _ in range(2):
            ports.bus.answer(refused("T.AAPL"))
        assert await told(holder) == ("error", "T.AAPL: nothing will come of it: the plan")
        words = "100Ms.AAPL: nothing will come of it: it needs T.AAPL, and the plan"
        assert await told(bars) == ("error", words)
        ports.bus.answer(taken_back("T.AAPL", "T.MSFT"))
        assert await told(holder) == ("success", "subscribed to: T.AAPL")
        assert await told(bars) == ("success", "subscribed to: 100Ms.AAPL")
        for peer in (holder, other, bars):
            assert await hears_nothing_more(peer)
        assert not ports.bus.failures


@in_production_loop
async def test_an_acknowledgement_says_what_is_refused_already() -> None:
    """A client that comes later need not wait for it; one that has given the topic back is not told of it."""
    async with serving() as ports:
        early = await ports.client("filtered", "T.AAPL", path="/stocks")
        await early.unsubscribe("T.AAPL")
        ports.bus.answer(refused("T.AAPL"))
        late = await ports.client("filtered", path="/stocks")
        await late.send(action="subscribe", params="T.AAPL")
        assert await told(late) == ("success", "subscribed to: T.AAPL (nothing will come of it: the plan)")
        ports.bus.answer(taken_back("T.AAPL"))
        assert await told(late) == ("success", "subscribed to: T.AAPL")
        assert await hears_nothing_more(early)


@in_production_loop
async def test_all_clusters_of_a_client_must_refuse() -> None:
    """On `/`, what one cluster refuses may come of another."""
    async with serving(["stocks", "options"]) as ports:
        everywhere = await ports.client("filtered", "T.AAPL")
        ports.bus.answer(refused("T.AAPL"))
        ports.bus.answer(taken_back("T.AAPL"))
        ports.bus.answer(refused("T.AAPL", cluster="options"))
        assert await hears_nothing_more(everywhere)
        ports.bus.answer(refused("T.AAPL"))
        assert await told(everywhere) == ("error", "T.AAPL: nothing will come of it: the plan")


@in_production_loop
async def test_a_refused_channel_is_that_of_its_symbols() -> None:
    """Where SUBSCRIPTION names a whole channel, no symbol of it is asked for, and each depends on the channel."""
    async with serving(followed={"stocks": ("T.*", "Q.AAPL")}) as ports:
        holder = await ports.client("filtered", "T.AAPL", "T.*", "Q.AAPL", "100Ms.AAPL", path="/stocks")
        ports.bus.answer(refused("T.*"))
        answers = {await told(holder) for _ in range(3)}
        needs = "nothing will come of it: it needs T.*, and the plan"
        assert answers == {
            ("error", "T.*: nothing will come of it: the plan"),
            ("error", f"T.AAPL: {needs}"),
            ("error", f"100Ms.AAPL: {needs}"),
        }
        assert await hears_nothing_more(holder)


@in_production_loop
async def test_a_cluster_that_nobody_chose_is_named() -> None:
    """On `/` alone: a client that names the cluster knows it; and where nothing comes of a topic, that says it."""
    async with serving(["futures"], followed={"futures": ("T.*",)}, default_cluster="futures") as ports:
        everywhere = await ports.client("filtered")
        await everywhere.send(action="subscribe", params="T.AAPL,*,Q.AAPL")
        default = " (of futures, the default here: this recorder's POLYGON_CLUSTER is not set)"
        assert await told(everywhere) == ("success", f"subscribed to: T.AAPL{default}")
        assert await told(everywhere) == ("success", f"subscribed to: *{default}")
        follows = " (nothing will come of it: this recorder follows futures: T.*)"
        assert await told(everywhere) == ("success", f"subscribed to: Q.AAPL{follows}")
        await ports.client("filtered", "T.AAPL", path="/futures")


@pytest.mark.parametrize(("asked", "held"), [("C.EUR-USD", "C.EUR/USD"), ("C.EUR-USD", "C.EUR-USD")])
@in_production_loop
async def test_pairs_are_known_by_every_spelling(asked: str, held: str) -> None:
    """The exchange refuses the pair as it was asked; the client hears of its own spelling."""
    async with serving(["forex"]) as ports:
        holder = await ports.client("filtered", held, path="/forex")
        ports.bus.answer(refused(asked, cluster="forex"))
        assert await told(holder) == ("error", f"{held}: nothing will come of it: the plan")
