"""What must hold, looked at from outside: the events that were sent against the bytes on the disk."""

from __future__ import annotations

import hashlib
import json
import re
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from recorder.archive.codec import codec_of, decode, plain_path
from recorder.archive.verify import Report, verify
from recorder.errors import ArchiveError
from simulation.disk import Storage
from simulation.exchange import Exchange, Tape
from simulation.process import NUMBER, Life, Plan, Process

Key = tuple[int, int]
"""Run and `seq` of a record."""

_LINE = re.compile(
    rb'\{"ingest_ts":\d+,"type":"\w+","symbol":"\w+","topic":"[\w:]+","feed":"\w+","ts":\d+,'
    rb'"payload":(\{.*\}),"hostname":"run-(\d+)","app_version":"0","schema_version":1,"seq":(\d+)\}\n'
)
_FLUSH_SLACK_SECS = 0.1
"""Of the writer's turns, on top of the flush interval."""
CALM_SECS = 10.0
"""A disk that has worked for this long has taken everything that waited."""


class Broken(AssertionError):
    """Something that must hold does not."""


def _require(condition: bool, text: str) -> None:
    if not condition:
        raise Broken(text)


def is_of_records(name: str) -> bool:
    base = name.rpartition("/")[2]
    return (
        base.startswith("polygon.")
        and not base.endswith((".lock", ".manifest.ndjson", ".tmp"))
        and (".rejected." not in base)
    )


def is_moved(name: str) -> bool:
    """Return whether logrotate has taken the file."""
    return name.rpartition(".")[2].isdigit()


def plain_content(name: str, data: bytes) -> bytes:
    """Return what a file holds, decompressed; nothing where it is damaged, as a power loss may leave it."""
    try:
        return b"".join(decode(codec_of(Path(name)), [data] if data else [], name))
    except ArchiveError:
        return b""


class Checks:
    """Everything that is remembered of a simulation in order to judge it."""

    def __init__(self, plan: Plan, storage: Storage, tape: Tape) -> None:
        self.plan = plan
        self.storage = storage
        self.tape = tape
        self.lives: list[Life] = []
        self.held: set[Key] = set()
        """What must be in the archive whenever a run has begun."""
        self.is_unsafe = False
        """Whether power was lost where no promise of durability stood, or one could not be kept: fsync had failed."""
        self.manifest_name = f"{Path(plan.archive.dest).with_suffix('')}.manifest.ndjson"

    # While a run lives.

    def ticked(self, process: Process) -> None:
        """After a turn of the writer: with `NDJSON_FSYNC=flush`, all that it has handed over is promised."""
        if self.plan.archive.fsync == "flush" and not process.writer.failure:
            for inode, name in process.disk.files.values():
                if is_of_records(name):
                    inode.claimed_bytes = len(inode.data)

    # When a run has died; before the disk has lost anything.

    def died(self, life: Life, kind: str, now: float, calm_secs: float, dropped: int) -> None:
        """Note what must be found again, and look for what should have been written by now."""
        if kind == "power":
            manifest = self.storage.names.get(self.manifest_name)
            self.is_unsafe = (
                self.is_unsafe
                or self.plan.archive.fsync == "never"
                or bool(manifest and manifest.doomed)
                or any(entry.get("durable") is False for entry in self._manifest())
            )
            self.held = self._claims()
            return
        present = self._present(strict=False)
        self.held = set(present)
        if calm_secs < CALM_SECS:
            return
        interval_secs = self.plan.archive.flush_interval_ms / 1000 + _FLUSH_SLACK_SECS
        late = {(life.number, seq) for seq, at in life.accepted_at.items() if at < now - interval_secs}
        missing = late - present.keys() - self._deleted() - self._dropped(self._manifest())
        # Of what was dropped last, the manifest may not have heard yet.
        _require(len(missing) <= dropped, f"a kill has lost more than a flush interval: {_show(missing)}")

    def _claims(self) -> set[Key]:
        """Return what the recorder has promised to survive a power loss."""
        claims: set[Key] = set()
        if self.plan.archive.fsync == "never":
            return claims
        contents: dict[str, bytes] = {}
        for name, inode in self.storage.names.items():
            if is_of_records(name):
                plain = str(plain_path(Path(name)))
                contents.setdefault(plain, plain_content(name, bytes(inode.data)))
                claims |= self._keys(bytes(inode.data[: inode.claimed_bytes]))
        manifest = self.storage.names.get(self.manifest_name)
        durable = bytes(manifest.data[: manifest.floor]) if manifest else b""
        for name, entries in _segments(_entries(durable)).items():
            content = contents.get(f"{self.storage_folder}/{name}", b"")
            for entry in entries:
                part = content[entry["offset"] : entry["offset"] + entry["bytes"]]
                if entry.get("durable", True) and hashlib.sha256(part).hexdigest() == entry["sha256"]:
                    claims |= self._keys(part)
        return claims - self._deleted()

    @property
    def _retains(self) -> bool:
        """Whether files are deleted."""
        archive = self.plan.archive
        return archive.retain_bytes is not None or archive.retain_secs is not None

    @property
    def storage_folder(self) -> str:
        return str(Path(self.plan.archive.dest).parent)

    # When a run has begun.

    def began(self) -> None:
        """All that must be there is there, whole, once, in order."""
        present = self._present(strict=not self.is_unsafe)
        missing = self.held - present.keys() - self._deleted()
        _require(not missing, f"lost: {_show(missing)}")

    # At the end, when the last run has ended in order on a healthy disk.

    def ended(self) -> Report:
        """Judge the archive as a whole."""
        self.began()
        manifest = self._manifest()
        report = self._verify()
        if not self.is_unsafe:
            problems = [*report.problems, *(f"{f.path}: {p}" for f in report.files for p in f.problems)]
            problems = [problem for problem in problems if not self._is_beyond_verify(problem)]
            _require(not problems, "verify: " + "; ".join(problems))
            self._check_missing(manifest)
            self._check_gaps(manifest)
        for entry in manifest:
            if entry["kind"] == "run_ended":
                _require(entry["balance"]["difference"] == 0, f"the books do not balance: {entry}")
        return report

    def check_connections(self, exchanges: Iterable[Exchange]) -> None:
        """What was delivered came by the bus: all of it, unless the recorder itself ended the connection."""
        for exchange in exchanges:
            for sent in exchange.connections:
                delivered = sent.delivered()
                got = sent.published
                _require(got == delivered[: len(got)], f"out of order between socket and bus: {got}")
                _require(
                    not sent.ours or got == delivered, f"lost between socket and bus: {delivered[len(got) :]}"
                )

    def check_books(self, process: Process) -> None:
        """What came by the bus was received, by the books, and is accounted for."""
        totals = process.ledger.totals("ndjson")
        good = totals["received"] - totals["rejected"]
        came = len(process.life.received)
        _require(good == came, f"{came} events came by the bus, the books have {good}")
        differences = process.ledger.differences("ndjson")
        _require(not differences, f"the books do not balance: {differences}")
        _require(process.bus.failures == 0, "a consumer raised")

    def _is_beyond_verify(self, problem: str) -> bool:
        """Return whether `verify` speaks of records that a power loss or a kill has taken within the promise.

        It tells such a loss from a fault by the times of the records beside it. Of several files with unsynced tails
        a power loss takes more of one than of another, minutes out of the midst of a run; and retention may have
        deleted what stood beside the loss of a kill.
        """
        return any(
            problem.startswith(f"run {life.hostname}: ")
            and (life.end == "power" or (life.end == "kill" and self._retains))
            and ("no record has seq" in problem or " are missing" in problem)
            for life in self.lives
        )

    # Parts.

    def _present(self, *, strict: bool) -> dict[Key, str]:
        """Return every whole record on the disk; in a settled archive (`strict`) there is nothing else in its files."""
        present: dict[Key, str] = {}
        for name, inode in sorted(self.storage.names.items()):
            if not is_of_records(name):
                continue
            data = plain_content(name, bytes(inode.data))
            last: Key = (0, 0)
            for line in data.splitlines(keepends=True):
                key = self._key(line)
                if key is None:
                    if is_moved(name) and data.endswith(line):
                        continue  # torn by a death; a file that somebody else has taken is not ours to repair
                    _require(not strict, f"{name} holds what is no record of ours: {line[:80]!r}")
                    continue
                twin = present.get(key)
                if strict:
                    _require(key > last, f"{name}: {key} comes behind {last}")
                    _require(twin is None, f"{key} is in {twin} and in {name}")
                present[key] = name
                last = key
        return present

    def _keys(self, data: bytes) -> set[Key]:
        return {key for line in data.splitlines(keepends=True) if (key := self._key(line))}

    def _key(self, line: bytes) -> Key | None:
        found = _LINE.fullmatch(line)
        if found is None:
            return None
        payload, run, seq = found[1], int(found[2]), int(found[3])
        number = NUMBER.search(payload)
        if number is None or self.tape.events.get(int(number[1])) != payload:
            return None
        life = self.lives[run - 1]
        _require(life.records.get(seq) == int(number[1]), f"run {run}: seq {seq} was given to another event")
        return run, seq

    def _manifest(self) -> list[dict[str, Any]]:
        inode = self.storage.names.get(self.manifest_name)
        return list(_entries(bytes(inode.data) if inode else b""))

    def _deleted(self) -> set[Key]:
        """Return what retention has deleted, and said so."""
        if not self._retains:
            return set()
        said = {
            f"{self.storage_folder}/{entry['file']}"
            for entry in self._manifest()
            if entry["kind"] == "segment_deleted"
        }
        keys: set[Key] = set()
        for name, data in self.storage.unlinked:
            if str(plain_path(Path(name))) in said:
                keys |= self._keys(plain_content(name, data))
        return keys

    def _dropped(self, manifest: list[dict[str, Any]]) -> set[Key]:
        dropped: set[Key] = set()
        for entry in manifest:
            if entry["kind"] == "drop" and entry["channel"]:
                run = int(entry["run_id"].removeprefix("run-"))
                life = self.lives[run - 1]
                for seq in range(entry["first_seq"], entry["last_seq"] + 1):
                    number = life.records.get(seq, 0)
                    if b'"ev":"%b"' % entry["channel"].encode() in self.tape.events.get(number, b""):
                        dropped.add((run, seq))
        return dropped

    def _check_missing(self, manifest: list[dict[str, Any]]) -> None:
        """Of a run that has ended in order, what is not there was dropped, and is on record with its count."""
        present = self._present(strict=True)
        gone = self._deleted()
        dropped = self._dropped(manifest)
        counts: Counter[int] = Counter()
        for entry in manifest:
            if entry["kind"] == "drop" and entry["channel"]:
                counts[int(entry["run_id"].removeprefix("run-"))] += entry["count"]
        orderly = {entry["run_id"] for entry in manifest if entry["kind"] == "run_ended"}
        for life in self.lives:
            if life.hostname not in orderly:
                continue
            given = {(life.number, seq) for seq in life.records}
            missing = given - present.keys() - gone
            _require(missing <= dropped, f"missing without a drop: {_show(missing - dropped)}")
            if not gone:
                count = counts[life.number]
                _require(len(missing) == count, f"run {life.number}: {len(missing)} missing, {count} dropped")

    def _check_gaps(self, manifest: list[dict[str, Any]]) -> None:
        """Before each session but a cluster's first stands the gap that it ends."""
        gap_told: dict[str, bool] = {}
        for entry in manifest:
            cluster = entry.get("cluster", "")
            if entry["kind"] == "gap":
                gap_told[cluster] = True
            elif entry["kind"] == "session_opened":
                told = gap_told.get(cluster, True)
                _require(told, f"{entry['run_id']}: no gap before the session of {cluster} at {entry['ts']}")
                gap_told[cluster] = False

    def _verify(self) -> Report:
        with tempfile.TemporaryDirectory() as folder:
            self.storage.write_out(Path(folder))
            return verify([Path(folder) / self.storage_folder.lstrip("/")])


def _entries(data: bytes) -> Iterator[dict[str, Any]]:
    for line in data.splitlines(keepends=True):
        if line.endswith(b"\n"):
            try:
                yield json.loads(line)
            except ValueError:
                continue


def _segments(entries: Iterable[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Return the segments of each file by the name that it has now."""
    files: dict[str, list[dict[str, Any]]] = {}
    for entry in entries:
        if entry["kind"] == "segment_closed":
            before = files.pop(entry.get("was") or entry["file"], [])
            files[entry["file"]] = [*(before if entry["offset"] else []), entry]
    return files


def _show(keys: Iterable[Key]) -> str:
    listed = sorted(keys)
    shown = ", ".join(f"run {run} seq {seq}" for run, seq in listed[:5])
    return f"{len(listed)} records ({shown}{', …' if len(listed) > 5 else ''})"
