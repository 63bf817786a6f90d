"""What of an archive is wanted, what there is of it, and the pieces in which it comes."""

from __future__ import annotations

from typing import NamedTuple

from recorder.archive.continuity import Floor
from recorder.archive.cutting import Records
from recorder.archive.gaps import Gap
from recorder.errors import ArchiveError
from recorder.polygon.position import Told


class Place(NamedTuple):
    """Everything up to there has been read."""

    run_id: str
    seq: int


class Asked(NamedTuple):
    """Everything up to a position has been read, as it was told."""

    told: Told
    clusters: tuple[str, ...]
    """The clusters of which it has."""


class Lead(NamedTuple):
    """What is wanted from a time on, or behind a place, and so much before it as is needed to understand it."""

    since_ms: int
    """Unix ms."""
    lead_ms: int
    """So much before that time is read, too, as far as it is there."""
    behind: Place | Asked | None = None
    """What the client has. It has to be known here, and within its run no time before the beginning is missed."""


class Piece(NamedTuple):
    """Records of one cluster that follow each other."""

    run_id: str
    run_number: int
    """Of all runs in the manifest, from 0."""
    cluster: str
    first_seq: int
    received_ms: int
    """When the last of them came, Unix ms."""
    records: Records

    @property
    def last_seq(self) -> int:
        """The number of the last record."""
        return self.first_seq + len(self.records) - 1

    @property
    def place(self) -> Place:
        """The place behind which it is."""
        return Place(self.run_id, self.first_seq - 1)

    @property
    def size(self) -> int:
        """Bytes of the events."""
        return self.records.payload_bytes(0, len(self.records))

    @property
    def payloads(self) -> list[bytes]:
        """The events, byte for byte."""
        return self.records.payloads(0, len(self.records))

    def until(self, seq: int) -> Piece:
        """Return what there is of it up to a number."""
        return self._replace(records=self.records.part(0, seq - self.first_seq + 1))

    def behind(self, seq: int) -> Piece:
        """Return what there is of it behind a number."""
        rest = self.records.part(seq - self.first_seq + 1, len(self.records))
        return self._replace(first_seq=seq + 1, records=rest)


class Found(NamedTuple):
    """What an archive has of what was asked for."""

    place: Place | None
    """Where it begins; None where the archive has nothing of use."""
    recovered: bool
    """Whether that is all that was asked for."""
    reason: str = ""
    """Why not."""
    floor: Floor | None = None
    """From where on it has everything; None where the archive cannot be read."""
    gaps: tuple[Gap, ...] = ()
    """Times behind the place in which the recorder had no connection, or did not run."""


class Lost(ArchiveError):
    """What would have to come next is not in the archive."""
