"""The oracle of the trials sees what it is there for."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from oracle import account, follow

EVENTS = [f'{{"ev":"T","sym":"A","t":{1000 + n},"q":{n}}}'.encode() for n in range(1, 11)]


def write_log(folder: Path, *connections: Sequence[bytes]) -> Path:
    """Write what a simulator sent, frames of two."""
    log = folder / "sent.ndjson"
    with log.open("wb") as file:
        for number, events in enumerate(connections, 1):
            for first in range(0, len(events), 2):
                frame = b",".join(events[first : first + 2])
                file.write(b'{"cluster":"stocks","conn":%d,"frame":[%b]}\n' % (number, frame))
    return log


def line(event: bytes, seq: int) -> bytes:
    """Return a record."""
    return (
        b'{"ingest_ts":1,"type":"T","symbol":"A","topic":"T:A","feed":"stocks","ts":1,"payload":%b,'
        b'"hostname":"h","app_version":"0","schema_version":1,"seq":%d}\n' % (event, seq)
    )


def write_archive(folder: Path, lines: Sequence[bytes], *entries: dict[str, Any]) -> Path:
    """Write an archive of one active file, and its manifest."""
    archive = folder / "archive"
    archive.mkdir()
    (archive / "polygon.ndjson").write_bytes(b"".join(lines))
    (archive / "polygon.manifest.ndjson").write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    return archive


ENDED = {"kind": "run_ended", "run_id": "r", "balance": {"difference": 0}}


def test_a_whole_archive_is_faultless(tmp_path: Path) -> None:
    """Nothing is found where nothing is wrong."""
    lines = [line(event, seq) for seq, event in enumerate(EVENTS, 1)]
    found = account(write_log(tmp_path, EVENTS), write_archive(tmp_path, lines, ENDED))
    assert (found.sent, found.recorded, found.lost, found.faultless) == (10, 10, 0, True)


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda lines: [*lines[:4], *lines[5:]], "unexplained"),
        (lambda lines: [*lines, lines[3]], "duplicated"),
        (lambda lines: [*lines[:2], lines[3], lines[2], *lines[4:]], "misordered"),
        (lambda lines: [*lines[:-1], lines[-1][:-9]], "torn"),
        (lambda lines: [*lines[:4], b"\0\0\0\n", *lines[5:]], "torn"),
        (lambda lines: [*lines, line(b'{"ev":"T","q":99}', 11)], "unknown"),
    ],
)
def test_each_defect_is_counted(tmp_path: Path, change: Any, fault: str) -> None:
    """A missing, doubled, exchanged, torn, overwritten or invented record is counted as what it is."""
    lines = change([line(event, seq) for seq, event in enumerate(EVENTS, 1)])
    found = account(write_log(tmp_path, EVENTS), write_archive(tmp_path, lines, ENDED))
    assert getattr(found, fault) == 1
    assert not found.faultless


def test_a_hole_is_explained_by_a_drop_of_its_numbers_only(tmp_path: Path) -> None:
    """A drop explains the numbers that it names, in the middle and at the end, and no others."""
    lines = [line(event, seq) for seq, event in enumerate(EVENTS, 1) if seq not in (4, 5, 10)]
    inside = {"kind": "drop", "run_id": "r", "first_seq": 4, "last_seq": 5}
    end = {"kind": "drop", "run_id": "r", "first_seq": 10, "last_seq": 10}
    log, archive = write_log(tmp_path, EVENTS), write_archive(tmp_path, lines, inside, end, ENDED)
    found = account(log, archive)
    assert (found.lost, found.dropped, found.faultless) == (3, 3, True)
    (archive / "polygon.manifest.ndjson").write_text(json.dumps(inside | {"last_seq": 4}))
    assert account(log, archive).unexplained == 2


def test_the_end_of_a_session_needs_a_gap(tmp_path: Path) -> None:
    """What was under way when a connection ended is lost between sessions; the manifest must say that there was a gap."""
    lines = [line(event, seq) for seq, event in enumerate([*EVENTS[:3], *EVENTS[5:]], 1)]
    log = write_log(tmp_path, EVENTS[:5], EVENTS[5:])
    archive = write_archive(tmp_path, lines, ENDED)
    assert account(log, archive).unexplained == 2
    (archive / "polygon.manifest.ndjson").write_text(
        json.dumps({"kind": "gap", "run_id": "r"}) + "\n" + json.dumps(ENDED)
    )
    found = account(log, archive)
    assert (found.lost, found.unexplained) == (2, 0)


def test_the_end_of_a_killed_run_is_measured(tmp_path: Path) -> None:
    """What a killed run lost at its end is told with its extent in time."""
    lines = [line(event, seq) for seq, event in enumerate(EVENTS[:6], 1)]
    lines += [line(event, seq) for seq, event in enumerate(EVENTS[8:], 1)]
    log = write_log(tmp_path, EVENTS[:8], EVENTS[8:])
    started = {"kind": "run_started", "run_id": "killed"}
    found = account(log, write_archive(tmp_path, lines, started, ENDED))
    assert [(loss.count, loss.span_ms) for loss in found.tails] == [(2, 2)]
    assert found.faultless


def test_books_that_do_not_balance_are_counted(tmp_path: Path) -> None:
    """A run that ended without balance, or with a difference, is a fault."""
    lines = [line(event, seq) for seq, event in enumerate(EVENTS, 1)]
    archive = write_archive(
        tmp_path, lines, ENDED, ENDED | {"balance": {"difference": 2}}, ENDED | {"balance": {}}
    )
    assert account(write_log(tmp_path, EVENTS), archive).unbalanced == 2


def test_the_stream_of_a_client_is_judged() -> None:
    """From its first event to its last a client has everything, once, in order."""
    assert follow(EVENTS, EVENTS[2:7]).faultless
    assert follow(EVENTS, [*EVENTS[2:4], *EVENTS[5:]]).missing == 1
    assert follow(EVENTS, [EVENTS[1], EVENTS[1]]).duplicated == 1
    assert follow(EVENTS, [EVENTS[1], EVENTS[3], EVENTS[2]]).misordered == 1
    assert follow(EVENTS, [b"{}"]).unknown == 1
