"""Peers by option: any program that somebody has built, given as a command, measured beside ours in the same run."""

from __future__ import annotations

import shlex
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.harness import Broken
from benchmarks.peers.daemon import Daemon

URL: Final = "{url}"
"""Stands for the address of the exchange that the program follows: `ws://127.0.0.1:PORT/stocks`."""
PORT: Final = "{port}"
"""Stands for the port that the program listens on."""
FILE: Final = "{file}"
"""Stands for the file that the program writes."""
FORM: Final = "NAME=COMMAND, with {url}, and {file} or {port} or both, in the command"


@dataclass(frozen=True, slots=True)
class Peer:
    """A program and how it is started."""

    name: str
    words: tuple[str, ...]

    @classmethod
    def parse(cls, text: str) -> Peer:
        """Return the peer of an option. Raise ValueError where it is none."""
        name, equals, command = text.partition("=")
        try:
            words = tuple(shlex.split(command))
        except ValueError as error:
            raise ValueError(f"{text!r} is not {FORM}: {error}") from error
        if not (name.strip() and equals and words):
            raise ValueError(f"{text!r} is not {FORM}")
        peer = cls(name.strip(), words)
        if not peer._has(URL) or not (peer.records or peer.serves):
            raise ValueError(f"{text!r} is not {FORM}")
        return peer

    @property
    def records(self) -> bool:
        """Whether it writes what it gets to a file."""
        return self._has(FILE)

    @property
    def serves(self) -> bool:
        """Whether clients connect to it."""
        return self._has(PORT)

    def started(self, folder: Path, upstream_port: int, port: int, file: Path) -> Daemon:
        """Return the program, following an exchange. Raise `Broken` where it is not installed."""
        values = {URL: f"ws://127.0.0.1:{upstream_port}/stocks", PORT: str(port), FILE: str(file)}
        command = []
        for word in self.words:
            for mark, value in values.items():
                word = word.replace(mark, value)
            command.append(word)
        if shutil.which(command[0]) is None:
            raise Broken(f"not installed: {command[0]}")
        return Daemon("peer", *command, folder=folder)

    def _has(self, mark: str) -> bool:
        return any(mark in word for word in self.words)
