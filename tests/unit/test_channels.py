"""The tables of channels and clusters: complete, consistent, documented, and loud about what is not in them."""

from __future__ import annotations

import re

import pytest

from recorder.archive.policy import OTHER, type_word
from recorder.bars.conditions import update_rule
from recorder.polygon.channels import CHANNELS, Channel
from recorder.polygon.clusters import CLUSTERS, SYMBOL_PREFIXES, cluster_of
from recorder.polygon.events import EVERY_CLUSTER, Decoder
from recorder.polygon.topics import parse_topic
from recorder.servers.subscriptions import spellings


@pytest.mark.parametrize("channel", CHANNELS.values(), ids=lambda channel: channel.code)
def test_a_channel_can_be_asked_for_and_is_on_a_cluster(channel: Channel) -> None:
    """Each code is a topic's channel, its word is fit for file names, and some cluster has it."""
    code = channel.code
    assert parse_topic(f"{code}.*").channel == code
    assert re.fullmatch("[a-z0-9_]+", type_word(code))
    assert type_word(code) not in (OTHER, "manifest", "rejected")
    assert any(code in cluster.channels for cluster in CLUSTERS.values())


@pytest.mark.parametrize("cluster", CLUSTERS)
def test_every_channel_of_a_cluster_is_read_where_the_table_says(cluster: str) -> None:
    """Symbol and time come from the fields of the channel's row, on every cluster that has it."""
    for code in CLUSTERS[cluster].channels:
        row = CHANNELS[code]
        for time_field in row.time_fields:
            frame = f'[{{"ev":"{code}","{row.symbol_field}":"SYM","{time_field}":1790000000123}}]'.encode()
            (header,) = Decoder(cluster).decode([frame]).headers()
            assert header == (code, "SYM", 1790000000123), code


def test_what_is_no_cluster_is_our_mistake_and_fails() -> None:
    """A name that is not in the table is read like nothing: nobody finds out later that it was read like stocks."""
    Decoder(EVERY_CLUSTER)
    for use in (Decoder, lambda name: update_rule(name, "vendor"), lambda name: spellings(name, "A")):
        with pytest.raises(KeyError):
            use("bonds")


def test_a_channel_without_a_row_is_read_all_the_same() -> None:
    """What the wire brings is recorded, whatever it is."""
    (header,) = Decoder("stocks").decode([b'[{"ev":"ZZ","pair":"A-B","e":1790000000123}]']).headers()
    assert header == ("ZZ", "A-B", 1790000000123)
    assert type_word("ZZ") == "zz"


@pytest.mark.parametrize(
    ("channel", "symbol", "cluster"),
    [
        ("T", "AAPL", "stocks"),
        ("Q", "O:SPY261127C00668000", "options"),
        ("XT", "BTC-USD", "crypto"),
        ("CAS", "EUR/USD", "forex"),
        ("V", "I:SPX", "indices"),
        ("A", "I:SPX", "indices"),
        ("ZZ", "", "stocks"),
    ],
)
def test_an_event_tells_its_cluster(channel: str, symbol: str, cluster: str) -> None:
    """By its channel and the prefix of its symbol."""
    assert cluster_of(channel, symbol) == cluster


def test_a_prefix_is_no_channel() -> None:
    """`C:EUR-USD` is a pattern of channel C; `O:SPY`, `I:SPX` and `X:BTC-USD` are symbols."""
    assert {"O", "I", "X"} == SYMBOL_PREFIXES
