"""The NATS source against a real nats-server: each event once, and a gap with its reason for whatever is missing."""

from __future__ import annotations

import asyncio
from functools import partial
from pathlib import Path

import pytest
from nats_servers import NatsServer, nats_settings, serving, shared_server
from nats_streams import RECEIVED_NS, Following, Stream, event, following
from structlog.testing import capture_logs
from waiting import eventually

from recorder.errors import ConfigError
from recorder.jetstream import consumer
from recorder.jetstream.streams import JetStream, StreamAway
from recorder.overlap import Recorded
from recorder.sources.nats import source
from recorder.stream_message import Heading, encode_frames

SECRET = "a-secret-0123456789"
UNANSWERED = "the servers do not say"


@pytest.fixture
def server() -> NatsServer:
    """Return the server that all tests share that do it no harm; each has a stream of its own."""
    return shared_server()


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "_RETRY_SECS_MAX", 0.1)
    monkeypatch.setattr(consumer, "HEARTBEAT_NS", 100_000_000)
    monkeypatch.setattr(consumer, "SILENT_SECS_MAX", 0.8)


@pytest.fixture
def stream(server: NatsServer, request: pytest.FixtureRequest) -> Stream:
    """Return a stream that is this test's own; it is not made yet."""
    return Stream(server, f"R{abs(hash(request.node.name)) % 10**9}")


def prefix_of(stream: Stream) -> str:
    return stream.name.partition("_")[0]


def gaps(made: Following) -> list[tuple[float, float, str]]:
    """Return the gaps that the sessions told of: from, to (in seconds since RECEIVED_NS), reason."""
    zero_ms = RECEIVED_NS // 1_000_000
    return [
        ((missed.from_ms - zero_ms) / 1e3, (missed.to_ms - zero_ms) / 1e3, missed.reason)
        for opened in made.opened
        for missed in opened.missed
    ]


async def test_each_event_once_with_its_position(server: NatsServer, stream: Stream) -> None:
    """What is there, what comes, what came while the source was away; the positions are those of the stream."""
    stream.make()
    stream.append(3)
    stream.append(2)
    async with following(server, prefix_of(stream), start="all") as made:
        await made.has(5)
        stream.append(1)
        await made.has(6)
        made.source.ask_time()
        await eventually(lambda: made.got.watermarks, "the time, since all has been read")
    epoch = made.marks[0].partition(":")[0]
    assert made.marks == [f"{epoch}:3:1", f"{epoch}:5:2", f"{epoch}:6:3"]
    assert made.stream.position == made.closed[0].after == f"{epoch}:6:3"
    stream.append(4)
    async with following(server, prefix_of(stream), made.marks[-1]) as second:
        await second.has(4)
    assert made.numbers + second.numbers == list(range(1, 11))
    assert second.got.borders == [f"{epoch}:6:3"], "before anything comes it is known where this one stands"
    assert [opened.resumed for opened in second.opened] == [4]
    assert not gaps(made) + gaps(second)


async def test_where_to_begin(server: NatsServer, stream: Stream) -> None:
    """With what is new, with a message, at a time: with no word of what came before."""
    stream.make()
    for _ in range(3):
        stream.append()
    at = str(stream.ask("STREAM.MSG.GET", {"seq": 3})["message"]["time"])  # type: ignore[index]
    for start, first in (("2", 2), (at, 3), ("resume", 4), ("new", 5)):
        async with following(server, prefix_of(stream), start=start) as made:
            if first > 3:
                await eventually(partial(getattr, made, "opened"), "a session")
                assert made.got.borders[0].endswith(f":{first - 1}:{first - 1}")
                stream.append()
            await made.has(1)
            assert made.numbers[0] == first
            assert not gaps(made)
    async with following(server, prefix_of(stream), made.marks[0], start="new") as made:
        await eventually(lambda: made.opened, "a session")
        assert made.opened[0].resumed is None, "the archive has a gap then"


@pytest.mark.parametrize("cause", ["missing", "dropped", "purged", "unreadable"])
async def test_a_hole(server: NatsServer, stream: Stream, cause: str) -> None:
    """A session ends before it and another one begins behind it; clients and archive are told the times and the reason."""
    stream.make()
    stream.append(2)
    async with following(server, prefix_of(stream), start="all") as made:
        await made.has(2)
        match cause:
            case "dropped":
                stream.append(dropped=7)
            case "unreadable":
                stream.append_raw({"Format": "frames-br-2"}, b"?")
                await eventually(lambda: made.closed, "the end of the session")
                assert "'frames-br-2'" in made.stats.reason
                stream.next_event += 5
                stream.append()
            case _:
                stream.next_event += 5
                stream.append(gap=cause if cause == "purged" else "")
        await made.has(3)
        stream.append()
        await made.has(4)
    behind = stream.next_event - 2
    assert gaps(made) == [(1.0, float(behind), f"stream_{cause}")]
    assert made.closed[0].reason == f"stream_{cause}"
    assert made.opened[1].resumed is not None, "no other gap is to be noted"
    assert made.numbers == [1, 2, behind, behind + 1]
    assert made.stream.holes == {cause: 1}
    assert made.stream.events_missing == (7 if cause == "dropped" else 5)
    assert made.stats.recent_gaps[0].reason == f"stream_{cause}"


async def test_messages_of_another_program(server: NatsServer, stream: Stream) -> None:
    """None of our events is missing for them, but none comes while there is nothing else: no session."""
    stream.make()
    with capture_logs() as logs:
        async with following(server, prefix_of(stream), start="all") as made:
            for _ in range(3):
                stream.append_raw({"Other": "1"}, b"hello")
            await eventually(lambda: made.stream.unreadable == 3, "messages that cannot be read")
            assert not made.stats.subscribed
            assert "another program" in made.stats.reason
            stream.append()
            await made.has(1)
    assert not gaps(made)
    assert len([entry for entry in logs if entry["event"] == "stream_unreadable"]) == 1


@pytest.mark.parametrize("goes_on", [True, False])
async def test_a_stream_that_is_deleted(server: NatsServer, stream: Stream, *, goes_on: bool) -> None:
    """Where the numbers go on, nothing is missing; else nobody knows. The positions are of another stream then."""
    stream.make()
    stream.append(2)
    async with following(server, prefix_of(stream), start="all") as made:
        await made.has(2)
        stream.ask("STREAM.DELETE")
        await eventually(lambda: "does not exist" in made.stats.reason, "word of the loss")
        stream.make()
        if not goes_on:
            stream.next_event = 1
        stream.append(1, writer="w" if goes_on else "another", gap="deleted" if goes_on else "")
        await made.has(3)
    assert made.numbers == [1, 2, 3 if goes_on else 1]
    assert [reason for _, _, reason in gaps(made)] == ([] if goes_on else ["stream_deleted"])
    assert made.marks[0].partition(":")[0] != made.marks[-1].partition(":")[0]


async def test_servers_that_lose_what_they_had(server: NatsServer, stream: Stream) -> None:
    """Events that come again under another place are left out; new ones are found though they are at an old place."""
    stream.make()
    for _ in range(4):
        stream.append(2)
    async with following(server, prefix_of(stream), start="all") as made:
        await made.has(8)
    epoch = made.marks[0].partition(":")[0]
    # Its position is of a message that is not there any more: the stream has come to the fourth one, with other events.
    stream.append(2)
    async with following(server, prefix_of(stream), f"{epoch}:6:4") as second:
        await second.has(4)
        assert second.numbers == [7, 8, 9, 10]
    async with following(server, prefix_of(stream), f"{epoch}:10:9") as third:
        await eventually(lambda: third.opened, "a session")
        stream.append(3)
        await third.has(3)
    assert third.numbers == [11, 12, 13]
    assert not gaps(second) + gaps(third)


async def test_what_comes_twice_is_left_out(server: NatsServer, stream: Stream) -> None:
    """A recorder that does not know whether a message had arrived sends it to the new stream again."""
    stream.make()
    stream.append(4)
    async with following(server, prefix_of(stream), start="all") as made:
        await made.has(4)
        stream.ask("STREAM.DELETE")
        stream.make()
        stream.next_event = 3
        stream.append(4, gap="deleted")
        await eventually(lambda: len(made.numbers) >= 5, "the rest")
    assert made.got.frames[4:] == [
        b'[{"ev":"T","sym":"A","t":1760375617662,"q":5},{"ev":"T","sym":"A","t":1760375617662,"q":6}]'
    ]


async def test_what_a_killed_run_has_recorded_behind_its_position(server: NatsServer, stream: Stream) -> None:
    """It is left out once, as often as it is recorded; all else comes, behind one position."""
    stream.make()
    stream.append(4)
    async with following(server, prefix_of(stream), start="all") as made:
        await made.has(4)
    stream.append(3)
    stream.append(3)
    epoch = made.marks[0].partition(":")[0]
    recorded = [event(5), event(6), event(8)]
    async with following(server, prefix_of(stream), made.marks[0], recorded) as second:
        await second.has(3)
        stream.append(2)
        await second.has(5)
    assert second.numbers == [7, 9, 10, 11, 12]
    assert second.marks == [f"{epoch}:10:3", f"{epoch}:12:4"], (
        "no position stands for what is left out behind it"
    )
    assert [opened.resumed for opened in second.opened] == [3]
    async with following(server, prefix_of(stream), made.marks[0], [*recorded, event(99)]) as third:
        await third.has(5)
    assert third.numbers == [7, 9, 10, 11, 12], "what does not come again holds nothing up"
    everything = [event(number) for number in range(5, 13)]
    async with following(server, prefix_of(stream), made.marks[0], everything) as fourth:
        await eventually(lambda: fourth.opened, "a session")
    assert not fourth.got.frames
    assert fourth.got.borders[-1] == fourth.closed[0].after == f"{epoch}:12:4"
    stream.ask("STREAM.PURGE")
    async with following(server, prefix_of(stream), made.marks[0], recorded) as fifth:
        await eventually(lambda: fifth.opened, "a session")
        assert fifth.opened[0].resumed is None
        stream.append(2)
        await fifth.has(2)


async def test_a_position_that_the_stream_does_not_have(server: NatsServer, stream: Stream) -> None:
    """What was purged is a gap of the archive's; in another stream nothing is missing where the numbers go on."""
    stream.make()
    stream.append(2)
    async with following(server, prefix_of(stream), start="all") as made:
        await made.has(2)
    stream.append(5)
    stream.ask("STREAM.PURGE")
    async with following(server, prefix_of(stream), made.marks[-1]) as purged:
        await eventually(lambda: purged.opened, "a session")
        stream.append()
        await purged.has(1)
    assert purged.opened[0].resumed is None
    assert purged.stream.holes == {"purged": 1}
    since_ms = RECEIVED_NS // 1_000_000 + 2000
    async with following(server, prefix_of(stream), made.marks[-1], since_ms=since_ms) as timed:
        await timed.has(1)
    assert [opened.resumed for opened in timed.opened] == [1]
    assert gaps(timed) == [(2.0, 8.0, "stream_missing")], "the archive knows since when"
    other_stream = "2026-11-29T031420.123Z"
    async with following(server, prefix_of(stream), f"{other_stream}:7:7", since_ms=since_ms) as other:
        await other.has(1)
    assert other.opened[0].resumed == 1
    assert not other.stream.holes
    async with following(server, prefix_of(stream), f"{other_stream}:5:7", since_ms=since_ms) as third:
        await third.has(1)
    assert gaps(third) == [(2.0, 8.0, "stream_deleted")]
    late_ms = 4_102_444_800_000
    async with following(server, prefix_of(stream), f"{other_stream}:5:7", since_ms=late_ms) as fourth:
        await eventually(lambda: fourth.opened, "a session")
        stream.append()
        await fourth.has(1)
    assert fourth.numbers == [9], "what it had before may be recorded already"
    assert fourth.opened[0].resumed is None


async def test_a_server_that_is_cut_off_from_the_others(
    server: NatsServer, stream: Stream, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its heartbeats go on, and no message can come: it is left, and the recorder is not ready meanwhile."""
    monkeypatch.setattr(source, "_QUIET_SECS", 0.1)
    stream.make()
    async with following(server, prefix_of(stream), start="all") as made:
        stream.append()
        await made.has(1)
        with monkeypatch.context() as cut:
            cut.setattr(JetStream, "view_of", _unanswered)
            await eventually(lambda: made.stats.reason == UNANSWERED, "no answer")
            assert not made.stats.connected
        stream.append()
        await made.has(2)
    assert made.numbers == [1, 2]
    assert not gaps(made)


async def _unanswered(*_: object) -> None:
    raise StreamAway(UNANSWERED)


async def test_sinks_that_have_enough(server: NatsServer, stream: Stream) -> None:
    """Nothing is taken while they do; then all comes, in passes of several messages."""
    stream.make()
    async with following(server, prefix_of(stream), start="all") as made:
        stream.append()
        await made.has(1)
        made.got.is_full = True
        stream.append()
        await eventually(lambda: made.stats.reading_pauses, "the brake")
        for _ in range(20):
            stream.append()
        assert len(made.numbers) == 2
        made.got.is_full = False
        await made.has(22)
    assert made.numbers == list(range(1, 23))
    assert len(made.got.batches) < 10
    assert len(made.marks) == 22


async def test_what_ends_the_start(tmp_path: Path, server: NatsServer, stream: Stream) -> None:
    """Each is one line that says what to do; the exit status is 78."""
    password = tmp_path / "password"
    password.write_text("wrong")
    with (
        serving(tmp_path / "off", jetstream=False) as off,
        pytest.raises(ConfigError, match="JetStream is off"),
    ):
        await Following(nats_settings(off), Recorded()).source.open()
    extra = f"authorization {{ user: me, password: {SECRET} }}"
    with serving(tmp_path / "guarded", extra, user="me", **{"pass": SECRET}) as guarded:
        refused = nats_settings(guarded, user="me", password_file=str(password))
        with pytest.raises(ConfigError, match="refuses the credentials"):
            await Following(refused, Recorded()).source.open()
    stream.ask("STREAM.CREATE", {"name": stream.name, "subjects": ["other"], "storage": "file"})
    with pytest.raises(ConfigError, match="of another shape"):
        await Following(nats_settings(server, stream_prefix=prefix_of(stream)), Recorded()).source.open()


async def test_what_is_waited_for(tmp_path: Path) -> None:
    """Servers that are away, a stream that does not exist, credentials that are refused later: one line each."""
    password = tmp_path / "password"
    password.write_text(SECRET)
    extra = f"authorization {{ user: me, password: {SECRET} }}"
    server = NatsServer(tmp_path / "nats", extra, jetstream=True, user="me", **{"pass": SECRET})
    try:
        with capture_logs() as logs:
            async with following(server, "MD", start="all", user="me", password_file=str(password)) as made:
                await eventually(lambda: "can be reached" in made.stats.reason, "word of the servers")
                await asyncio.to_thread(server.start)
                await eventually(lambda: "does not exist" in made.stats.reason, "word of the stream")
                stream = Stream(server, "MD").make()
                stream.append()
                await made.has(1)
                password.write_text("wrong")
                server.kill()
                await asyncio.to_thread(server.start)
                await eventually(
                    lambda: "refuses the credentials" in made.stats.reason, "word of the credentials"
                )
                before = made.stats.connects
                await eventually(lambda: made.stats.connects > before + 3, "more attempts")
                password.write_text(SECRET)
                stream.append()
                await made.has(2)
        refusals = [entry for entry in logs if "refuses" in str(entry.get("message"))]
        assert len(refusals) == 1
        assert len(made.closed) == 2, "an attempt that fails ends no session"
        assert made.numbers == [1, 2]
        assert not gaps(made)
        assert [opened.resumed for opened in made.opened][1:] == [1]
    finally:
        server.stop()


async def test_the_permissions_of_the_docs_are_enough(tmp_path: Path) -> None:
    """A user who may do nothing else can follow a stream, with more than a window of it to read."""
    page = (Path(__file__).parents[2] / "docs" / "nats.md").read_text()
    rules = page.partition("A user who only follows needs less")[2].partition("```\n")[2].partition("```")[0]
    password = tmp_path / "password"
    password.write_text(SECRET)
    extra = (
        f"authorization {{ users: [ {{ user: me, password: {SECRET}, permissions {{ {rules} }} }}, "
        f"{{ user: test, password: {SECRET} }} ] }}"
    )
    with serving(tmp_path / "nats", extra, user="test", **{"pass": SECRET}) as guarded:
        stream = Stream(guarded, "MD").make()
        noise = b"".join(b"%c" % (n * n * 7919 % 251) for n in range(500_000))
        for _ in range(10):
            first, stream.next_event = stream.next_event, stream.next_event + 1
            heading = Heading(first, 1, RECEIVED_NS, "w")
            stream.append_raw(heading.headers(), encode_frames([noise]))
        stream.append()
        async with following(guarded, "MD", start="all", user="me", password_file=str(password)) as made:
            await eventually(lambda: made.stream.event == 11, "all of it")
            made.source.ask_time()
            await eventually(lambda: made.got.watermarks, "the time")
        assert made.stream.server == ""
        assert made.stats.errors == 0
