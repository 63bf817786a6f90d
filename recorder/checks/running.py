"""The recorder that already runs with these settings: it holds the archive, or answers on METRICS_ADDR."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import aiohttp
import orjson

from recorder import addresses
from recorder.archive.disk import lock_owner
from recorder.archive.policy import FileNames
from recorder.descriptors import own_socket
from recorder.errors import ConfigError
from recorder.servers.tokens import plain_token
from recorder.settings import OpsSettings, ServersSettings, Settings

ASK_SECS: Final = 1.5
_STATUS_BYTES_MAX: Final = 16 << 20


@dataclass(frozen=True, slots=True)
class RunningRecorder:
    """A recorder that works now."""

    pid: int
    """0: not known."""
    holds_archive: bool
    status: Mapping[str, Any] | None
    """What its /status says; None where it does not answer."""

    def feed(self, cluster: str) -> Mapping[str, Any] | None:
        """Return what it says of a cluster that it follows."""
        feeds = self.status["feeds"] if self.status is not None else ()
        return next((feed for feed in feeds if feed["cluster"] == cluster), None)

    @property
    def bytes_written(self) -> int | None:
        """Bytes of lines that it has put into files in its life; None where it does not say."""
        sinks = self.status["sinks"] if self.status is not None else ()
        return next((int(sink["bytes_written"]) for sink in sinks if sink["name"] == "ndjson"), None)

    def __str__(self) -> str:
        return f"the recorder with pid {self.pid}" if self.pid else "a recorder"


async def find_recorder(names: FileNames | None, settings: Settings) -> RunningRecorder | None:
    """Return the recorder that runs with these settings, if one does. Asking locks and changes nothing."""
    pid = lock_owner(names.lock) if names is not None else 0
    holds = pid != 0
    ops = settings.ops
    status = await _status(ops, settings.servers) if ops is not None and ops.port else None
    if status is None:
        return RunningRecorder(pid, holds, None) if holds else None
    return RunningRecorder(pid or int(status["pid"]), holds, status)


def archive_of(settings: Settings) -> FileNames | None:
    """Return the names of the archive that a recorder with these settings has; None where it writes no files."""
    archive = settings.archive
    in_files = "ndjson" in settings.sinks and not archive.to_stdout
    return FileNames(archive.dest, archive.split_per_type) if in_files else None


def is_here(pid: int) -> bool:
    """Return whether a recorder with this pid is a process of this machine, and of this container."""
    try:
        return b"recorder" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


async def _status(ops: OpsSettings, servers: ServersSettings) -> dict[str, Any] | None:
    """Ask METRICS_ADDR. Return what a recorder answers there, None where none does."""
    headers = {}
    if not addresses.is_loopback(ops.host):
        with suppress(ConfigError):  # a file of tokens that cannot be read is the finding of another check
            headers["Authorization"] = f"Bearer {plain_token(servers)}"
    try:
        async with (
            asyncio.timeout(ASK_SECS),
            aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(socket_factory=own_socket), headers=headers
            ) as http,
            http.get(f"http://{addresses.joined(addresses.from_here(ops.host), ops.port)}/status") as answer,
        ):
            content = orjson.loads(await answer.content.read(_STATUS_BYTES_MAX))
    except (aiohttp.ClientError, OSError, TimeoutError, ValueError):
        return None
    is_ours = isinstance(content, dict) and {"run_id", "pid", "feeds", "sinks"} <= content.keys()
    return content if is_ours else None
