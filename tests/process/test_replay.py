"""`recorder replay` as its user meets it: what was recorded comes once more, to unmodified clients, and ends."""

from __future__ import annotations

import gzip
import json
import re
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

import pytest
from archives import Archive, Feed, archive_settings
from commands import KEY, Running, clean_environment, finished, free_port, live_settings, running, simulating
from listening import listening
from rawclient import RawClient
from shared_data import shared_file
from waiting import eventually_sync
from websockets.sync.client import connect

EVENTS = 8000
MARKET = (
    "--cluster",
    "stocks",
    "--rate",
    "4000",
    "--start-ms",
    "1790000000000",
    "--market-start",
    "subscriber",
)
BARS = "100Ms.*,1000Ms.*"

VENDOR = """
import sys
from massive import WebSocketClient
topics = ["T.*", "Q.*"]
client = WebSocketClient(sys.argv[2], feed=sys.argv[1], market="stocks", secure=False, raw=True, subscriptions=topics)
client.run(lambda frame: print(frame, flush=True))
print("ended", flush=True)
"""


PARSED = """
import sys
from massive import WebSocketClient
from massive.websocket.models import EquityTrade, EquityQuote
client = WebSocketClient(sys.argv[2], feed=sys.argv[1], market="stocks", secure=False, subscriptions=["T.*", "Q.*"])
counts = {EquityTrade: 0, EquityQuote: 0}
last = 0

def take(events):
    global last
    for event in events:
        counts[type(event)] += 1
        last = event.timestamp

client.run(take)
print(counts[EquityTrade], counts[EquityQuote], last, "ended", flush=True)
"""


class Recorded:
    """An archive of a market with a gap in it, and what a client of its recorder got at the time."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "archive"
        with (
            simulating(
                *MARKET, "--fault", "close:after=4000,times=1", "--fault", f"stall:after={EVENTS}", cwd=folder
            ) as port,
            running(
                "run",
                cwd=folder,
                **live_settings(port, self.folder, BACKOFF_INITIAL_SECS="0.2", BACKOFF_MAX_SECS="0.4"),
            ) as recorder,
            listening(f"ws://{recorder.address_of('bars')}/stocks", BARS) as bars,
        ):
            eventually_sync(lambda: recorder.received() >= EVENTS, "the whole market")
            assert recorder.stop() == 0
            eventually_sync(lambda: bars.close_code, "the close")
        self.bars = bars.events
        lines = [json.loads(line) for line in (self.folder / "polygon.ndjson").read_text().splitlines()]
        self.records = sorted(lines, key=lambda line: line["seq"])
        self.span_secs = (self.records[-1]["ingest_ts"] - self.records[0]["ingest_ts"]) / 1000


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Recorded:
    """One recording for all."""
    return Recorded(tmp_path_factory.mktemp("replay"))


@contextmanager
def replaying(archive: Path, cwd: Path, *options: str, **settings: str) -> Iterator[Running]:
    """Yield a replay that has begun."""
    with running(
        "replay", str(archive), "--free-ports", "--key", KEY, *options, cwd=cwd, LOG_FORMAT="json", **settings
    ) as replay:
        replay.wait_for("started")
        yield replay


def order(replay: Running, name: str, **fields: Any) -> dict[str, Any]:
    """Give the replay an order; return where it stands."""
    request = urllib.request.Request(
        f"http://{replay.address}/replay/{name}", method="POST", data=json.dumps(fields).encode()
    )
    with urllib.request.urlopen(request, timeout=20) as answer:
        found: dict[str, Any] = json.loads(answer.read())
        return found


def where(replay: Running) -> dict[str, Any]:
    """Return where the replay stands."""
    found: dict[str, Any] = json.loads(replay.get("/replay")[1])
    return found


def test_what_is_recorded_of_a_replay_is_the_recording(recorded: Recorded, tmp_path: Path) -> None:
    """Payloads, order and bars: a recorder that follows the replay has the same archive in the end."""
    copy = tmp_path / "copy"
    with replaying(recorded.folder, tmp_path, "--speed", "max", "--wait-for-clients", "1") as replay:
        settings = live_settings(0, copy, FIREHOSE_URL=f"ws://{replay.address_of('firehose')}")
        del settings["POLYGON_WS_URL"]
        with running("run", cwd=tmp_path, **settings) as recorder:
            eventually_sync(lambda: recorder.received() >= len(recorded.records), "the whole replay")
            assert replay.wait() == 0
            assert recorder.stop() == 0
    found = finished("compare", "--json", str(recorded.folder), str(copy), cwd=tmp_path)
    assert found.returncode == 0, found.stdout
    assert json.loads(found.stdout)["clusters"]["stocks"]["events"]["equal"] == len(recorded.records)


def test_real_ticks_come_through_unchanged(tmp_path: Path) -> None:
    """Recorded, replayed, recorded once more: the same bytes in the same order, from compressed files by type."""
    ticks = shared_file("data/ticks_stocks_20131007.ndjson.gz")
    count = len(gzip.decompress(ticks.read_bytes()).splitlines())
    files = {"NDJSON_SPLIT_PER_TYPE": "true", "NDJSON_MAX_BYTES": "500KB", "NDJSON_COMPRESSION": "zstd"}

    def recording(name: str, **settings: str) -> AbstractContextManager[Running]:
        made = live_settings(0, tmp_path / name, **files, **settings)
        return running("run", cwd=tmp_path, **{key: value for key, value in made.items() if value})

    with (
        simulating("--ticks", str(ticks), "--cluster", "stocks", "--rate", "0", cwd=tmp_path) as port,
        recording("first", POLYGON_WS_URL=f"ws://127.0.0.1:{port}") as recorder,
    ):
        eventually_sync(lambda: recorder.received() >= count, "all ticks")
        assert recorder.stop() == 0
    options = ("--free-ports", "--key", KEY, "--speed", "max", "--wait-for-clients", "1")
    with running("replay", str(tmp_path / "first"), *options, cwd=tmp_path, LOG_FORMAT="json") as replay:
        firehose = f"ws://{replay.address_of('firehose')}"
        with recording("second", POLYGON_WS_URL="", FIREHOSE_URL=firehose) as recorder:
            eventually_sync(lambda: recorder.received() >= count, "the whole replay")
            assert replay.wait() == 0
            assert recorder.stop() == 0
    found = finished("compare", "--json", str(tmp_path / "first"), str(tmp_path / "second"), cwd=tmp_path)
    assert found.returncode == 0, found.stdout
    assert json.loads(found.stdout)["clusters"]["stocks"]["events"]["equal"] == count


def test_clients_get_the_bars_that_were_made_live(recorded: Recorded, tmp_path: Path) -> None:
    """At any pace, the same bytes; then everything ends with a status and 1000."""
    with replaying(recorded.folder, tmp_path, "--speed", "20", "--wait-for-clients", "2") as replay:
        with (
            listening(f"ws://{replay.address_of('bars')}/stocks", BARS) as bars,
            listening(f"ws://{replay.address_of('firehose')}/stocks") as everything,
        ):
            eventually_sync(lambda: bars.close_code and everything.close_code, "the end")
        assert replay.wait() == 0
    assert len(everything.events) == len(recorded.records)
    assert set(recorded.bars) <= set(bars.events)
    # Live, the last windows were still open when the recorder ended.
    assert [bar for bar in bars.events if bar in set(recorded.bars)] == recorded.bars
    for client in (bars, everything):
        assert (client.close_code, client.close_reason) == (1000, "replay complete")
        [complete] = client.told("replay_complete")
        assert complete["events"] == len(recorded.records)
        [gap] = client.told("gap")
        assert gap["reason"] == "disconnected"
        assert 0 < gap["to"] - gap["from"] < 10_000


def test_the_vendors_client_plays_it_and_ends(recorded: Recorded, tmp_path: Path) -> None:
    """Unmodified: it gets what it asked for, and takes the end for the end."""
    with replaying(recorded.folder, tmp_path, "--speed", "max", "--wait-for-clients", "1") as replay:
        client = subprocess.Popen(
            [sys.executable, "-c", VENDOR, replay.address_of("filtered"), KEY],
            stdout=subprocess.PIPE,
            text=True,
            env=clean_environment(),
        )
        out, _ = client.communicate(timeout=60)
        assert client.returncode == 0
        assert replay.wait() == 0
    *frames, end = out.splitlines()
    assert end == "ended"
    events = [event for frame in frames for event in json.loads(frame) if event["ev"] in ("T", "Q")]
    wanted = [line["payload"] for line in recorded.records if line["type"] in ("T", "Q")]
    assert events == wanted


def test_the_vendors_client_plays_a_day(tmp_path: Path) -> None:
    """From before the opening to after the close, with a night before it: parsed as the vendor's client parses it."""
    archive = Archive(archive_settings(tmp_path / "day" / "polygon.ndjson", compression="zstd")).open()
    archive.writer.append("session_opened", cluster="stocks")
    minutes = 17 * 60
    for minute in range(minutes):
        archive.write("TQQQ" * 20)
        archive.clock.advance(60)
        if minute % 360 == 359:
            archive.writer.rotate("signal")
    archive.close()
    with replaying(archive.folder, tmp_path, "--speed", "max", "--wait-for-clients", "1") as replay:
        client = subprocess.Popen(
            [sys.executable, "-c", PARSED, replay.address_of("filtered"), KEY],
            stdout=subprocess.PIPE,
            text=True,
            env=clean_environment(),
        )
        out, _ = client.communicate(timeout=60)
        assert client.returncode == 0
        assert replay.wait() == 0
    last = json.loads(archive.lines[-1])["payload"]["t"]
    assert out.splitlines()[-1].split() == [str(20 * minutes), str(60 * minutes), str(last), "ended"]


def test_tail_shows_it_and_ends(recorded: Recorded, tmp_path: Path) -> None:
    """The events of its topic, what happens in between in words, and the end; from the one port that `ROLES` names."""
    options = ("--speed", "max", "--wait-for-clients", "1")
    with replaying(recorded.folder, tmp_path, *options, ROLES="filtered,ops") as replay:
        [started] = replay.logged("started")
        assert started.keys().isdisjoint({"firehose", "bars"})
        url = f"ws://{replay.address_of('filtered')}/stocks"
        found = finished("tail", url, "T.*", "--token", KEY, cwd=tmp_path)
        assert replay.wait() == 0
    assert found.returncode == 0, found.stderr
    assert len(found.stdout.splitlines()) == sum(line["type"] == "T" for line in recorded.records)
    assert "events of stocks are missing from" in found.stderr
    assert f"{len(recorded.records):,} events were replayed" in found.stderr


def test_it_keeps_its_pace_and_takes_orders(recorded: Recorded, tmp_path: Path) -> None:
    """It waits for `play`, steps, seeks, and changes its rate; each order says where it stands."""
    first, last = recorded.records[0]["ingest_ts"], recorded.records[-1]["ingest_ts"]
    with replaying(recorded.folder, tmp_path, "--start-paused") as replay:
        with listening(f"ws://{replay.address_of('firehose')}/stocks") as client:
            eventually_sync(lambda: where(replay)["position"] == first, "the first read")
            assert where(replay)["state"] == "paused"
            assert not client.frames
            order(replay, "step")
            eventually_sync(lambda: client.frames, "a read")
            assert [json.loads(event) for event in client.events] == [
                line["payload"] for line in recorded.records if line["ingest_ts"] == first
            ]
            moment = recorded.records[len(recorded.records) // 8]["ingest_ts"]
            order(replay, "burst", ms=moment - first + 1)
            eventually_sync(lambda: where(replay)["position"] == moment + 1, "the end of a burst")
            burst = [line["payload"] for line in recorded.records if line["ingest_ts"] <= moment]
            eventually_sync(lambda: len(client.events) == len(burst), "the burst")
            assert [json.loads(event) for event in client.events] == burst
            middle = (first + last) // 2
            assert order(replay, "seek", to=middle)["position"] == middle
            [sought] = eventually_sync(lambda: client.told("replay_seek"), "the seek")
            assert sought["at"] == middle
            seen = len(client.events)
            order(replay, "rate", rate=50)
            order(replay, "play")
            rest = [line for line in recorded.records if line["ingest_ts"] >= middle]
            eventually_sync(lambda: len(client.events) == seen + len(rest), "the rest")
            eventually_sync(lambda: client.close_code, "the end")
        assert replay.wait() == 0


def test_only_what_is_asked_for_is_played(recorded: Recorded, tmp_path: Path) -> None:
    """By time, of which the beginning is included and the end is not, and by pattern; long silence is skipped."""
    times = [line["ingest_ts"] for line in recorded.records]
    start, end = times[len(times) // 4], times[len(times) // 4 * 3]
    wanted = [
        line
        for line in recorded.records
        if start <= line["ingest_ts"] < end
        and (line["type"] == "T" or (line["type"] == "Q" and line["symbol"].startswith("A")))
    ]
    # How long the longest silence is depends on the run that was recorded.
    silence_ms = max(after["ingest_ts"] - before["ingest_ts"] for before, after in pairwise(wanted))
    asked = (
        "--from",
        str(start),
        "--to",
        str(end),
        "--topics",
        "T.*,Q:A*",
        "--skip-gaps",
        str(silence_ms / 2000),
    )
    with replaying(recorded.folder, tmp_path, *asked, "--wait-for-clients", "1") as replay:
        with listening(f"ws://{replay.address_of('firehose')}/stocks") as client:
            eventually_sync(lambda: client.close_code, "the end")
        assert replay.wait() == 0
    assert [json.loads(event) for event in client.events] == [line["payload"] for line in wanted]
    assert client.told("replay_complete")[0]["events"] == len(wanted)
    assert client.told("replay_skipped")


def test_a_loop_begins_again(recorded: Recorded, tmp_path: Path) -> None:
    """Until it is stopped; each round is the same, bars too."""
    with (
        replaying(recorded.folder, tmp_path, "--speed", "max", "--loop", "--wait-for-clients", "2") as replay,
        listening(f"ws://{replay.address_of('firehose')}/stocks") as client,
        listening(f"ws://{replay.address_of('bars')}/stocks", BARS) as bars,
    ):
        count = len(recorded.records)
        eventually_sync(lambda: len(client.told("replay_seek")) > 2, "three rounds")
        assert post(replay, "stop", b"")[0] == 200
        assert replay.wait() == 0
        eventually_sync(lambda: client.close_code and bars.close_code, "the end")
        events, made = client.events, bars.events
        assert events[count : 2 * count] == events[:count] == events[2 * count : 3 * count]
        assert min(made.count(recorded.bars[0]), made.count(recorded.bars[-1])) >= 3


def test_wrong_orders_are_explained(recorded: Recorded, tmp_path: Path) -> None:
    """What is wrong, and what is possible; the replay goes on as it was. Another page's orders are refused."""
    with replaying(recorded.folder, tmp_path, "--start-paused") as replay:
        for name, body, words in (
            ("rate", b'{"rate":0}', '"rate" must be a number above 0'),
            ("rate", b"{}", '"rate" must be a number above 0'),
            ("seek", b'{"to":"monday"}', '"to" must be a time in Unix ms'),
            ("step", b'{"count":-1}', '"count" must be a whole number'),
            ("burst", b"{}", 'name "ms"'),
            ("burst", b'{"ms":5,"count":5}', 'name "ms"'),
            ("burst", b'{"ms":86400001}', '"ms" must be a whole number from 1 to 86,400,000'),
            ("play", b"[]", "the body must be a JSON object"),
            ("play", b"{", "the body is no JSON: unexpected end of data"),
        ):
            status, text = post(replay, name, body)
            assert status == 400
            assert words in json.loads(text)["error"]
        assert post(replay, "stop", b"", Origin="http://elsewhere.example")[0] == 403
        assert where(replay)["state"] == "paused"
        assert post(replay, "stop", b"")[0] == 200
        assert replay.wait() == 0


def post(replay: Running, name: str, body: bytes, **headers: str) -> tuple[int, str]:
    """Send an order; return status and body."""
    request = urllib.request.Request(
        f"http://{replay.address}/replay/{name}", method="POST", data=body, headers=headers
    )
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return answer.status, answer.read().decode()
    except HTTPError as error:
        return error.code, error.read().decode()


def test_what_cannot_be_played_is_one_line_and_a_status(recorded: Recorded, tmp_path: Path) -> None:
    """An empty folder, a topic that is not there, a time of which nothing was recorded, a port in use, a damaged file."""

    def refused(*arguments: str, status: int = 1, **environment: str) -> str:
        found = finished("replay", *arguments, cwd=tmp_path, **environment)
        assert found.returncode == status, found.stderr
        return found.stderr

    (tmp_path / "empty").mkdir()
    assert "has no manifest; name the folder" in refused(str(tmp_path / "empty"), status=2)
    Archive(archive_settings(tmp_path / "silent" / "polygon.ndjson")).open().close()
    assert "silent: there are no records" in refused(str(tmp_path / "silent"))
    assert "must be Unix ms, or a time" in refused(str(recorded.folder), "--from", "²" * 13, status=2)
    words = refused(str(recorded.folder), "--topics", "XT.*")
    assert "--topics XT.*: " in words
    assert "has none of it; it has A, AM, Q, T" in words or "has none of it; it has" in words
    assert "nothing was recorded then; the records are from " in refused(
        str(recorded.folder), "--to", "2020-01-01"
    )
    assert "must be a number above 0" in refused(str(recorded.folder), "--speed", "fast", status=2)
    assert "--to must be later than --from" in refused(
        str(recorded.folder), "--from", "2026-01-02", "--to", "2026-01-01", status=2
    )
    words = refused(str(recorded.folder), status=78, ROLES="archive,ops")
    assert "ROLES: must have one of firehose, filtered and bars" in words
    with replaying(recorded.folder, tmp_path, "--start-paused") as replay:
        port = replay.port_of("firehose")
        words = refused(
            str(recorded.folder), status=78, FIREHOSE_PORT=port, METRICS_ADDR=f"127.0.0.1:{free_port()}"
        )
        assert f"127.0.0.1:{port} is in use" in words


def test_damage_is_named_and_skipped_only_when_asked(tmp_path: Path) -> None:
    """One that is missing keeps a replay from beginning; one that is torn or altered ends it; a foreign one is not read."""
    archive = Archive(archive_settings(tmp_path / "a" / "polygon.ndjson", flush_every=1)).open()
    archive.writer.append("session_opened", cluster="stocks")
    for _ in range(3):
        archive.write("TTTT")
        archive.clock.advance(1)
        archive.writer.rotate("signal")
    archive.write("TT")
    archive.close()
    _, second, _ = sorted(archive.folder.glob("polygon.2*.ndjson"))
    (archive.folder / "notes.ndjson").write_text("not ours\n")

    def played(*options: str, status: int = 0) -> tuple[int, str, str]:
        """Return how many events were played, and what was said on both outputs."""
        found = finished(
            *("replay", str(archive.folder), "--free-ports", "--key", KEY, "--speed", "max", *options),
            cwd=tmp_path,
            LOG_FORMAT="json",
        )
        assert found.returncode == status, found.stderr
        assert "Traceback" not in found.stderr
        entries = [json.loads(line) for line in found.stderr.splitlines() if line.startswith("{")]
        return (
            sum(entry.get("events", 0) for entry in entries if entry["event"] == "replay_complete"),
            found.stdout,
            found.stderr,
        )

    assert played()[0] == 14
    content = second.read_bytes()
    second.unlink()
    words = played(status=1)[2]
    assert f"{second.name} is missing, with 4 records" in words
    assert "--skip-damaged plays what is there" in words
    count, said, _ = played("--skip-damaged")
    assert count == 10
    assert f"problem: {archive.folder}: {second.name} is missing, with 4 records" in said
    second.write_bytes(content[: len(content) // 2])
    assert f"bytes are missing; `recorder verify {archive.folder}` says more" in played(status=1)[2]
    count, said, _ = played("--skip-damaged")
    assert count == 10 + content[: len(content) // 2].count(b"\n")
    assert f"{second.name}: " in said
    assert "the file is played as far as it can be read" in said
    second.write_bytes(content.replace(b'"ev":"T"', b'"ev":"t"', 1))
    assert f"{second.name}: the segment at 0 is not what was written" in played(status=1)[2]
    count, said, _ = played("--skip-damaged")
    assert count == 14
    assert f"{second.name}: the segment at 0 is not what was written" in said
    second.write_bytes(content)
    foreign = archive.folder / "polygon.other.20261129T044401800Z.ndjson"
    foreign.write_bytes(content)
    assert f"{foreign.name} is left out: not in the manifest" in played(status=1)[2]
    assert played("--skip-damaged")[0] == 14
    others = [archive.folder / f"polygon.other.20261129T04440180{number}Z.ndjson" for number in range(1, 8)]
    for other in others:
        other.write_bytes(content)
    said = played(status=1)[2]
    assert said.count("is left out") == 5
    assert "and 3 more like these" in said
    for other in (foreign, *others):
        other.unlink()
    assert played()[0] == 14
    words = played("--topics", "T.NOSUCH", status=1)[2]
    assert "--topics T.NOSUCH: " in words
    assert "nothing of it was recorded then" in words
    archive.names.manifest.unlink()
    assert "has no manifest" in played(status=2)[2]


def test_a_stuck_client_holds_nobody_up_for_long(tmp_path: Path) -> None:
    """As fast as clients take it means as fast as the slowest; one that takes nothing at all is cut, and counted."""
    archive = Archive(archive_settings(tmp_path / "a" / "polygon.ndjson")).open()
    archive.writer.append("session_opened", cluster="stocks")
    for _ in range(400):
        archive.write("TQ" * 250)
        archive.clock.advance(0.01)
    archive.close()
    with replaying(
        archive.folder, tmp_path, "--speed", "max", "--wait-for-clients", "2", CLIENT_PENDING_BYTES_MAX="1MiB"
    ) as replay:
        stuck = RawClient(replay.address_of("firehose"), receive_bytes=4096)
        stuck.subscribe("*")
        with listening(f"ws://{replay.address_of('firehose')}/stocks") as client:
            eventually_sync(lambda: client.close_code, "the end")
            cut = replay.logged("client_left")[0]
        stuck.socket.close()
        assert client.close_code == 1000
        assert len(client.events) == 200_000
        assert cut["reason"] == "slow_consumer"
        assert cut["secs"] >= 6, "it had room for what it was sent"
        assert replay.wait() == 0


def test_a_replay_with_shifted_times_is_followed_on_purpose_only(recorded: Recorded, tmp_path: Path) -> None:
    """A recorder refuses it with one line; with ALLOW_SHIFTED it records times of now, and tells its own clients."""
    copy = tmp_path / "copy"
    options = ("--shift", "now", "--speed", "max", "--wait-for-clients", "1")
    with replaying(recorded.folder, tmp_path, *options) as replay:
        settings = live_settings(0, copy, FIREHOSE_URL=f"ws://{replay.address_of('firehose')}")
        del settings["POLYGON_WS_URL"]
        refused = finished("run", cwd=tmp_path, **settings)
        assert refused.returncode == 78
        assert "ALLOW_SHIFTED=true takes it all the same" in refused.stderr.splitlines()[-1]
        assert not (copy / "polygon.ndjson").exists() or not (copy / "polygon.ndjson").read_bytes()
        began_ms = time.time() * 1000
        with running("run", cwd=tmp_path, ALLOW_SHIFTED="true", **settings) as recorder:
            eventually_sync(lambda: recorder.received() >= len(recorded.records), "the whole replay")
            with connect(f"ws://{recorder.address_of('filtered')}/stocks") as client:
                client.recv()
                client.send(json.dumps({"action": "auth", "params": KEY}))
                assert [status["status"] for status in json.loads(client.recv())] == [
                    "auth_success",
                    "shifted",
                ]
            assert replay.wait() == 0
            assert recorder.stop() == 0
    lines = [json.loads(line) for line in (copy / "polygon.ndjson").read_text().splitlines()]
    moved = [
        line["payload"]["t"] - old["payload"]["t"] for line, old in zip(lines, recorded.records, strict=True)
    ]
    assert len(set(moved)) == 1
    assert abs(recorded.records[0]["ingest_ts"] + moved[0] - began_ms) < 30_000
    digits = re.compile(rb"\d")
    raw = [(folder / "polygon.ndjson").read_bytes() for folder in (copy, recorded.folder)]
    payloads = [
        [line.partition(b'"payload":')[2].partition(b',"hostname"')[0] for line in one.splitlines()]
        for one in raw
    ]
    assert [digits.sub(b"", payload) for payload in payloads[0]] == [
        digits.sub(b"", payload) for payload in payloads[1]
    ]
    # Who reads the copy is told: its manifest says it.
    verified = finished("verify", str(copy), cwd=tmp_path)
    assert verified.returncode == 0
    assert "1 of 2 runs may have recorded a replay with shifted times (ALLOW_SHIFTED)" in verified.stdout
    first_ms, last_ms = lines[0]["ingest_ts"], lines[-1]["ingest_ts"]
    half_ms = (last_ms - first_ms) // 2 + 1
    options = ("--duration", f"{half_ms}ms", "--speed", "max", "--wait-for-clients", "1")
    with replaying(copy, tmp_path, *options) as replay:
        with listening(f"ws://{replay.address_of('firehose')}/stocks") as client:
            eventually_sync(lambda: client.close_code, "the end")
        assert "Recorded from a replay with shifted times" in replay.out[1]
        assert replay.wait() == 0
    assert client.told("shifted")
    assert len(client.events) == sum(line["ingest_ts"] < first_ms + half_ms for line in lines)


def test_workers_serve_it(recorded: Recorded, tmp_path: Path) -> None:
    """Clients of both workers get everything in order, statuses in their places, the same bars, and the same end."""
    options = ("replay", str(recorded.folder), "--free-ports", "--key", KEY, "--wait-for-clients", "3")
    with running(*options, "--speed", "max", cwd=tmp_path, LOG_FORMAT="json", SERVE_WORKERS="2") as replay:
        firehose = f"ws://{replay.address_of('firehose')}/stocks"
        with (
            listening(firehose) as first,
            listening(firehose) as second,
            listening(f"ws://{replay.address_of('bars')}/stocks", BARS) as bars,
        ):
            clients = (first, second, bars)
            eventually_sync(lambda: all(client.close_code for client in clients), "the end")
        assert replay.wait() == 0
    payloads = [line["payload"] for line in recorded.records]
    assert [json.loads(event) for event in first.events] == payloads
    assert first.events == second.events
    assert [bar for bar in bars.events if bar in set(recorded.bars)] == recorded.bars
    for client in clients:
        assert (client.close_code, client.close_reason) == (1000, "replay complete")
        assert client.told("replay_complete")[0]["events"] == len(payloads)
        assert len(client.told("gap")) == 1


def test_top_says_where_it_stands(recorded: Recorded, tmp_path: Path) -> None:
    """State, rate, time, progress and lag, in the words that people look for."""
    with replaying(recorded.folder, tmp_path, "--start-paused", "--speed", "10") as replay:
        order(replay, "step", count=5)
        eventually_sync(lambda: where(replay)["events"], "a read")
        found = finished("top", replay.address, "--once", cwd=tmp_path)
        assert found.returncode == 0
        words = " ".join(found.stdout.split())
        assert "replay: paused at 10x; at 20" in words
        assert "% of it" in words
        assert "late by 0.0 ms" in words
        post(replay, "stop", b"")
        assert replay.wait() == 0


def test_a_client_that_comes_late_gets_what_was_played(recorded: Recorded, tmp_path: Path) -> None:
    """With `since` it has all that the replay still keeps, before the connection is closed with 1000."""
    with replaying(recorded.folder, tmp_path, "--speed", "max", "--linger", "2") as replay:
        eventually_sync(lambda: where(replay)["events"] == len(recorded.records), "the whole replay")
        with listening(
            f"ws://{replay.address_of('filtered')}/stocks", "T.*,Q.*", since=0, partial=True
        ) as late:
            eventually_sync(lambda: late.close_code, "the close")
        assert late.close_code == 1000
        assert replay.wait() == 0
    payloads = [record["payload"] for record in recorded.records]
    assert [json.loads(event) for event in late.events] == payloads


def test_records_of_which_the_manifest_has_no_session_are_played(tmp_path: Path) -> None:
    """The clusters are then those of the records; one that only comes later is named, with what plays it."""

    def play(*options: str, status: int = 0) -> tuple[int, str]:
        found = finished(
            *("replay", str(archive.folder), "--free-ports", "--key", KEY, "--speed", "max", *options),
            cwd=tmp_path,
            LOG_FORMAT="json",
        )
        assert found.returncode == status, found.stderr
        entries = [json.loads(line) for line in found.stderr.splitlines() if line.startswith("{")]
        return sum(
            entry.get("events", 0) for entry in entries if entry["event"] == "replay_complete"
        ), found.stderr

    archive = Archive(archive_settings(tmp_path / "a" / "polygon.ndjson", flush_every=1)).open()
    archive.write("TTQ")
    archive.close()
    assert play()[0] == 3

    archive.restart()
    archive.writer.append("session_opened", cluster="stocks")
    archive.write("TT")
    archive.clock.advance(10)
    crypto = Feed(archive.names, "crypto")
    crypto.seq, crypto.lines, archive.feed = archive.feed.seq, archive.lines, crypto
    archive.write("Q")
    archive.close()
    _, words = play(status=1)
    told = re.search(
        r"records of crypto, of which the manifest has no session; --from (\S+) plays them", words
    )
    assert told is not None, words
    assert "Traceback" not in words
    assert play("--from", told[1])[0] == 1
