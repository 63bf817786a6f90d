"""The journal of positions: what it says comes back, and a run behind a killed one knows what the files have."""

from __future__ import annotations

import errno
from itertools import accumulate
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
from archives import Archive, Fault, archive_settings
from fakes import batch_of
from hypothesis import given

from recorder.archive.journal import Journal, read_line
from recorder.archive.policy import Selection
from recorder.archive.pressure import LoadShedding
from recorder.archive.record import Reached
from recorder.archive.verify import verify
from recorder.bus import Mark
from recorder.ledger import Ledger
from recorder.polygon.topics import parse_pattern
from recorder.sinks.borders import Borders
from recorder.sinks.stage import Stage


def borders_of(lines: list[bytes]) -> list[Reached]:
    read = [read_line(line) for line in lines]
    assert None not in read
    assert all([*line.borders()][-1] == line.last for line in read if line)
    return [border for line in read if line for border in line.borders()]


STEPS = st.tuples(
    st.sampled_from(["one:{n}", "one:{n}:{m}", "one::{m}", "two:{n}:{m}", "", "no position"]),
    st.integers(0, 3),
    st.integers(1, 4),
    st.integers(0, 2),
)


@given(st.lists(STEPS, max_size=30))
def test_what_is_noted_comes_back(steps: list[tuple[str, int, int, int]]) -> None:
    """Position by position, with the number of its record, and how many the read brought."""
    journal = Journal("run")
    noted = []
    number = seq = 0
    for form, increment, events, others in steps:
        number += increment
        seq += events + others
        noted.append(Reached(form.format(n=number, m=3 * number), events, seq))
    journal.add("stocks", noted)
    found = borders_of(journal.take())
    unknown = ("", "no position")
    assert found == [Reached("", 0, one.seq) if one.after in unknown else one for one in noted]
    assert journal.take() == []


def test_positions_behind_which_nothing_was_recorded_take_no_room() -> None:
    """Of many without a record the last one counts; the end of the read before them is kept."""
    journal = Journal("run")
    journal.add(
        "stocks", [Reached("one:1", 5, 5), *(Reached(f"one:{number}", 0, 5) for number in range(2, 99))]
    )
    assert borders_of(journal.take()) == [Reached("one:1", 5, 5), Reached("one:98", 0, 5)]


@pytest.mark.parametrize(
    "line",
    [b"", b"{}", b'{"run_id":"r","cluster":"c","epoch":"e"}', b'{"run_id":"r","cluster":"c","events":[1]}',
     b'{"run_id":"r","cluster":"c","epoch":"e","numbers":[1],"events":[1,2]}',
     b'{"run_id":"r","cluster":"c","epoch":"e","numbers":[1,-2],"events":[1,2]}'],
)  # fmt: skip
def test_what_is_no_line_of_a_journal_is_none(line: bytes) -> None:
    """Nothing is made of a line that says too little, or too much."""
    assert read_line(line) is None


def frames_of(*counts: int, odd: bool = False) -> list[bytes]:
    """Return a frame with so many events each; an odd one has a brace too many, or something else than an event."""
    tail = b',{"ev":"T","sym":"A","x":"{"},[1],{"ev":"status","status":"s","message":"m"}' if odd else b""
    return [
        b"[%b%b]"
        % (b",".join(b'{"ev":"%b","sym":"A","t":%d}' % (b"TQ"[n % 2 :][:1], n) for n in range(count)), tail)
        for count in counts
    ]


@pytest.mark.parametrize("odd", [False, True])
@pytest.mark.parametrize("include", [(), ("T.*",)])
def test_each_read_of_a_batch_has_its_record(*, odd: bool, include: tuple[str, ...]) -> None:
    """Whatever is left out, and however odd the frames are."""
    selection = Selection([parse_pattern(text) for text in include], 1, LoadShedding())
    stage = Stage(selection, Ledger(), "host", "0")
    counts = (4, 3, 1, 2)
    batch = batch_of(*frames_of(*counts, odd=odd))
    batch.marks = [Mark(1, "e:1"), Mark(3, "e:3"), Mark(3, "e:4")]
    stage(batch_of(*frames_of(2)))
    stage(batch)
    borders = Borders()
    borders.seq = 1 if include else 2
    assert batch.recorded is not None
    found = borders.of(batch, batch.recorded)
    each = [(count + 1) // 2 if include else count for count in counts]
    each = [count + odd for count in each]
    ends = list(accumulate(each, initial=1 if include else 2))[1:]
    assert found == (
        Reached("e:1", each[0], ends[0]),
        Reached("e:3", each[1] + each[2], ends[2]),
        Reached("e:4", 0, ends[2]),
        Reached("", each[3], ends[3]),
    )


class Tier:
    """An archive of another recorder's stream, as its writer has it."""

    def __init__(self, folder: Path, **changes: Any) -> None:
        settings = archive_settings(folder / "polygon.ndjson", flush_every=1, **changes)
        self.archive = Archive(settings).open()
        self.number = 0

    def write(self, channels: str, *, marked: bool = True) -> None:
        """Take one read of the other recorder."""
        batch = self.archive.feed.batch(channels, self.archive.clock.wall_ns())
        self.number += 1
        if marked:
            batch.reached = [
                Reached(f"first:{self.number}:{self.number * 7}", len(channels), self.archive.feed.seq)
            ]
        self.archive.writer.write(batch)

    def flush(self) -> None:
        self.archive.writer.flush()

    def restart(self) -> tuple[str, int]:
        """Kill the run and begin another one; return the position that it goes on behind, and how much overlaps."""
        self.archive.kill()
        self.archive.restart()
        found = self.archive.writer.recorded.get("stocks")
        return (found.after, sum(found.overlap._recorded.values())) if found else ("", 0)


@pytest.mark.parametrize("split", [False, True])
def test_a_run_goes_on_behind_the_last_write_of_a_killed_one(tmp_path: Path, *, split: bool) -> None:
    """What was written without its position overlaps, over several runs, files, and rotated ones."""
    tier = Tier(tmp_path, split_per_type=split, max_bytes=3000)
    for _ in range(10):
        tier.write("TTQ")
        tier.flush()
    assert tier.restart() == ("first:10:70", 0)
    tier.write("TQ", marked=False)  # stands for a write that a kill has cut from its entry
    tier.flush()
    assert tier.restart() == ("first:10:70", 2)
    tier.write("TQQ", marked=False)
    tier.flush()
    assert tier.restart() == ("first:10:70", 5)
    tier.write("T")
    tier.flush()
    assert tier.restart() == ("first:13:91", 0)
    tier.archive.close()
    assert verify([tmp_path]).ok, verify([tmp_path])
    assert [name for name in tier.archive.file_names() if "positions.2" in name], "it is rotated, too"


def test_a_torn_entry_is_cut(tmp_path: Path) -> None:
    """A kill amid the write of an entry leaves the one before it; what that write had brought overlaps."""
    tier = Tier(tmp_path)
    for _ in range(3):
        tier.write("TT")
        tier.flush()
    tier.archive.kill()
    journal = tmp_path / "polygon.positions.ndjson"
    journal.write_bytes(journal.read_bytes()[:-9])
    assert tier.restart() == ("first:2:14", 2)
    tier.archive.close()
    assert verify([tmp_path]).ok


def test_nothing_is_known_where_it_may_be_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Behind records without a position, a power loss, or where the archive samples: then there is a gap as before."""
    tier = Tier(tmp_path)
    tier.write("TT")
    tier.flush()
    tier.archive.writer.note("stocks", Reached("", 0, 2))
    tier.flush()
    assert tier.restart() == ("", 0)
    tier.write("TT")
    tier.flush()
    assert tier.restart() == ("first:2:14", 0)
    monkeypatch.setattr(tier.archive.disk, "boot_id", lambda: "another")
    assert tier.restart() == ("", 0)
    tier.write("TT")
    tier.flush()
    tier.archive.writer._run_facts = {"settings": {"NDJSON_SAMPLE_QUOTES": 5}}
    tier.archive.close()
    tier.archive.make_writer()
    tier.archive.writer._run_facts = {"settings": {"NDJSON_SAMPLE_QUOTES": 5}}
    tier.archive.open()
    assert tier.archive.writer.recorded["stocks"].after == "first:3:21", "the run before ended in order"
    assert tier.restart() == ("", 0)


def test_positions_go_with_the_records_that_they_are_of(tmp_path: Path) -> None:
    """Retention deletes them with the segments of their time."""
    tier = Tier(tmp_path, max_bytes=2000, retain_bytes=9000)
    for _ in range(200):
        tier.write("TTQ")
        tier.flush()
        tier.archive.clock.advance(1)
    tier.archive.flush()
    for _ in range(10):
        tier.archive.clock.advance(11)
        tier.archive.flush()
    names = tier.archive.file_names()
    assert sum((tmp_path / name).stat().st_size for name in names) < 15_000
    tier.archive.close()
    assert verify([tmp_path]).ok


def test_a_disk_that_fails_keeps_positions_from_being_ahead(tmp_path: Path) -> None:
    """A position is noted once what is before it is written, and not where that is given up."""
    tier = Tier(tmp_path)
    tier.write("TT")
    tier.flush()
    tier.archive.disk.faults["write"] = Fault(errno.ENOSPC, match="polygon.ndjson")
    tier.write("TT")
    tier.flush()
    assert tier.restart() == ("first:1:7", 0)
    tier.archive.disk.faults.clear()
    tier.write("TT")
    tier.flush()
    assert tier.restart() == ("first:3:21", 0)
