"""Resume from the archive: however little memory there is, what a client has in the end is exactly the stream."""

from __future__ import annotations

import asyncio
import random
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, given, settings
from resuming import ArchivedRecorder, Follower
from serving import event, frame_of

from recorder.archive import onward, reader
from recorder.archive.onward import Onward
from recorder.archive.wanted import Piece
from recorder.bus import Batch
from recorder.servers.past import cold, hotlog
from recorder.servers.past.cold import READERS_MAX, TURN_NS
from recorder.servers.past.hotlog import HotLog

CHANNELS = ("T", "Q", "A")
SYMBOLS = ("A", "B")
TOPICS = ("*", "T.*", "Q.A", "T.B", "A.*")
READ = st.lists(st.tuples(st.sampled_from(CHANNELS), st.sampled_from(SYMBOLS)), min_size=1, max_size=4)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("publish"), st.sampled_from(["stocks", "options"]), READ),
        st.tuples(st.just("publish"), st.sampled_from(["stocks", "options"]), READ),
        st.tuples(st.just("write"), st.none(), st.none()),
        st.tuples(st.just("rotate"), st.none(), st.none()),
        st.tuples(st.just("restart"), st.booleans(), st.none()),
        st.tuples(st.just("connect"), st.none(), st.none()),
        st.tuples(st.just("cut"), st.integers(0, 2000), st.none()),
        st.tuples(st.just("take"), st.integers(0, 2000), st.none()),
        st.tuples(st.just("step"), st.none(), st.none()),
        st.tuples(st.just("tell"), st.none(), st.none()),
    ),
    max_size=60,
)


class Scene:
    """An archived recorder, and events that can be told apart."""

    def __init__(self, folder: Path, bytes_max: int = 0, **archive: Any) -> None:
        self.recorder = ArchivedRecorder(folder, bytes_max, **archive)
        self.number = 0

    def publish(self, *drawn: tuple[str, str], cluster: str = "stocks") -> None:
        """Pass on one read of these events."""
        events = []
        for channel, symbol in drawn or (("T", "A"),):
            self.number += 1
            events.append(event(channel, symbol, self.number))
        self.recorder.publish(frame_of(*events), cluster=cluster)

    def act(self, client: Follower, step: str, first: Any, second: Any) -> None:
        """Do one step."""
        recorder = self.recorder
        match step:
            case "publish":
                self.publish(*second, cluster=first)
                recorder.clock.advance(0.01)
            case "write":
                recorder.archive.writer.flush(forced=True)
            case "rotate":
                recorder.archive.writer.rotate("size")
                recorder.archive.writer.tick()
            case "restart":
                client.cut(2**30)
                recorder.restart(killed=first)
            case "connect" if client.is_cut:
                client.cut(2**30)
                client.connect()
            case "cut":
                client.cut(first)
            case "take" if client.client is not None:
                client.take(first)
            case "step":
                recorder.resumes.step()
                recorder.clock.advance(0.05)
            case "tell" if client.client is not None:
                recorder.resumes.tell([client.client])


@given(
    follower=st.one_of(
        st.tuples(st.just("firehose"), st.just(["*"])),
        st.tuples(
            st.just("filtered"), st.lists(st.sampled_from(TOPICS), min_size=1, max_size=3, unique=True)
        ),
        st.tuples(st.just("bars"), st.just(["A.*"])),
    ),
    cluster=st.sampled_from(["", "stocks"]),
    bytes_max=st.sampled_from([0, 1500, 6000, 2**20]),
    held=st.sampled_from([600, 3000, 2**20]),
    pending_max=st.sampled_from([1500, 2**20]),
    block=st.sampled_from([100, 1000, 2**19]),
    piece=st.sampled_from([1, 3, 1000]),
    split=st.booleans(),
    compression=st.sampled_from(["none", "gzip", "zstd"]),
    steps=STEPS,
)
@settings(deadline=None, max_examples=100, suppress_health_check=[HealthCheck.too_slow])
def test_what_a_client_has_is_exactly_the_stream(
    follower: tuple[str, list[str]],
    cluster: str,
    bytes_max: int,
    held: int,
    pending_max: int,
    block: int,
    piece: int,
    split: bool,
    compression: str,
    steps: list[Any],
) -> None:
    """Cut anywhere, slow, however far behind, over restarts: nothing is missing, nothing is twice, and none is refused."""

    async def live(folder: Path) -> None:
        scene = Scene(folder, bytes_max, split_per_type=split, compression=compression)
        recorder = scene.recorder
        port, topics = follower
        client = Follower(recorder, port, *topics, cluster=cluster, pending_max=pending_max)
        client.connect()
        for step in steps:
            scene.act(client, *step)
        scene.publish(("T", "A"))
        client.catch_up()
        client.check()
        assert not recorder.stats[port].resumes["refused"]
        recorder.archive.kill()

    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder:
        patch.setattr(hotlog, "HELD_BYTES", held)
        patch.setattr(onward, "BLOCK_BYTES", block)
        patch.setattr(cold, "BLOCK_BYTES", block)
        patch.setattr(onward, "PIECE_RECORDS_MAX", piece)
        asyncio.run(live(Path(folder)))


def statuses(client: Follower, name: str) -> list[dict[str, Any]]:
    return [status for status in client.statuses if status["status"] == name]


async def test_a_position_of_an_earlier_run_goes_on_into_the_new_one(tmp_path: Path) -> None:
    """What the run before had, then what came in this one, then live; the position tells it all."""
    scene = Scene(tmp_path)
    recorder = scene.recorder
    client = Follower(recorder, "filtered", "T.*")
    client.connect()
    for _ in range(5):
        scene.publish()
    client.catch_up()
    assert client.after == "run-1:5:5"
    client.cut()
    for _ in range(3):
        scene.publish()
    recorder.archive.writer.append("gap", **{"cluster": "stocks", "from": 5, "to": 9, "reason": "x"})
    recorder.restart(killed=False)
    reason = "not_running"
    facts = {"cluster": "stocks", "from": 10, "to": 20}
    recorder.archive.writer.append("gap", **facts, reason=reason)
    scene.publish()
    client.connect()
    scene.publish()
    client.catch_up()
    client.check()
    [resume] = statuses(client, "resume")
    assert resume["recovered"]
    assert resume["from"] == "run-1:5:5"
    assert resume["available_from"] == "run-1::0"
    assert resume["gaps"] == [{**facts, "reason": reason}]
    assert statuses(client, "resume_complete")[0]["count"] == 5
    assert client.after == "run-2:2:2"
    stats = recorder.stats["filtered"]
    assert (stats.resumes, stats.archive_reads) == ({"recovered": 1}, 1)


async def test_a_time_that_is_older_than_memory_is_read_from_the_archive(tmp_path: Path) -> None:
    """From that millisecond on, over a restart."""
    scene = Scene(tmp_path, max_bytes=1500, compression="zstd")
    recorder = scene.recorder
    times = []
    for number in range(30):
        times.append(recorder.clock.wall_ns() // 1_000_000)
        scene.publish()
        recorder.clock.advance(1)
        if number == 20:
            recorder.restart(killed=True)
    client = Follower(recorder, "filtered", "T.*")
    client.connect(since=times[7])
    client.catch_up()
    client.check()
    assert len(client.kept[0].got) == 23
    assert statuses(client, "resume")[0]["from"] == "run-1::7"
    client.cut()
    client.connect(since=0)
    client.catch_up()
    [resume] = statuses(client, "resume")
    assert not resume["recovered"]
    assert resume["available_from"] == "run-1::0"
    client.cut()
    client.connect(since=resume["available_since"])
    client.catch_up()
    assert statuses(client, "resume")[0]["recovered"]
    assert statuses(client, "resume_complete")[0]["count"] == 30


async def test_what_the_archive_does_not_have_is_refused_with_both_reasons(tmp_path: Path) -> None:
    """Memory has it no longer, and the archive is not whole: live goes on; with `partial`, what is whole comes first."""
    scene = Scene(tmp_path, 2000)
    recorder = scene.recorder
    for _ in range(20):
        scene.publish()
    recorder.archive.writer.append(
        "drop", cluster="stocks", channel="T", count=1, reason="slow", first_seq=9, last_seq=9
    )
    client = Follower(recorder, "filtered", "T.*")
    client.connect(after="run-1:3:3")
    client.catch_up()
    [resume] = statuses(client, "resume")
    assert not resume["recovered"]
    assert "RESUME_BUFFER_BYTES" in resume["reason"]
    assert "dropped" in resume["reason"]
    assert resume["available_from"] == "run-1::9"
    scene.publish()
    client.catch_up()
    client.check()
    client.cut()
    client.connect(after="run-1:3:3", partial=True)
    client.catch_up()
    [resume] = statuses(client, "resume")
    assert (resume["recovered"], resume["from"]) == (False, "run-1::9")
    assert statuses(client, "resume_complete")[0]["count"] == 12
    client.check()
    assert recorder.stats["filtered"].resumes == {"refused": 1, "partial": 1}


async def test_a_client_that_falls_behind_memory_goes_on_in_the_archive(tmp_path: Path) -> None:
    """So slow that memory has forgotten what comes next: the file has it, and the client never notices."""
    scene = Scene(tmp_path, 20_000)
    recorder = scene.recorder
    for _ in range(20):
        scene.publish()
    client = Follower(recorder, "filtered", "T.*", pending_max=1000)
    client.connect(after="run-1:0:0")
    recorder.resumes.step()
    for _ in range(200):
        scene.publish()
    client.catch_up()
    client.check()
    assert not recorder.stats["filtered"].evictions
    assert recorder.stats["filtered"].archive_reads == 1


async def test_clients_near_each_other_share_what_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One has it read from disk and decoded, the others have that; each on its port, with all that it wants."""
    monkeypatch.setattr(onward, "BLOCK_BYTES", 500)
    monkeypatch.setattr(cold, "BLOCK_BYTES", 500)
    monkeypatch.setattr(reader, "_READ_BYTES", 600)
    scene = Scene(tmp_path, max_bytes=4000)
    recorder = scene.recorder
    for _ in range(40):
        scene.publish(("T", "A"), ("Q", "A"))
    made: list[Piece] = []
    make_batch = cold.ColdReaders._make_batch

    def counted(readers: cold.ColdReaders, piece: Piece) -> Batch:
        made.append(piece)
        return make_batch(readers, piece)

    monkeypatch.setattr(cold.ColdReaders, "_make_batch", counted)
    clients = [
        Follower(recorder, port, topic)
        for port, topic in (("filtered", "T.*"), ("firehose", "*"), ("filtered", "Q.A"))
    ]
    for client in clients:
        client.connect(after="run-1:0:0")
    for _ in range(60):
        recorder.resumes.step()
    for client in clients:
        client.catch_up()
        client.check()
    blocks = recorder.stats["filtered"].archive_blocks + recorder.stats["firehose"].archive_blocks
    sealed = sum(name.startswith("polygon.2") for name in recorder.archive.file_names())
    assert sealed > 3
    assert blocks["disk"] >= 6 * sealed, "each of 4000 bytes, of which 600 are read at once"
    assert blocks["memory"] == 2 * blocks["disk"]
    assert len(made) == len({piece.place for piece in made})


async def test_a_client_that_is_cut_amid_the_past_goes_on_there(tmp_path: Path) -> None:
    """Positions come while the archive is read, unless the client gets other topics besides."""
    scene = Scene(tmp_path)
    recorder = scene.recorder
    for number in range(60):
        scene.publish()
        if number == 40:
            recorder.restart(killed=False)
    recorder.archive.writer.flush(forced=True)
    for topics, is_told in ((("T.*",), True), (("T.*", "Q.*"), False)):
        client = Follower(recorder, "filtered", "T.*", pending_max=1500)
        if not is_told:
            client.connect(params="Q.*")
            client.take()
            client.ask(action="subscribe", params="T.*", after="run-1:0:0")
        else:
            client.connect(after="run-1:0:0")
        for _ in range(4):
            recorder.resumes.step()
            client.take()
        assert client.client is not None
        recorder.resumes.tell([client.client])
        client.take()
        told = [status["after"] for status in statuses(client, "position")]
        assert bool([position for position in told if position.startswith("run-1::")]) is is_told, topics
        if is_told:
            client.cut()
            client.catch_up()
            client.check()
            assert len(client.kept[0].got) == 60
        else:
            client.cut()


async def test_a_client_that_falls_behind_amid_a_read_goes_on_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Large reads are kept in pieces; it has some of them, and gets the others from the file."""
    monkeypatch.setattr(hotlog, "ENTRY_BYTES_MAX", 500)
    scene = Scene(tmp_path, 20_000)
    recorder = scene.recorder
    for read in range(3):
        numbers = range(100 * read, 100 * read + 12)
        recorder.publish(*(frame_of(event("T", "A", number), event("Q", "A", number)) for number in numbers))
    client = Follower(recorder, "filtered", "T.*", pending_max=1500)
    client.connect(after="run-1:0:0")
    recorder.resumes.step()
    client.take()
    recorder.resumes.step()
    for _ in range(100):
        scene.publish()
    client.catch_up()
    client.check()
    assert len(client.kept[0].got) == 36 + 100
    assert not recorder.stats["filtered"].evictions
    assert recorder.stats["filtered"].archive_reads == 1


async def test_a_hole_that_is_met_ends_the_stream(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The client is closed with the reason; when it asks again, it is told what is possible."""
    monkeypatch.setattr(onward, "_STUCK_NS", 0)
    scene = Scene(tmp_path)
    recorder = scene.recorder
    for number in range(20):
        if number == 10:
            recorder.stage.seq += 2
        scene.publish()
    recorder.archive.writer.flush(forced=True)
    client = Follower(recorder, "filtered", "T.*")
    client.connect(after="run-1:1:1")
    for _ in range(20):
        recorder.resumes.step()
        recorder.clock.advance(1)
    [(opcode, payload)] = client.transport.take()[-1:]
    assert opcode == 0x8
    assert payload[:2] == (1011).to_bytes(2)
    assert b"not in the archive" in payload
    assert recorder.stats["filtered"].evictions == {"past_lost": 1}
    client.cut()
    client.connect(after="run-1:1:1")
    for _ in range(5):
        recorder.resumes.step()
    client.take()
    [resume] = statuses(client, "resume")
    assert not resume["recovered"]
    assert "missing" in resume["reason"]
    assert resume["available_from"] == "run-1::12"


async def test_many_are_read_for_in_turn(tmp_path: Path) -> None:
    """A few at once; the others are told that they wait, and each has all in the end."""
    scene = Scene(tmp_path)
    recorder = scene.recorder
    for _ in range(30):
        scene.publish()
    recorder.archive.writer.flush(forced=True)
    clients = [Follower(recorder, "filtered", "T.*", pending_max=1000) for _ in range(READERS_MAX + 3)]
    for client in clients:
        client.connect(after="run-1:1:1")
    clients[0].cut()
    for _ in range(300):
        recorder.resumes.step()
        recorder.clock.advance(TURN_NS / 1e9 / 5)
        for client in clients[1:]:
            client.take()
        if not recorder.resumes.is_reading:
            break
    told = [[status["ahead"] for status in statuses(client, "resume_waits")] for client in clients[1:]]
    assert told == [*[[]] * (READERS_MAX - 1), [1], [2], [3]]
    for client in clients[1:]:
        client.catch_up()
        client.check()
    assert recorder.log.size == 0, "nobody holds the log any more"


async def test_topics_that_overlap_while_the_archive_is_read(tmp_path: Path) -> None:
    """One wish ends amid what it shares with another, which has the rest: each event comes once."""
    scene = Scene(tmp_path)
    recorder = scene.recorder
    for _ in range(20):
        scene.publish(("T", "A"), ("T", "B"))
    recorder.archive.writer.flush(forced=True)
    client = Follower(recorder, "filtered", "T.A", pending_max=1500)
    client.connect(after="run-1:1:2")
    client.ask(action="subscribe", params="T.*", after="run-1:1:2")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(onward, "PIECE_RECORDS_MAX", 7)
        for _ in range(3):
            recorder.resumes.step()
        client.ask(action="unsubscribe", params="T.A")
        patch.setattr(onward, "PIECE_RECORDS_MAX", 1000)
        client.catch_up()
    got = [one for stretch in client.kept for one in stretch.got]
    assert len(got) == len(set(got)) == 38


@pytest.mark.parametrize("after", ["run-1:5", "elsewhere:7:9"])
async def test_a_position_that_the_archive_does_not_know(tmp_path: Path, after: str) -> None:
    """One that says nothing of the archive, and one of another: memory only, with the reason."""
    scene = Scene(tmp_path, 1000)
    for _ in range(20):
        scene.publish()
    client = Follower(scene.recorder, "filtered", "T.*")
    client.connect(after=after)
    client.catch_up()
    [resume] = statuses(client, "resume")
    assert not resume["recovered"]
    assert resume["reason"]
    client.check()


# A test of the tests: what is broken where archive and memory meet must show.


def life_amid_memory(folder: Path) -> None:
    """Resume from what memory has and does not offer any more: the archive hands over at once."""

    async def live() -> None:
        scene = Scene(folder, 4000)
        for _ in range(30):
            scene.publish()
        log = scene.recorder.log
        seq = log.begin_seq(log.first) + 1
        client = Follower(scene.recorder, "filtered", "T.*")
        client.connect(after=f"run-1:{seq}:{seq}")
        client.catch_up()
        client.check()
        assert scene.recorder.stats["filtered"].archive_reads == 1
        scene.recorder.archive.kill()

    asyncio.run(live())


def random_life(seed: int, folder: Path) -> None:
    """Cut and resume a client at random, with hardly any memory; fail if what it has is not the stream."""

    async def live() -> None:
        dice = random.Random(seed)
        scene = Scene(folder, dice.choice([0, 1500]))
        client = Follower(scene.recorder, "filtered", "T.*")
        client.connect()
        for _ in range(60):
            step = dice.choice(
                ["publish", "publish", "write", "cut", "connect", "step", "take", "tell", "rotate"]
            )
            scene.act(client, step, "stocks" if step == "publish" else 2**30, [("T", "A"), ("T", "B")])
        client.catch_up()
        client.check()
        scene.recorder.archive.kill()

    asyncio.run(live())


def meets_off_by(monkeypatch: pytest.MonkeyPatch, reads: int) -> None:
    """Let readers go on in the log that much too late."""
    meeting = HotLog.meeting

    def wrong(log: HotLog, seq: int) -> tuple[int, int]:
        number, until_seq = meeting(log, seq)
        return max(log.first, min(log.end, number + reads)), until_seq

    monkeypatch.setattr(HotLog, "meeting", wrong)


def forgets_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the rest of a piece that was cut be lost, or be sent whole."""
    monkeypatch.setattr(cold.ColdReader, "put_back", lambda reader, piece: None)


def begins_late(monkeypatch: pytest.MonkeyPatch) -> None:
    begin = Onward.begin

    def wrong(reader: Onward, wanted: Any, *, partial: bool) -> Any:
        found = begin(reader, wanted, partial=partial)
        reader.place = reader.place._replace(seq=reader.place.seq + 1)
        return found

    monkeypatch.setattr(Onward, "begin", wrong)


@pytest.mark.parametrize(
    "break_it",
    [
        lambda monkeypatch: meets_off_by(monkeypatch, 1),
        lambda monkeypatch: meets_off_by(monkeypatch, -1),
        begins_late,
        forgets_pieces,
    ],
    ids=["meets late", "meets early", "begins late", "forgets"],
)
def test_a_defect_where_archive_and_memory_meet_is_found(
    break_it: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Lives that are all right without the defect show an event that is missing, or one too many, with it."""
    monkeypatch.setattr(hotlog, "HELD_BYTES", 3000)
    monkeypatch.setattr(ArchivedRecorder, "turns_max", 100)
    lives = [life_amid_memory, *(partial(random_life, seed) for seed in range(10))]
    for number, life in enumerate(lives):
        life(tmp_path / f"good-{number}")
    break_it(monkeypatch)
    found = 0
    for number, life in enumerate(lives):
        try:
            life(tmp_path / f"bad-{number}")
        except Exception:  # a test that fails, or a log that is asked for what it does not have
            found += 1
            break
    assert found
