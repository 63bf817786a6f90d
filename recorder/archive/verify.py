"""Re-reads archives and holds every line, count, checksum and sequence number against what the manifests say."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import closing
from pathlib import Path

from recorder.archive.audit import Audit
from recorder.archive.bucket import place_of
from recorder.archive.check import Task
from recorder.archive.findings import FileReport, Report
from recorder.archive.layout import MANIFEST_ENDING, holds_records, parse
from recorder.archive.manifest_checkpoint import LOCK_SUFFIX, read_checkpoint
from recorder.archive.place import HERE, Place
from recorder.archive.recorded import manifests_of
from recorder.archive.workers import Progress, check_files, cores
from recorder.errors import ArchiveError, NoArchive
from recorder.objects.path import to_path


def verify(paths: Iterable[str | Path], progress: Progress | None = None, jobs: int | None = None) -> Report:
    """Check archives. A path is a folder, a manifest, an active file's name (its archive is meant) or any other file.

    A path may be the URL of an archive in a bucket, of which each object is read through once and not kept.
    Files that no manifest knows are checked line by line. At most `jobs` processes, by default one a core, share the
    files. Where a recorder is at work, what was sealed when verification began is checked, and the report names what was
    not. Raise `NoArchive` for a path that does not exist or holds nothing of an archive, and `ArchiveError` where a process
    dies or a folder or manifest cannot be read.
    """
    targets = [to_path(path) for path in paths]
    moving: set[Path] = set()
    while True:
        report, began_to_move = _verify(targets, moving, progress, cores() if jobs is None else jobs)
        if not began_to_move:
            return report
        # What a recorder was changing meanwhile may have looked like damage.
        moving |= began_to_move


def _verify(
    paths: list[Path], moving: set[Path], progress: Progress | None, jobs: int
) -> tuple[Report, set[Path]]:
    """Check archives once; return also the manifests of those that were still, and are no more."""
    report = Report()
    archives, singles, missing = _targets(paths)
    report.problems += [f"{manifest} is missing" for manifest in missing]
    audits = {
        manifest: Audit(manifest, report, is_live=manifest in moving, place=place)
        for manifest, place in archives.items()
    }
    owners = {task.path: audit for audit in audits.values() for task in audit.tasks()}
    tasks = [task for audit in audits.values() for task in audit.tasks()]
    tasks += [
        Task(path, [], None)
        for path in singles
        if path not in owners and not any(audit.owns(path) for audit in audits.values())
    ]
    with closing(check_files(tasks, jobs, progress)) as results:
        for task, result in results:
            if task.path in owners:
                owners[task.path].add(task, result)
            elif result.vanished:
                report.problems.append(f"{task.path} vanished while the archive was read")
            else:
                report.files.append(result.report)
    for audit in audits.values():
        audit.finish()
    for files in (report.files, report.rejects, report.positions):
        files.sort(key=_age_of)
    _compare_contents(report)
    return report, {manifest for manifest, audit in audits.items() if audit.began_to_move}


def _age_of(report: FileReport) -> tuple[Path, bool, tuple[str, int, str]]:
    """Return what sorts the files of a folder by time, those that are being written last."""
    file = parse(Path(report.path))
    return file.path.parent, not file.rotated, file.age_key


def _compare_contents(report: Report) -> None:
    """Report files that have the same content."""
    seen: dict[str, str] = {}
    for file in report.files:
        if file.records:
            first = seen.setdefault(file.sha256, file.path)
            if first != file.path:
                file.add_problem(f"the file has the same content as {first}")


def _targets(paths: list[Path]) -> tuple[dict[Path, Place], list[Path], list[Path]]:
    """Return the manifests, each with its place, and the other files that are meant, and manifests that should be there."""
    missing: list[Path] = []
    manifests: dict[Path, Place] = {}
    singles: dict[Path, None] = {}
    for path in paths:
        place = place_of(path)
        if place.is_copy:
            manifests.update(dict.fromkeys(manifests_of(path, place), place))
            continue
        beside = path.parent / f"{path.stem}{MANIFEST_ENDING}"
        if path.is_dir():
            found = HERE.list_files(path, deep=True)
            known = [file for file in found if file.name.endswith(MANIFEST_ENDING)]
            lost = [manifest for lock in found if (manifest := _missing_manifest(lock))]
            records = [file for file in found if holds_records(file)]
            if not (known or lost or records):
                raise NoArchive(
                    f"{path} has no archive: neither a manifest nor a file of records is in it or below it; "
                    "name the folder of NDJSON_DEST"
                )
            manifests.update(dict.fromkeys(known, HERE))
            missing += lost
            singles.update(dict.fromkeys(records))
        elif path.name.endswith(MANIFEST_ENDING) and path.exists():
            manifests[path] = HERE
        elif beside.exists():
            manifests[beside] = HERE
        elif path.exists():
            singles[path] = None
        else:
            raise NoArchive(f"{path} does not exist; name the folder of an archive, or a file in it")
    return manifests, list(singles), missing


def _missing_manifest(lock: Path) -> Path | None:
    """Return the manifest that a lock file speaks of, if it is not there."""
    manifest = lock.with_name(lock.stem + MANIFEST_ENDING)
    if lock.suffix != LOCK_SUFFIX or manifest.exists():
        return None
    try:
        return manifest if read_checkpoint(lock) else None
    except ArchiveError:
        return manifest
