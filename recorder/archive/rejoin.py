"""How far an archive has the stream of another recorder, for a run that begins and goes on there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import BinaryIO, Final

import msgspec

from recorder.archive.codec import SUFFIXES, codec_of, compressed_path
from recorder.archive.context import ArchiveContext
from recorder.archive.disk import Disk
from recorder.archive.journal import read_line
from recorder.archive.layout import find_files, kind_of
from recorder.archive.manifest_index import Entry, ManifestIndex, Run, first_bytes
from recorder.archive.narrowing import bytes_before
from recorder.archive.reader import lines
from recorder.archive.record import UNREADABLE
from recorder.archive.scan import blocks_of
from recorder.log import get_logger
from recorder.overlap import Overlap, Recorded

log = get_logger("polygon_archive")

OVERLAP_BYTES_MAX: Final = 64 << 20
"""Of more than a writer hands over at once, the journal has lost its end."""


class _Line(msgspec.Struct, gc=False):
    """What is read of a record to leave it out when it comes again."""

    feed: str
    seq: int
    payload: msgspec.Raw


class _Noted(msgspec.Struct, frozen=True):
    """The last position of a cluster in the journal."""

    run_id: str
    after: str
    """Empty where it is not known."""
    seq: int
    """The number of the last record up to there."""


def recorded_at_start(context: ArchiveContext, index: ManifestIndex) -> dict[str, Recorded]:
    """Return, by cluster, up to where a stream is recorded, and what is recorded behind that; for a repaired archive.

    Raise `OSError` or `ArchiveError` where a file cannot be read.
    """
    found: dict[str, Recorded] = {
        cluster: Recorded(after) for cluster, after in index.positions_at_start().items()
    }
    for cluster, noted in _last_positions(context, set(index.opened_by)).items():
        found.pop(cluster, None)
        payloads = _payloads_behind(context, index, cluster, noted) if noted.after else None
        if payloads is not None:
            found[cluster] = Recorded(noted.after, Overlap(payloads))
    return found


def _last_positions(context: ArchiveContext, clusters: set[str]) -> dict[str, _Noted]:
    """Return the last entry of each cluster. Older files are read only for clusters that newer ones do not have."""
    names, disk = context.names, context.disk
    journals = [
        file for file in find_files(names, disk) if file.active == names.positions and not file.temporary
    ]
    journals.sort(key=lambda file: (file.rotated, file.age_key))
    active, rotated = (
        [file for file in journals if not file.rotated],
        [file for file in journals if file.rotated],
    )
    found: dict[str, _Noted] = {}
    for file in [*active, *reversed(rotated)]:
        newer = set(found)
        for text in lines(blocks_of(file.path, disk), str(file.path)):
            line = read_line(text)
            if line is not None and line.cluster not in newer:
                after, _, seq = line.last
                found[line.cluster] = _Noted(line.run_id, after, seq)
        if clusters <= found.keys():
            break
    return found


def _payloads_behind(
    context: ArchiveContext, index: ManifestIndex, cluster: str, noted: _Noted
) -> list[bytes] | None:
    """Return the events of a cluster that are recorded behind an entry; None where nobody knows what is."""
    order = list(index.runs)
    if noted.run_id not in order:
        return None
    runs = order[order.index(noted.run_id) :]
    if not all(_is_proof(index.runs[run_id], context) for run_id in runs):
        return None
    behind = {run_id: noted.seq if run_id == noted.run_id else 0 for run_id in runs}
    if any(_reaches(entry, behind) for entries in [index.deleted, *index.moved] for entry in entries):
        return None  # it was taken away
    payloads: list[bytes] = []
    size = 0
    for name, entries in index.files.items():
        for entry in entries:
            if not _reaches(entry, behind) or kind_of(Path(name)) != "records":
                continue
            for line in _records(context.disk, context.names.folder / name, entry, behind[entry.run_id]):
                if line.feed == cluster and line.seq > behind[entry.run_id]:
                    payloads.append(bytes(line.payload))
                    size += len(payloads[-1])
                    if size > OVERLAP_BYTES_MAX:
                        log.warning("archive_position_lost", cluster=cluster, after=noted.after)
                        return None
    return payloads


def _is_proof(run: Run, context: ArchiveContext) -> bool:
    """Return whether what a run has noted in the journal is in its files, and all that is in these came in order.

    A power loss takes records and leaves positions. An archive that samples does not know which events it left out.
    """
    if run.ended:
        return True
    settings: Mapping[str, object] = run.settings if isinstance(run.settings, Mapping) else {}
    samples = settings.get("NDJSON_SAMPLE_QUOTES") not in (None, 1) or bool(run.sampled_until_ms)
    return run.boot_id == context.disk.boot_id() and not samples and not context.doubt.inherited


def _reaches(entry: Entry, behind: Mapping[str, int]) -> bool:
    return entry.run_id in behind and entry.last_seq > behind[entry.run_id]


def _records(disk: Disk, plain: Path, entry: Entry, seq: int) -> Iterator[_Line]:
    """Yield the records of a segment, at least those behind a number."""
    forms = [plain, *(compressed_path(plain, codec) for codec in SUFFIXES)]
    path = next((form for form in forms if disk.stat(form)), plain)
    offset, size = entry.offset, entry.bytes
    if codec_of(path) == "none":
        with _open(disk, path) as file:
            passed = bytes_before(file, offset, size, lambda header: header.seq <= seq)
        offset, size = offset + passed, size - passed
    decode = msgspec.json.Decoder(_Line).decode
    for line in lines(first_bytes(blocks_of(path, disk, offset), size), str(path)):
        try:
            yield decode(line)
        except UNREADABLE:
            continue  # recovery has reported it


def _open(disk: Disk, path: Path) -> BinaryIO:
    return disk.open_read(path)
