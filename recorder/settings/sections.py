"""What each part takes from the settings: small frozen objects, complete and checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True, slots=True)
class UpstreamSettings:
    """One upstream connection."""

    cluster: str
    url: str
    """Complete, the cluster's path included."""
    api_key: str = field(repr=False)
    topics: tuple[str, ...]
    backoff_initial_secs: float
    backoff_max_secs: float
    read_timeout_secs: float
    heartbeat_interval_secs: float
    """0: no pings."""
    channel_cap: int
    """Frames of one read."""


@dataclass(frozen=True, slots=True)
class RecordSettings:
    """Which events become records."""

    include: tuple[str, ...]
    """Patterns; empty: every event."""
    sample_quotes: int


@dataclass(frozen=True, slots=True)
class ArchiveSettings:
    """The files of the archive. A limit that is None does not exist."""

    dest: str
    max_bytes: int | None
    rotate_secs: int | None
    compression: Literal["none", "gzip", "zstd"]
    split_per_type: bool
    flush_every: int
    flush_interval_ms: int
    fsync: Literal["never", "rotate", "flush"]
    channel_cap: int
    """Batches waiting for the disk."""
    buffer_bytes: int
    warn_interval_secs: float
    reopen: bool
    """Whether SIGHUP opens the files again."""
    retain_bytes: int | None
    retain_secs: int | None

    @property
    def to_stdout(self) -> bool:
        """Whether records go to stdout instead of files."""
        return self.dest == STDOUT


@dataclass(frozen=True, slots=True)
class OpsSettings:
    """The ops server, and when `/ready` says so."""

    host: str
    port: int
    """0: any free one."""
    ready_min_messages: int
    ready_delay_ms: int


@dataclass(frozen=True, slots=True)
class LogSettings:
    """What is logged, and how."""

    levels: Mapping[str, str]
    """Target to level; `""` is the rest."""
    format: Literal["auto", "json", "console"]


STDOUT = "stdout"
"""The destination, and the sink, that is standard output."""
