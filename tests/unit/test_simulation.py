"""The simulated process does what the app does, where a difference would be taken for a defect of the recorder."""

from __future__ import annotations

import asyncio
import random

from simulation.process import Life, Process
from simulation.world import World


def test_a_process_that_is_stopped_while_it_opens_receives_nothing() -> None:
    """The app opens no source once it is told to stop; what came then would be in nobody's books."""
    world = World(1, 0.01)
    world.storage.delay = (1.0, 0.5)
    life = Life(1)
    world.checks.lives.append(life)
    process = Process(
        life,
        world.plan,
        world.storage,
        world.exchanges,
        world.loop,
        world.clock,
        random.Random(1),
        lambda: None,
        lambda: None,
        lambda process: None,
    )

    async def stop_while_it_opens() -> None:
        starting = asyncio.ensure_future(process.start())
        await asyncio.sleep(0.1)
        assert process.sink.queue.is_opening
        process.stop()
        await process.ended
        await starting
        await asyncio.sleep(10)
        assert not any(exchange.connections for exchange in world.exchanges.values())
        assert not life.received
        await process.bury()

    asyncio.set_event_loop(world.loop)
    try:
        world.loop.run_until_complete(stop_while_it_opens())
    finally:
        asyncio.set_event_loop(None)
        world.loop.close()
