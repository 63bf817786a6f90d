"""The real command uploads what it has sealed, and deletes it here once it is in the bucket."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from buckets import bucket_server, content_of, error
from commands import finished, live_settings, running, simulating
from waiting import eventually_sync

MANIFEST = "polygon.manifest.ndjson"


def manifest(folder: Path) -> list[dict[str, Any]]:
    """Return the lines of the manifest."""
    return [json.loads(line) for line in (folder / MANIFEST).read_bytes().splitlines()]


def test_recorded_sealed_uploaded_deleted(tmp_path: Path) -> None:
    """What was recorded is in the bucket byte for byte, described there, and gone here; and nothing is missing."""
    folder = tmp_path / "a"
    with bucket_server() as server, simulating("--rate", "4000", cwd=tmp_path) as port:
        client = server.make("market-data")
        variables = {
            "NDJSON_MAX_BYTES": "200KB",
            "NDJSON_COMPRESSION": "zstd",
            "ARCHIVE_UPLOAD_URL": "s3://market-data/recorder-1",
            **server.environ,
        }
        environment = live_settings(port, folder, **variables)
        with running("run", cwd=tmp_path, **environment) as recorder:

            def status() -> dict[str, Any]:
                return json.loads(recorder.get("/status")[1])  # type: ignore[no-any-return]

            eventually_sync(lambda: recorder.metric("polygon_uploaded_files_total") >= 3, "three uploads")
            server.faults.append(lambda request: error(503, "SlowDown") if request.method == "PUT" else None)
            eventually_sync(lambda: status()["archive"]["upload"]["failure"], "a failure is shown")
            [words] = [text for text in status()["warnings"] if text.startswith("uploads")]
            assert "busy or out of order (SlowDown); files stay here" in words
            assert recorder.stop() == 0
            log = "\n".join(recorder.lines)
        server.faults.clear()
        uploaded = [line["object"] for line in manifest(folder) if line["kind"] == "segment_uploaded"]
        sealed = {name: (folder / name).read_bytes() for name in uploaded}
        with running("run", cwd=tmp_path, NDJSON_RETAIN_BYTES="1", **environment) as recorder:

            def left() -> list[str]:
                return [name for name in sealed if (folder / name).exists()]

            eventually_sync(lambda: not left(), "what the first run has sealed is deleted here", 60)
            assert recorder.stop() == 0
        there = finished("verify", "s3://market-data/recorder-1", cwd=tmp_path, **server.environ)
        content = content_of(client, "market-data", "recorder-1/")
    assert there.returncode == 0, there.stdout + there.stderr
    assert all(name in there.stdout for name in sealed)
    assert len(sealed) >= 3
    for name, data in sealed.items():
        assert content[name] == data
    local = (folder / MANIFEST).read_bytes()
    assert content.pop(MANIFEST) == local
    lines = manifest(folder)
    known = {line["object"]: line["sha256"] for line in lines if line["kind"] == "segment_uploaded"}
    assert known == {name: hashlib.sha256(data).hexdigest() for name, data in content.items()}
    assert {f"{line['file']}.zst" for line in lines if line["kind"] == "segment_deleted"} >= sealed.keys()
    result = finished("verify", str(folder), cwd=tmp_path)
    assert result.returncode == 0, result.stdout
    assert server.environ["AWS_SECRET_ACCESS_KEY"] not in log + local.decode()


def test_the_prefix_of_another_archive_ends_the_start(tmp_path: Path) -> None:
    """A start with the prefix of another archive ends with words, before anything is put there."""
    with bucket_server() as server:
        client = server.make("taken-data")
        client.put_object(Bucket="taken-data", Key=f"recorder-1/{MANIFEST}", Body=b'{"kind":"run_started"}\n')
        variables = {**server.environ, "ARCHIVE_UPLOAD_URL": "s3://taken-data/recorder-1"}
        ended = finished("run", cwd=tmp_path, **live_settings(1, tmp_path / "a", **variables))
        assert ended.returncode == 78
        assert "set ARCHIVE_UPLOAD_URL to a prefix of this archive's own" in ended.stderr
        assert len(content_of(client, "taken-data")) == 1


def test_killed_while_it_uploads(tmp_path: Path) -> None:
    """A recorder that is killed amid uploads, several times, has each sealed file in the bucket once in the end."""
    folder = tmp_path / "a"
    with bucket_server() as server, simulating("--rate", "3000", cwd=tmp_path) as port:
        client = server.make("killed-data")
        variables = {
            "NDJSON_MAX_BYTES": "100KB",
            "NDJSON_COMPRESSION": "zstd",
            "NDJSON_RETAIN_BYTES": "300KB",
            "ARCHIVE_UPLOAD_URL": "s3://killed-data/a",
            **server.environ,
        }
        environment = live_settings(port, folder, **variables)
        for at in ("PUT", "HEAD", "PUT"):
            server.requests.clear()
            with running("run", cwd=tmp_path, **environment) as recorder:
                # As such a request for a file arrives, whatever becomes of it.
                asked = lambda at=at: sum(line.startswith(at) and ".zst" in line for line in server.requests)  # noqa: E731
                eventually_sync(lambda: asked() >= 3, f"a third {at}")
                recorder.kill()
        with running("run", cwd=tmp_path, **environment) as recorder:
            eventually_sync(lambda: recorder.metric("polygon_uploaded_files_total") >= 3, "further uploads")
            assert recorder.stop() == 0
        content = content_of(client, "killed-data", "a/")
        assert not client.list_multipart_uploads(Bucket="killed-data").get("Uploads")
    lines = manifest(folder)
    uploaded = {line["object"]: line["sha256"] for line in lines if line["kind"] == "segment_uploaded"}
    described = content.pop(MANIFEST)
    assert (folder / MANIFEST).read_bytes().startswith(described)
    # The kill may have come between a file and the line about it: then the next start has put that line.
    assert {
        name: hashlib.sha256(data).hexdigest() for name, data in content.items()
    }.items() >= uploaded.items()
    unknown = content.keys() - uploaded.keys()
    assert all((folder / name).read_bytes() == content[name] for name in unknown)
    assert {f"{line['file']}.zst" for line in lines if line["kind"] == "segment_deleted"} <= uploaded.keys()
    result = finished("verify", str(folder), cwd=tmp_path)
    assert result.returncode == 0, result.stdout
