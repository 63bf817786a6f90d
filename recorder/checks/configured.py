"""Checks of what the settings say: slips, extras that are missing, tokens, what is exposed, certificates, hours."""

from __future__ import annotations

import asyncio
import importlib.util
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from recorder import native
from recorder.addresses import is_loopback
from recorder.bars import kinds
from recorder.checks.certificates import CertificateError, validity_of
from recorder.checks.findings import Finding, failure, ok, skipped, warning
from recorder.checks.scene import Scene, in_thread
from recorder.errors import ConfigError
from recorder.market_hours.hours import ClusterHours
from recorder.market_hours.keeper import PACKAGE, CalendarError, MarketHours, is_enabled
from recorder.plugins import installing
from recorder.servers.tls import Pem, Tls
from recorder.servers.tokens import Tokens

_RENEW_WITHIN: Final = timedelta(days=14)
_HOURS_SECS: Final = 7.0
_EXTRAS: Final = (
    ("zmq", "zmq", "pyzmq"),
    ("nats", "nats", "nats-py"),
    ("kafka", "confluent_kafka", "confluent-kafka"),
)
"""Sinks that need a package: its module, and its name."""


async def check_settings(scene: Scene) -> list[Finding]:
    """Slips and settings without effect, as `run` warns of them; extras that are needed."""
    settings = scene.settings
    found = [
        warning("settings", text, "set, correct or remove it: `recorder config` shows what counts")
        for text in scene.warnings
    ]
    for name, module, package in _EXTRAS:
        if name in (*settings.sinks, settings.source) and importlib.util.find_spec(module) is None:
            found.append(
                failure(
                    "settings",
                    f"{'SINK' if name in settings.sinks else 'SOURCE'}={name} needs {package}",
                    f"install it: {installing(package)}",
                )
            )
    if "archive" in settings.roles and not settings.sinks:
        found.append(
            warning("settings", "nothing is recorded: SINK is none", "set SINK=ndjson, unless that is meant")
        )
    clusters = ", ".join(settings.clusters)
    sinks = ", ".join(settings.sinks) or "none"
    return found or [ok("settings", f"clusters {clusters}; sinks {sinks}")]


async def check_native(scene: Scene) -> list[Finding]:
    """Whether native code is used, as RECORDER_NATIVE says; without it the same is done, with more CPU."""
    wanted = scene.settings.native
    try:
        native.choose(wanted)
    except ConfigError as error:
        return [
            failure("native code", str(error), f"install what is missing, or leave {native.VARIABLE} out")
        ]
    if wanted == native.NO:
        return [skipped("native code", f"{native.VARIABLE} is no: Python does its work")]
    if not native.in_use():
        return [
            skipped(
                "native code",
                f"Python does its work: {native.absent()}",
                "several times faster with a C compiler and the headers of Python: install them, then the recorder again",
            )
        ]
    if not kinds.are_compiled():
        return [
            ok(
                "native code",
                "it is there, and is used; bars are made by Python: their windows were not compiled, or from older sources",
            )
        ]
    return [ok("native code", "it is there, and is used; bars are made with compiled windows")]


async def check_clients(scene: Scene) -> list[Finding]:
    """Check tokens, and which machines can reach what."""
    settings, found = scene.settings, []
    servers = settings.servers
    if servers.enabled:
        key = settings.api_key
        try:
            tokens = await in_thread(lambda: Tokens.from_settings(servers, key))
        except ConfigError as error:
            found.append(failure("clients", str(error), "correct the token, or the file"))
        else:
            own = bool(servers.tokens or servers.tokens_file)
            words = f"{len(tokens)} tokens" if own else "the token is the key of the exchange"
            reach = (
                "this machine only" if is_loopback(servers.host) else f"anybody who can reach {servers.host}"
            )
            found.append(ok("clients", f"{words}; reachable by {reach}"))
            if not is_loopback(servers.host) and servers.tls_cert_file is None:
                found.append(
                    warning(
                        "clients",
                        f"tokens and data cross the network of {servers.host} in the clear",
                        "set TLS_CERT_FILE and TLS_KEY_FILE, or put a proxy with TLS before it",
                    )
                )
    if settings.ops is not None and not is_loopback(settings.ops.host):
        found.append(
            warning(
                "clients",
                f"tokens cross the network of METRICS_ADDR {settings.ops.address} in the clear",
                "bind it to 127.0.0.1, or put a proxy with TLS before it",
            )
        )
    return found or [skipped("clients", "ROLES names no server")]


async def check_tls(scene: Scene) -> list[Finding]:
    """Certificate and key: readable, a pair, and valid for a while."""
    servers = scene.settings.servers
    file = servers.tls_cert_file
    if file is None or not servers.enabled:
        return [skipped("tls", "TLS_CERT_FILE is not set: the servers speak ws:// and http://")]
    try:
        await in_thread(lambda: Tls(Pem.read(file, servers.tls_key_file)))
        begins, ends = await in_thread(lambda: validity_of(Path(file)))
    except (ConfigError, CertificateError) as error:
        return [failure("tls", str(error), "name a certificate chain and its unencrypted key, both readable")]
    now = datetime.fromtimestamp(scene.clock.wall_ns() // 1_000_000_000, UTC)
    renew = "renew it, and restart the recorder: it is read at start"
    if now < begins:
        return [failure("tls", f"{file} is not valid before {begins:%Y-%m-%d %H:%M} UTC", renew)]
    if now >= ends:
        return [failure("tls", f"{file} has expired on {ends:%Y-%m-%d %H:%M} UTC", renew)]
    if ends - now < _RENEW_WITHIN:
        return [warning("tls", f"{file} expires on {ends:%Y-%m-%d %H:%M} UTC", renew)]
    return [ok("tls", f"{file} is valid until {ends:%Y-%m-%d}")]


async def check_hours(scene: Scene) -> list[Finding]:
    """Whether the market of each cluster is open, as far as a calendar is there to say so."""
    settings = scene.settings
    try:
        if not is_enabled(settings.market_hours):
            if settings.market_hours.calendar == "off":
                return [skipped("market hours", "SESSION_CALENDAR is off")]
            return [
                skipped(
                    "market hours",
                    f"{PACKAGE} is not installed: silence at night looks like any other",
                    f"install it: {installing(PACKAGE)}",
                )
            ]
        urls = {upstream.cluster: upstream.url for upstream in settings.upstreams}
        market_hours = MarketHours(settings.market_hours, urls, scene.clock)
        async with asyncio.timeout(_HOURS_SECS):
            await market_hours.learn()
    except TimeoutError:
        text = f"not computed within {_HOURS_SECS:g} s"
        return [warning("market hours", text, "this machine is very busy; a recorder waits longer")]
    except (ConfigError, CalendarError) as error:
        return [failure("market hours", str(error), "install the package, or set SESSION_CALENDAR=off")]
    wall_ns = scene.clock.wall_ns()
    return [
        ok("market hours", f"{cluster}: {_hours_text(hours, wall_ns)}")
        for cluster, hours in market_hours.hours.items()
    ]


def _hours_text(hours: ClusterHours, wall_ns: int) -> str:
    session = hours.at(wall_ns)
    until = ""
    if session.until_ns:
        until = (
            f" until {datetime.fromtimestamp(session.until_ns // 1_000_000_000, UTC):%a %Y-%m-%d %H:%M} UTC"
        )
    return f"the market is {session.state}{until}"
