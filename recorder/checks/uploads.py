"""Check of the bucket: whether files can be put there and seen, and whose files are there already."""

from __future__ import annotations

from contextlib import suppress
from typing import Final

from recorder.archive.disk import Disk
from recorder.archive.manifest_copy import ManifestCopy
from recorder.archive.policy import FileNames
from recorder.checks.findings import Finding, failure, ok, skipped
from recorder.checks.scene import Scene, in_thread
from recorder.errors import RecorderError, StoreRefused
from recorder.objects.store import PACKAGE, ObjectStore
from recorder.plugins import installing
from recorder.settings import store_environ

ASK_SECS: Final = 5.0
PROBE: Final = "recorder-check"
"""The object that is put there. It stays where the key may not delete, which a recorder does not need."""
_SUBJECT: Final = "uploads"


async def check_uploads(scene: Scene) -> list[Finding]:
    """Put a small object as the recorder puts files, and look at it and at the manifest."""
    url, names = scene.settings.archive.upload_url, scene.names
    if url is None:
        return [skipped(_SUBJECT, "ARCHIVE_UPLOAD_URL is not set: files stay on this machine")]
    if names is None:
        return [skipped(_SUBJECT, "no file is written, so none is uploaded")]
    if not ObjectStore.is_installed():
        text = f"ARCHIVE_UPLOAD_URL needs {PACKAGE}"
        return [failure(_SUBJECT, text, f"install it: {installing(PACKAGE)}")]
    if scene.offline:
        return [skipped(_SUBJECT, "--offline: the bucket was not asked")]
    try:
        return [await in_thread(lambda: _ask(url, names))]
    except RecorderError as error:
        advice = (
            "do what the line says (docs/object-store.md); until then, files stay here and the disk fills"
        )
        return [failure(_SUBJECT, str(error), advice)]


def _ask(url: str, names: FileNames) -> Finding:
    """Return what the bucket lets us do. Raise `RecorderError`."""
    store = ObjectStore(url, store_environ(), timeout_secs=ASK_SECS, retries=0)
    store.put(PROBE, b"`recorder check` was here: this recorder may put objects.\n")
    with suppress(StoreRefused):
        store.delete(PROBE)
    copy = ManifestCopy(names.manifest, lambda: _size_of(names), Disk())
    copy.claim(store)
    known = "this archive's manifest is there" if copy.is_there else "nothing was uploaded yet"
    return ok(_SUBJECT, f"files can be uploaded to {store.url}; {known}")


def _size_of(names: FileNames) -> int:
    return names.manifest.stat().st_size if names.manifest.exists() else 0
