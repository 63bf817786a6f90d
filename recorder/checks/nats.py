"""Check of the NATS servers: whether they take the credentials, how old they are, and what each stream is like."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from recorder.checks.findings import Finding, failure, ok, skipped, warning
from recorder.checks.scene import Scene
from recorder.errors import ConfigError, RecorderError
from recorder.settings.model import NATS
from recorder.stream_message import Names, SymbolNames
from recorder.words import size_text

if TYPE_CHECKING:
    from recorder.jetstream.streams import JetStream

LOOK_SECS: Final = 6.0
_OLD: Final = (2, 10)
"""Servers before this version cannot sync each message before they acknowledge it."""
_SEE_SERVERS: Final = (
    "see whether the servers of NATS_URL run, and whether a firewall is between; docs/nats.md"
)


async def check_nats(scene: Scene) -> list[Finding]:
    """Connect as sink and source do, and look at servers, limits and streams; nothing is made or changed."""
    settings = scene.settings
    if NATS not in (*settings.sinks, settings.source):
        return [skipped("nats", "neither SINK nor SOURCE names nats")]
    if scene.offline:
        return [skipped("nats", "--offline: the servers were not asked")]
    try:
        from recorder.jetstream.connection import Connection
        from recorder.jetstream.streams import JetStream
    except ModuleNotFoundError:
        return [skipped("nats", "nats-py is not installed")]
    try:
        async with asyncio.timeout(LOOK_SECS):
            connection = await Connection.to_any(settings.nats, "recorder check", lambda: None)
            try:
                found = [_about_server(connection.server, connection.version)]
                jetstream = JetStream(connection, settings.nats)
                about = _about_followed
                if settings.source != NATS:
                    about = _about_stream
                    found.append(await _about_limits(scene, jetstream))
                for cluster in settings.clusters:
                    found.append(await about(scene, jetstream, cluster))  # noqa: PERF401  (one after the other)
                if settings.nats.per_symbol and NATS in settings.sinks:
                    found += await _about_symbols(scene, jetstream, connection.version)
                return found
            finally:
                await connection.close()
    except ConfigError as error:
        return [failure("nats", str(error), "do what the line says; the recorder would end with status 78")]
    except TimeoutError:
        return [failure("nats", f"the servers have not said all within {LOOK_SECS:g} s", _SEE_SERVERS)]
    except RecorderError as error:
        return [failure("nats", str(error), _SEE_SERVERS)]


def _about_server(server: str, version: str) -> Finding:
    text = f"{server} is nats-server {version}"
    if _numbers(version) < _OLD:
        return warning(
            "nats",
            f"{text}: it acknowledges before the disk has a message, so a power failure can lose some",
            "upgrade to 2.10 or newer, and set sync_interval: always",
        )
    return ok(
        "nats", f"{text}; whether it syncs before it acknowledges (sync_interval: always), no client can see"
    )


async def _about_limits(scene: Scene, jetstream: JetStream) -> Finding:
    limits = await jetstream.limits()
    settings = scene.settings
    used, allowed = int(limits.get("storage", 0)), int(limits.get("limits", {}).get("max_storage", -1))
    if allowed < 0:
        return ok("nats", f"{size_text(used)} are stored; the account has no limit of its own")
    streams = 2 if settings.nats.per_symbol else 1
    needed = (settings.nats.max_bytes or 0) * len(settings.clusters) * streams
    text = f"{size_text(used)} of {size_text(allowed)} are used"
    if needed > allowed:
        return warning(
            "nats",
            f"{text}, and the streams may grow to {size_text(needed)}",
            "raise max_storage of the account, or lower NATS_MAX_BYTES",
        )
    return ok("nats", text)


async def _about_stream(scene: Scene, jetstream: JetStream, cluster: str) -> Finding:
    stream, subject = Names.of(scene.settings.nats.stream_prefix, cluster)
    end = await jetstream.end_if_made(stream, subject)
    if end is None:
        return ok("nats", f"stream {stream} does not exist; the recorder makes it")
    events = f", which ends with event {end.last.next_first - 1}, of {end.last.writer}" if end.last else ""
    return ok("nats", f"stream {stream} takes {subject}; it has come to message {end.last_seq}{events}")


async def _about_symbols(scene: Scene, jetstream: JetStream, version: str) -> list[Finding]:
    """Look at the streams of NATS_PER_SYMBOL, one a cluster."""
    found = []
    if _numbers(version) < _OLD:
        found.append(
            warning(
                "nats",
                f"NATS_PER_SYMBOL: nats-server {version} is slow with thousands of subjects once a stream is as large as "
                "NATS_MAX_BYTES",
                "upgrade to 2.10 or newer, or let NATS_MAX_AGE_SECS end messages before that",
            )
        )
    for cluster in scene.settings.clusters:
        names = SymbolNames.of(scene.settings.nats.stream_prefix, cluster)
        is_there = await jetstream.exists(names.stream, names.subjects)
        words = "is there" if is_there else "does not exist; the recorder makes it"
        found.append(ok("nats", f"stream {names.stream} for {names.subjects} {words}"))
    return found


async def _about_followed(scene: Scene, jetstream: JetStream, cluster: str) -> Finding:
    stream, subject = Names.of(scene.settings.nats.stream_prefix, cluster)
    try:
        view = await jetstream.view_of(stream, subject)
        newest = await jetstream.newest(stream, subject)
    except ConfigError:
        raise
    except RecorderError as error:
        return warning("nats", str(error), "start that recorder; until then this one waits, and is not ready")
    events = f", up to event {newest.heading.next_first - 1}" if newest is not None else ""
    return ok("nats", f"stream {stream} has messages {view.first_seq} to {view.last_seq}{events}")


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
