"""The one oracle of all trials: what the simulator sent, against what is in the archive and what a client got."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any

import msgspec
import zstandard
from commands import finished

from recorder.errors import EXIT_DAMAGE, EXIT_OK

_SENT = msgspec.json.Decoder(
    msgspec.defstruct(
        "Sent", [("cluster", str), ("conn", int), ("frame", list[msgspec.Raw] | None, None)], gc=False
    )
)
_RECORD = msgspec.json.Decoder(
    msgspec.defstruct(
        "Line",
        [("type", str), ("payload", msgspec.Raw), ("seq", int), ("ingest_ts", int), ("feed", str)],
        gc=False,
    )
)
_STAMPED = re.compile(r"\.(?P<stamp>\d{8}T\d{9}Z)(?:-(?P<number>\d+))?")
_TIME = msgspec.json.Decoder(msgspec.defstruct("Time", [("t", int, 0)], gc=False))


@dataclass(slots=True)
class Sent:
    """What one cluster's log says was sent, in its order; every event is unlike every other."""

    events: list[bytes] = field(default_factory=list)
    connections: list[int] = field(default_factory=list)
    """The connection of each event."""

    @property
    def places(self) -> dict[bytes, int]:
        """Where each event is in the order of sending."""
        return {event: place for place, event in enumerate(self.events)}


def read_sent(log: Path, cluster: str = "stocks", connections: Iterable[int] | None = None) -> Sent:
    """Read a simulator's log (`--log`): the events that a faultless recorder has, of some connections or all."""
    wanted = None if connections is None else set(connections)
    found: dict[bytes, int] = {}
    with log.open("rb") as lines:
        for line in lines:
            if not line.endswith(b"\n"):
                break  # the simulator was killed
            entry = _SENT.decode(line)
            if entry.cluster != cluster or entry.frame is None:
                continue
            if wanted is not None and entry.conn not in wanted:
                continue
            for raw in entry.frame:
                event = bytes(raw)
                # While a dead connection stands beside its successor the market goes to both.
                assert found.get(event) != entry.conn, (
                    "the oracle needs events that are all unlike each other"
                )
                found[event] = max(entry.conn, found.get(event, 0))
    return Sent(list(found), list(found.values()))


def time_ms(event: bytes) -> int:
    """When an event happened."""
    found: int = _TIME.decode(event).t
    return found


@dataclass(slots=True)
class Loss:
    """Events in a row that were sent and are not in the archive."""

    first: int
    """Place in the order of sending."""
    count: int
    connection: int
    span_ms: int
    """Event time from the last recorded event before it to its last."""
    explained: str
    """`dropped` by the manifest's word, a `gap`, `killed` (the run has no end), `after the end`, or nothing."""


@dataclass(slots=True)
class Account:
    """What a trial is judged by."""

    sent: int = 0
    recorded: int = 0
    lost: int = 0
    duplicated: int = 0
    torn: int = 0
    """Lines that are no records."""
    misordered: int = 0
    unknown: int = 0
    """Records of events that were never sent."""
    unexplained: int = 0
    """Lost, and neither drop, gap nor end of a run says so."""
    unbalanced: int = 0
    """Runs whose books do not balance at their end."""
    losses: list[Loss] = field(default_factory=list)

    @property
    def dropped(self) -> int:
        """Lost events that the manifest's drops explain."""
        return sum(loss.count for loss in self.losses if loss.explained == "dropped")

    @property
    def tails(self) -> list[Loss]:
        """What was lost at the end of killed runs."""
        return [loss for loss in self.losses if loss.explained == "killed"]

    @property
    def faultless(self) -> bool:
        """Nothing is wrong but what is explained."""
        wrong = (self.duplicated, self.torn, self.misordered, self.unknown, self.unexplained, self.unbalanced)
        return not any(wrong)

    def __str__(self) -> str:
        return (
            f"sent {self.sent:,}, recorded {self.recorded:,}, lost {self.lost:,} (dropped {self.dropped:,}), "
            f"duplicated {self.duplicated}, torn {self.torn}, misordered {self.misordered}, "
            f"unknown {self.unknown}, unexplained {self.unexplained}, unbalanced {self.unbalanced}"
        )


def read_manifest(folder: Path, *kinds: str, name: str = "polygon") -> list[dict[str, Any]]:
    """Return the manifest's entries of some kinds, or all; a torn last line is left out."""
    path = folder / f"{name}.manifest.ndjson"
    if not path.exists():
        return []
    whole = path.read_bytes().rpartition(b"\n")[0].splitlines()
    entries = [json.loads(line) for line in whole]
    return [entry for entry in entries if not kinds or entry["kind"] in kinds]


def record_files(folder: Path, name: str = "polygon", moved: Sequence[Path] = ()) -> list[Path]:
    """Return the files of records in the order of their closing: rotated ones by stamp, then the active ones.

    `moved` are files that logrotate renamed, in their order; they come before what the recorder rotated.
    """
    rotated, active = [], []
    for path in folder.rglob(f"{name}*.ndjson*"):
        if (
            ".manifest." in path.name
            or ".rejected." in path.name
            or path.name.endswith(".tmp")
            or path in moved
        ):
            continue
        stamped = _STAMPED.search(path.name)
        if stamped:
            rotated.append((stamped["stamp"], int(stamped["number"] or 0), path))
        else:
            active.append(path)
    return [*moved, *(path for _, _, path in sorted(rotated)), *sorted(active)]


def read_plain(path: Path) -> bytes:
    """Return the plain content of a file, by other means than the recorder's own."""
    if path.suffix == ".gz":
        return gzip.decompress(path.read_bytes())
    if path.suffix == ".zst":
        with path.open("rb") as file:
            return zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True).read()
    return path.read_bytes()


def family_of(path: Path) -> str:
    """Return the name of the active file that a file was."""
    return _STAMPED.sub("", path.name.removesuffix(".gz").removesuffix(".zst"))


def account(
    log: Path,
    folder: Path,
    cluster: str = "stocks",
    name: str = "polygon",
    moved: Sequence[Path] = (),
    kept: Callable[[bytes], bool] | None = None,
    connections: Iterable[int] | None = None,
) -> Account:
    """Compare an archive with the log of what was sent to its recorder.

    `kept` tells which events a recorder had to keep (its subscription, its include patterns); None: all.
    `connections` are the recorder's, where the simulator had others beside them.
    """
    sent = read_sent(log, cluster, connections)
    if kept is not None:
        pairs = [(e, c) for e, c in zip(sent.events, sent.connections, strict=True) if kept(e)]
        sent = Sent([event for event, _ in pairs], [connection for _, connection in pairs])
    result = Account(sent=len(sent.events))
    result.unbalanced = sum(
        1 for entry in read_manifest(folder, "run_ended", name=name) if _difference(entry["balance"])
    )
    seqs = _read_records(record_files(folder, name, moved), cluster, sent.places, result)
    result.recorded = len(seqs)
    result.lost = result.sent - result.recorded
    result.losses = _losses(sent, seqs, read_manifest(folder, name=name))
    result.unexplained = sum(loss.count for loss in result.losses if not loss.explained)
    return result


def _difference(balance: dict[str, Any]) -> int:
    """Return what a run's balance leaves open; an end without a balance is as bad."""
    return int(balance["difference"]) if balance else 1


def _read_records(
    files: list[Path], cluster: str, places: dict[bytes, int], result: Account
) -> dict[int, int]:
    """Return the `seq` by the place in the order of sending, of every event that was recorded."""
    seqs: dict[int, int] = {}
    last: dict[str, int] = {}
    for path in files:
        family = family_of(path)
        for line in read_plain(path).splitlines(keepends=True):
            try:
                if not line.endswith(b"\n"):
                    raise msgspec.DecodeError("no line break")
                record = _RECORD.decode(line)
            except msgspec.DecodeError:
                result.torn += 1
                continue
            if record.feed != cluster:
                continue
            place = places.get(bytes(record.payload))
            if place is None:
                result.unknown += 1
            elif place in seqs:
                result.duplicated += 1
            else:
                seqs[place] = record.seq
                if place < last.get(family, -1):
                    result.misordered += 1
                last[family] = place
    return seqs


def _losses(sent: Sent, seqs: dict[int, int], manifest: list[dict[str, Any]]) -> list[Loss]:
    """Find what is missing, and what explains it."""
    ended = {entry["run_id"] for entry in manifest if entry["kind"] == "run_ended"}
    killed = any(entry["kind"] == "run_started" and entry["run_id"] not in ended for entry in manifest)
    gaps = any(entry["kind"] == "gap" for entry in manifest)
    # Channels may go to files of their own, each of which ends where it ends.
    last_of: dict[tuple[int, bytes], int] = {}
    for place in seqs:
        key = (sent.connections[place], channel_of(sent.events[place]))
        last_of[key] = max(place, last_of.get(key, -1))
    losses = []
    missing = [place for place in range(len(sent.events)) if place not in seqs]
    for _, in_row in groupby(enumerate(missing), key=lambda pair: pair[1] - pair[0]):
        row = [place for _, place in in_row]
        dropped = _dropped(manifest, seqs.get(row[0] - 1), seqs.get(row[-1] + 1), len(row))
        parts = [(row[:dropped], "dropped")] if dropped else []
        for (connection, tail), group in groupby(
            row[dropped:], key=lambda place: (sent.connections[place], _is_tail(sent, last_of, place))
        ):
            part = list(group)
            explained = ""
            if tail:
                last = connection == sent.connections[-1]
                explained = "killed" if killed else "after the end" if last else "gap" if gaps else ""
            parts.append((part, explained))
        for part, explained in parts:
            before = sent.events[max(part[0] - 1, 0)]
            span_ms = time_ms(sent.events[part[-1]]) - time_ms(before)
            losses.append(Loss(part[0], len(part), sent.connections[part[0]], span_ms, explained))
    return losses


def channel_of(event: bytes) -> bytes:
    """Return the channel of an event, whose first field it is."""
    return event[7 : event.index(b'"', 7)]


def _is_tail(sent: Sent, last_of: dict[tuple[int, bytes], int], place: int) -> bool:
    """Return whether nothing that came later on this connection and channel was recorded."""
    return place > last_of.get((sent.connections[place], channel_of(sent.events[place])), -1)


def _dropped(manifest: list[dict[str, Any]], before: int | None, after: int | None, missing: int) -> int:
    """Return how many of the events missing between two numbers of one run the manifest's drops explain."""
    if before is None:
        before = 0
    ranges: dict[str, list[tuple[int, int]]] = {}
    for entry in manifest:
        if entry["kind"] == "drop" and entry.get("first_seq"):
            ranges.setdefault(entry["run_id"], []).append((entry["first_seq"], entry["last_seq"]))
    if after is not None and after > before:
        hole = after - before - 1
        explained = any(_reach(of_run, before + 1) >= after - 1 for of_run in ranges.values())
        return hole if 0 < hole <= missing and explained else 0
    reached = max((_reach(of_run, before + 1) for of_run in ranges.values()), default=0)
    return min(missing, max(0, reached - before))


def _reach(ranges: list[tuple[int, int]], first: int) -> int:
    """Return the last number up to which ranges hold every number from `first` on; `first - 1` if they hold none."""
    for begin, end in sorted(ranges):
        if begin <= first <= end:
            first = end + 1
    return first - 1


@dataclass(slots=True)
class Stream:
    """What one client got, against what was sent."""

    got: int
    missing: int
    """Between its first and its last event."""
    duplicated: int
    misordered: int
    unknown: int

    @property
    def faultless(self) -> bool:
        """From its first event to its last it has everything, once, in order."""
        return not (self.missing or self.duplicated or self.misordered or self.unknown)


def follow(sent: Sequence[bytes], got: Sequence[bytes]) -> Stream:
    """Judge the stream of a client that was to get all of `sent` from some moment on."""
    places = {event: place for place, event in enumerate(sent)}
    found = [place for event in got if (place := places.get(event)) is not None]
    distinct = set(found)
    span = max(found) - min(found) + 1 if found else 0
    return Stream(
        got=len(got),
        missing=span - len(distinct),
        duplicated=len(found) - len(distinct),
        misordered=sum(1 for a, b in pairwise(found) if b < a),
        unknown=len(got) - len(found),
    )


def verified(folder: Path, status: int | None = 0, timeout_secs: float = 600) -> dict[str, Any]:
    """Run `recorder verify --json`; return its findings. Its exit status must be as told; None: as its findings are."""
    result = finished("verify", "--json", str(folder), cwd=folder, timeout_secs=timeout_secs)
    assert status is None or result.returncode == status, result.stdout[-4000:] + result.stderr[-2000:]
    findings: dict[str, Any] = json.loads(result.stdout)
    assert result.returncode == (EXIT_DAMAGE if problems_of(findings) else EXIT_OK), result.returncode
    return findings


def problems_of(findings: dict[str, Any]) -> list[str]:
    """Return everything that `verify` found wrong, of files and of the whole."""
    files = [*findings["files"], *findings["rejects"]]
    return [*findings["problems"], *(problem for file in files for problem in file["problems"])]
