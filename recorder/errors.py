"""What can go wrong: one tree; each error says whether trying again can help and how the process ends."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

EXIT_OK: Final = 0
EXIT_FAILURE: Final = 1
EXIT_USAGE: Final = 2
"""Click's status for a wrong command line; of diff(1) and cmp(1) the one for trouble, too."""
EXIT_DAMAGE: Final = 3
EXIT_LOSSES: Final = 4
EXIT_NO_ROOM: Final = 5
EXIT_CONFIG: Final = 78
"""`EX_CONFIG` of sysexits.h: nothing changes until an operator does; systemd must not restart on it."""
EXIT_INTERRUPTED: Final = 130
"""As shells have it for what SIGINT ended."""

EXIT_STATUSES: Final[Mapping[int, str]] = {
    EXIT_OK: "All is well, or stopped on request with everything written. `verify`: the archive is intact.",
    EXIT_FAILURE: (
        "It failed, and the message says why. `verify`: something could not be read. `check`: something would not work. "
        "`compare`: the archives differ. `gaps`: a day is below the budget. `reload`: something was refused. "
        "A second SIGTERM or SIGINT ends a command at once with 1."
    ),
    EXIT_USAGE: (
        "The command line is invalid, or a path in it does not exist or has no archive. `compare`: one of them could not be "
        "read. `query`: the SQL is wrong, or the file to write exists. `export`: the folder to write to is no export."
    ),
    EXIT_DAMAGE: (
        "`verify` found damage: the archive is not what its manifest says; `gaps`: its manifest is damaged; "
        "`query`, `export`, `fetch`, `clickhouse`: files are damaged or missing."
    ),
    EXIT_LOSSES: (
        "`verify --fail-on-loss`: the archive is intact, and records were lost: dropped, or not on disk yet at a crash. "
        "`merge --skip-damaged`: the new archive is whole, less what was damaged. "
        "`clickhouse`: sent, less what was damaged, or deleted before it was sent."
    ),
    EXIT_NO_ROOM: (
        "The disk is full. `export`, `fetch`: what is there stays; the same command goes on once there is room. "
        "`merge`, `compact`: nothing of the new archive was left behind."
    ),
    EXIT_CONFIG: (
        "A person must change the settings, the key or the archive's location; to start again cannot help."
    ),
    EXIT_INTERRUPTED: "Ctrl-C ended it before it had a result, as `query`, `verify` or `check`.",
}
"""What each exit status means, of every command."""


class RecorderError(Exception):
    """Something failed in a way that this program knows.

    The message is written for an operator: what failed, where, and what can be done.
    """

    exit_status = EXIT_FAILURE
    """The status of the process if this error ends it."""


class ConfigError(RecorderError):
    """The settings, the key or the place to write to cannot be used; somebody must change something."""

    exit_status = EXIT_CONFIG


class ArchiveError(RecorderError):
    """The archive cannot be read or written."""


class Unreadable(ArchiveError):
    """A file of the archive could not be read, so that nobody knows whether it is whole."""


class Altered(ArchiveError):
    """A file of the archive is not the one that was written: cut off, damaged, or another one."""


class Incomplete(ArchiveError):
    """Something of the archive is missing, or its manifest was altered, so that nobody knows what else is."""


class NotRecorded(ArchiveError):
    """The archive has nothing of a type or a symbol that was asked for."""


class NoArchive(ArchiveError):
    """The path that was named does not exist, or nothing of an archive is there."""

    exit_status = EXIT_USAGE


class DestinationRefused(RecorderError):
    """A folder that was to be written to is not ours, is in use, or holds something else."""

    exit_status = EXIT_USAGE


class NoRoom(RecorderError):
    """The disk is full."""

    exit_status = EXIT_NO_ROOM


class ArchiveConfigError(ArchiveError, ConfigError):
    """The archive's place cannot be used: not writable, a folder in the way, owned by another recorder."""

    exit_status = EXIT_CONFIG


class StoreError(RecorderError):
    """An object store did not do what it was asked."""


class StoreAway(StoreError):
    """The store cannot be reached, is busy or out of order, or an answer was cut off: trying again can help."""


class StoreRefused(StoreError, ConfigError):
    """The store refuses: no such bucket, no permission, another region. Somebody must change something."""

    exit_status = EXIT_CONFIG


class ObjectMissing(StoreError):
    """No object has this name."""


class ObjectDiffers(StoreError):
    """An object of this name has other content than it must have."""


class PackageMissing(RecorderError):
    """Another package is needed for this, and is not installed."""


class TopicsRefused(RecorderError):
    """A server refuses topics, or does not know them: nothing will come of these until somebody names others."""

    def __init__(self, message: str, refusals: Mapping[str, str]) -> None:
        super().__init__(message)
        self.refusals = refusals
        """Why, for each of the topics."""


class UpstreamError(RecorderError):
    """A connection to the exchange ended or could not be made; `reason` is its name in logs and manifest."""

    reason = "error"


class ConnectFailed(UpstreamError):
    """No connection: name resolution, TCP, TLS or the WebSocket upgrade failed."""

    reason = "connect_failed"


class TlsFailed(ConnectFailed):
    """No connection until somebody changes the address or a certificate: TLS on one side only, or no trust."""

    exit_status = EXIT_CONFIG


class Untrusted(TlsFailed):
    """The certificate of the server is signed by nobody whom this machine trusts."""


class StoodBy(UpstreamError):
    """We hung up, since the other recorder with the same key has the connection."""

    reason = "standby"


class Disconnected(UpstreamError):
    """The connection ended: a close frame, FIN, RST, or something that is not WebSocket."""

    reason = "disconnected"


class ReadTimeout(UpstreamError):
    """No byte was received for `READ_TIMEOUT_SECS`."""

    reason = "read_timeout"


class DataTimeout(UpstreamError):
    """No data came for `DATA_TIMEOUT_SECS` while the market was open, though the line is alive."""

    reason = "data_timeout"


class StepTimeout(UpstreamError):
    """The exchange did not greet, did not answer the key, or acknowledged no topic in time."""

    reason = "step_timeout"


class Unacknowledged(StepTimeout):
    """The exchange acknowledged none of the topics in time: it ignores what is no topic without a word."""


class ServerDisconnect(UpstreamError):
    """The exchange announced that it disconnects us: `slow_consumer`, `force_disconnect`, `auth_required`…"""

    reason = "server_disconnect"


class MaxConnections(UpstreamError):
    """The key has more connections than its plan allows: usually a second program uses the same key."""

    reason = "max_connections"


class NotAuthorized(UpstreamError):
    """The plan allows none of the topics that were asked for."""

    reason = "not_authorized"


class ShiftedReplay(UpstreamError):
    """The recorder that is followed replays with shifted times, and `ALLOW_SHIFTED` does not allow that."""

    reason = "shifted"
    exit_status = EXIT_CONFIG


class KeyRefused(UpstreamError):
    """The exchange refused the key."""

    reason = "key_refused"
    exit_status = EXIT_CONFIG
