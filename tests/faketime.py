"""A clock that tests can set, for programs that they start: libfaketime."""

from __future__ import annotations

from pathlib import Path

import pytest

_SLEEP = """import select, time
time.sleep = lambda secs: select.select([], [], [], secs) and None
"""
"""Python sleeps until a moment of the monotonic clock; libfaketime 0.9.10 that leaves this clock alone answers EINVAL."""
_PLACES = ("/usr/lib", "/usr/local/lib", "/usr/lib64")


def library() -> str:
    """Return the path of libfaketime; skip the test where it is missing."""
    for place in _PLACES:
        for found in sorted(Path(place).glob("**/libfaketime.so.1")):
            return str(found)
    pytest.skip("libfaketime is not installed")


class Clock:
    """The wall clock of the programs that run with `variables`; the monotonic one stays true."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "clock"
        self.set(0)
        customized = folder / "customized"
        customized.mkdir()
        (customized / "sitecustomize.py").write_text(_SLEEP)
        self.variables = {
            "PYTHONPATH": str(customized),
            "LD_PRELOAD": library(),
            "FAKETIME_TIMESTAMP_FILE": str(self._path),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }

    def set(self, offset_secs: float) -> None:
        """Put the clock so far from the true time, at once."""
        # Renamed into place: a program that looks meanwhile must not read an empty file.
        written = self._path.with_suffix(".new")
        written.write_text(f"{offset_secs:+.3f}s\n")
        written.rename(self._path)
