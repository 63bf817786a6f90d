"""Servers that were not written here: started with a configuration of ours, stopped, and told about where missing."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Self

from benchmarks.harness import PROGRAM_CPU, Broken, Program, on


def installed(program: str, package: str) -> str:
    """Return the path of a program. Raise `Broken` with the name of its Debian package where it is missing."""
    found = shutil.which(program) or shutil.which(program, path="/usr/sbin:/sbin")
    if found is None:
        raise Broken(f"not installed: {program} (Debian: {package})")
    return found


class Daemon(Program):
    """A server that runs until it is killed, with all its processes; what it says goes to a file of `folder`."""

    def __init__(self, name: str, *command: str, folder: Path) -> None:
        self.name = name
        with (folder / f"{name}.log").open("wb") as log:
            self.process = subprocess.Popen(
                [*on(PROGRAM_CPU), *command], stdin=subprocess.DEVNULL, stdout=log, stderr=log, text=True
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
