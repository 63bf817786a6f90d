"""PURE. From where on an archive has everything that its recorder received, by what its manifest says."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final, NamedTuple, Protocol

from recorder.archive.locator import Located
from recorder.archive.manifest_index import NEVER_MS, Entry, ManifestIndex, Run

END: Final = 1 << 62
"""Stands for the number behind the last record of a run."""
_MISSING: Final = "a file of the archive is missing"
_EVERYTHING: Final[tuple[object, ...]] = (None, [], "", "*")


class Stretch(Protocol):
    """Records of one run that stand behind one another in a file."""

    @property
    def run_id(self) -> str: ...
    @property
    def first_seq(self) -> int: ...
    @property
    def last_seq(self) -> int: ...
    @property
    def first_ingest_ms(self) -> int: ...
    @property
    def last_ingest_ms(self) -> int: ...
    @property
    def counts(self) -> Mapping[str, int]: ...


class Break(NamedTuple):
    """A place in a run before which something is not there."""

    seq: int
    """The number of the last record that is concerned."""
    at_ms: int
    """What was received from then on is there, Unix ms."""
    reason: str


class Floor(NamedTuple):
    """The oldest place behind which everything is there."""

    run_id: str
    seq: int
    """Everything behind this number is there; `END` where nothing of the archive is."""
    at_ms: int
    """Everything that was received from then on is there, Unix ms."""
    reason: str
    """Why it begins there."""


def floor_of(
    index: ManifestIndex,
    located: Located,
    stretches: Iterable[Stretch],
    without_file: Iterable[Stretch],
    found: Mapping[str, Break],
) -> Floor:
    """Return from where on an archive has everything, up to what is written at this moment.

    The last run may be at work: what is missing between its records is not known before they are read. `without_file` are
    those of the stretches whose file is gone, `found` is what readers have met, by run.
    """
    of_run: dict[str, list[Stretch]] = {}
    for stretch in stretches:
        of_run.setdefault(stretch.run_id, []).append(stretch)
    gone = _gone(index, located)
    for one in without_file:
        gone.setdefault(one.run_id, []).append(Break(one.last_seq, one.last_ingest_ms + 1, _MISSING))
    doubtful_ms = max(
        (
            *(entry.ts for entry in index.damaged if entry.kind == "manifest_damaged"),
            *(one.last_ingest_ms for run_id in of_run.keys() - index.runs.keys() for one in of_run[run_id]),
        ),
        default=0,
    )
    """Until then there may have been runs that the manifest does not know any more."""
    floor = Floor("", END, NEVER_MS, "nothing older was recorded")
    for run in index.runs.values():
        own = of_run.get(run.run_id, [])
        breaks = [*gone.get(run.run_id, ()), *_breaks(run, own)]
        if run is not index.last_run:
            breaks += _holes([one for one in own if one.last_seq])
        if run.run_id in found:
            breaks.append(found[run.run_id])
        worst = max((one for one in breaks if one.seq), key=lambda one: one.seq, default=None)
        if run.started_ms < doubtful_ms:
            floor = Floor(run.run_id, END, NEVER_MS, "the manifest had lost lines that were written before")
        elif worst is not None:
            # What is concerned may have times as late as that.
            at_ms = min(worst.at_ms + run.set_back_ms, NEVER_MS)
            floor = Floor(run.run_id, worst.seq, at_ms, worst.reason)
        elif floor.seq == END:
            floor = Floor(run.run_id, 0, run.started_ms, floor.reason)
    return floor


def _gone(index: ManifestIndex, located: Located) -> dict[str, list[Break]]:
    """Return, by run, what was recorded and is no longer there."""
    found: dict[str, list[Break]] = {}
    missing = [entry for _, entries in located.missing for entry in entries]
    moved = [entry for entries in located.moved_away for entry in entries]
    for entries, reason in (
        (index.deleted, "retention has deleted what is older"),
        (missing, _MISSING),
        (moved, "a file of the archive was moved away"),
    ):
        for entry in entries:
            found.setdefault(entry.run_id, []).append(_behind(entry, reason))
    return found


def _behind(entry: Entry, reason: str) -> Break:
    return Break(entry.last_seq, entry.last_ingest_ts + 1, reason)


def narrowing(run: Run) -> dict[str, Any]:
    """Return the settings of a run that kept some of what came out of the archive, by variable."""
    settings = run.settings if isinstance(run.settings, Mapping) else {}
    noted = (("NDJSON_INCLUDE", _EVERYTHING), ("NDJSON_SAMPLE_QUOTES", (None, 1)))
    return {name: settings[name] for name, whole in noted if settings.get(name) not in whole}


def _breaks(run: Run, own: list[Stretch]) -> Iterator[Break]:
    """Yield what the manifest says that a run left out, or lost."""
    for variable in narrowing(run):
        yield Break(END, NEVER_MS, f"{variable} kept some of it out of the archive")
    for drop in run.drops:
        yield Break(drop.last_seq, drop.ts + 1, f"records were dropped ({drop.reason})")
    if run.sampled_until_ms:
        until_ms = run.sampled_until_ms
        before = [one for one in own if one.first_ingest_ms <= until_ms]
        seq = max((one.last_seq or END for one in before), default=0)
        last_ms = max((one.last_ingest_ms or NEVER_MS for one in before), default=0)
        yield Break(seq or END, max(until_ms, last_ms) + 1, "the disk was filling, and quotes were left out")


def _holes(own: list[Stretch]) -> Iterator[Break]:
    """Yield where the numbers of a run that is over have holes."""
    expected = 1
    for group in _groups(own):
        first, last = group[0].first_seq, max(one.last_seq for one in group)
        if first != expected:
            yield Break(
                first - 1, min(one.first_ingest_ms for one in group) + 1, "records are missing before"
            )
        records = sum(count for one in group for count in one.counts.values())
        if records != last - first + 1:
            yield Break(last, max(one.last_ingest_ms for one in group) + 1, "records are missing before")
        expected = last + 1


def _groups(own: list[Stretch]) -> Iterator[list[Stretch]]:
    """Yield stretches whose numbers mix, as those of several files do, together."""
    group: list[Stretch] = []
    last = 0
    for one in sorted(own, key=lambda stretch: stretch.first_seq):
        if group and one.first_seq > last:
            yield group
            group = []
        group.append(one)
        last = max(last, one.last_seq)
    if group:
        yield group
