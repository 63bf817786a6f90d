"""Record, replay, record again: odd frames come out as they went in, in order, with the bars of their trades."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from commands import KEY, Running, finished, live_settings, running
from exchange import exchange, sending
from waiting import eventually_sync

from recorder.polygon.events import Decoder

ODD = (
    b'[{"ev":"T","sym":"A","p":152.90,"s":1,"t":1790000000000},17,null,"text",[],{},{"sym":"A"},{"ev":7}]',
    b'[ {"ev":"T","sym":"A","p":4.522e-05, "s":1.0 ,"t":1790000000050,"x":{"y":[{"z":"}{"}]} } , 1.50 ]',
    b'[{"ev":"T","sym":"B}{,","p":1,"s":1,"t":1790000000090},{"ev":"status","status":"error","message":"x"}]',
    b'[{"ev":"NEW","sym":"A","t":1790000000100},{"ev":"T","sym":"","p":1,"s":1},{"ev":"A","sym":"A"}]',
    b"not json",
    b'[{"ev":"T"',
    '[{"ev":"Q","sym":"Zürich","bp":1,"bp":2,"t":1790000000140}]'.encode(),
    rb'[{"ev":"T","sym":"Z\u00fcrich","p":123456789012345678901234567890.10,"s":2,"t":1790000000150}]',
    b'[{"ev":"T","sym":"A","p":1.10,"s":1,"t":1790000000250},{"ev":"T","sym":"A","p":1.10,"s":1,"t":1790000000250}]',
    b'[\n{"ev":"T",\n"sym":"A","p":2,"s":1,"t":1790000001500}\n]',
)


def recorded(recorder: Running, count: int) -> None:
    """Wait until all events are received, and end the recorder."""
    eventually_sync(lambda: recorder.received() >= count, "every event")
    assert recorder.stop() == 0


def assert_comes_again(folder: Path, count: int) -> dict[str, Any]:
    """What a recorder records of the replay of an archive is the archive; return what `compare` found."""
    played, copy = folder / "a", folder / "b"
    options = ("--free-ports", "--key", KEY, "--speed", "max", "--wait-for-clients", "1")
    with running("replay", str(played), *options, cwd=folder, LOG_FORMAT="json") as replay:
        replay.wait_for("started")
        url = f"ws://{replay.address_of('firehose')}"
        settings = live_settings(0, copy, FIREHOSE_URL=url)
        del settings["POLYGON_WS_URL"]
        with running("run", cwd=folder, **settings) as recorder:
            recorded(recorder, count)
            assert replay.wait() == 0
    done = finished("compare", "--json", str(played), str(copy), cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    found: dict[str, Any] = json.loads(done.stdout)["clusters"]["stocks"]
    assert found["events"]["equal"] == count
    return found


def test_odd_frames(tmp_path: Path) -> None:
    """Whatever stands beside an event in its frame, and however it is spelled; what is no event is not played."""
    rows = Decoder("stocks").decode(ODD)
    assert len(rows) == 11
    assert rows.rejects
    with (
        exchange(sending(ODD)) as port,
        running("run", cwd=tmp_path, **live_settings(port, tmp_path / "a")) as recorder,
    ):
        recorded(recorder, len(rows))
    found = assert_comes_again(tmp_path, len(rows))
    assert found["bars"]["equal"] > 4
