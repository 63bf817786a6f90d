"""A source: a Polygon-compatible exchange that plays recorded ticks or a seeded market, and misbehaves as told."""

from recorder.simulator.exchange import Simulator
from recorder.simulator.settings import SimulatorSettings

__all__ = ["Simulator", "SimulatorSettings"]
