"""Runs one claim under atheris for a bounded time: `python -m fuzz decoding --seconds 60`; `--again FILE` repeats."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["recorder"]):
    from fuzz.claims import CLAIMS, seeds_of

PLACE = Path("build/fuzz")


def main() -> None:
    """Fuzz, or try one input again. Exit status 0: the claim stood; else it fell, and the input was written."""
    parser = argparse.ArgumentParser(prog="fuzz", description=__doc__)
    parser.add_argument("claim", choices=CLAIMS)
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--again", type=Path, help="an input that was found")
    options = parser.parse_args()
    claim = CLAIMS[options.claim]
    if options.again:
        claim(options.again.read_bytes())
        print(f"{options.again}: the claim stands")
        return
    corpus = PLACE / options.claim
    corpus.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(seeds_of(options.claim)):
        (corpus / f"seed-{number}").write_bytes(seed)
    print(f"{options.claim}: {options.seconds} s; what is found is tried again with")
    print(f"  {sys.executable} -m fuzz {options.claim} --again {PLACE}/{options.claim}-crash-…", flush=True)
    limits = [f"-max_total_time={options.seconds}", "-max_len=4096", "-timeout=20", "-rss_limit_mb=2048"]
    where = [f"-artifact_prefix={PLACE}/{options.claim}-", "-print_final_stats=1", "-verbosity=0"]
    atheris.Setup([sys.argv[0], *limits, *where, str(corpus)], claim)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
