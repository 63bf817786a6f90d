"""The settings of a simulated exchange: where it listens, which market it plays, how fast, and how it misbehaves."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from recorder.errors import ConfigError
from recorder.simulator.listings import SIMULATED

RATE_DEFAULT = 5_000.0
RATE_MAX = 20_000_000.0


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatorSettings:
    """All options of the simulator. Raise `ConfigError` for what contradicts itself or is out of bounds."""

    host: str = "127.0.0.1"
    port: int = 8775
    """0 picks a free one."""
    clusters: tuple[str, ...] = SIMULATED
    seed: int = 1
    symbols: int | None = None
    """Symbols of each cluster; None: as many as the real ones have, within reason."""
    rate: float | None = None
    """Events a second and cluster: trades, quotes, values and the like, counted before any subscription.

    Aggregates follow from them and come on top. Up to 10,000 the market walks on without repeating itself; a faster
    one repeats 100,000 events, with new times and numbers. 0: as fast as the slowest subscriber takes them. None: 5,000; of
    ticks, their own pace.
    """
    bursts: bool = True
    """Let the rate rise up to tenfold for moments; over each ten seconds it is exact."""
    session_open: bool = False
    """Begin at three times the rate; over the first minute it is exact."""
    frame_events: int = 100
    """Events in a frame, at most."""
    market_start: Literal["process", "subscriber"] | None = None
    """When a cluster's market opens: with the process, or with its first subscriber. None: ticks with the
    subscriber, all else with the process."""
    start_ms: int | None = None
    """The Unix time at which the market opens; None: now. With it, equal seed, start and rate give equal bytes."""
    ticks_path: Path | None = None
    """Play this archive, or file of recorded ticks, instead of the seeded market. Only the cluster of its events is
    served."""
    speed: float = 1.0
    """How much faster than in reality ticks are played, if no rate is given."""
    loop: bool = False
    """Begin again at the end of the ticks, with their times moved on."""
    keys: tuple[str, ...] | None = None
    """The accepted keys; None: any that is not empty."""
    connections_max: int | None = None
    """Connections of one key to one cluster; one more costs the oldest. None: no limit."""
    pending_bytes_max: int = 64 * 1024 * 1024
    """Bytes that wait for one subscriber; one more and it is cut as a slow consumer."""
    auth_timeout_secs: float = 30.0
    log_path: Path | None = None
    """Write every data frame here, as sent: what trials compare against."""
    faults: tuple[str, ...] = ()
    """What goes wrong, in the words of `faults.parse_fault`."""

    def __post_init__(self) -> None:
        unknown = [cluster for cluster in self.clusters if cluster not in SIMULATED]
        if unknown or not self.clusters:
            raise ConfigError(
                f"simulator: unknown cluster {', '.join(unknown)!r}; known are {', '.join(SIMULATED)}"
            )
        for name, value, low, high in (
            ("port", self.port, 0, 65_535),
            ("symbols", self.symbols or 1, 1, 1_000_000),
            ("rate", self.rate or 0, 0, RATE_MAX),
            ("frame_events", self.frame_events, 1, 10_000),
            ("speed", self.speed, 0.001, 1_000_000),
            ("connections_max", self.connections_max or 1, 1, 1_000_000),
            ("pending_bytes_max", self.pending_bytes_max, 1024 * 1024, 2**40),
            ("auth_timeout_secs", self.auth_timeout_secs, 0.01, 86_400),
            ("start_ms", 10**12 if self.start_ms is None else self.start_ms, 10**12, 9 * 10**12),
        ):
            if not low <= value <= high:
                raise ConfigError(f"simulator: {name} is {value}, allowed are {low} to {high}")

    @property
    def flood(self) -> bool:
        """Whether the market is as fast as the slowest subscriber."""
        return self.rate == 0

    @property
    def starts_with_subscriber(self) -> bool:
        """Whether the market waits for its first subscriber."""
        if self.market_start is None:
            return self.ticks_path is not None
        return self.market_start == "subscriber"
