"""Rules that take the place of others while clients are connected: tokens, limits, origins, the certificate."""

from __future__ import annotations

import asyncio
import ssl
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from certificates import self_signed
from serving import LIMITS, Ports, event, frame_of, in_production_loop, serving
from waiting import eventually

from recorder.errors import ConfigError
from recorder.servers.access import Rules
from recorder.servers.tls import Pem
from recorder.servers.tokens import Tokens
from recorder.settings import ClientLimits


def rules_of(ports: Ports) -> Rules:
    """Return the rules that are in use."""
    return ports.hub("filtered")._access.rules


def with_limits(rules: Rules, **limits: Any) -> Rules:
    """Return the rules with other limits."""
    made = ClientLimits.model_construct(**{**LIMITS, **limits})
    return replace(rules, servers=rules.servers.model_copy(update={"limits": made}))


@in_production_loop
async def test_clients_of_a_removed_token_are_closed_and_all_others_stay() -> None:
    """1008 and a reason for those whose token is gone, a new name for one that is only called otherwise."""
    async with serving() as ports:
        mine = await ports.client("filtered", "T.A")
        other = await ports.client("filtered", "T.A", token="other")
        unknown = await ports.connect("filtered")
        ports.serving.change(replace(rules_of(ports), tokens=Tokens(["new:other", "third:third"])))
        assert await mine.ended() == 1008
        ports.publish(frame_of(event("T", "A", 1)))
        assert await other.events_until(event("T", "A", 1)) == [event("T", "A", 1)]
        assert ports.stats("filtered").evictions["token_removed"] == 1
        await unknown.authenticate("third")  # it connected before the token existed
        await eventually(lambda: ports.stats("filtered").clients == 2, "the closed client's end")
        assert [client.token for client in ports.serving.clients(10)] == ["new", "third"]
        gone = await ports.connect("filtered")
        await gone.status()
        await gone.send(action="auth", params="good")
        assert (await gone.status())[0] == "auth_failed"


@in_production_loop
async def test_a_token_that_is_called_otherwise_keeps_its_places() -> None:
    """The limit of each token counts by the token, so that a new name makes no room, and frees none of another's."""
    limits = {"clients_per_token_max": 1}
    async with serving(limits=limits) as ports:
        mine = await ports.client("filtered")
        ports.serving.change(replace(rules_of(ports), tokens=Tokens(["you:good", "me:other"])))
        twin = await ports.connect("filtered")
        await twin.status()
        await twin.send(action="auth", params="good")
        assert (await twin.status())[0] == "max_connections"
        await ports.client("filtered", token="other")
        await mine.ws.close()
        await eventually(lambda: ports.stats("filtered").clients == 1, "its end")
        await ports.client("filtered")


@in_production_loop
async def test_limits_hold_for_connected_clients_and_for_new_ones() -> None:
    """A lower limit of clients ends nobody, and refuses the next one; that of topics holds at the next request."""
    async with serving() as ports:
        mine = await ports.client("filtered", "T.A", "T.B")
        ports.serving.change(with_limits(rules_of(ports), clients_max=1, subscriptions_max=2))
        await mine.send(action="subscribe", params="T.C")
        assert await mine.status() == ("error", "subscribe: 1 topics are beyond the limit of 2")
        next_one = await ports.connect("filtered")
        assert await next_one.status() == (
            "max_connections",
            "this recorder has as many clients as it may have",
        )
        await eventually(lambda: ports.stats("filtered").clients == 1, "the refused client's end")
        ports.serving.change(with_limits(rules_of(ports), clients_max=2, subscriptions_max=3))
        await mine.subscribe("T.C")
        await ports.client("filtered")


@in_production_loop
async def test_pages_of_an_origin_that_is_added_connect() -> None:
    """ALLOWED_ORIGINS is looked up at each request."""
    headers = {"Origin": "https://app.example.com"}
    async with serving() as ports:
        with pytest.raises(aiohttp.WSServerHandshakeError, match="403"):
            await ports.connect("filtered", headers=headers)
        rules = rules_of(ports)
        servers = rules.servers.model_copy(update={"allowed_origins": ("https://app.example.com",)})
        ports.serving.change(replace(rules, servers=servers))
        await ports.connect("filtered", headers=headers)


async def certificate_of(ports: Ports) -> bytes | None:
    """Return the certificate that a new connection is shown, in DER."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    host, number = ports.address("filtered")
    _, writer = await asyncio.open_connection(host, number, ssl=context, server_hostname=None)
    shown: bytes | None = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.close()
    return shown


@in_production_loop
async def test_a_new_certificate_is_shown_to_the_next_connection(tmp_path: Path) -> None:
    """A connection of before goes on; a client that names no server gets the new one, too; a bad one changes nothing."""
    old, new = (self_signed(tmp_path, name) for name in ("old", "new"))
    trusting = ssl.create_default_context()
    trusting.check_hostname, trusting.verify_mode = False, ssl.CERT_NONE
    named = {"tls_cert_file": str(old[0]), "tls_key_file": str(old[1])}
    async with serving(ssl=trusting, **named) as ports:
        mine = await ports.client("filtered", "T.A")
        assert await certificate_of(ports) == ssl.PEM_cert_to_DER_cert(old[0].read_text())
        rules = rules_of(ports)
        broken = Pem.read(str(new[0]), str(old[1]))
        with pytest.raises(ConfigError, match="is not the key of"):
            ports.serving.change(replace(rules, pem=broken))
        assert rules_of(ports) is rules
        assert await certificate_of(ports) == ssl.PEM_cert_to_DER_cert(old[0].read_text())
        ports.serving.change(replace(rules, pem=Pem.read(*map(str, new))))
        assert await certificate_of(ports) == ssl.PEM_cert_to_DER_cert(new[0].read_text())
        await ports.client("filtered", "T.A")
        ports.publish(frame_of(event("T", "A", 1)))
        assert await mine.events_until(event("T", "A", 1)) == [event("T", "A", 1)]
