"""Sequence numbers that no record has: explained, lost with the last moments of a killed run, or a problem."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from recorder.archive.catalogue import Entry, Run
from recorder.archive.findings import Drop, Loss, Report
from recorder.archive.sequence import RunCheck

_CRASH_WINDOW_MS: Final = 60_000
"""A killed run may miss records of its last so many milliseconds: flush interval, and time the disk had stalled."""


class Holes:
    """What was read of each run of an archive, and which of its numbers need not be found."""

    def __init__(self, report: Report) -> None:
        self._report = report
        self._runs: dict[str, RunCheck] = {}
        self._explained: dict[str, list[tuple[int, int, int]]] = {}
        """By run: `(first, last, count)` of sequence numbers that need not be found."""

    def add(self, runs: Mapping[str, RunCheck]) -> None:
        """Take what was read of some runs in one file."""
        for run_id, run in runs.items():
            self._runs.setdefault(run_id, RunCheck(run_id)).merge(run)

    def explain_drop(self, drop: Drop) -> None:
        """Take note that records were dropped. Rejects, which have no channel, have no sequence numbers."""
        self._explain(drop.run_id, drop.first_seq, drop.last_seq, drop.count if drop.channel else 0)

    def explain_segment(self, entry: Entry) -> None:
        """Take note that a segment is not there any more, and that this is no fault."""
        self._explain(entry.run_id, entry.first_seq, entry.last_seq, entry.records)

    def judge(self, runs: Mapping[str, Run], live_run: str | None) -> int:
        """Judge the holes of all runs; gives how many records of the live one are not in their files yet."""
        return sum(self._judge_run(check, runs.get(check.run_id), live_run) for check in self._runs.values())

    def _judge_run(self, run: RunCheck, state: Run | None, live_run: str | None) -> int:
        if run.sequence.doubles:
            self._report.problems.append(
                f"run {run.run_id}: {run.sequence.doubles} sequence numbers come twice,"
                f" the first is {run.sequence.first_double}"
            )
        explained = self._explained.get(run.run_id, [])
        allowed = sum(count for _, _, count in explained)
        missing = unwritten = 0
        killed = state is not None and not state.ended
        for first, last in run.sequence.holes():
            rest = list(_without(first, last, explained))
            missing += last - first + 1 - sum(b - a + 1 for a, b in rest)
            for begin, end in rest:
                unwritten += self._judge_hole(run, begin, end, killed=killed, live=run.run_id == live_run)
        if missing > allowed:
            self._report.problems.append(
                f"run {run.run_id}: {missing} records are missing where drops and deleted or moved files explain"
                f" {allowed}"
            )
        return unwritten

    def _judge_hole(self, run: RunCheck, first: int, last: int, *, killed: bool, live: bool) -> int:
        if killed and run.time_of(last + 1) >= run.time_of(run.sequence.last) - _CRASH_WINDOW_MS:
            if live:
                return last - first + 1
            self._report.losses.append(Loss(run.run_id, first, last))
            return 0
        what = f"{first}" if first == last else f"{first} to {last}"
        self._report.problems.append(f"run {run.run_id}: no record has seq {what}, and no drop explains it")
        return 0

    def _explain(self, run_id: str, first: int, last: int, count: int) -> None:
        if first and last >= first:
            self._explained.setdefault(run_id, []).append((first, last, count))


def _without(first: int, last: int, others: list[tuple[int, int, int]]) -> Iterator[tuple[int, int]]:
    """Yield what is left of a stretch without some others."""
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
