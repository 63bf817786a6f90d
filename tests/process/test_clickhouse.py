"""`recorder clickhouse`: each record once in its table, byte for byte, whatever fails on the way there."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import ssl
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from archives import START_NS, Archive, archive_settings
from certificates import self_signed
from clickhouse_archives import Dying, rows_in, rows_of, sending, server_of
from clickhouse_server import USER, ClickHouse
from commands import RECORDER, clean_environment, free_port, running
from recorded_events import NUMBERS, closed, event, record, sample_events
from waiting import eventually, eventually_sync
from yarl import URL

import recorder
from recorder.clickhouse import batches, patience, schema
from recorder.clickhouse import sending as sending_module
from recorder.clickhouse.reading import Damaged
from recorder.clickhouse.server import Refused, Server

PASSWORD = "word-of-the-clickhouse-user"


@pytest.fixture(scope="module")
def clickhouse(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClickHouse]:
    server = ClickHouse(tmp_path_factory.mktemp("clickhouse"), free_port(), PASSWORD).start()
    yield server
    server.stop()


@pytest.fixture
def database(clickhouse: ClickHouse, request: pytest.FixtureRequest) -> str:
    """A database of the test's own."""
    name = "".join(letter if letter.isalnum() else "_" for letter in request.node.name)
    clickhouse.ask(f"CREATE DATABASE `{name}`")
    return name


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An archive of two types in one file, and of two runs."""
    return many(tmp_path_factory.mktemp("archive"))


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waits are short."""
    monkeypatch.setattr(patience, "_BACKOFF_SECS", 0.05)


def many(path: Path, count: int = 300, **changes: Any) -> Path:
    """Return an archive of two types in one file, and of two runs."""
    archive = Archive(archive_settings(path / "polygon.ndjson", **changes)).open()
    record(archive, [event("TQ"[number % 3 == 0], number, f"S{number % 7}") for number in range(count)])
    archive.close()
    archive.clock.advance(60)
    archive.restart()
    record(archive, [event("TQ"[number % 2], number, f"S{number % 7}") for number in range(count // 3)])
    archive.close()
    return path


def command(path: Path, clickhouse: ClickHouse, database: str, *options: str) -> list[str]:
    return ["clickhouse", str(path), f"{clickhouse.url}/{database}", "--user", USER, *options]


ENVIRONMENT = clean_environment(CLICKHOUSE_PASSWORD=PASSWORD)


def run(*arguments: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*RECORDER, *command(*arguments)],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_every_sample_and_every_number_is_in_its_table_byte_for_byte(
    clickhouse: ClickHouse, database: str, tmp_path: Path
) -> None:
    """Typed columns are those of the library; a second run adds nothing, and says so."""
    odd = b'{"ev":"T","sym":"\xf0\x9f\x92\xb9","p":"1e400","s":-0.0,"i":152.90,"q":1.5,"t":1790000000000123456,"c":7}'
    unknown = b'{"ev":"ZZ","x":[1,{"payload":",\\"hostname\\":\\"b\\""}],"d":""}'
    events = [*sample_events(), ("T", "T", NUMBERS), ("T", "\U0001f4b9", odd), ("ZZ", "S", unknown)]
    path = closed(tmp_path, events)
    first = run(path, clickhouse, database, "--create")
    assert first.returncode == 0, first.stderr
    assert f"{len(events):,} rows" in first.stdout
    assert PASSWORD not in first.stdout + first.stderr
    assert rows_in(clickhouse, database) == rows_of(path)
    for table in rows_of(path):
        codes = schema.codes_of(table)
        has = recorder.open_archive(path).counts
        columns = [column for column in schema.columns(table) if column.name not in ("ts", "payload")]
        if not codes:
            continue
        arrow = recorder.open_archive(path).records(types=[code for code in codes if code in has]).to_arrow()
        names = ", ".join(f"`{column.name}`" for column in columns)
        rows = clickhouse.ask(f"SELECT {names} FROM `{table}` ORDER BY run_id, seq", database)
        for place, column in enumerate(columns):
            if column.name not in arrow.column_names:
                continue
            wanted = [
                [] if value is None and column.shape in ("integers", "levels") else value
                for value in arrow[column.name].to_pylist()
            ]
            assert [row[place] for row in rows] == wanted, (table, column.name)
    again = run(path, clickhouse, database, "--json")
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout)["rows"] == {}
    assert rows_in(clickhouse, database) == rows_of(path)


FAULTS = (
    "cut",
    "answer lost",
    "error amid the answer",
    "half an answer",
    "too many parts",
    "no memory",
    "disk full",
    "accepted and forgotten",
)


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("kind", FAULTS)
async def test_a_server_that_fails_has_every_row_once_in_the_end(
    kind: str, clickhouse: ClickHouse, database: str, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether the rows of the insert that failed were kept or not."""
    monkeypatch.setattr(batches.Batches.__init__, "__defaults__", (60,))
    clickhouse.fault(kind, times=3)
    sent = await sending(path, server_of(clickhouse, database))
    assert not sent.failure
    assert rows_in(clickhouse, database) == rows_of(path)
    assert sum(sent.rows.values()) == 400


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("kind", ["killed before", "killed behind"])
async def test_a_server_that_is_killed_during_an_insert_has_every_row_once(
    kind: str,
    clickhouse: ClickHouse,
    database: str,
    path: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The engine goes on with what its disk has, and the sender with what the table has."""
    monkeypatch.setattr(batches.Batches.__init__, "__defaults__", (60,))
    await sending(many(tmp_path, 30), server_of(clickhouse, database))
    clickhouse.ask("TRUNCATE TABLE trades", database)
    clickhouse.ask("TRUNCATE TABLE quotes", database)
    clickhouse.fault(kind)
    under_way = asyncio.create_task(sending(path, server_of(clickhouse, database)))
    await eventually(clickhouse.is_dead, "the server dies")
    await asyncio.to_thread(clickhouse.start)
    sent = await under_way
    assert sent.retries
    assert not sent.failure
    assert rows_in(clickhouse, database) == rows_of(path)


@pytest.mark.usefixtures("impatient")
async def test_a_sender_that_dies_at_any_step_leaves_nothing_out_and_doubles_nothing(
    clickhouse: ClickHouse, database: str, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each life dies one step later; the last one ends in order."""
    monkeypatch.setattr(batches.Batches.__init__, "__defaults__", (60,))
    for step in range(1, 100):
        try:
            await sending(path, Dying(step).wrap(server_of(clickhouse, database)))
        except Dying.Died:
            continue
        break
    else:
        raise AssertionError("it never ended")
    assert step > 10
    assert rows_in(clickhouse, database) == rows_of(path)


async def test_two_senders_at_once_double_nothing(
    clickhouse: ClickHouse, database: str, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two inserts that begin behind one record the server takes one."""
    await sending(path, server_of(clickhouse, database), from_ms=1 << 61)
    both = []
    for rows in (30, 50):
        monkeypatch.setattr(batches.Batches.__init__, "__defaults__", (rows,))
        both.append(asyncio.create_task(sending(path, server_of(clickhouse, database))))
        await asyncio.sleep(0)
    await asyncio.gather(*both)
    assert rows_in(clickhouse, database) == rows_of(path)


async def test_a_token_that_outlived_its_rows_holds_nothing_up(
    clickhouse: ClickHouse, database: str, path: Path
) -> None:
    """The disk of the server has lost a part and kept the note of its insert, as a power cut may leave it."""
    await sending(path, server_of(clickhouse, database))
    (uuid,) = (
        str(row[0])
        for row in clickhouse.ask(
            "SELECT uuid FROM system.tables WHERE name = 'trades' AND database = currentDatabase()", database
        )
    )
    clickhouse.kill()
    (folder,) = clickhouse.folder.glob(f"store/*/{uuid}")
    parts = [part for part in folder.iterdir() if (part / "count.txt").exists()]
    assert parts
    for part in parts:
        shutil.rmtree(part)
    clickhouse.start()
    assert clickhouse.ask("SELECT count() FROM trades", database) == [[0]]
    await sending(path, server_of(clickhouse, database))
    assert rows_in(clickhouse, database) == rows_of(path)


def test_a_command_that_is_killed_behind_an_insert_goes_on_there(
    clickhouse: ClickHouse, database: str, path: Path, tmp_path: Path
) -> None:
    """The rows are kept and the answer never comes."""
    clickhouse.fault("hangs behind", path=tmp_path / "hangs")
    first = command(path, clickhouse, database, "--create")
    with running(*first, cwd=tmp_path, CLICKHOUSE_PASSWORD=PASSWORD) as sender:
        eventually_sync((tmp_path / "hangs").exists, "the server hangs")
        sender.kill()
    again = run(path, clickhouse, database, "--create", "--json")
    assert again.returncode == 0, again.stderr
    assert rows_in(clickhouse, database) == rows_of(path)
    assert sum(json.loads(again.stdout)["rows"].values()) < 400


@pytest.mark.usefixtures("impatient")
async def test_a_server_that_hangs_holds_up_no_stop(
    clickhouse: ClickHouse, database: str, path: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The status says that not everything was sent, and the next start continues there."""
    monkeypatch.setattr(sending_module, "_STOP_SECS", 0.1)
    stopping = asyncio.Event()
    clickhouse.fault("hangs behind", path=tmp_path / "hangs")
    under_way = asyncio.create_task(
        sending(path, server_of(clickhouse, database), stopping, follows=True, interval_secs=0.0)
    )
    await eventually((tmp_path / "hangs").exists, "the server hangs")
    stopping.set()
    sent = await under_way
    assert sent.exit_status == 1
    assert "the next start continues there" in sent.failure
    await sending(path, server_of(clickhouse, database))
    assert rows_in(clickhouse, database) == rows_of(path)


def test_a_follower_sends_what_comes_through_rotation_restart_and_kill_of_the_recorder(
    clickhouse: ClickHouse, database: str, tmp_path: Path
) -> None:
    """Also what was deleted before it was sent is noticed: an error, a row of `lost`, and status 4."""
    folder = tmp_path / "data"
    folder.mkdir()
    archive = Archive(archive_settings(folder / "polygon.ndjson", flush_every=1, compression="zstd"))

    def write(count: int) -> None:
        archive.clock.advance(1)
        record(archive, [event("T", number) for number in range(count)])
        archive.writer.flush()

    def answers(question: str, *row: Any) -> bool:
        try:
            return clickhouse.ask(question, database) == [list(row)]
        except RuntimeError:
            return False  # there is no such table yet

    def has(count: int) -> bool:
        return answers("SELECT count() FROM trades", count)

    options = ("--create", "--follow", "--interval", "1s")
    arguments = command(folder, clickhouse, database, *options)
    with running(*arguments, cwd=tmp_path, CLICKHOUSE_PASSWORD=PASSWORD) as follower:
        follower.wait_for("clickhouse_waits")
        archive.open()
        write(100)
        eventually_sync(lambda: has(100), "what is not sealed is sent", every_secs=0.1)
        archive.writer.rotate("signal")
        write(50)
        eventually_sync(lambda: has(150), "what comes behind a rotation is sent", every_secs=0.1)
        archive.kill()
        archive.restart()
        write(200)
        eventually_sync(lambda: has(350), "what another run records is sent", every_secs=0.1)
        assert rows_in(clickhouse, database)["trades"] == rows_of(folder)["trades"]

        clickhouse.kill()
        write(10)
        follower.wait_for("clickhouse_away")
        archive.writer.rotate("signal")
        archive.clock.advance(10)
        write(40)
        archive.writer.rotate("signal")
        archive.close()
        newest = max(folder.glob("polygon.2*"), key=lambda file: file.stat().st_mtime_ns)
        archive.restart(retain_bytes=1)
        archive.clock.advance(100)
        archive.flush()
        eventually_sync(lambda: not newest.exists(), "retention deletes it")
        write(5)
        clickhouse.start()
        assert follower.wait_for("clickhouse_lost")["records"] == 40
        eventually_sync(lambda: has(365), "what is there is sent", every_secs=0.1)
        lost = "SELECT table, records FROM lost"
        eventually_sync(lambda: answers(lost, "trades", 40), "that is on record", every_secs=0.1)
        assert follower.stop() == 4
        archive.close()


async def test_what_was_deleted_once_it_was_sent_is_not_taken_for_what_is_there(
    clickhouse: ClickHouse, database: str, tmp_path: Path
) -> None:
    """The table has as many records of the run as the archive, and other ones."""
    archive = Archive(archive_settings(tmp_path / "polygon.ndjson", retain_secs=60)).open()
    record(archive, [event("T", 0)])
    archive.writer.rotate("signal")
    await sending(tmp_path, server_of(clickhouse, database))
    [old] = [segment.path for segment in recorder.open_archive(tmp_path).segments()]
    os.utime(old, ns=(START_NS, START_NS))
    archive.clock.advance(100)
    record(archive, [event("T", 1)])
    archive.writer.rotate("signal")
    archive.flush()
    archive.close()
    assert [one.records for one in recorder.open_archive(tmp_path).segments()] == [1]
    sent = await sending(tmp_path, server_of(clickhouse, database))
    assert (sent.rows, sent.lost) == ({"trades": 1}, 0)
    assert clickhouse.ask("SELECT seq FROM trades ORDER BY seq", database) == [[1], [2]]


async def test_a_server_behind_tls_is_trusted_by_its_certificate(
    clickhouse: ClickHouse, database: str, path: Path, tmp_path: Path
) -> None:
    """Whom nobody vouches for gets no password, and the message names --cafile."""
    certificate, key = self_signed(tmp_path, "server")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)

    async def pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(1 << 16):
                writer.write(data)
                await writer.drain()
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        behind, to_it = await asyncio.open_connection("127.0.0.1", clickhouse.port)
        await asyncio.gather(pipe(reader, to_it), pipe(behind, writer))

    proxy = await asyncio.start_server(serve, "localhost", 0, ssl=context)
    async with proxy:
        url = URL(f"https://localhost:{proxy.sockets[0].getsockname()[1]}")
        with pytest.raises(Refused, match="--cafile"):
            await sending(path, Server(url, database, user=USER, password=PASSWORD))
        trusting = Server(url, database, user=USER, password=PASSWORD, ca_file=str(certificate))
        assert not (await sending(path, trusting)).failure
    assert rows_in(clickhouse, database) == rows_of(path)


def test_a_damaged_file_is_said_and_what_is_whole_is_sent_where_that_is_wanted(
    clickhouse: ClickHouse, database: str, tmp_path: Path
) -> None:
    """Without --skip-damaged nothing of it is sent, and with it the loss is on record, once."""
    archive = Archive(archive_settings(tmp_path / "polygon.ndjson")).open()
    for count in (30, 20, 10):
        archive.clock.advance(1)
        record(archive, [event("T", number) for number in range(count)])
        archive.writer.rotate("signal")
    archive.close()
    damaged = sorted(tmp_path.glob("polygon.2*"))[1]
    damaged.write_bytes(damaged.read_bytes().replace(b'"q":7', b'"q":8'))
    with pytest.raises(Damaged, match="--skip-damaged"):
        asyncio.run(sending(tmp_path, server_of(clickhouse, database)))
    for lost in (20, 0):
        sent = asyncio.run(sending(tmp_path, server_of(clickhouse, database), skips_damaged=True))
        assert (sent.lost, sent.exit_status, len(sent.damaged)) == (lost, 4, 1)
    assert clickhouse.ask("SELECT count() FROM trades", database) == [[40]]
    assert clickhouse.ask("SELECT table, records FROM lost", database) == [["trades", 20]]


async def test_what_cannot_work_is_refused_with_what_to_do(
    clickhouse: ClickHouse, database: str, tmp_path: Path
) -> None:
    """Nothing is sent, and the status is 78: trying again cannot help."""
    path = many(tmp_path, 30)

    async def refused(database: str = database, password: str = "", **options: Any) -> str:
        with pytest.raises(Refused) as caught:
            await sending(path, server_of(clickhouse, database, password), **options)
        assert caught.value.exit_status == 78
        return str(caught.value)

    assert "--password-file" in await refused(password="another word")
    assert "no_such_database" in await refused("no_such_database")
    assert "--create" in await refused(creates=False)
    clickhouse.ask(schema.create("quotes").replace("Nullable(Float64)", "Nullable(Float32)"), database)
    assert "bid_price is Nullable(Float32), and must be Nullable(Float64)" in await refused()
    clickhouse.ask("DROP TABLE quotes", database)
    clickhouse.ask("CREATE TABLE trades (seq UInt64) ENGINE = Log", database)
    drift = await refused()
    assert "its engine is Log" in drift
    assert "the column payload is missing" in drift
    clickhouse.ask("DROP TABLE trades", database)
    clickhouse.ask(
        schema.create("trades").replace("non_replicated_deduplication_window = 1000, ", ""), database
    )
    assert "MODIFY SETTING non_replicated_deduplication_window" in await refused()
    clickhouse.ask("DROP TABLE trades", database)
    await sending(path, server_of(clickhouse, database))
    assert rows_in(clickhouse, database) == rows_of(path)


def test_the_command_says_what_is_wrong_with_its_arguments(clickhouse: ClickHouse, tmp_path: Path) -> None:
    """A password in a URL, an archive that is none, and a server that is away for longer than --wait."""
    seen = run(tmp_path, ClickHouse(tmp_path, 1), "x")
    assert seen.returncode == 2
    assert "has no manifest" in seen.stderr
    url = clickhouse.url.replace("//", f"//{USER}:secret@")
    arguments = [*RECORDER, "clickhouse", str(tmp_path), url]
    found = subprocess.run(arguments, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert found.returncode == 2
    assert "--password-file" in found.stderr
    away = run(many(tmp_path / "data", 30), ClickHouse(tmp_path, free_port()), "x", "--wait", "0s")
    assert away.returncode == 1
    assert "the next start continues there" in away.stderr.replace("\n", " ")


def test_the_printed_statements_create_what_is_needed(clickhouse: ClickHouse, database: str) -> None:
    """All tables, none of which is then unsuitable; times are columns, and partitions are days."""
    printed = subprocess.run(
        [*RECORDER, "clickhouse", "--print-ddl"], env=ENVIRONMENT, capture_output=True, text=True, check=True
    )
    for statement in printed.stdout.split(";"):
        if statement.strip():
            clickhouse.ask(statement.strip(), database)

    async def tables() -> Any:
        server = server_of(clickhouse, database)
        await server.open()
        try:
            return await server.tables()
        finally:
            await server.close()

    found = asyncio.run(tables())
    assert set(found) == {*schema.TABLES, schema.LOST}
    for name, table in found.items():
        assert not list(schema.unsuitable(name, *table))
