"""The simulator as a command: says where it listens, and plays until a signal comes."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable

from recorder import loop
from recorder.simulator.exchange import Simulator
from recorder.simulator.settings import SimulatorSettings


def run_simulator(settings: SimulatorSettings, say: Callable[[str], None]) -> None:
    """Play until SIGTERM or SIGINT. Raise ConfigError where the settings cannot be used."""
    loop.run(_run(settings, say))


async def _run(settings: SimulatorSettings, say: Callable[[str], None]) -> None:
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    simulator = Simulator(settings)
    exchange = asyncio.create_task(simulator.run())
    stop = asyncio.create_task(stopping.wait())
    listening = asyncio.create_task(simulator.listening.wait())
    try:
        await asyncio.wait({exchange, stop, listening}, return_when=asyncio.FIRST_COMPLETED)
        if listening.done():
            clusters = ", ".join(simulator.markets)
            say(f"listening on ws://{settings.host}:{simulator.port} ({clusters}); Ctrl-C ends")
            await asyncio.wait({exchange, stop}, return_when=asyncio.FIRST_COMPLETED)
        if exchange.done():
            exchange.result()
    finally:
        for task in (exchange, stop, listening):
            task.cancel()
        await asyncio.gather(exchange, stop, listening, return_exceptions=True)
