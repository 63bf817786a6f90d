"""An archive that is written to while it is looked at, and after: what there is of it at one moment, all of it, once."""

from __future__ import annotations

import errno
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from archives import Archive, Fault, archive_settings

from recorder.archive.cutting import events_of
from recorder.archive.held import HeldFile
from recorder.archive.manifest_check import ManifestCheck
from recorder.archive.place import Here
from recorder.archive.recording import Recording, open_recordings


def rotate(archive: Archive) -> None:
    archive.write("TQ")
    archive.writer.rotate("signal")
    archive.write("TQ")


def rotate_and_tidy(archive: Archive) -> None:
    """As long as it takes to have the rotated files compressed, and those of the run before deleted."""
    rotate(archive)
    archive.flush()
    archive.flush()


def rotate_unnoted(archive: Archive) -> None:
    """The disk takes the new name of the file, and no line of the manifest."""
    archive.disk.faults["write"] = Fault(errno.EIO, match="manifest")
    archive.write("TQ")
    archive.writer.rotate("signal")


def rotate_unnoted_and_go_on(archive: Archive) -> None:
    rotate_unnoted(archive)
    archive.write("TQ")


def move(archive: Archive) -> None:
    """As logrotate does, with SIGHUP."""
    for path in archive.folder.glob("*.ndjson"):
        if path.name in ("polygon.ndjson", "polygon.trades.ndjson", "polygon.quotes.ndjson"):
            path.rename(path.with_name(f"{path.name}.1"))
    archive.writer.reopen()
    archive.write("TQ")


def end(archive: Archive) -> None:
    archive.write("TQ")
    archive.close()


def made(folder: Path, **settings: Any) -> Archive:
    """Return an archive of two runs whose records share files, the second of which is at work."""
    dest = folder / "polygon.ndjson"
    archive = Archive(archive_settings(dest, flush_every=1, compression="zstd", **settings)).open()
    archive.write("TTQ")
    archive.close()
    archive.clock.advance(60)
    archive.restart()
    archive.write("TQT")
    return archive


def numbers(recording: Recording) -> dict[str, list[int]]:
    return {
        run.run_id: [event.seq for records in run.records() for event in events_of(records)]
        for run in recording.runs
    }


class _Meanwhile:
    """Does something at one of the steps of a look."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, do: Callable[[], None]) -> None:
        self.left = -1
        self._do = do
        self._wrap(monkeypatch, Here, "list_files")
        self._wrap(monkeypatch, ManifestCheck, "read")
        self._wrap(monkeypatch, HeldFile, "__init__")

    def _step(self) -> None:
        if self.left == 0:
            self._do()
        self.left -= 1

    def _wrap(self, monkeypatch: pytest.MonkeyPatch, owner: Any, name: str) -> None:
        real = getattr(owner, name)

        def wrapped(*args: Any, **kwargs: Any) -> Any:
            self._step()
            found = real(*args, **kwargs)
            self._step()
            return found

        monkeypatch.setattr(owner, name, wrapped)


@pytest.mark.parametrize("split", [False, True])
@pytest.mark.parametrize(
    "do",
    [rotate, rotate_and_tidy, rotate_unnoted, rotate_unnoted_and_go_on, move, end],
    ids=lambda do: do.__name__,
)
def test_whatever_happens_between_two_steps_nothing_is_missing_or_doubled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, do: Callable[[Archive], None], split: bool
) -> None:
    """What there was when the look began is there; what came meanwhile may be, without a hole before it."""
    made_at: dict[int, Archive] = {}
    at = 0

    def at_this_step() -> None:
        made_at[at] = archive
        do(archive)

    meanwhile = _Meanwhile(monkeypatch, at_this_step)
    while len(made_at) == at:
        archive = made(tmp_path / str(at), split_per_type=split)
        meanwhile.left = at
        [recording] = open_recordings(archive.folder)
        meanwhile.left = -1
        assert recording.problems == [], at
        assert [note for note in recording.notes if "moved away" in note] == [], at
        found = numbers(recording)
        assert found["run-1"] == [1, 2, 3], at
        assert found["run-2"][:3] == [1, 2, 3], at
        assert found["run-2"] == list(range(1, len(found["run-2"]) + 1)), at
        archive.kill()
        at += 1
    assert at > 4


@pytest.mark.parametrize("do", [rotate, rotate_and_tidy, move, end], ids=lambda do: do.__name__)
def test_what_was_there_is_read_whatever_has_become_of_its_file(
    tmp_path: Path, do: Callable[[Archive], None]
) -> None:
    """By the file that was open, and as long as it is wanted: also twice at once."""
    archive = made(tmp_path)
    [recording] = open_recordings(tmp_path)
    do(archive)
    assert numbers(recording) == {"run-1": [1, 2, 3], "run-2": [1, 2, 3]}
    run = recording.run("run-2")
    both = [
        (one.seq, other.seq)
        for ones, others in zip(run.events(), run.events(), strict=True)
        for one, other in zip(ones, others, strict=True)
    ]
    assert both == [(1, 1), (2, 2), (3, 3)]
    archive.kill()


def test_a_foreign_file_beside_a_recorder_at_work_is_named(tmp_path: Path) -> None:
    """It has the name of a file of the archive, and records of before the run: nobody reads it unsaid."""
    archive = made(tmp_path)
    foreign = tmp_path / "polygon.20261129T044401800Z.ndjson"
    foreign.write_bytes(archive.lines[0])
    [recording] = open_recordings(tmp_path)
    [problem] = recording.problems
    assert problem.startswith(
        f"{foreign.name} is left out: its records are older than the run that is at work"
    )
    assert numbers(recording) == {"run-1": [1, 2, 3], "run-2": [1, 2, 3]}
    archive.close()


@pytest.mark.parametrize("end", [False, True])
@pytest.mark.parametrize("template", ["{cluster}.ndjson", "{cluster}/{type}.ndjson", "all/{type}.x.ndjson"])
def test_what_nothing_was_sealed_of_is_read_whatever_its_name(
    tmp_path: Path, template: str, end: bool
) -> None:
    """The settings of the run that is at work, or was killed, say what its files are called; a stranger's stays out."""
    facts = {"settings": {"NDJSON_DEST": f"elsewhere/{template}", "NDJSON_SPLIT_PER_TYPE": False}}
    settings = archive_settings(tmp_path / template, flush_every=1)
    archive = Archive(settings, run_facts=facts).open()
    archive.write("TQT")
    if end:
        archive.kill()
    tmp_path.joinpath("mine").mkdir()
    tmp_path.joinpath("mine", "notes.ndjson").write_text('{"a":1}\n')
    [recording] = open_recordings(tmp_path)
    assert recording.problems == []
    assert numbers(recording) == {"run-1": [1, 2, 3]}
    archive.kill()


def test_a_held_file_stays_in_its_process(tmp_path: Path) -> None:
    """Its descriptor is another file's in another process: whoever hands it there is told so."""
    path = tmp_path / "polygon.ndjson"
    path.write_bytes(b"{}\n")
    with pytest.raises(
        TypeError, match=r"polygon\.ndjson is held by this process alone: hand another one its name"
    ):
        pickle.dumps(HeldFile(path))
