"""The log of what was sent: each data frame as it went to each subscriber; what trials compare an archive against."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import orjson

from recorder.errors import ConfigError
from recorder.simulator.framing import Frames

_BUFFER_BYTES: Final = 1024 * 1024
_BROKEN_BYTES_MAX: Final = 200


class FrameLog:
    """NDJSON: `{"cluster":…,"conn":1,"frame":[…]}` with the frame's exact bytes, and a line for each fault.

    `frame` holds the events that a faultless recorder has in its archive; what a fault added or tore stands in a line
    of its own, `{"cluster":…,"conn":1,"fault":…,"sent":…}`, where it went out. Written without waiting for the disk,
    but in the event loop: a log costs speed. Appends. Raise `ConfigError` where the file cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        try:
            self._file = path.open("ab", buffering=_BUFFER_BYTES)
        except OSError as error:
            raise ConfigError(f"simulator: cannot write the log {path}: {error.strerror}") from error

    def frames(self, cluster: str, connection: int, frames: Frames) -> None:
        """Log frames in a row."""
        begin = b'{"cluster":"%b","conn":%d,"frame":' % (cluster.encode(), connection)
        self._file.write(b"".join([begin + payload + b"}\n" for payload in frames.payloads()]))

    def payload(self, cluster: str, connection: int, payload: bytes) -> None:
        """Log one frame."""
        self._file.write(b'{"cluster":"%b","conn":%d,"frame":%b}\n' % (cluster.encode(), connection, payload))

    def fault(self, cluster: str, connection: int, name: str, sent: bytes = b"") -> None:
        """Log what a fault did; of long ones the beginning."""
        text = sent[:_BROKEN_BYTES_MAX].decode(errors="replace")
        line = {"cluster": cluster, "conn": connection, "fault": name, "sent": text, "bytes": len(sent)}
        self._file.write(orjson.dumps(line, option=orjson.OPT_APPEND_NEWLINE))

    def flush(self) -> None:
        """Hand everything to the system."""
        self._file.flush()

    def close(self) -> None:
        """Flush and close."""
        self._file.close()
