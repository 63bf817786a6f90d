"""Recorders that follow the streams of a NATS server, as processes."""

from __future__ import annotations

from pathlib import Path

from commands import Running, live_settings
from nats_servers import NatsServer
from waiting import eventually_sync

TOKEN = "token-of-the-app"


def tier_settings(server: NatsServer, folder: Path, **variables: str) -> dict[str, str]:
    """Return the settings of a recorder that follows the streams of a server."""
    settings = live_settings(0, folder, SOURCE="nats", NATS_URL=server.url, AUTH_TOKENS=f"app:{TOKEN}")
    for variable in ("POLYGON_API_KEY", "POLYGON_WS_URL", "SUBSCRIPTION"):
        del settings[variable]
    return {**settings, **variables}


def passed_on(tier: Running) -> int:
    """Return the number of the last event that a tier has passed on."""
    return int(tier.metric("polygon_stream_event"))


def reached(tier: Running, event: int) -> None:
    """Wait until a tier has come to an event of the stream."""
    eventually_sync(lambda: passed_on(tier) >= event, f"event {event} at the tier")
