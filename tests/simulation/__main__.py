"""`python -m simulation`: run many seeds, print the seed of each failure, sum up."""

from __future__ import annotations

import argparse
import os
import sys
import time
import traceback
from collections import Counter
from concurrent.futures import ProcessPoolExecutor

from recorder.log import configure
from simulation.checks import Broken
from simulation.world import Result, World


def simulate(seed: int, hours: float, *, verbose: bool = False) -> Result:
    """Run one seed; what goes wrong is in the result."""
    configure({"": "debug" if verbose else "critical"})
    world = World(seed, hours)
    try:
        return world.run()
    except Broken as error:
        world.result.failure = str(error)
    except Exception:
        world.result.failure = traceback.format_exc()
    return world.result


def main() -> int:
    parser = argparse.ArgumentParser(prog="make simulate", description=__doc__)
    parser.add_argument("--seeds", type=int, default=100, help="how many to run")
    parser.add_argument("--first", type=int, default=1, help="the first of them")
    parser.add_argument("--seed", type=int, help="run this one alone, with the recorder's log")
    parser.add_argument("--hours", type=float, default=0.25, help="simulated hours of trouble in each")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    if options.seed is not None:
        result = simulate(options.seed, options.hours, verbose=True)
        print(result.failure or f"seed {options.seed} holds; digest {result.digest}")
        return bool(result.failure)
    began = time.monotonic()
    seeds = range(options.first, options.first + options.seeds)
    faults: Counter[str] = Counter()
    results: list[Result] = []
    with ProcessPoolExecutor(options.jobs) as pool:
        for result in pool.map(simulate, seeds, [options.hours] * len(seeds)):
            results.append(result)
            faults.update(result.faults)
            if result.failure:
                print(f"SEED={result.seed} HOURS={options.hours:g} fails: {result.failure}", flush=True)
    secs = time.monotonic() - began
    failed = sum(1 for result in results if result.failure)
    for name, count in sorted(faults.items()):
        print(f"{count:>9,}  {name}")
    print(
        f"{len(results):,} seeds, {failed} failed; {sum(r.hours for r in results):,.1f} simulated hours,"
        f" {sum(r.runs for r in results):,} process lives, {sum(r.events for r in results):,} events,"
        f" {sum(r.records for r in results):,} records verified; {len(results) / secs:.1f} seeds/s"
    )
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
