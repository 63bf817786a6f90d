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
        sealed = {path.name: path.read_bytes() for path in folder.glob("polygon.2*.zst")}
        with running("run", cwd=tmp_path, NDJSON_RETAIN_BYTES="1", **environment) as recorder:

            def left() -> list[str]:
                return [name for name in sealed if (folder / name).exists()]

            eventually_sync(lambda: not left(), "what the first run has sealed is deleted here", 60)
            assert recorder.stop() == 0
        content = content_of(client, "market-data", "recorder-1/")
    assert len(sealed) >= 3
    for name, data in sealed.items():
        assert content[name] == data
    local = (folder / MANIFEST).read_bytes()
    assert local.startswith(content.pop(MANIFEST))
    lines = [json.loads(line) for line in local.splitlines()]
    uploaded = {line["object"]: line["sha256"] for line in lines if line["kind"] == "segment_uploaded"}
    assert uploaded == {name: hashlib.sha256(data).hexdigest() for name, data in content.items()}
    assert {f"{line['file']}.zst" for line in lines if line["kind"] == "segment_deleted"} >= sealed.keys()
    result = finished("verify", str(folder), cwd=tmp_path)
    assert result.returncode == 0, result.stdout
    assert server.environ["AWS_SECRET_ACCESS_KEY"] not in log + local.decode()


def test_what_is_said_before_and_at_the_start(tmp_path: Path) -> None:
    """`check` says what the bucket lets us do; a start with the prefix of another archive ends with words."""
    with bucket_server() as server:
        client = server.make("check-data")
        variables = {
            "POLYGON_API_KEY": "key",
            "POLYGON_WS_URL": "ws://127.0.0.1:1",
            "SESSION_CALENDAR": "off",
            "SINK": "ndjson",
            "NDJSON_DEST": str(tmp_path / "a" / "polygon.ndjson"),
            "ARCHIVE_UPLOAD_URL": "s3://check-data/recorder-1",
            "METRICS_ADDR": "",
            **server.environ,
        }

        def check(**changes: str) -> str:
            answer = finished("check", "--json", cwd=tmp_path, **{**variables, **changes}).stdout
            [found] = [each for each in json.loads(answer)["findings"] if each["subject"] == "uploads"]
            return f"{found['level']}: {found['text']}"

        assert check() == "ok: files can be put to s3://check-data/recorder-1; nothing was uploaded yet"
        assert not content_of(client, "check-data")
        client.put_object(Bucket="check-data", Key=f"recorder-1/{MANIFEST}", Body=b'{"kind":"run_started"}\n')
        assert "is the manifest of another archive" in check()
        ended = finished("run", cwd=tmp_path, **variables)
        assert ended.returncode == 78
        assert "set ARCHIVE_UPLOAD_URL to a prefix of this archive's own" in ended.stderr
