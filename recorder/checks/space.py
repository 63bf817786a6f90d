"""Checks of the disk: how fast it takes and keeps what is written, and when it will be full."""

from __future__ import annotations

import errno
import os
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Final, NamedTuple

from recorder.archive.disk import Disk, Space, reason_of
from recorder.archive.layout import find_files
from recorder.archive.manifest_index import ManifestIndex
from recorder.archive.policy import FileNames
from recorder.archive.pressure import min_free_bytes
from recorder.checks.archive import standing
from recorder.checks.findings import Finding, failure, ok, skipped, warning
from recorder.checks.scene import Rate, Scene, in_thread
from recorder.words import size_text

_BLOCK_BYTES: Final = 1 << 20
_PROBE_BYTES: Final = 64 << 20
_PROBE_BESIDE_BYTES: Final = 4 << 20
"""Beside a recorder that writes to the same disk."""
_PROBE_SECS: Final = 3.0
_BURST: Final = 10
"""How much faster than usual a burst at the opening is."""
_UNKNOWN_RATE: Final = 1e6
"""Bytes a second: trades of all stocks on average."""
_SYNC_SLOW_SECS: Final = 0.5
_DAY_SECS: Final = 86_400
_WEEK_SECS: Final = 7 * _DAY_SECS
_HISTORY_SECS_MIN: Final = 3600
"""Shorter recordings say too little about a day."""
_INODES_MIN: Final = 1024
_ADVICE: Final = (
    "set NDJSON_RETAIN_BYTES or NDJSON_RETAIN_SECS, compress (NDJSON_COMPRESSION=zstd), or take a larger disk"
)


class Speed(NamedTuple):
    """What a disk achieved."""

    bytes_per_sec: float
    """Written and synced."""
    sync_secs: float
    """An fsync of one MiB, in the middle."""
    sync_secs_max: float


async def check_speed(scene: Scene) -> list[Finding]:
    """Write and sync a file that has no name, and so is gone whatever happens."""
    names = scene.names
    if names is None:
        return [skipped("disk speed", "no files are written")]
    place = standing(names.folder.absolute())
    try:
        space = await in_thread(lambda: Disk().space(place))
        size = _probe_bytes(scene, space)
        if not size:
            return [skipped("disk speed", "there is too little space to test it")]
        speed = await in_thread(lambda: measure(place, size))
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EPERM):  # the check of the archive says what to do
            return [skipped("disk speed", f"not tried: {reason_of(error)}")]
        is_read_only = error.errno == errno.EROFS
        advice = "mount it so that it can be written to" if is_read_only else "repair or replace the disk"
        return [failure("disk speed", f"cannot write to {place}: {reason_of(error)}", advice)]
    return [_judge_speed(scene, speed)]


def _probe_bytes(scene: Scene, space: Space) -> int:
    """Return how much can be written for a moment without anybody missing it; 0: nothing."""
    most = _PROBE_BESIDE_BYTES if scene.recorder is not None else _PROBE_BYTES
    kept = _kept_free_bytes(scene) * 5
    room = (space.bytes - kept if scene.recorder is not None else space.bytes) // 4
    return min(most, room // _BLOCK_BYTES * _BLOCK_BYTES) if room >= _BLOCK_BYTES else 0


def _kept_free_bytes(scene: Scene) -> int:
    """Return what recording leaves free. Raise `OSError`."""
    asked = scene.settings.archive.min_free_bytes
    assert scene.names is not None
    return min_free_bytes(asked, Disk().capacity_bytes(standing(scene.names.folder.absolute())))


def measure(folder: Path, size_bytes: int) -> Speed:
    """Write this much, or as much as fits into a few seconds. Raise `OSError`."""
    block = os.urandom(_BLOCK_BYTES)
    syncs: list[float] = []
    fd = _open_nameless(folder)
    try:
        began = time.perf_counter()
        written = 0
        while written < size_bytes and time.perf_counter() - began < _PROBE_SECS:
            view = memoryview(block)
            while view:
                view = view[os.write(fd, view) :]
            synced = time.perf_counter()
            os.fsync(fd)
            syncs.append(time.perf_counter() - synced)
            written += _BLOCK_BYTES
        secs = time.perf_counter() - began
    finally:
        os.close(fd)
    return Speed(written / secs, median(syncs), max(syncs))


def _open_nameless(folder: Path) -> int:
    try:
        return os.open(folder, os.O_TMPFILE | os.O_WRONLY | os.O_CLOEXEC, 0o600)
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EISDIR, errno.ENOENT):
            raise
    # NFS and FUSE know no such files.
    fd, path = tempfile.mkstemp(prefix=".recorder-check-", dir=folder)
    Path(path).unlink()
    return fd


def _judge_speed(scene: Scene, speed: Speed) -> Finding:
    rate = scene.rate
    needed = rate.bytes_per_sec if rate is not None else _UNKNOWN_RATE
    mb_per_sec = f"{needed / 1e6:,.2f} MB/s"
    wanted = f"{mb_per_sec} are recorded" if rate is not None else f"all stock trades take about {mb_per_sec}"
    text = (
        f"{speed.bytes_per_sec / 1e6:,.0f} MB/s; fsync of 1 MiB {speed.sync_secs * 1000:.1f} ms, at most "
        f"{speed.sync_secs_max * 1000:.1f} ms; {wanted}"
    )
    figures = {
        "bytes_per_sec": round(speed.bytes_per_sec),
        "sync_secs": round(speed.sync_secs, 6),
        "sync_secs_max": round(speed.sync_secs_max, 6),
        "needed_bytes_per_sec": round(needed),
    }
    archive = scene.settings.archive
    if speed.bytes_per_sec < needed:
        return failure("disk speed", text, "take a faster disk, or record less", **figures)
    if archive.fsync == "flush" and speed.sync_secs * 1000 > archive.flush_interval_ms:
        advice = "set NDJSON_FSYNC=rotate, or NDJSON_FLUSH_INTERVAL_MS to more than an fsync takes"
        return warning("disk speed", text, advice, **figures)
    if speed.bytes_per_sec < _BURST * needed:
        secs = archive.buffer_bytes / max(1.0, _BURST * needed - speed.bytes_per_sec)
        advice = f"a burst {_BURST} times as fast waits in memory (NDJSON_BUFFER_BYTES) for {secs:,.0f} s, then is dropped"
        return warning("disk speed", text, advice, **figures)
    if speed.sync_secs_max > _SYNC_SLOW_SECS:
        return warning("disk speed", text, "see what else writes to this disk", **figures)
    return ok("disk speed", text, **figures)


async def check_space(scene: Scene) -> list[Finding]:
    """Check how much space is free, and how long it lasts."""
    names = scene.names
    if names is None:
        return [skipped("disk space", "no files are written")]
    place = standing(names.folder.absolute())
    try:
        space = await in_thread(lambda: Disk().space(place))
    except OSError as error:
        return [failure("disk space", f"is unknown: {reason_of(error)}", "repair or replace the disk")]
    keep = await in_thread(lambda: _kept_free_bytes(scene))
    room = space.bytes - keep
    free = f"{size_text(space.bytes)} free"
    if room <= 0:
        text = f"{free}, and recording pauses below {size_text(keep)} (NDJSON_MIN_FREE_BYTES)"
        return [failure("disk space", text, _ADVICE, free_bytes=space.bytes)]
    if space.inodes is not None and space.inodes < _INODES_MIN:
        text = f"{free}, but only {space.inodes} more files can be made"
        return [failure("disk space", text, "delete files, or recreate the file system with more inodes")]
    index = scene.index
    rate = scene.rate or _recorded_rate(scene, index)
    if rate is None:
        return [
            skipped(
                "disk space",
                f"{free}; how long that lasts is not known, because nothing was measured or recorded lately",
                "check again while the market is open",
            )
        ]
    return [_judge_space(scene, names, space, room, _with_share(scene, rate, index))]


def _recorded_rate(scene: Scene, index: ManifestIndex | None) -> Rate | None:
    """Return how much was recorded over the last week, nights included."""
    now_ms = scene.clock.wall_ns() // 1_000_000
    since_ms = now_ms - _WEEK_SECS * 1000
    recent = [
        entry
        for entries in (index.files.values() if index is not None else ())
        for entry in entries
        if entry.kind == "segment_closed" and entry.records and entry.last_ingest_ts >= since_ms
    ]
    if not recent:
        return None
    secs = (now_ms - max(since_ms, min(entry.first_ingest_ts for entry in recent))) / 1000
    if secs < _HISTORY_SECS_MIN:
        return None
    days = f"{secs / _DAY_SECS:.1f} days" if secs >= _DAY_SECS else f"{secs / 3600:.1f} hours"
    return Rate(sum(entry.bytes for entry in recent) / secs, None, f"as recorded over the last {days}")


def _with_share(scene: Scene, rate: Rate, index: ManifestIndex | None) -> Rate:
    """Add how well files compress, by those that are: the best witnesses."""
    if scene.settings.archive.compression == "none":
        return rate._replace(kept_share=1.0)
    if index is not None:
        pairs = [
            (packed.bytes, sum(entry.bytes for entry in index.files[name]))
            for name, packed in index.compressed.items()
            if name in index.files
        ]
        plain = sum(size for _, size in pairs)
        if plain:
            return rate._replace(kept_share=sum(size for size, _ in pairs) / plain)
    return rate


def _judge_space(scene: Scene, names: FileNames, space: Space, room: int, rate: Rate) -> Finding:
    archive = scene.settings.archive
    share = 1.0 if rate.kept_share is None else rate.kept_share
    per_sec = max(rate.bytes_per_sec * share, 1e-9)
    secs = room / per_sec
    shrunk = ""
    if archive.compression != "none":
        shrunk = (
            f", of which compression leaves {share:.0%}"
            if rate.kept_share is not None
            else ", not compressed"
        )
    text = (
        f"{size_text(space.bytes)} free; {rate.bytes_per_sec / 1e6:,.2f} MB/s {rate.source}{shrunk}, would fill it in "
        f"{_span(secs)}, day and night"
    )
    figures = {
        "free_bytes": float(space.bytes),
        "bytes_per_sec": round(per_sec, 1),
        "full_in_secs": round(secs),
    }
    kept = _retained_bytes(scene, per_sec)
    if kept is not None:
        held = sum(file.stat().st_size for file in _rotated(names))
        if kept <= room + held:
            text = f"{text}; but retention keeps {size_text(int(kept))} at most: never full"
            return ok("disk space", text, **figures)
        text = f"{text}; retention would keep {size_text(int(kept))}, more than there is room for"
    if secs < _DAY_SECS:
        return failure("disk space", text, _ADVICE, **figures)
    if secs < _WEEK_SECS or kept is not None:
        return warning("disk space", text, _ADVICE, **figures)
    return ok("disk space", text, **figures)


def _retained_bytes(scene: Scene, per_sec: float) -> float | None:
    """Return how much rotated files may come to; None: without bounds, as they are where none are rotated."""
    archive = scene.settings.archive
    if archive.max_bytes is None and archive.rotate_secs is None:
        return None
    limits = [float(archive.retain_bytes)] if archive.retain_bytes is not None else []
    if archive.retain_secs is not None:
        limits.append(archive.retain_secs * per_sec)
    return min(limits, default=None)


def _rotated(names: FileNames) -> list[Path]:
    if not names.folder.is_dir():
        return []
    return [file.path for file in find_files(names, Disk()) if file.rotated and not file.temporary]


def _span(secs: float) -> str:
    for size, unit in ((_DAY_SECS * 365, "years"), (_DAY_SECS, "days"), (3600, "hours"), (60, "minutes")):
        if secs >= 2 * size:
            return f"{secs / size:,.0f} {unit}"
    return f"{secs:,.0f} seconds"
