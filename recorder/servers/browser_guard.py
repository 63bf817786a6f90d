"""Which pages of browsers may connect, and under which names the servers are asked."""

from __future__ import annotations

import socket
from urllib.parse import urlsplit

from aiohttp import web

from recorder.servers.stats import ServerStats
from recorder.settings import ServersSettings


def refuse_browser(
    request: web.Request, settings: ServersSettings, stats: ServerStats
) -> web.Response | None:
    """Return the refusal of a page from elsewhere, or of a name that is not ours (DNS rebinding); None allows."""
    host = _name_of(f"//{request.headers.get('Host', '')}")
    own = {"localhost", "127.0.0.1", "::1", settings.host.lower(), socket.gethostname().lower(), ""}
    if request.transport is not None:
        own.add(str(request.transport.get_extra_info("sockname")[0]))
    if host not in own and host not in {name.lower() for name in settings.allowed_hosts}:
        stats.refused["host"] += 1
        return web.Response(status=421, text=f"this recorder is not {host}; ALLOWED_HOSTS names what it is\n")
    origin = request.headers.get("Origin")
    if origin is not None and origin not in settings.allowed_origins and _name_of(origin) != host:
        stats.refused["origin"] += 1
        return web.Response(
            status=403, text=f"pages of {origin} may not connect; ALLOWED_ORIGINS names who may\n"
        )
    return None


def _name_of(url: str) -> str:
    try:
        return (urlsplit(url).hostname or "").lower()
    except ValueError:
        return "?"
