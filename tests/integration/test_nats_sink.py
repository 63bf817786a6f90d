"""The NATS sink against a real nats-server: each event is in the stream once, whatever happens to server and stream."""

from __future__ import annotations

import asyncio
import os
import socket
from contextlib import AbstractAsyncContextManager, suppress
from pathlib import Path
from typing import Any

import pytest
from certificates import self_signed
from commands import free_port
from fakes import batch_of
from nats_servers import Asking, NatsServer, Read, messages_of, nats_settings, proven, serving, shared_server
from sink_benches import in_secs
from sink_recordings import SinkRecording, at_work
from structlog.testing import capture_logs
from waiting import eventually

from recorder.checks.nats import check_nats
from recorder.checks.scene import Scene
from recorder.clock import SystemClock
from recorder.errors import ConfigError
from recorder.ledger import PairStats
from recorder.settings import load_settings
from recorder.sinks.nats import publisher
from recorder.sinks.nats.sink import NatsSink

SECRET = "a-secret-0123456789"


@pytest.fixture
def server() -> NatsServer:
    """Return the server that all tests share that do it no harm; each has a stream of its own."""
    return shared_server()


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publisher, "_RETRY_SECS_MAX", 0.1)


@pytest.fixture
def prefix(request: pytest.FixtureRequest) -> str:
    """Return a prefix of streams that is this test's own."""
    return f"T{abs(hash(request.node.name)) % 10**9}"


class Recording(SinkRecording[NatsSink]):
    """A NATS sink with its bus and books."""

    def __init__(
        self, settings: Any, *clusters: str, writer: str = "run", include: tuple[str, ...] = ()
    ) -> None:
        chosen = clusters or ("stocks",)
        super().__init__(lambda ledger: NatsSink(settings, chosen, ledger, SystemClock(), writer), include)

    @property
    def failure(self) -> str:
        return self.sink.publisher.failure

    @property
    def stats(self) -> PairStats:
        return self.ledger.sink("nats").streams[0]

    @property
    def leads(self) -> bool:
        return self.stats.leads


def recording(settings: Any, *clusters: str, **kinds: Any) -> AbstractAsyncContextManager[Recording]:
    """Return a sink that runs for as long as the context lasts."""
    return at_work(Recording(settings, *clusters, **kinds), "nats")


def numbers(messages: list[Read]) -> list[int]:
    """Return the numbers of all events, which are proven to be there once."""
    first = int(messages[0].headers["First"])
    proven(messages, first)
    return numbers_in(messages)


def numbers_in(messages: list[Read]) -> list[int]:
    """Return the numbers of all events of some messages."""
    events = [event for message in messages for event in message.events]
    return [int(event.partition(b'"q": ')[2].rstrip(b"}")) for event in events]


async def test_frames_are_stored_as_they_were_received(server: NatsServer, prefix: str) -> None:
    """Byte for byte, odd ones too, several reads a message; statuses are left out; each cluster has a stream."""
    odd = b'[ {"ev":"T","sym":"B","t":1760375617662, "q":1e3} ,\n{"ev":"XX"}]'
    plain = b'[{"ev":"T","sym":"A","t":1760375617662,"q":1}]'
    status = b'[{"ev":"status","status":"connected","message":"hello"}]'
    settings = nats_settings(server, stream_prefix=prefix, linger_ms=50)
    async with recording(settings, "stocks", "crypto") as made:
        made.bus.publish(batch_of(plain, status, odd, received_ns=123))
        made.bus.publish(batch_of(plain, received_ns=456))
        made.bus.publish(batch_of(b'[{"ev":"XT","pair":"BTC-USD","t":1}]', cluster="crypto"))
        made.bus.publish(batch_of(b"[5]"))
        await made.stored()
    [message] = messages_of(server, f"{prefix}_STOCKS")
    assert message.frames == [plain, odd, plain]
    assert {name: message.headers[name] for name in ("First", "Events", "Received-Ns", "Writer")} == {
        "First": "1",
        "Events": "4",
        "Received-Ns": "123",
        "Writer": "run",
    }
    assert len(messages_of(server, f"{prefix}_CRYPTO")) == 1
    assert made.sink.stats.recorded["stocks", "T"] == 3
    assert made.ledger.channel("stocks", "").rejected == 1


async def test_of_a_selection_new_frames_are_made(server: NatsServer, prefix: str) -> None:
    """A frame cannot be cut; the bytes of the chosen events stay."""
    event = b'{"ev":"T","sym":"A", "t":1760375617662}'
    settings = nats_settings(server, stream_prefix=prefix)
    async with recording(settings, include=("T:A",)) as made:
        made.bus.publish(batch_of(b"[" + event + b',{"ev":"Q","sym":"A"}]', b"[" + event + b"]"))
        await made.stored()
    [message] = messages_of(server, f"{prefix}_STOCKS")
    assert message.frames == [b"[" + event + b"," + event + b"]"]
    assert message.headers["Events"] == "2"


async def test_a_restart_goes_on_with_the_numbers_of_the_stream(server: NatsServer, prefix: str) -> None:
    """`First` is that of the stream, not of the run."""
    settings = nats_settings(server, stream_prefix=prefix, takeover_secs=0.1)
    for run in ("one", "two"):
        async with recording(settings, writer=run) as made:
            made.count = 50 if run == "two" else 0
            for _ in range(5):
                made.publish()
                await made.stored()
    messages = messages_of(server, f"{prefix}_STOCKS")
    assert numbers(messages) == [*range(100)]
    assert [message.headers["Writer"] for message in messages] == ["one"] * 5 + ["two"] * 5


async def test_a_stream_that_is_deleted_under_us(server: NatsServer, prefix: str) -> None:
    """It is made again; log and stream say so, and the numbers go on."""
    settings = nats_settings(server, stream_prefix=prefix)
    with capture_logs() as logs:
        async with recording(settings) as made:
            made.publish()
            await made.stored()
            with Asking(server) as asking:
                asking.ask(f"$JS.API.STREAM.DELETE.{prefix}_STOCKS")
            made.publish()
            await made.stored()
            made.publish()
            await made.stored()
    messages = messages_of(server, f"{prefix}_STOCKS")
    assert numbers(messages) == [*range(10, 30)]
    assert [(m.headers["First"], m.headers.get("Gap")) for m in messages] == [("11", "deleted"), ("21", None)]
    [gap] = [entry for entry in logs if entry["event"] == "nats_stream_gap"]
    assert (gap["stream"], gap["reason"], gap["next_first"]) == (f"{prefix}_STOCKS", "deleted", 11)


async def test_a_stream_that_is_purged_under_us(
    server: NatsServer, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing fails for it, so it is looked for."""
    monkeypatch.setattr(publisher, "_LOOK_SECS", 0.05)
    settings = nats_settings(server, stream_prefix=prefix)
    with capture_logs() as logs:
        async with recording(settings) as made:
            made.publish()
            await made.stored()
            watch = made.sink.publisher._watches["stocks"]
            await eventually(lambda: watch._seq == 1, "a look")
            with Asking(server) as asking:
                asking.ask(f"$JS.API.STREAM.PURGE.{prefix}_STOCKS")
            await eventually(lambda: any(entry["event"] == "nats_stream_gap" for entry in logs), "the gap")
            made.publish()
            await made.stored()
            await eventually(lambda: watch._seq == 2, "another look")
    [message] = messages_of(server, f"{prefix}_STOCKS")
    assert (message.seq, message.headers["First"], message.headers["Gap"]) == (2, "11", "purged")
    assert len([entry for entry in logs if entry["event"] == "nats_stream_gap"]) == 1
    assert made.sink.stats.write_errors == 0


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"retention": "workqueue"}, "retention is workqueue, and limits is wanted"),
        ({"max_bytes": 2**20}, "max_bytes is 1048576, and 1073741824 is wanted"),
        ({"subjects": ["other.subject"]}, r"subjects is \['other.subject'\]"),
        ({"no_ack": True}, "no_ack is set, so nothing is acknowledged"),
    ],
)
async def test_a_stream_of_another_shape_ends_the_start(
    server: NatsServer, prefix: str, config: dict[str, object], words: str
) -> None:
    """The line names what is different and what to do; nothing is changed."""
    wanted = {
        "name": f"{prefix}_STOCKS",
        "subjects": [f"{prefix}.stocks.frames".lower()],
        "max_bytes": 2**30,
        "max_age": 3600 * 10**9,
        "discard": "old",
        **config,
    }
    if "subjects" in config:
        wanted["subjects"] = [f"{prefix}.other".lower()]
        words = "subjects is"
    with Asking(server) as asking:
        assert "error" not in asking.ask(f"$JS.API.STREAM.CREATE.{prefix}_STOCKS", wanted)
    made = Recording(nats_settings(server, stream_prefix=prefix))
    with pytest.raises(ConfigError, match=f"stream {prefix}_STOCKS is of another shape: .*{words}"):
        await made.sink.open()
    await made.sink.close(in_secs(1))


async def test_a_stream_with_messages_of_others_ends_the_start(server: NatsServer, prefix: str) -> None:
    """They are never guessed at."""
    settings = nats_settings(server, stream_prefix=prefix)
    async with recording(settings):
        pass
    with Asking(server) as asking:
        assert asking.ask(f"{prefix}.stocks.frames".lower(), "hello")["seq"] == 1
    made = Recording(settings)
    with pytest.raises(
        ConfigError, match=r"message 1 of stream .* is not of a recorder: it has no header Format"
    ):
        await made.sink.open()
    await made.sink.close(in_secs(1))


async def test_replicas_that_cannot_be_had_end_the_start(server: NatsServer, prefix: str) -> None:
    """A server alone keeps one copy."""
    made = Recording(nats_settings(server, stream_prefix=prefix, replicas=3))
    with pytest.raises(ConfigError, match="NATS_REPLICAS is 3, and the server is alone"):
        await made.sink.open()
    await made.sink.close(in_secs(1))


async def test_a_server_without_jetstream_ends_the_start(tmp_path: Path) -> None:
    """The line says how it is switched on."""
    with serving(tmp_path, jetstream=False) as plain:
        made = Recording(nats_settings(plain))
        with pytest.raises(ConfigError, match="JetStream is off at nats://"):
            await made.sink.open()
        await made.sink.close(in_secs(1))


async def test_servers_that_are_away_at_the_start(tmp_path: Path) -> None:
    """The sink opens, takes records, and says why it is not ready; once there is a server, all are there."""
    away = NatsServer(tmp_path)
    try:
        async with recording(nats_settings(away)) as made:
            assert "no NATS server can be reached: " in made.failure
            assert "refused" in made.failure
            made.publish()
            away.start()
            await eventually(lambda: not made.failure, "an epoch")
            made.publish()
            await made.stored()
        assert numbers(messages_of(away)) == [*range(20)]
    finally:
        away.stop()


async def test_a_server_that_is_cut_off_from_the_others(
    server: NatsServer, prefix: str, tmp_path: Path
) -> None:
    """It takes connections, and can append nothing: another one of `NATS_URL` is tried, whichever comes first."""
    routes = ", ".join(f"nats://127.0.0.1:{free_port()}" for _ in range(2))
    cluster = f"cluster {{ name: c, listen: 127.0.0.1:{free_port()}, routes: [{routes}] }}"
    lonely = NatsServer(tmp_path, f"server_name: n0\n{cluster}")
    try:
        lonely.launch()
        await eventually(lambda: accepts(lonely), "a server")
        async with recording(
            nats_settings(server, urls=(lonely.url, server.url), stream_prefix=prefix)
        ) as made:
            made.publish()
            await made.stored()
    finally:
        lonely.stop()


def accepts(server: NatsServer) -> bool:
    """Return whether a server takes connections."""
    with suppress(OSError), socket.create_connection((server.host, server.port), timeout=1):
        return True
    return False


async def test_credentials_that_are_refused(tmp_path: Path) -> None:
    """At the start that ends it; later it is tried again and again, with one line; no log has the password."""
    password = tmp_path / "password"
    password.write_text("wrong\n")
    extra = f"authorization {{ user: me, password: {SECRET} }}"
    with serving(tmp_path / "nats", extra, user="me", **{"pass": SECRET}) as guarded, capture_logs() as logs:
        settings = nats_settings(guarded, user="me", password_file=str(password))
        refused = Recording(settings)
        with pytest.raises(ConfigError, match="refuses the credentials"):
            await refused.sink.open()
        await refused.sink.close(in_secs(1))
        password.write_text(SECRET)
        async with recording(settings) as made:
            made.publish()
            await made.stored()
            password.write_text("wrong")
            guarded.kill()
            await eventually(lambda: made.failure)
            guarded.start()
            await eventually(lambda: "refuses the credentials" in made.failure, "a refusal")
            made.publish()
            errors = made.sink.stats.write_errors
            await eventually(lambda: made.sink.stats.write_errors > errors + 1, "more attempts")
            password.write_text(SECRET)
            await made.stored()
        assert numbers(messages_of(guarded)) == [*range(20)]
    told = [entry for entry in logs if "refuses" in str(entry)]
    assert [entry["event"] for entry in told] == ["nats_interrupted"]
    assert SECRET not in str(logs)


async def test_a_token_and_an_nkey(tmp_path: Path) -> None:
    """Other ways to be known."""
    import nkeys

    token = tmp_path / "token"
    token.write_text(SECRET)
    with serving(tmp_path / "a", f"authorization {{ token: {SECRET} }}", auth_token=SECRET) as guarded:
        async with recording(nats_settings(guarded, token_file=str(token))) as made:
            made.publish()
            await made.stored()
    seed = nkeys.encode_seed(os.urandom(32), nkeys.PREFIX_BYTE_USER)
    public = nkeys.from_seed(bytearray(seed)).public_key.decode()
    creds = tmp_path / "user.nk"
    creds.write_bytes(seed)
    extra = f"authorization {{ users: [ {{ nkey: {public} }}, {{ user: test, password: {SECRET} }} ] }}"
    with serving(tmp_path / "b", extra, user="test", **{"pass": SECRET}) as guarded:
        async with recording(nats_settings(guarded, creds_file=str(creds))) as made:
            made.publish()
            await made.stored()
        assert numbers(messages_of(guarded)) == [*range(10)]
    creds.write_text("nothing of the kind")
    made = Recording(nats_settings(guarded, creds_file=str(creds)))
    with pytest.raises(ConfigError, match=r"NATS_CREDS_FILE: .* holds neither credentials"):
        await made.sink.open()
    await made.sink.close(in_secs(1))


async def test_the_permissions_of_the_docs_are_enough(tmp_path: Path) -> None:
    """A user who may do nothing else can make the stream, append to it, and look at it again."""
    page = (Path(__file__).parents[2] / "docs" / "nats.md").read_text()
    rules = page.rpartition("The user needs these permissions")[2].partition("```\n")[2].partition("```")[0]
    password = tmp_path / "password"
    password.write_text(SECRET)
    extra = (
        f"authorization {{ users: [ {{ user: me, password: {SECRET}, permissions {{ {rules} }} }}, "
        f"{{ user: test, password: {SECRET} }} ] }}"
    )
    with serving(tmp_path / "nats", extra, user="test", **{"pass": SECRET}) as guarded:
        settings = nats_settings(guarded, user="me", password_file=str(password))
        for run in range(2):
            async with recording(settings) as made:
                made.count = 10 * run
                made.publish()
                await made.stored()
        assert len(proven(messages_of(guarded))) == 20
        narrow = Recording(nats_settings(guarded, user="me", password_file=str(password), stream_prefix="no"))
        await narrow.sink.open()
        with capture_logs() as logs:
            narrow.publish()
            await eventually(lambda: narrow.sink.stats.write_errors > 5, "attempts")
        await narrow.sink.close(in_secs(0.1))
    told = [entry["failure"] for entry in logs if entry["event"] == "nats_interrupted"]
    assert len(told) == 1, "one failure, one line"
    assert 'permissions violation for publish to "no.stocks.frames"' in told[0]


async def test_tls(tmp_path: Path) -> None:
    """A server that can be trusted is; one that cannot, or that speaks in the clear, is named and gets no password."""
    certificate, key = self_signed(tmp_path, "server")
    password = tmp_path / "password"
    password.write_text(SECRET)
    login = {"user": "me", "password_file": str(password)}
    extra = (
        f'tls {{ cert_file: "{certificate}", key_file: "{key}" }}\n'
        f"authorization {{ user: me, password: {SECRET} }}"
    )
    with serving(tmp_path / "a", extra, user="me", **{"pass": SECRET}) as secure:
        url = f"tls://localhost:{secure.port}"
        async with recording(
            nats_settings(secure, urls=(url,), tls_ca_file=str(certificate), **login)
        ) as made:
            made.publish()
            await made.stored()
        stranger = Recording(nats_settings(secure, urls=(url,), **login))
        with pytest.raises(ConfigError, match="cannot be trusted"):
            await stranger.sink.open()
        await stranger.sink.close(in_secs(1))
    with serving(tmp_path / "b") as clear:
        made = Recording(nats_settings(clear, urls=(f"tls://localhost:{clear.port}",), **login))
        with pytest.raises(ConfigError, match="the server does not demand TLS"):
            await made.sink.open()
        await made.sink.close(in_secs(1))


async def test_a_server_that_is_killed_again_and_again(tmp_path: Path) -> None:
    """Every event is in the stream once, and in order; the books say the same."""
    with serving(tmp_path) as fragile:
        async with recording(nats_settings(fragile, linger_ms=0)) as made:
            for _ in range(3):
                for _ in range(20):
                    made.publish(50)
                    await asyncio.sleep(0.002)  # several messages are under way
                fragile.kill()
                made.publish(50)
                await eventually(lambda: made.failure)
                fragile.start()
            await made.stored()
        messages = messages_of(fragile)
        assert numbers(messages) == [*range(made.count)]
        assert len(messages) > 10
        assert made.sink.stats.recorded["stocks", "T"] == made.count


async def test_a_server_that_stands_still_for_longer_than_an_acknowledgement_may_take(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it had in its buffers when it goes on is there once, the stream's first message too, though sent again."""
    monkeypatch.setattr(publisher, "ACK_SECS_MAX", 0.3)
    with serving(tmp_path) as slow:
        async with recording(nats_settings(slow, linger_ms=0)) as made:
            slow.pause()
            for _ in range(20):
                made.publish(50)
                await asyncio.sleep(0.002)
            await eventually(lambda: made.failure, "the end of the epoch")
            assert "nothing was acknowledged for 0.3 s" in made.failure
            slow.resume()
            made.publish()
            await made.stored()
        assert numbers(messages_of(slow)) == [*range(made.count)]


async def test_drops_are_noted_in_the_stream(tmp_path: Path) -> None:
    """The message behind a loss says how many events are missing before it."""
    with serving(tmp_path) as slow:
        async with recording(nats_settings(slow, buffer_bytes=20_000)) as made:
            made.publish()
            await made.stored()
            slow.pause()
            while not made.sink.stats.dropped:
                made.publish(50)
            made.publish(50)
            slow.resume()
            await made.stored()
            made.publish()
            await made.stored()
            dropped = made.sink.stats.dropped["stocks", "T"]
        messages = messages_of(slow)
        events = proven(messages)
        assert len(events) == made.count - dropped
        assert [int(m.headers["Dropped"]) for m in messages if "Dropped" in m.headers] == [dropped]
        assert messages[-1].headers["Dropped"] == str(dropped)


async def test_two_recorders_of_one_feed(server: NatsServer, prefix: str) -> None:
    """Each event is in the stream once, whichever has it sooner, also what only one has got; one leads at a time."""
    settings = nats_settings(server, stream_prefix=prefix, takeover_secs=0.75, linger_ms=0)
    async with recording(settings, writer="first") as first:
        first.publish(20)
        await first.stored()
        async with recording(settings, writer="second") as second:
            second.count = 10  # its connection is slower: these are events that the stream has
            for _ in range(20):
                second.publish(10)
                first.publish(10)
                await asyncio.sleep(0.005)
            assert (first.leads, second.leads) == (True, False)
            second.count += 10
            missed = first.count
            first.count += 50  # it misses these
            second.publish(50)
            while second.stats.filled_events < 50:
                second.publish(10)
                first.publish(10)
                await asyncio.sleep(0.01)
            await first.stored()
            await second.stored()
            assert (first.leads, second.leads) == (True, False)
            assert second.stats.filled_events == 50
            assert second.stats.fills >= 1
        # The one that is left goes on at once.
        last = first.count
        first.publish(10)
        await first.stored()
        async with recording(settings, writer="third") as third:
            third.count = first.count
            third.publish(30)
            await third.stored()
            assert third.leads
            assert third.stats.takeovers == 1
            first.publish(30)
            await first.stored()
            assert not first.leads
            assert first.stats.step_backs == 1
    messages = messages_of(server, f"{prefix}_STOCKS")
    assert sorted(numbers(messages)) == [*range(first.count)]
    filled = [m for m in messages if m.headers["Role"] == "fill"]
    assert sorted(numbers_in(filled)) == [*range(missed, missed + 50)]
    assert [m.headers["Writer"] for m in messages][-1] == "third"
    for writer in ("first", "third"):
        own = numbers_in([m for m in messages if m.headers["Writer"] == writer])
        assert own == sorted(own)
    assert last in numbers_in([m for m in messages if m.headers["Writer"] == "first"])


async def test_two_recorders_on_an_empty_stream(server: NatsServer, prefix: str) -> None:
    """Both begin to lead; the first message decides, which servers of version 2.9 do not compare the place of."""
    settings = nats_settings(server, stream_prefix=prefix, takeover_secs=0.2, linger_ms=0)
    async with recording(settings, writer="a") as one, recording(settings, writer="b") as two:
        assert one.leads
        assert two.leads
        for _ in range(10):
            one.publish()
            two.publish()
            await asyncio.sleep(0.005)
        await one.stored()
        await two.stored()
        assert one.leads is not two.leads
    assert numbers(messages_of(server, f"{prefix}_STOCKS")) == [*range(100)]


async def test_what_the_check_says(server: NatsServer, prefix: str, tmp_path: Path) -> None:
    """Server and version, room, each stream; what would end the start is a failure, and nothing is made."""

    async def found(**changes: str) -> list[tuple[str, str]]:
        environ = {"POLYGON_API_KEY": "a-key-0123456789", "POLYGON_CLUSTER": "stocks", "SINK": "nats"}
        limits = {"NATS_MAX_BYTES": "1GiB", "NATS_MAX_AGE_SECS": "1h"}
        named = {"NATS_URL": server.url, "NATS_STREAM_PREFIX": prefix}
        settings = load_settings({**environ, **limits, **named, **changes}, tmp_path).settings
        scene = Scene(settings, (), SystemClock())
        return [(one.level.value, one.text) for one in await check_nats(scene)]

    told = await found()
    assert told[0][1].startswith(f"{server.url} is nats-server ")
    assert "the account has no limit of its own" in told[1][1]
    assert told[2:] == [("ok", f"stream {prefix}_STOCKS does not exist; the recorder makes it")]
    async with recording(nats_settings(server, stream_prefix=prefix)) as made:
        made.publish()
        await made.stored()
    [ok] = (await found())[2:]
    assert ok[1].endswith("it has come to message 1, which ends with event 10, of run")
    [shape] = await found(NATS_MAX_BYTES="2GiB")
    assert shape[0] == "failure"
    assert "max_bytes is 1073741824, and 2147483648 is wanted" in shape[1]
    [away] = await found(NATS_URL=f"nats://127.0.0.1:{free_port()}")
    assert away[0] == "failure"
    assert "no NATS server can be reached" in away[1]


async def test_messages_that_are_too_large_for_the_server(tmp_path: Path) -> None:
    """They are split; an event that no message can hold is dropped, counted, and noted in the stream."""
    noise = [os.urandom(3000).hex() for _ in range(10)]
    with serving(tmp_path, "max_payload: 20000") as small:
        async with recording(nats_settings(small)) as made:
            event = b'{"ev":"T","sym":"A","t":1760375617662,"q":%d,"x":"%b"}'
            made.bus.publish(
                batch_of(b"[" + b",".join(event % (n, text.encode()) for n, text in enumerate(noise)) + b"]")
            )
            made.bus.publish(batch_of(b"[" + event % (10, os.urandom(30_000).hex().encode()) + b"]"))
            made.bus.publish(batch_of(b"[" + event % (11, b"") + b"]"))
            await made.stored()
        messages = messages_of(small)
        assert len(proven(messages)) == 11
        assert len(messages) >= 3
        assert messages[-1].headers["Dropped"] == "1"
        assert made.sink.stats.dropped["stocks", "T"] == 1
