"""`recorder fetch`: a folder that is an archive again, byte for byte, and says itself what no file of the bucket has."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from archives import Archive, archive_settings
from buckets import Server, bucket_server, error
from click.testing import CliRunner
from uploads import fetched, record, rotate, upload, use
from werkzeug.wrappers import Request, Response

import recorder
from recorder.archive.fetch import Fetch, Fetched
from recorder.archive.verify import verify
from recorder.cli.fetch import command
from recorder.errors import EXIT_DAMAGE, ArchiveConfigError, Incomplete, Unreadable
from recorder.objects.path import to_path

URL = "s3://lake/ny/data"


@pytest.fixture(scope="module")
def running() -> Iterator[Server]:
    with bucket_server() as server:
        server.make("lake")
        yield server


@pytest.fixture
def server(running: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Server:
    use(running, tmp_path / "cache", monkeypatch)
    return running


def fetch(folder: Path, **times: int) -> Fetched:
    one = Fetch(to_path(URL), folder, **times)
    one.run(jobs=2)
    return one.found


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if "ndjson" in path.name}


def problems(folder: Path) -> list[str]:
    report = verify([folder], jobs=1)
    return [*report.problems, *(text for file in report.every_file for text in file.problems)]


def test_a_lost_disk_comes_back(tmp_path: Path, server: Server) -> None:
    """Every file that was uploaded is there byte for byte, what was not is on record as lost, and a recorder goes on."""
    archive = record(tmp_path / "data")
    archive.write("TTQ" * 10)
    archive.writer.rotate("size", 3500)  # of the trades, which are more, alone
    for _ in range(20):
        archive.flush()
    names = upload(archive, URL, server.environ)
    before = content(tmp_path / "data")
    archive.write("TQ")
    archive.kill()
    found = fetch(tmp_path / "back")
    after = content(tmp_path / "back")
    assert after == {name: before[name] for name in names} | {
        "polygon.manifest.ndjson": after["polygon.manifest.ndjson"]
    }
    assert after["polygon.manifest.ndjson"].startswith(before["polygon.manifest.ndjson"])
    assert found.files == len(names)
    assert not problems(tmp_path / "back")
    last = max(
        record.seq
        for record in recorder.open_archive(tmp_path / "back").records()
        if record.run_id == "run-2"
    )
    kept = sum(record.run_id == "run-2" for record in recorder.open_archive(tmp_path / "back").records())
    assert found.records_lost == last - kept == 9
    settings = archive_settings(tmp_path / "back" / "polygon.ndjson", split_per_type=True, compression="zstd")
    goes_on = Archive(settings, clock=archive.clock, runs=2).open()
    goes_on.write("TTQ")
    rotate(goes_on)
    goes_on.close()
    assert not problems(tmp_path / "back")
    assert upload(goes_on, URL, server.environ)
    assert not verify([URL], jobs=1).is_damaged


def test_a_fetch_that_was_interrupted_goes_on(tmp_path: Path, server: Server) -> None:
    """What is there is held against its checksum and kept; what is not whole, or not what was uploaded, has no name."""
    archive = record(tmp_path / "data")
    names = upload(archive, URL, server.environ)
    archive.close()
    folder = tmp_path / "back"
    server.faults.append(lambda request: error(403, "AccessDenied") if names[-1] in request.path else None)
    with pytest.raises(Unreadable, match="AccessDenied"):
        fetch(folder)
    assert "polygon.manifest.ndjson" not in content(folder)
    server.heal()

    def flip(request: Request, response: Response) -> None:
        if names[-1] in request.path:
            data = bytearray(response.get_data())
            data[len(data) // 2] ^= 1
            response.set_data(bytes(data))

    server.alterations.append(flip)
    with pytest.raises(Incomplete, match=f"{names[-1]}: it is not what was uploaded.*--partial"):
        fetch(folder)
    assert names[-1] not in content(folder)
    assert "polygon.manifest.ndjson" not in content(folder)
    damaged = folder / names[0]
    damaged.write_bytes(bytes(len(damaged.read_bytes())))
    server.heal()
    found = fetch(folder)
    assert sorted(fetched(server)) == sorted([names[0], names[-1]])
    assert (found.files, found.files_before) == (len(names), len(names) - 2)
    assert not problems(folder)
    assert (
        content(folder).items() >= {name: (tmp_path / "data" / name).read_bytes() for name in names}.items()
    )


def test_what_the_bucket_has_lost(tmp_path: Path, server: Server) -> None:
    """It ends the fetch, unless the rest is wanted: then all the rest comes, and `verify` names what is missing."""
    archive = record(tmp_path / "data")
    names = upload(archive, URL, server.environ)
    archive.close()
    client = server.client()
    client.delete_object(Bucket="lake", Key=f"ny/data/{names[0]}")
    client.put_object(Bucket="lake", Key=f"ny/data/{names[1]}", Body=b"other")
    folder = tmp_path / "back"
    with pytest.raises(Incomplete, match=r"is missing; --partial brings the rest"):
        fetch(folder)
    done = CliRunner().invoke(command, [URL, str(folder), "--partial"])
    assert done.exit_code == EXIT_DAMAGE
    assert len(re.findall(r"^problem: ", done.stderr, re.MULTILINE)) == 2
    assert set(content(folder)) >= set(names[2:])
    assert not set(content(folder)) & set(names[:2])
    assert sum("missing" in problem for problem in problems(folder)) >= 2


def test_a_time_is_fetched_alone(tmp_path: Path, server: Server) -> None:
    """Other files are on record as left in the bucket, and the folder is sound without them."""
    archive = record(tmp_path / "data")
    upload(archive, URL, server.environ)
    there = recorder.open_archive(URL)
    start_ms = there.segments()[-1].first_ingest_ms
    found = fetch(tmp_path / "back", start_ms=start_ms)
    assert (found.files, found.files_left) == (1, 4)
    assert not problems(tmp_path / "back")
    here = recorder.open_archive(tmp_path / "back")
    assert [record.seq for record in here.records()] == [
        record.seq for record in there.records(start=start_ms)
    ]
    assert any(URL in note for note in here.notes)
    archive.close()


@pytest.mark.parametrize("stranger", ["notes.txt", "polygon.manifest.ndjson"])
def test_a_folder_of_something_else_is_left_alone(tmp_path: Path, server: Server, stranger: str) -> None:
    """Neither an archive nor anything else is written over; nothing is fetched."""
    archive = record(tmp_path / "data")
    upload(archive, URL, server.environ)
    archive.close()
    folder = tmp_path / "back"
    folder.mkdir()
    (folder / stranger).write_bytes(b"mine")
    server.heal()
    with pytest.raises(ArchiveConfigError, match="name a new folder"):
        fetch(folder)
    assert [path.name for path in folder.iterdir()] == [stranger]
    assert not fetched(server)
