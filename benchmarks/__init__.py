"""Measurements of the real command beside its peers: `python -m benchmarks`. They assert nothing about time."""

import sys
from pathlib import Path

# Commands are started and watched here as the tests do it.
sys.path.append(str(Path(__file__).resolve().parents[1] / "tests"))
