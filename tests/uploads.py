"""Archives in a bucket, put there in the layout of docs/object-store.md, without a recorder."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import pytest
from archives import Archive, archive_settings
from buckets import Server

from recorder.archive.codec import plain_path
from recorder.archive.layout import find_files
from recorder.objects.store import ObjectStore


def upload(archive: Archive, url: str, environ: Mapping[str, str]) -> list[str]:
    """Put what an open archive has sealed, and what its manifest says then; return the names of the new objects."""
    store = ObjectStore(url, environ)
    noted = {line["file"] for line in archive.manifest("segment_uploaded")}
    new: list[str] = []
    for file in find_files(archive.names, archive.disk):
        plain = archive.names.relative(plain_path(file.path))
        if not file.rotated or plain in noted:
            continue
        name = archive.names.relative(file.path)
        sha256 = hashlib.sha256(file.path.read_bytes()).hexdigest()
        stored = store.put_file(name, file.path, sha256)
        archive.writer.append(
            "segment_uploaded",
            file=plain,
            object=name,
            url=store.url_of(name),
            etag=stored.etag,
            sha256=sha256,
            bytes=stored.bytes,
        )
        new.append(name)
    put_manifest(archive.names.manifest, store)
    return new


def put_manifest(manifest: Path, store: ObjectStore) -> None:
    """Put the manifest as it is now."""
    store.put(manifest.name, manifest.read_bytes())


def use(server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Heal a store, empty its bucket `lake`, and have this process use it, with a cache of its own."""
    server.heal()
    client = server.client()
    for found in client.list_objects_v2(Bucket="lake").get("Contents", []):
        client.delete_object(Bucket="lake", Key=found["Key"])
    for name, value in server.environ.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    server.requests.clear()


def fetched(server: Server) -> list[str]:
    """Return the objects that were got since `heal`, less the manifest."""
    paths = [path.partition(" ")[2] for path in server.requests if path.startswith("GET ")]
    names = [path.rpartition("/")[2] for path in paths if path.endswith((".zst", ".ndjson"))]
    return [name for name in names if "manifest" not in name]


def record(folder: Path) -> Archive:
    """Return an archive of two runs whose files are sealed by type, all but the last ones; the second run is at work."""
    settings = archive_settings(folder / "polygon.ndjson", split_per_type=True, compression="zstd")
    archive = Archive(settings).open()
    archive.write("TTQ" * 20, rejects=[b"?"])
    rotate(archive)
    archive.clock.advance(60)
    archive.write("TQQ" * 20)
    rotate(archive)
    archive.close()
    archive.clock.advance(60)
    archive.restart()
    archive.write("T" * 30)
    rotate(archive)
    return archive


def rotate(archive: Archive) -> None:
    """Seal what was written, and let time pass until it is compressed."""
    archive.writer.rotate("size")
    for _ in range(20):
        archive.flush()
