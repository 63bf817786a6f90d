"""A thread that waits for a bucket, so that nobody else has to."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from typing import Final

_LEAVE_SECS: Final = 0.5


class BucketThread(ABC):
    """Works off what comes, in a thread of its own once it is started; without, whoever calls `work` does it."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._changed = threading.Condition()
        """Held while state is touched that others see; notified when there is something to do."""
        self._stopping = False
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin to work, in a thread."""
        self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
        self._thread.start()

    def stop(self, timeout_secs: float) -> None:
        """Stop, if need be in the middle of something; a request that is not answered is not waited for."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join(min(_LEAVE_SECS, timeout_secs))

    @abstractmethod
    def work(self, *, wait: bool = False) -> bool:
        """Do what is due next; `wait` for it if nothing is. Return False when there is nothing more to do."""

    def _run(self) -> None:
        while self.work(wait=True):
            pass
