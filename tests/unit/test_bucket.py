"""An archive in a bucket: whole whatever was deleted here, read only as far as it is asked for, and never read as less."""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from subprocess import PIPE, STDOUT
from typing import Any

import pytest
from buckets import Server, bucket_server, error
from commands import RECORDER, clean_environment
from uploads import fetched, put_manifest, record, rotate, upload, use
from werkzeug.wrappers import Request, Response

import recorder
from recorder.archive.findings import Report
from recorder.archive.object_cache import BYTES_MAX_VARIABLE
from recorder.archive.verify import verify
from recorder.errors import (
    Altered,
    ArchiveError,
    ConfigError,
    Incomplete,
    NoArchive,
    StoreAway,
    StoreRefused,
    Unreadable,
)
from recorder.objects.store import ObjectStore

URL = "s3://lake/ny/data"


@pytest.fixture(scope="module")
def running() -> Iterator[Server]:
    with bucket_server() as server:
        server.make("lake")
        server.make("empty")
        yield server


@pytest.fixture
def server(running: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Server:
    """A store with an empty bucket `lake`, and a cache with nothing in it."""
    use(running, tmp_path / "cache", monkeypatch)
    return running


def seqs(url: str = URL, **choice: Any) -> list[tuple[str, int]]:
    return [(record.run_id, record.seq) for record in recorder.open_archive(url).records(**choice)]


def problems(report: Report) -> list[str]:
    return [
        *report.problems,
        *(f"{file.path}: {text}" for file in report.every_file for text in file.problems),
    ]


def test_every_byte_comes_back_and_is_fetched_once(tmp_path: Path, server: Server) -> None:
    """The bucket has what the folder has; a second process that asks for the same fetches no object again."""
    archive = record(tmp_path / "data")
    upload(archive, URL, server.environ)
    here = [record.payload for record in recorder.open_archive(tmp_path / "data").records()]
    assert len(here) == 150
    there = recorder.open_archive(URL)
    assert [record.payload for record in there.records()] == here
    assert there.counts == {"Q": 60, "T": 90}
    assert sorted(fetched(server)) == sorted({*fetched(server)})
    assert len(fetched(server)) == 5
    assert str(there.path) == URL
    assert not there.problems
    server.heal()
    assert [record.payload for record in recorder.open_archive(URL).records()] == here
    assert not fetched(server)
    archive.close()


def test_only_what_the_manifest_does_not_rule_out_is_fetched(tmp_path: Path, server: Server) -> None:
    """Types and times that a file does not have cost no request for it; counts and gaps cost none at all."""
    archive = record(tmp_path / "data")
    upload(archive, URL, server.environ)
    there = recorder.open_archive(URL)
    assert there.records().count() == 150
    assert [segment.records for segment in there.segments()] == [40, 20, 20, 40, 30]
    assert [gap.reason for gap in there.gaps()] == []
    assert not fetched(server)
    assert there.records(types="T", symbols="S1").to_arrow().num_rows > 0
    assert [name.split(".")[1] for name in fetched(server)] == ["trades", "trades", "trades"]
    server.heal()
    start = there.segments()[2].first_ingest_ms
    assert len(seqs(types="Q", start=start)) == 40
    assert len(fetched(server)) == 1
    archive.close()


def test_what_retention_deleted_here_is_whole_there(tmp_path: Path, server: Server) -> None:
    """Where the folder has the newest file alone, the bucket has everything, and the folder says where the rest is."""
    archive = record(tmp_path / "data")
    upload(archive, URL, server.environ)
    before = seqs()
    archive.close()
    archive.restart(retain_bytes=1)
    for _ in range(20):
        archive.flush()
    put_manifest(archive.names.manifest, ObjectStore(URL, server.environ))
    archive.close()
    deleted = {line["file"] for line in archive.manifest("segment_deleted")}
    assert any("trades" in name for name in deleted)
    assert seqs() == before
    report = verify([URL], jobs=1)
    assert not problems(report)
    assert report.records == 150
    here = recorder.open_archive(tmp_path / "data")
    assert any(URL in note for note in here.notes)
    assert not any("deleted by retention" in note for note in here.notes)


def test_verify_reads_each_object_through_once(tmp_path: Path, server: Server) -> None:
    """It keeps nothing of them, and says what is not there yet."""
    archive = record(tmp_path / "data")
    names = upload(archive, URL, server.environ)
    server.heal()
    report = verify([URL], jobs=1)
    assert not problems(report)
    assert report.records == 150
    assert sorted(fetched(server)) == sorted(names)
    assert all(file.path.startswith(f"{URL}/") for file in report.every_file)
    assert not (tmp_path / "cache").exists()
    assert any("run-2 had not ended" in note for note in report.notes)
    archive.write("T" * 10)
    rotate(archive)
    put_manifest(archive.names.manifest, ObjectStore(URL, server.environ))
    report = verify([URL], jobs=1)
    assert not problems(report)
    assert any("not uploaded" in note and "11 records" in note for note in report.notes)
    archive.close()


def test_many_objects_are_checked_by_several_processes(tmp_path: Path, server: Server) -> None:
    """Each process has a connection and a list of its own, and no object is read by two."""
    archive = record(tmp_path / "data")
    for _ in range(15):
        archive.write("T" * 5)
        archive.clock.advance(1)
        rotate(archive)
    names = upload(archive, URL, server.environ)
    assert len(names) == 20
    server.heal()
    report = verify([URL], jobs=2)
    assert not problems(report)
    assert report.records == 225
    assert sorted(fetched(server)) == sorted(names)
    assert sum("list-type" in request for request in server.requests) <= 2 + 2
    archive.close()


def test_files_that_came_after_the_manifest_are_left_out(tmp_path: Path, server: Server) -> None:
    """An object that the copy of the manifest does not know yet is named, and is no damage."""
    archive = record(tmp_path / "data")
    upload(archive, URL, server.environ)
    ObjectStore(URL, server.environ).put("polygon.trades.20990101T000000000Z.ndjson", b"{}\n")
    report = verify([URL], jobs=1)
    assert not problems(report)
    assert any("polygon.trades.2099" in note for note in report.notes)
    assert len(seqs()) == 150
    archive.close()


def test_commands_take_the_url_of_a_bucket(tmp_path: Path, server: Server) -> None:
    """What they print and how they end is what it is for a folder; what cannot be used is one line, with a status."""
    archive = record(tmp_path / "data")
    archive.writer.append("session_opened", cluster="stocks", at=archive.clock.wall_ns() // 1_000_000)
    upload(archive, URL, server.environ)
    archive.close()
    count = "SELECT count(*) AS records FROM trades WHERE seq > 0"
    expected = [
        (("verify", URL, "--json", "--jobs", "2"), 0, '"records": 150'),
        (("query", URL, count), 0, "records\n90\n"),
        (("gaps", URL, "--all-hours"), 0, "says nothing of the time after"),
        (("export", URL, "--to", f"{tmp_path}/lake"), 0, "150 records"),
        (
            ("merge", URL, f"{tmp_path}/data", "--to", f"{tmp_path}/merged"),
            0,
            "150 records, 150 of which both had",
        ),
        (("compare", URL, f"{tmp_path}/data"), 0, "equal"),
        (("verify", "s3:/lake/ny/data"), 2, "s3://bucket/prefix"),
        (("query", "s3://lake/other", count), 2, "has no object"),
        (("gaps", "s3://nowhere/ny"), 78, "no such bucket"),
    ]
    environ = clean_environment(
        **server.environ, XDG_CACHE_HOME=str(tmp_path / "cache"), OBJECT_CACHE_BYTES="1"
    )
    running = [
        subprocess.Popen((*RECORDER, *arguments), env=environ, text=True, stdout=PIPE, stderr=STDOUT)
        for arguments, _, _ in expected
    ]
    answers = [process.communicate(timeout=60)[0] for process in running]
    for process, said, (arguments, status, words) in zip(running, answers, expected, strict=True):
        assert (process.returncode, words in said) == (status, True), (arguments, said)
        assert status == 0 or said.count("\n") == 1


def test_files_are_fetched_while_others_are_read(tmp_path: Path, server: Server) -> None:
    """Of many files several are under way at a time, each once; the first alone sets nothing in motion."""
    archive = record(tmp_path / "data")
    for _ in range(9):
        archive.write("T" * 5)
        rotate(archive)
    upload(archive, URL, server.environ)
    archive.close()
    meeting = threading.Barrier(3)
    met: list[str] = []

    def meet(request: Request) -> None:
        if request.path.endswith(".zst") and not met:
            with suppress(threading.BrokenBarrierError):
                meeting.wait(60)
                met.append(request.path)

    there = recorder.open_archive(URL)
    server.heal()
    assert next(iter(there.records(types="Q"))).seq == 3
    assert len(fetched(server)) == 1
    first = iter(there.records(start=there.runs()[1].started_ms))
    next(first)
    assert len(fetched(server)) == 2
    server.faults.append(meet)
    assert len(list(first)) == 30 + 45 - 1
    assert met
    assert len(fetched(server)) == 11
    assert len(set(fetched(server))) == 11


def half(request: Request, response: Response) -> None:
    """Answer with half of an object, and say that this is all."""
    if request.method == "GET" and ".trades." in request.path:
        response.set_data(response.get_data()[: int(response.headers["Content-Length"]) // 2])


def flipped(request: Request, response: Response) -> None:
    """Answer with other bytes."""
    if request.method == "GET" and ".trades." in request.path:
        data = bytearray(response.get_data())
        data[len(data) // 2] ^= 1
        response.set_data(bytes(data))


@pytest.mark.parametrize("lie", [half, flipped])
def test_a_bucket_that_lies_is_an_error_and_never_a_shorter_answer(
    tmp_path: Path, server: Server, lie: Any
) -> None:
    """Nothing of an object that is not what was uploaded is yielded or kept; the error names it."""
    archive = record(tmp_path / "data")
    upload(archive, URL, server.environ)
    server.alterations.append(lie)
    there = recorder.open_archive(URL)
    name = next(segment.path.name for segment in there.segments() if "trades" in segment.path.name)
    with pytest.raises(ArchiveError, match=f"{URL}/{name}"):
        next(iter(there.records(types="T")))
    assert len(list(there.records(types="Q"))) == 60
    found = problems(verify([URL], jobs=1))
    assert len([text for text in found if text.startswith(f"{URL}/{name}")]) >= 1
    server.heal()
    assert len(list(there.records(types="T"))) == 90
    assert not problems(verify([URL], jobs=1))
    archive.close()


def test_an_object_that_is_missing_is_named(tmp_path: Path, server: Server) -> None:
    """Before anything is read, where it is known then; and where it goes later, by whoever reads it."""
    archive = record(tmp_path / "data")
    name = next(name for name in upload(archive, URL, server.environ) if "trades" in name)
    there = recorder.open_archive(URL)
    server.client().delete_object(Bucket="lake", Key=f"ny/data/{name}")
    with pytest.raises(Unreadable, match=f"{URL}/{name}"):
        list(there.records(types="T"))
    with pytest.raises(Incomplete, match=name.removesuffix(".zst")):
        recorder.open_archive(URL)
    assert len(seqs_of_incomplete()) == 110
    assert any(name.removesuffix(".zst") in text for text in problems(verify([URL], jobs=1)))
    archive.close()


def test_a_file_that_is_missing_here_is_named_with_its_url(tmp_path: Path, server: Server) -> None:
    """Who has lost a file is told where it is."""
    archive = record(tmp_path / "data")
    name = upload(archive, URL, server.environ)[0]
    archive.close()
    (tmp_path / "data" / name).unlink()
    with pytest.raises(Incomplete, match=f"{URL}/{name}"):
        recorder.open_archive(tmp_path / "data")


def seqs_of_incomplete() -> list[int]:
    return [record.seq for record in recorder.open_archive(URL, incomplete=True).records()]


def test_another_object_under_the_name_is_found(tmp_path: Path, server: Server) -> None:
    """One that was replaced by a sound file of other content is altered, before and after the archive was opened."""
    archive = record(tmp_path / "data")
    first, second = [name for name in upload(archive, URL, server.environ) if "trades" in name][:2]
    there = recorder.open_archive(URL)
    client = server.client()
    client.copy_object(Bucket="lake", Key=f"ny/data/{first}", CopySource=f"lake/ny/data/{second}")
    with pytest.raises(Altered, match=f"{URL}/{first}.*open it again"):
        list(there.records(types="T"))
    with pytest.raises(Altered, match=f"{URL}/{first}"):
        seqs(types="T")
    assert any(text.startswith(f"{URL}/{first}") for text in problems(verify([URL], jobs=1)))
    archive.close()


def test_a_manifest_that_was_cut_in_the_bucket_is_found(tmp_path: Path, server: Server) -> None:
    """Also at the end of a line: what was put there is noted beside it."""
    archive = record(tmp_path / "data")
    upload(archive, URL, server.environ)

    def cut(request: Request, response: Response) -> None:
        if request.method == "GET" and request.path.endswith(".manifest.ndjson"):
            response.set_data(b"".join(response.get_data().splitlines(keepends=True)[:-2]))

    server.alterations.append(cut)
    with pytest.raises(Altered, match=r"polygon\.manifest\.ndjson"):
        recorder.open_archive(URL)
    with pytest.raises(Altered, match=r"polygon\.manifest\.ndjson"):
        verify([URL], jobs=1)
    archive.close()


def test_what_is_kept_is_bounded_and_mended(
    tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was used least recently goes first; a file that was damaged in the cache is fetched again."""
    archive = record(tmp_path / "data")
    upload(archive, URL, server.environ)
    monkeypatch.setenv(BYTES_MAX_VARIABLE, "1")
    assert len(seqs()) == 150
    kept = [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    assert len(kept) == 1
    monkeypatch.delenv(BYTES_MAX_VARIABLE)
    assert len(seqs()) == 150
    kept = [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    assert len(kept) == 5
    for path in kept:
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
    server.heal()
    assert len(seqs()) == 150
    assert len(fetched(server)) == 5
    archive.close()


def test_a_cache_that_cannot_be_written_is_no_damage(
    tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is one line that says what to do, and of no file of the archive."""
    archive = record(tmp_path / "data")
    upload(archive, URL, server.environ)
    archive.close()
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(ConfigError, match="XDG_CACHE_HOME"):
        seqs()
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    monkeypatch.setenv("HOME", "")
    with pytest.raises(ConfigError, match="XDG_CACHE_HOME"):
        seqs()
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv(BYTES_MAX_VARIABLE, "much")
    with pytest.raises(ConfigError, match="much"):
        seqs()
    assert not problems(verify([URL], jobs=1))


@pytest.mark.parametrize(
    ("url", "kind", "words"),
    [
        ("s3:/typo", NoArchive, "s3://bucket/prefix"),
        ("s4://lake/ny", NoArchive, "s3://"),
        ("s3://nowhere/ny", StoreRefused, "no such bucket"),
        ("s3://empty", NoArchive, "ARCHIVE_UPLOAD_URL"),
        ("s3://lake/other", NoArchive, "has no object"),
        ("s3://lake/ny/data/other.manifest.ndjson", NoArchive, "has no object"),
        ("s3://lake/loose", NoArchive, "has no manifest"),
    ],
)
def test_what_cannot_be_read_is_said(
    tmp_path: Path, server: Server, url: str, kind: type[Exception], words: str
) -> None:
    """One line that says what to do, before anything is read, of whoever reads."""
    archive = record(tmp_path / "data")
    upload(archive, URL, server.environ)
    ObjectStore("s3://lake/loose", server.environ).put("a.txt", b"a")
    for read in (recorder.open_archive, lambda url: verify([url], jobs=1)):
        with pytest.raises(kind, match=words) as raised:
            read(url)
        assert "\n" not in str(raised.value)
        assert url in str(raised.value)
    archive.close()


def test_a_store_that_refuses_or_is_away_is_said(
    tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No permission to list, none to read an object, and nobody there: each a line of its own."""
    archive = record(tmp_path / "data")
    upload(archive, URL, server.environ)
    server.faults.append(
        lambda request: error(403, "AccessDenied") if "list-type" in request.full_path else None
    )
    with pytest.raises(StoreRefused, match="list"):
        recorder.open_archive(URL)
    server.heal()
    server.faults.append(lambda request: error(403, "AccessDenied") if ".zst" in request.path else None)
    with pytest.raises(Unreadable, match="AccessDenied"):
        seqs()
    report = verify([URL], jobs=1)
    assert len(report.unread) == 5
    assert not report.is_damaged
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    with pytest.raises(StoreAway):
        recorder.open_archive(URL)
    archive.close()


def test_a_folder_stands_for_a_bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`file://` is read in the same way, and several archives of a prefix one after another."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    lake = tmp_path / "lake"
    for name in ("one", "two"):
        archive = record(tmp_path / name)
        (lake / name).mkdir(parents=True)
        upload(archive, f"file://{lake}/{name}", os.environ)
        archive.close()
    assert len(seqs(f"file://{lake}")) == 300
    assert len(seqs(f"file://{lake}/one/polygon.manifest.ndjson")) == 150
    assert len(seqs(f"file://{lake}/two/polygon.ndjson")) == 150
    report = verify([f"file://{lake}"], jobs=1)
    assert [text for text in problems(report) if "same content" not in text] == []
