"""`recorder export PATH s3://…`: the tree in a bucket is that of a folder, whatever fails on the way there."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from archives import Archive, Killed
from buckets import Server, bucket_server, content_of, error
from click.testing import CliRunner
from exports import compact, export, tree
from recorded_events import begin, record, trade
from uploads import use

from recorder.cli.export import command
from recorder.errors import DestinationRefused, StoreRefused
from recorder.export.bucket import BucketTree
from recorder.export.session import Choice, Export, Exported
from recorder.objects.store import ObjectStore
from recorder.tables.sealed import open_sealed

MS = 1_795_237_800_000
URL = "s3://lake/ny/tree"


@pytest.fixture(scope="module")
def running() -> Iterator[Server]:
    with bucket_server() as server:
        server.make("lake")
        yield server


@pytest.fixture
def server(running: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Server:
    """A store with an empty bucket `lake`."""
    use(running, tmp_path / "cache", monkeypatch)
    return running


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    """Return an archive of two segments with trades and quotes."""
    archive = begin(tmp_path / "archive", split_per_type=False)
    for n in range(2):
        record(archive, [trade("A", MS - n, "1.50", "2"), b'{"ev":"Q","sym":"A","bp":1.10,"t":5}'])
        archive.writer.rotate("size")
    archive.close()
    return archive


def put(archive: Archive, choice: Choice | None = None) -> Exported:
    """Export what is sealed into the bucket."""
    with BucketTree(URL) as bucket:
        return Export(bucket, choice or Choice()).run(open_sealed(archive.folder))


def in_bucket(server: Server) -> dict[str, bytes]:
    """Return the files that readers see."""
    found = content_of(server.client(), "lake", "ny/tree/")
    return {name: data for name, data in found.items() if name.endswith(".parquet")}


def test_the_tree_of_a_bucket(archive: Archive, server: Server, tmp_path: Path) -> None:
    """Its files are those of a folder, to the byte; a second time adds nothing, and types that were left out can follow."""
    export(archive.folder, tmp_path / "lake")
    assert put(archive, Choice(frozenset({"T"}))).files == 2
    assert put(archive).files == 2
    assert in_bucket(server) == tree(tmp_path / "lake")
    assert len(in_bucket(server)) == 4
    server.heal()
    again = CliRunner().invoke(command, [str(archive.folder), "--to", URL])
    assert (again.exit_code, again.stdout) == (0, f"{URL}: nothing new; 2 segments were there\n")
    assert not [request for request in server.requests if request.startswith("PUT ")]
    refused = CliRunner().invoke(command, [str(archive.folder), "--to", URL, "--compact"])
    assert (refused.exit_code, "a bucket takes only the layout hive" in refused.stderr) == (2, True)


def test_an_archive_that_was_compacted(archive: Archive, server: Server, tmp_path: Path) -> None:
    """Nothing of it is put again, and what was left out follows."""
    compact(archive.folder, tmp_path / "compacted")
    put(archive, Choice(frozenset({"T"})))
    before = in_bucket(server)
    archive.folder.rename(tmp_path / "before")
    (tmp_path / "compacted").rename(archive.folder)
    assert put(archive, Choice(frozenset({"T"}))).files == 0
    assert in_bucket(server) == before
    found = put(archive)
    assert (found.files, found.records) == (1, 2)
    assert put(archive).segments_before == 1


def test_a_kill_at_every_step(
    archive: Archive, server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever is put last: what has a name is whole, and the next export comes to the same tree."""
    export(archive.folder, tmp_path / "lake")
    whole = tree(tmp_path / "lake")
    send, left = ObjectStore.put_content, 0

    def dying(store: ObjectStore, *arguments: Any, **options: Any) -> Any:
        nonlocal left
        left -= 1
        if left < 0:
            raise Killed
        return send(store, *arguments, **options)

    for calls in range(8):
        for key in content_of(server.client(), "lake"):
            server.client().delete_object(Bucket="lake", Key=key)
        left = calls
        with monkeypatch.context() as patch:
            patch.setattr(ObjectStore, "put_content", dying)
            try:
                put(archive)
            except Killed:
                assert in_bucket(server).items() <= whole.items()
            else:
                assert calls == 7  # a head, four files, and two notes
        put(archive)
        assert in_bucket(server) == whole


def test_what_is_no_export_and_what_is_refused(archive: Archive, server: Server) -> None:
    """A prefix with other objects is left alone; a bucket that refuses is named, and nothing counts as exported."""
    server.client().put_object(Bucket="lake", Key="ny/tree/thesis.txt", Body=b"mine")
    with pytest.raises(DestinationRefused, match=r"has thesis\.txt and no _export/export\.json"):
        put(archive)
    assert set(content_of(server.client(), "lake")) == {"ny/tree/thesis.txt"}
    server.client().delete_object(Bucket="lake", Key="ny/tree/thesis.txt")
    server.faults.append(lambda request: error(403, "AccessDenied") if request.method == "PUT" else None)
    with pytest.raises(StoreRefused):
        put(archive)
    server.heal()
    assert put(archive).segments == 2
