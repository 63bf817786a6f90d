"""Sealed files in a bucket: each once, whole, on record, and deleted here only while the bucket has it."""

from __future__ import annotations

import errno
import hashlib
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import buckets
import orjson
import pytest
import zstandard
from archives import Archive, Fault, Killed, archive_settings
from buckets import Server, bucket_server, error
from fakes import FakeClock
from structlog.testing import capture_logs
from waiting import eventually_sync
from werkzeug.wrappers import Request

from recorder.archive.disk import Space
from recorder.archive.uploader import RETRY_SECS, _StoppedError
from recorder.archive.verify import verify
from recorder.checks.scene import Scene
from recorder.checks.uploads import check_uploads
from recorder.errors import ArchiveConfigError
from recorder.objects.store import ObjectStore
from recorder.settings import Settings, SettingsError, environ_without_settings, load_settings, store_environ

MANIFEST = "polygon.manifest.ndjson"


@pytest.fixture(scope="module")
def running() -> Iterator[Server]:
    with bucket_server() as server:
        yield server


class Bucket(buckets.Bucket):
    """An empty bucket, and the folder of an archive in it."""

    def __init__(self, server: Server) -> None:
        super().__init__(server, "data")

    def store(self, *, timeout_secs: float = 2, retries: int = 0) -> ObjectStore:
        return ObjectStore(self.url, self.server.environ, timeout_secs=timeout_secs, retries=retries)

    def files(self) -> dict[str, bytes]:
        """Return what is in it besides the manifest."""
        return {name: data for name, data in self.content().items() if name != MANIFEST}

    def put(self, name: str, data: bytes) -> None:
        self.client.put_object(Bucket=self.name, Key=f"data/{name}", Body=data)

    def delete(self, name: str) -> None:
        self.client.delete_object(Bucket=self.name, Key=f"data/{name}")


@pytest.fixture
def bucket(running: Server) -> Iterator[Bucket]:
    yield Bucket(running)
    running.heal()


def make(tmp_path: Path, bucket: Bucket, **changes: Any) -> Archive:
    changes = {"compression": "zstd", "upload_url": bucket.url, "flush_every": 1, **changes}
    settings = archive_settings(tmp_path / "polygon.ndjson", **changes)
    return Archive(settings, store=bucket.store)


def seal(archive: Archive, *, rejects: list[bytes] | None = None) -> None:
    archive.write("TQ", rejects)
    archive.writer.rotate("signal")


def work(archive: Archive, times: int = 6) -> None:
    """Let everything that is due be done."""
    for _ in range(times):
        archive.clock.advance(1)
        archive.writer.tick()


def local(archive: Archive) -> dict[str, bytes]:
    """Return the sealed files that are here."""
    return {
        name: (archive.folder / name).read_bytes()
        for name in archive.file_names()
        if name not in ("polygon.ndjson", "polygon.rejected.ndjson", "polygon.positions.ndjson")
    }


@pytest.mark.parametrize("compression", ["none", "zstd"])
@pytest.mark.parametrize("background", [False, True])
def test_sealed_files_are_uploaded(
    tmp_path: Path, bucket: Bucket, compression: str, background: bool
) -> None:
    """Each sealed file is in the bucket under its name with its bytes, on record here, and described there."""
    archive = make(tmp_path, bucket, compression=compression)
    archive.background = background
    archive.make_writer()
    archive.open()
    for _ in range(3):
        seal(archive)
        archive.clock.advance(1)
    stats = archive.stats.upload
    if background:
        eventually_sync(lambda: stats.uploaded == 3, "three files in the bucket", 60)
        eventually_sync(
            lambda: bucket.content().get(MANIFEST, b"").count(b"segment_uploaded") == 3, "described"
        )
    else:
        work(archive)
    files = bucket.content()
    described = files.pop(MANIFEST)
    assert files == local(archive)
    assert len(files) == 3
    for line in archive.manifest("segment_uploaded"):
        data = files[line["object"]]
        assert line["file"] == line["object"].removesuffix(".zst")
        assert line["url"] == f"{bucket.url}/{line['object']}"
        assert (line["bytes"], line["sha256"]) == (len(data), hashlib.sha256(data).hexdigest())
        assert (
            bucket.client.head_object(Bucket=bucket.name, Key=f"data/{line['object']}")["ETag"]
            == line["etag"]
        )
    assert archive.names.manifest.read_bytes().startswith(described)
    assert described.count(b"segment_uploaded") == 3
    assert (stats.uploaded, stats.waiting_files, stats.waiting_bytes, stats.waiting_since) == (3, 0, 0, None)
    assert stats.uploaded_bytes == sum(map(len, local(archive).values()))
    assert (stats.errors, stats.failure, stats.url) == (0, "", bucket.url)
    assert stats.last_success is not None
    archive.close()
    # The bucket knows that the run has ended.
    assert bucket.content()[MANIFEST] == archive.names.manifest.read_bytes()
    assert verify([tmp_path]).ok


def test_files_of_rejects_are_uploaded(tmp_path: Path, bucket: Bucket) -> None:
    """Whatever retention may delete is uploaded, files of rejects and positions too."""
    archive = make(tmp_path, bucket).open()
    archive.write("T", [b"no event"])
    archive.writer.reopen()
    path = archive.names.rejects
    sealed = path.with_name("polygon.rejected.20260102T030405678Z.ndjson")
    path.rename(sealed)
    archive.close()
    archive.restart()
    work(archive)
    assert sealed.name in bucket.files()
    assert bucket.files() == local(archive)
    archive.close()


def test_a_start_uploads_what_is_not_on_record(tmp_path: Path, bucket: Bucket) -> None:
    """What was sealed before uploads were asked for, or while the bucket was away, follows; nothing goes twice."""
    archive = make(tmp_path, bucket)
    archive.store = None
    archive.make_writer()
    archive.open()
    for _ in range(3):
        seal(archive)
        archive.clock.advance(1)
        archive.writer.tick()
    archive.close()
    assert not bucket.content()
    archive.store = bucket.store
    archive.restart()
    work(archive)
    assert bucket.files() == local(archive)
    seal(archive)
    archive.close()  # compresses it, and leaves the upload to the next start
    bucket.server.requests.clear()
    archive.restart()
    work(archive)
    assert bucket.files() == local(archive)
    puts = [line for line in bucket.server.requests if line.startswith("PUT") and MANIFEST not in line]
    assert len(puts) == 1
    assert len(archive.manifest("segment_uploaded")) == 4
    archive.close()


def test_another_bucket_gets_what_is_still_here(tmp_path: Path, bucket: Bucket) -> None:
    """What was uploaded elsewhere is not uploaded as far as the bucket of now is concerned."""
    archive = make(tmp_path, bucket).open()
    seal(archive)
    work(archive)
    archive.close()
    second = Bucket(bucket.server)
    archive.store = second.store
    archive.restart(upload_url=second.url)
    work(archive)
    assert second.files() == local(archive) == bucket.files()
    archive.close()


def test_retention_deletes_what_the_bucket_has(tmp_path: Path, bucket: Bucket) -> None:
    """A file goes once the bucket has it, has confirmed it a moment ago, and describes it."""
    archive = make(tmp_path, bucket, retain_bytes=0).open()
    seal(archive)
    seal(archive)
    sealed = None
    for _ in range(40):
        work(archive, 1)
        sealed = sealed if len(local(archive)) < 2 else local(archive)
    assert not local(archive)
    assert archive.stats.deleted == 2
    assert bucket.files() == sealed
    heads = [line for line in bucket.server.requests if line.startswith("HEAD") and ".zst" in line]
    assert len(heads) == 6  # before it is put, behind that, and before it is deleted
    for line in archive.manifest("segment_deleted"):
        kinds = [each["kind"] for each in archive.manifest() if each.get("file") == line["file"]]
        assert kinds == ["segment_closed", "segment_compressed", "segment_uploaded", "segment_deleted"]
    archive.close()
    assert verify([tmp_path]).ok


def test_a_bucket_that_is_away_keeps_files(tmp_path: Path, bucket: Bucket) -> None:
    """While the bucket does not answer nothing is deleted and recording goes on; afterwards all is made good."""
    bucket.server.faults.append(lambda request: error(503, "SlowDown"))
    archive = make(tmp_path, bucket, retain_bytes=0).open()
    for _ in range(3):
        seal(archive)
        work(archive, 30)
    stats = archive.stats.upload
    assert len(local(archive)) == 3
    assert stats.waiting_files == stats.kept_files == 3
    assert stats.waiting_bytes == sum(map(len, local(archive).values()))
    assert stats.waiting_since is not None
    assert "busy or out of order (503)" in stats.failure
    assert 0 < stats.errors < 60  # with waits that grow
    sealed = local(archive)
    bucket.server.faults.clear()
    archive.clock.advance(300)
    work(archive, 60)
    assert bucket.files() == sealed
    assert not local(archive)
    assert (stats.failure, stats.waiting_files, stats.kept_files, stats.waiting_since) == ("", 0, 0, None)
    archive.close()
    assert verify([tmp_path]).ok


def test_a_bucket_that_went_away_since_keeps_files(tmp_path: Path, bucket: Bucket) -> None:
    """What is on record as uploaded stays, too, while nobody confirms that it is there."""
    archive = make(tmp_path, bucket, retain_secs=3600).open()
    seal(archive)
    work(archive)
    assert len(bucket.files()) == 1
    bucket.server.faults.append(lambda request: error(403, "AccessDenied"))
    archive.clock.advance(1_000_000_000)
    work(archive, 30)
    assert len(local(archive)) == archive.stats.upload.kept_files == 1
    bucket.server.faults.clear()
    work(archive, 90)
    assert not local(archive)
    archive.close()


def test_what_the_bucket_lost_is_uploaded_again(tmp_path: Path, bucket: Bucket) -> None:
    """A file that somebody deleted in the bucket is not deleted here before it is back there."""
    archive = make(tmp_path, bucket, retain_secs=3600).open()
    seal(archive)
    work(archive)
    (name,) = bucket.files()
    sealed = local(archive)
    bucket.delete(name)
    archive.clock.advance(1_000_000_000)
    work(archive, 3)
    assert local(archive) == sealed
    work(archive, 90)
    assert bucket.files() == sealed
    assert not local(archive)
    assert len(archive.manifest("segment_uploaded")) == 2
    archive.close()


def test_what_was_replaced_in_the_bucket_keeps_the_file(tmp_path: Path, bucket: Bucket) -> None:
    """A file whose object is another one by now stays here, and nothing is replaced."""
    archive = make(tmp_path, bucket, retain_secs=3600).open()
    seal(archive)
    work(archive)
    (name,) = bucket.files()
    bucket.put(name, b"x" * len(bucket.files()[name]))
    archive.clock.advance(1_000_000_000)
    work(archive, 90)
    assert len(local(archive)) == 1
    assert bucket.files()[name].startswith(b"xxx")
    assert archive.stats.upload.errors
    archive.close()


def test_newer_files_do_not_go_in_the_place_of_older_ones(tmp_path: Path, bucket: Bucket) -> None:
    """While the bucket is asked for the oldest file, none of the newer ones is deleted, nor asked for."""
    archive = make(tmp_path, bucket, retain_bytes=1200, compression="none").open()
    for _ in range(4):
        seal(archive)
        archive.clock.advance(1)
    names = sorted(local(archive))
    work(archive, 60)
    left = sorted(local(archive))
    assert left == names[-len(left) :]
    assert 0 < len(left) < 4
    asked = {
        line.split()[1] for line in bucket.server.requests if line.startswith("HEAD") and "Z.ndjson" in line
    }
    assert len(bucket.files()) == 4
    heads = [line for line in bucket.server.requests if line.startswith("HEAD") and names[-1] in line]
    assert len(heads) == 2, asked  # to upload it
    archive.close()


def test_a_name_that_is_taken(tmp_path: Path, bucket: Bucket) -> None:
    """An object of another content is named and left alone; other files go, and so does this one once it is free."""
    archive = make(tmp_path, bucket, retain_bytes=0, compression="none").open()
    seal(archive)
    (name,) = local(archive)
    bucket.put(name, b"somebody else's")
    work(archive)
    archive.clock.advance(1)
    seal(archive)
    work(archive, 30)
    assert bucket.files()[name] == b"somebody else's"
    assert list(local(archive)) == [name]
    stats = archive.stats.upload
    assert (stats.uploaded, stats.waiting_files, stats.failure) == (1, 1, "")
    bucket.delete(name)
    archive.clock.advance(2 * RETRY_SECS)
    work(archive, 30)
    assert len(bucket.files()) == 2
    assert not local(archive)
    archive.close()


def test_a_file_that_rotted_is_not_uploaded(tmp_path: Path, bucket: Bucket) -> None:
    """A file without the checksum that the manifest has of it stays here."""
    archive = make(tmp_path, bucket, compression="none").open()
    bucket.server.faults.append(lambda request: error(503, "SlowDown"))
    seal(archive)
    (name,) = local(archive)
    data = bytearray((tmp_path / name).read_bytes())
    data[30] ^= 1
    (tmp_path / name).write_bytes(data)
    bucket.server.faults.clear()
    archive.clock.advance(300)
    work(archive)
    assert not bucket.files()
    assert archive.stats.upload.waiting_files == 1
    # A file that is gone is one error, and waits no more.
    (tmp_path / name).unlink()
    archive.clock.advance(2 * RETRY_SECS)
    work(archive)
    assert (archive.stats.upload.waiting_files, archive.stats.upload.errors) == (0, 2)
    archive.close()


def test_a_prefix_of_another_archive_is_refused(tmp_path: Path, bucket: Bucket) -> None:
    """The start ends with words where the files of another archive are; a bucket that is away ends no start."""
    first = make(tmp_path / "first", bucket).open()
    seal(first)
    work(first)
    first.close()
    before = bucket.content()
    second = make(tmp_path / "second", bucket)
    second.run_facts = {"hostname": "another"}
    second.make_writer()
    with pytest.raises(
        ArchiveConfigError, match="manifest of another archive: set ARCHIVE_UPLOAD_URL to a prefix"
    ):
        second.open()
    # It is found out later where the bucket was away at the start.
    bucket.server.faults.append(lambda request: error(503, "SlowDown"))
    second.make_writer()
    second.open()
    seal(second)
    work(second)
    bucket.server.faults.clear()
    second.clock.advance(300)
    work(second)
    assert "manifest of another archive" in second.stats.upload.failure
    assert bucket.content() == before
    second.close()


def test_two_archives_of_other_names_share_a_prefix(tmp_path: Path, bucket: Bucket) -> None:
    """As in a folder, archives of different names stand side by side."""
    for stem in ("polygon", "futures"):
        settings = archive_settings(tmp_path / f"{stem}.ndjson", upload_url=bucket.url, flush_every=1)
        archive = Archive(settings, store=bucket.store).open()
        seal(archive)
        work(archive)
        archive.close()
    manifests = [name for name in bucket.content() if name.endswith(".manifest.ndjson")]
    assert len(manifests) == 2
    assert len(bucket.content()) == 4


def test_a_bucket_that_knows_more_is_left_alone(tmp_path: Path, bucket: Bucket) -> None:
    """Where the manifest in the bucket goes on differently, or further, nothing is put until a person has looked."""
    archive = make(tmp_path, bucket).open()
    seal(archive)
    work(archive)
    archive.close()
    older = archive.names.manifest.read_bytes()
    archive.restart()
    seal(archive)
    work(archive)
    archive.close()
    before = bucket.content()
    archive.names.manifest.write_bytes(older)  # as after a restore
    archive.names.lock.unlink()
    archive.restart()
    seal(archive)
    work(archive)
    assert "knows of more than" in archive.stats.upload.failure
    assert bucket.content() == before
    archive.close()


@pytest.mark.parametrize("how", ["deleted", "replaced"])
def test_a_manifest_that_somebody_touched_stops_uploads(tmp_path: Path, bucket: Bucket, how: str) -> None:
    """As where a folder is not mounted any more, or a second recorder writes there: nothing is put then."""
    archive = make(tmp_path, bucket).open()
    seal(archive)
    work(archive)
    if how == "deleted":
        bucket.delete(MANIFEST)
    else:
        bucket.put(MANIFEST, b"{}")
    before = bucket.content()
    archive.clock.advance(1)
    seal(archive)
    work(archive)
    assert (
        "is gone" if how == "deleted" else "was written by another program"
    ) in archive.stats.upload.failure
    assert bucket.content() == before
    archive.close()


def test_an_older_manifest_that_arrives_late_is_replaced(tmp_path: Path, bucket: Bucket) -> None:
    """A put that was given up at the end of a run may be carried out behind those of the next run."""
    archive = make(tmp_path, bucket).open()
    seal(archive)
    work(archive)
    older = bucket.content()[MANIFEST]
    archive.clock.advance(1)
    seal(archive)
    work(archive)
    bucket.put(MANIFEST, older)
    archive.clock.advance(1)
    seal(archive)
    work(archive)
    assert archive.stats.upload.failure == ""
    assert archive.stats.upload.uploaded == 3
    assert bucket.content()[MANIFEST].count(b"segment_uploaded") == 3
    archive.close()


class Steps:
    """Counts what a life asks of the store, and kills the process at one of these steps."""

    def __init__(self, url: str, environ: dict[str, str]) -> None:
        self.url = url
        self.environ = environ
        self.left: int | None = None

    def store(self, *, timeout_secs: float = 2, retries: int = 0) -> ObjectStore:
        steps = self

        class Mortal(ObjectStore):
            """Dies before a call, or once it is carried out."""

            def head(self, name: str) -> Any:
                steps.step()
                found = super().head(name)
                steps.step()
                return found

            def _send(self, *args: Any, **kwargs: Any) -> Any:
                steps.step()
                put = super()._send(*args, **kwargs)
                steps.step()
                return put

        return Mortal(self.url, self.environ, timeout_secs=timeout_secs, retries=retries)

    def step(self) -> None:
        if self.left is not None:
            if self.left == 0:
                raise Killed
            self.left -= 1


def live(archive: Archive) -> None:
    """Record and seal a file, upload it, delete it here, and stop."""
    archive.open()
    seal(archive)
    for _ in range(30):
        archive.clock.advance(1)
        archive.writer.tick()
        if not local(archive):
            break
    archive.close()


def check(archive: Archive, content: dict[str, bytes]) -> None:
    """Nothing is deleted that is not in the bucket, nothing is on record that is not there, and it describes no more."""
    files = {name: data for name, data in content.items() if name != MANIFEST}
    lines = archive.names.manifest.read_bytes()
    whole = [orjson.loads(line) for line in lines[: lines.rfind(b"\n") + 1].splitlines()]
    for line in whole:
        if line["kind"] == "segment_deleted":
            assert f"{line['file']}.zst" in files
        elif line["kind"] == "segment_uploaded":
            assert hashlib.sha256(files[line["object"]]).hexdigest() == line["sha256"]
    assert lines.startswith(content.get(MANIFEST, b""))


def check_end(archive: Archive, content: dict[str, bytes]) -> None:
    """Each file is in the bucket once, and described there; none is here; and no record is missing."""
    check(archive, content)
    described = [orjson.loads(line) for line in content[MANIFEST].splitlines()]
    uploaded = [line["object"] for line in described if line["kind"] == "segment_uploaded"]
    files = {name: data for name, data in content.items() if name != MANIFEST}
    assert sorted(uploaded) == sorted(files)
    assert not local(archive)
    plain = [zstandard.ZstdDecompressor().stream_reader(data).read() for data in files.values()]
    assert sorted(b"".join(plain).splitlines(keepends=True)) == sorted(archive.lines)
    assert verify([archive.folder]).ok


@pytest.mark.parametrize("of", ["folder", "bucket"])
def test_killed_between_any_two_steps(tmp_path: Path, running: Server, of: str) -> None:
    """Killed before or behind each request, and started again: each file is there once, and nothing is lost.

    With the bucket every fifth step has to do, and with the folder in its place none is left out.
    """
    step, was_killed = 0, True
    while was_killed:
        folder = tmp_path / str(step)
        there = folder / "there"
        there.mkdir(parents=True)
        bucket = Bucket(running) if of == "bucket" else None
        url = bucket.url if bucket else f"file://{there}"

        def content(there: Path = there, bucket: Bucket | None = bucket) -> dict[str, bytes]:
            return bucket.content() if bucket else {path.name: path.read_bytes() for path in there.iterdir()}

        settings = archive_settings(
            folder / "here" / "polygon.ndjson",
            compression="zstd",
            upload_url=url,
            retain_bytes=0,
            flush_every=1,
        )
        steps = Steps(url, running.environ)
        archive = Archive(settings, store=steps.store)
        steps.left = step
        try:
            live(archive)
            was_killed = False
        except Killed:
            archive.kill()
            check(archive, content())
        steps.left = None
        archive.make_writer()
        live(archive)
        check_end(archive, content())
        step += 5 if bucket else 1
    assert step > 15


def test_killed_at_any_call_of_the_disk(tmp_path: Path) -> None:
    """The same for what the disk is asked: a torn line of the manifest, or a file half deleted, is no matter."""
    at, calls = 0, 1
    while at < calls:
        there = tmp_path / str(at) / "there"
        there.mkdir(parents=True)
        url = f"file://{there}"
        settings = archive_settings(
            tmp_path / str(at) / "here" / "polygon.ndjson",
            compression="zstd",
            upload_url=url,
            retain_bytes=0,
            flush_every=1,
        )
        archive = Archive(settings, store=Steps(url, {}).store)
        archive.disk.calls_left = at or None
        try:
            live(archive)
        except Killed:
            archive.kill()
            check(archive, {path.name: path.read_bytes() for path in there.iterdir()})
        if not at:
            # What comes before is no matter of uploads.
            at, calls = archive.disk.calls.index("unlink") - 1, len(archive.disk.calls)
        archive.disk.calls_left = None
        archive.make_writer()
        live(archive)
        check_end(archive, {path.name: path.read_bytes() for path in there.iterdir()})
        at += 1


def test_a_manifest_that_cannot_be_written_keeps_files(tmp_path: Path, bucket: Bucket) -> None:
    """As long as the line about an upload is in memory alone, the bucket does not describe the file, and it stays."""
    archive = make(tmp_path, bucket, retain_bytes=0).open()
    work(archive, 2)
    seal(archive)
    archive.disk.faults["write"] = Fault(errno.EIO, match=".manifest.")
    work(archive, 30)
    assert len(local(archive)) == 1
    assert archive.stats.upload.failure.startswith("the manifest cannot be written") or not bucket.files()
    archive.disk.faults.clear()
    archive.clock.advance(300)
    work(archive, 60)
    assert not local(archive)
    assert len(bucket.files()) == 1
    archive.close()
    assert verify([tmp_path]).ok


@pytest.mark.parametrize("url", ["s3:/typo", "https://bucket/x", "s3://user:secret@bucket"])
def test_urls_that_are_none(tmp_path: Path, url: str) -> None:
    """A URL that cannot be used is told before anything is recorded, and what may be secret in it is not shown."""
    with pytest.raises(SettingsError, match="ARCHIVE_UPLOAD_URL") as raised:
        load_settings({"POLYGON_API_KEY": "key", "ARCHIVE_UPLOAD_URL": url}, tmp_path)
    assert "secret@" not in str(raised.value)


def test_credentials_of_the_env_file(tmp_path: Path) -> None:
    """The variables of the store count in `.env`, too, below those of the environment, and nothing is said of them."""
    names = {
        "AWS_ACCESS_KEY_ID": "of the file",
        "AWS_REGION": "eu-west-1",
        "ARCHIVE_UPLOAD_URL": "s3://bucket/x/",
    }
    (tmp_path / ".env").write_text("".join(f"{name}={value!r}\n" for name, value in names.items()))
    environ = {"POLYGON_API_KEY": "key", "AWS_REGION": "eu-central-1", "PATH": "/bin", "SINK": "ndjson"}
    assert store_environ(environ, tmp_path) == {
        "AWS_ACCESS_KEY_ID": "of the file",
        "AWS_REGION": "eu-central-1",
    }
    loaded = load_settings(environ, tmp_path)
    assert loaded.settings.archive.upload_url == "s3://bucket/x"
    assert not [text for text in loaded.warnings if "AWS" in text]


def test_uploads_without_rotation_or_files_are_told(tmp_path: Path) -> None:
    """Where nothing is ever rotated, or no file is written, the setting warns that it does nothing."""
    environ = {"POLYGON_API_KEY": "key", "ARCHIVE_UPLOAD_URL": "s3://bucket/x"}
    assert any(
        "ARCHIVE_UPLOAD_URL has no effect: SINK does not name ndjson" in text
        for text in load_settings(environ, tmp_path).warnings
    )
    files = environ | {"SINK": "ndjson", "NDJSON_DEST": str(tmp_path / "polygon.ndjson")}
    assert any(
        "ARCHIVE_UPLOAD_URL is for rotated files" in text for text in load_settings(files, tmp_path).warnings
    )


def test_a_bucket_that_hangs_holds_nothing_up(tmp_path: Path, bucket: Bucket) -> None:
    """While the bucket neither answers nor refuses, records are written, files are sealed, and a stop is quick."""
    answered = threading.Event()

    def hang(request: Request) -> None:
        answered.wait(60)

    archive = make(tmp_path, bucket, retain_secs=3600)
    archive.background = True
    archive.make_writer()
    archive.open()
    seal(archive)
    eventually_sync(lambda: archive.stats.upload.uploaded == 1, "a file in the bucket")
    eventually_sync(lambda: bucket.content().get(MANIFEST, b"").count(b"segment_uploaded") == 1, "described")
    bucket.server.faults.append(hang)
    begun = time.monotonic()
    archive.clock.advance(1_000_000_000)
    seal(archive)
    for _ in range(20):
        archive.clock.advance(1)
        archive.writer.tick()
    eventually_sync(lambda: archive.stats.compressed == 2, "both are compressed")
    assert local(archive)
    archive.close()
    assert time.monotonic() - begun < 5
    answered.set()


@pytest.mark.parametrize("how", ["hangs", "refuses"])
def test_a_bucket_that_goes_away_at_the_end_holds_up_no_stop(
    tmp_path: Path, bucket: Bucket, how: str
) -> None:
    """The bucket's manifest does not say then that the run has ended, which is logged; the next upload brings it."""
    answered = threading.Event()
    archive = make(tmp_path, bucket)
    archive.background = True
    archive.make_writer()
    archive.open()
    seal(archive)
    eventually_sync(lambda: bucket.content().get(MANIFEST, b"").count(b"segment_uploaded") == 1, "described")
    before = bucket.content()[MANIFEST]

    def hang(request: Request) -> None:
        answered.wait(60)

    bucket.server.faults.append(hang if how == "hangs" else lambda request: error(503, "SlowDown"))
    begun = time.monotonic()
    with capture_logs() as logged:
        archive.close(0.2)
    assert time.monotonic() - begun < 3
    bucket.server.heal()
    assert "archive_end_not_uploaded" in [line["event"] for line in logged]
    assert bucket.content()[MANIFEST] == before
    archive.restart()
    seal(archive)
    eventually_sync(lambda: b"run_ended" in bucket.content()[MANIFEST], "the run before has ended")
    archive.close()
    answered.set()


def test_a_rate_is_kept(tmp_path: Path, bucket: Bucket) -> None:
    """With ARCHIVE_UPLOAD_BYTES_PER_SEC, a file that is sent makes the next bytes due later; a stop does not wait."""
    archive = make(tmp_path, bucket, upload_bytes_per_sec=100, compression="none").open()
    seal(archive)
    (size,) = map(len, local(archive).values())
    begin_ns = archive.clock.monotonic_ns()
    archive.writer.tick()
    uploader = archive.writer._housekeeping.uploader
    assert uploader is not None
    assert list(map(len, bucket.files().values())) == [size]
    assert uploader._send_due_ns == begin_ns + size * 10_000_000
    uploader.stop(1)
    with pytest.raises(_StoppedError):
        uploader._pace(1)
    archive.close()


def test_other_processes_do_not_have_the_credentials() -> None:
    """What serves clients, or compresses, has none of the settings and secrets in its environment."""
    environ = {"PATH": "/bin", "AWS_SECRET_ACCESS_KEY": "secret", "POLYGON_API_KEY": "secret", "LANG": "C"}
    assert environ_without_settings(environ) == {"PATH": "/bin", "LANG": "C"}


def test_pressure_goes_on_where_nothing_can_be_deleted(tmp_path: Path, bucket: Bucket) -> None:
    """With a bucket that is away the steps against a full disk delete nothing and end with a pause, until it answers."""
    archive = make(tmp_path, bucket, retain_bytes=0, min_free_bytes=1000, compression="none")
    bucket.server.faults.append(lambda request: error(503, "SlowDown"))
    archive.disk.free = Space(10_000, None)
    archive.open()
    seal(archive)
    archive.disk.free = Space(500, None)
    work(archive, 30)
    assert archive.stats.pressure.word == "stop"
    assert archive.shedding.paused
    assert len(local(archive)) == 1
    bucket.server.faults.clear()
    work(archive, 400)
    assert not local(archive)
    assert len(bucket.files()) == 1
    archive.disk.free = Space(10_000, None)
    work(archive, 60)
    assert archive.stats.pressure.word == "none"
    archive.close()


@pytest.mark.parametrize("faulty", [False, True])
async def test_check_asks_the_bucket(
    tmp_path: Path, bucket: Bucket, monkeypatch: pytest.MonkeyPatch, faulty: bool
) -> None:
    """`recorder check` says whether files can be put there and whose are there, and leaves nothing behind."""
    for name, value in bucket.server.environ.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    values = {
        "SINK": ("ndjson",),
        "NDJSON_DEST": str(tmp_path / "polygon.ndjson"),
        "ARCHIVE_UPLOAD_URL": bucket.url,
    }
    scene = Scene(Settings.of(values), (), FakeClock())

    async def found() -> str:
        [finding] = await check_uploads(scene)
        return f"{finding.level.value}: {finding.text}"

    if faulty:
        bucket.server.faults.append(lambda request: error(403, "InvalidAccessKeyId"))
        assert (await found()).startswith(
            f"failure: cannot put {bucket.url}/recorder-check: InvalidAccessKeyId"
        )
        bucket.server.faults.clear()
        # A key that may not delete is as it should be.
        bucket.server.faults.append(
            lambda request: error(403, "AccessDenied") if request.method in ("DELETE", "POST") else None
        )
        assert (await found()).startswith("ok: ")
        assert list(bucket.content()) == ["recorder-check"]
        return
    assert await found() == f"ok: files can be uploaded to {bucket.url}; nothing was uploaded yet"
    assert not bucket.content()
    archive = make(tmp_path, bucket).open()
    seal(archive)
    work(archive)
    assert await found() == f"ok: files can be uploaded to {bucket.url}; this archive's manifest is there"
    archive.close()
    bucket.put(MANIFEST, b'{"kind":"run_started"}\n')
    assert "failure: " in await found()
    assert "is the manifest of another archive" in await found()
