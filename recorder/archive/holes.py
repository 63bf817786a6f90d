"""Sequence numbers that no record has: explained, lost with the last moments of a killed run, or a problem."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from recorder.archive.findings import Drop, Loss, Report
from recorder.archive.manifest_index import Entry, Run
from recorder.archive.sequence import RunCheck

_CRASH_WINDOW_MS: Final = 60_000
"""A killed run may lack records of its last milliseconds: as many as a flush interval and a stall of the disk last."""


class Holes:
    """What was read of each run of an archive, and which of its numbers need not be found."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self._runs: dict[str, RunCheck] = {}
        self._explained: dict[str, list[tuple[int, int, int]]] = {}
        """By run: `(first, last, count)` of sequence numbers that need not be found."""

    def add(self, runs: Mapping[str, RunCheck]) -> None:
        """Add what was read of some runs in one file."""
        for run_id, run in runs.items():
            self._runs.setdefault(run_id, RunCheck(run_id)).merge(run)

    def explain_drop(self, drop: Drop) -> None:
        """Note that records were dropped. Rejects, which have no channel, have no sequence numbers."""
        self._explain(drop.run_id, drop.first_seq, drop.last_seq, drop.count if drop.channel else 0)

    def explain_segment(self, entry: Entry) -> None:
        """Note that a segment is not there any more, and that this is no fault."""
        self._explain(entry.run_id, entry.first_seq, entry.last_seq, entry.records)

    def check(self, runs: Mapping[str, Run], live_run: str | None) -> int:
        """Report the doubles and holes of all runs.

        The run at work, if there is one, has holes where it is not sealed yet. They are counted, and returned.
        """
        unsealed = 0
        for check in self._runs.values():
            self._check_doubles(check)
            if check.run_id == live_run:
                explained = self._explained.get(check.run_id, [])
                holes = [
                    hole
                    for first, last in check.sequence.holes()
                    for hole in _without(first, last, explained)
                ]
                unsealed += sum(last - first + 1 for first, last in holes)
            else:
                self._check_holes(check, runs.get(check.run_id))
        return unsealed

    def _check_doubles(self, run: RunCheck) -> None:
        if run.sequence.doubles:
            self._report.problems.append(
                f"run {run.run_id}: {run.sequence.doubles} sequence numbers come twice,"
                f" the first is {run.sequence.first_double}"
            )

    def _check_holes(self, run: RunCheck, state: Run | None) -> None:
        explained = self._explained.get(run.run_id, [])
        allowed = sum(count for _, _, count in explained)
        missing = 0
        killed = state is not None and not state.ended
        for first, last in run.sequence.holes():
            rest = list(_without(first, last, explained))
            missing += last - first + 1 - sum(b - a + 1 for a, b in rest)
            for begin, end in rest:
                self._report_hole(run, begin, end, killed=killed)
        if missing > allowed:
            self._report.problems.append(
                f"run {run.run_id}: {missing} records are missing where drops and deleted or moved files explain"
                f" {allowed}"
            )

    def _report_hole(self, run: RunCheck, first: int, last: int, *, killed: bool) -> None:
        if killed and run.time_of(last + 1) >= run.time_of(run.sequence.last) - _CRASH_WINDOW_MS:
            self._report.losses.append(Loss(run.run_id, first, last))
            return
        what = f"{first}" if first == last else f"{first} to {last}"
        self._report.problems.append(f"run {run.run_id}: no record has seq {what}, and no drop explains it")

    def _explain(self, run_id: str, first: int, last: int, count: int) -> None:
        if first and last >= first:
            self._explained.setdefault(run_id, []).append((first, last, count))


def _without(first: int, last: int, others: list[tuple[int, int, int]]) -> Iterator[tuple[int, int]]:
    """Yield what is left of a range of numbers without some others."""
    for begin, end, _ in sorted(others):
        if begin > last:
            break
        if end < first:
            continue
        if begin > first:
            yield first, begin - 1
        first = end + 1
        if first > last:
            return
    if first <= last:
        yield first, last
