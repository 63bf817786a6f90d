"""Archives in a bucket, put there in the layout of docs/object-store.md, without a recorder."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

from archives import Archive

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
