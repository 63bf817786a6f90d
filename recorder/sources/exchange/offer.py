"""What another recorder offers: it names its clusters in the answers of its firehose."""

from __future__ import annotations

import asyncio
from typing import Final
from urllib.parse import urlsplit, urlunsplit

import aiohttp

from recorder.backoff import Backoff
from recorder.errors import ConfigError, RecorderError
from recorder.polygon.clusters import clusters_in
from recorder.settings import Settings
from recorder.sources.exchange.web_socket import http_session

ASK_SECS: Final = 15.0
"""How long a recorder that does not answer is waited for; the service manager starts this one again."""
_ANSWER_SECS: Final = 5.0
_WAIT_SECS_MAX: Final = 2.0


async def with_clusters(settings: Settings, ask_secs: float = ASK_SECS) -> Settings:
    """Return the settings with the clusters that the firehose offers, where POLYGON_CLUSTER leaves that to it.

    :raises RecorderError: it does not answer, or is none.
    """
    if settings.clusters or settings.firehose_url is None:
        return settings
    return settings.with_clusters(await _ask(settings.firehose_url, ask_secs))


async def _ask(url: str, ask_secs: float) -> tuple[str, ...]:
    parts = urlsplit(url)
    scheme = "https" if parts.scheme == "wss" else "http"
    address = urlunsplit(parts._replace(scheme=scheme, path=f"{parts.path.rstrip('/')}/health"))
    loop = asyncio.get_running_loop()
    ends_at = loop.time() + ask_secs
    backoff = Backoff(0.1, _WAIT_SECS_MAX, lambda low, high: high)
    async with http_session() as http:
        while True:
            try:
                async with asyncio.timeout(_ANSWER_SECS), http.get(address) as answer:
                    clusters = clusters_in(answer.headers)
            except (aiohttp.ClientError, OSError) as error:
                wait_secs = backoff.next_secs()
                if loop.time() + wait_secs > ends_at:
                    raise RecorderError(
                        f"FIREHOSE_URL={url}: does not say which clusters it offers: {str(error) or 'no answer'}. Start it, "
                        "or set POLYGON_CLUSTER: then this recorder starts without it, and waits"
                    ) from error
                await asyncio.sleep(wait_secs)
                continue
            if not clusters:
                raise ConfigError(
                    f"FIREHOSE_URL={url}: does not say which clusters it offers; it is no recorder of this version. "
                    "Set POLYGON_CLUSTER to what it has"
                )
            return clusters
