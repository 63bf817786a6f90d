"""`recorder query`: the answers are those of the archive, to the byte and the last digit, and nothing else is touched."""

from __future__ import annotations

import json
import math
import re
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import orjson
import pyarrow as pa
import pytest
from cell_oracle import cells_of
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from recorded_events import begin, record, sample_payloads, trade

from recorder.cli.query import command
from recorder.errors import EXIT_DAMAGE, EXIT_USAGE, RecorderError
from recorder.polygon.channels import CHANNELS
from recorder.query.session import Query
from recorder.tables.engine import Engine
from recorder.tables.sealed import open_sealed

MS = 1_795_237_800_000


def ask(folder: Path, sql: str, report: Any = None, *, is_partial: bool = False) -> list[tuple[Any, ...]]:
    """Return all rows of the answer."""
    with Query(open_sealed(folder), sql).opened(report, is_partial=is_partial) as opened:
        return [row for rows in opened.answer().rows for row in rows]


@pytest.fixture(scope="module")
def market(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an archive of two runs: compressed files, a file that both have written to, and one that may still grow."""
    folder = tmp_path_factory.mktemp("top") / "market"
    archive = begin(folder, compression="zstd", max_bytes=1200)
    for n in range(12):
        record(
            archive, [trade("A", MS + n * 30_000, f"{100 + n}.50", "2"), trade("B", MS + n, "4.522e-05", "1")]
        )
    archive.close()
    archive.restart(max_bytes=None, compression="none")
    for n in range(2):
        quotes = [
            b'{"ev":"Q","sym":"A","bp":%d,"ap":101,"c":5,"i":[1,2],"t":%d}'
            % (90 + 5 * n + k, MS + n * 60_000)
            for k in range(2)
        ]
        record(archive, [*quotes, b'{"ev":"ZZ","n":1}'])
    record(archive, [trade("A", MS + 400_000, "1", "3", ',"ds":"3.25"')])
    archive.close()
    archive.restart()
    record(archive, [trade("A", MS, "1e3", "1")])
    archive.kill()
    return folder


def test_exact_payloads_and_typed_columns(market: Path) -> None:
    """Of compressed, shared and growing files: bytes as recorded, sums as Python has them, each run's name."""
    lines = [
        line
        for path in sorted(market.glob("polygon.trades*"))
        for line in duckdb.read_csv(
            str(path),
            columns={"line": "VARCHAR"},
            header=False,
            auto_detect=False,
            sep="\x01",
            quotechar="",
            escapechar="",
        ).fetchall()
    ]
    sealed = [line for (line,) in lines if '"p":1e3' not in line]
    records = [json.loads(line, parse_float=Decimal) for line in sealed]
    assert len(records) == 25
    rows = ask(market, "SELECT run_id, seq, symbol, ts, price, id, payload FROM trades ORDER BY run_id, seq")
    assert [row[0] for row in rows] == ["run-1"] * 24 + ["run-2"]
    payloads = {row[6] for row in rows}
    assert payloads == {line.partition('"payload":')[2].partition(',"hostname"')[0] for line in sealed}
    [(total, count)] = ask(market, "SELECT sum(price * size), count(*) FROM trades")
    assert total == pytest.approx(float(sum(one["payload"]["p"] * one["payload"]["s"] for one in records)))
    assert count == 25
    assert ask(market, "SELECT conditions, indicators, bid_size FROM quotes LIMIT 1") == [([5], [1, 2], None)]
    assert ask(market, "SELECT type, count(*) FROM events GROUP BY type ORDER BY type") == [
        ("Q", 4), ("T", 25), ("ZZ", 2),
    ]  # fmt: skip


CONDITIONS = (
    "symbol = 'A'",
    "symbol <> 'A'",
    "symbol IN ('A', 'payload', '')",
    "symbol LIKE 'B%'",
    "price > 105 AND symbol = 'A'",
    "price BETWEEN 4.522e-05 AND 1",
    "price IS NULL",
    "price IS NOT NULL AND tape IS NULL",
    "NOT price > 105",
    "price = 'nan'::DOUBLE",
    "decimal_size = '3.25'",
    "decimal_size IS DISTINCT FROM '3.25'",
    f"ts >= {MS + 60_000} AND ts < {MS + 90_000}",
    "seq = 3 OR symbol = 'B'",
    "payload LIKE '%4.522e-05%'",
    "conditions IS NULL",
    "list_contains(conditions, 5)",
    "run_id = 'run-1'",
    "run_id > 'run-1' AND seq < 7",
    "type = 'Q'",
)


def test_conditions_choose_the_rows_for_which_they_hold(market: Path) -> None:
    """DuckDB leaves many of them to what hands it the rows."""
    counts = [
        f"(SELECT count(*) FROM trades WHERE {one}), (SELECT count(*) FILTER (WHERE {one}) FROM trades)"
        for one in CONDITIONS
    ]
    [row] = ask(market, f"SELECT {', '.join(counts)}")
    assert dict(zip(CONDITIONS, row[::2], strict=True)) == dict(zip(CONDITIONS, row[1::2], strict=True))
    assert 0 < row[0] < row[0] + row[2] == 25


def test_macros(market: Path) -> None:
    """The last quote as of a trade is the one that came last of its millisecond; bars have exact sizes."""
    rows = ask(
        market,
        "SELECT ts - 1795237800000, bid_price FROM quotes_asof() WHERE symbol = 'A' ORDER BY ts LIMIT 3",
    )
    assert rows == [(0, 91.0), (30_000, 91.0), (60_000, 96.0)]
    assert ask(market, "SELECT bid_price FROM quotes_asof() WHERE symbol = 'B' LIMIT 1") == [(None,)]
    bars = ask(
        market,
        "SELECT open, high, low, close, volume, vwap, trades FROM bars(INTERVAL 1 MINUTE) WHERE symbol = 'A' ORDER BY start",
    )
    assert bars[0] == (100.5, 101.5, 100.5, 101.5, 4.0, 101.0, 2)
    assert bars[-1] == (1.0, 1.0, 1.0, 1.0, 3.25, 1.0, 1)


@pytest.mark.parametrize(
    ("join", "kind"),
    [
        ("ASOF JOIN quotes ON trades.symbol = quotes.symbol AND trades.ts >= quotes.ts", "asof"),
        ("JOIN quotes ON trades.ts > quotes.ts AND trades.ts < quotes.ts + 5", "ie"),
    ],
)
def test_records_are_not_joined_in_loops(tmp_path: Path, join: str, kind: str) -> None:
    """DuckDB does not know how many there are, and joins them as many."""
    rows = pa.table({"symbol": ["A"], "ts": [1]})
    with Engine("recorder query").connected(tmp_path) as connection:
        connection.register("trades", rows)
        connection.register("quotes", rows)
        [(_, plan)] = connection.execute(f"EXPLAIN SELECT * FROM trades {join}").fetchall()
    assert re.search(f"{kind}.join", plan, re.IGNORECASE)
    assert not re.search("nested|loop", plan, re.IGNORECASE)


def test_a_count_is_the_manifests(market: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is read to count a view; whatever else is asked for is read, and comes to the same."""
    query = Query(open_sealed(market), "select COUNT(*) AS n from Trades;")
    answer = query.counted()
    assert answer is not None
    assert (answer.columns, next(answer.rows)) == (["n"], [(25,)])
    for sql in ("SELECT count(*) FROM trades WHERE true", "SELECT count(*) FROM segments", "SELECT 1"):
        assert Query(open_sealed(market), sql).counted() is None
    assert ask(market, "SELECT count(*) FROM trades WHERE true") == [(25,)]
    assert ask(market, "SELECT sum(records) FROM segments WHERE type = 'T'") == [(25,)]


@pytest.mark.parametrize(
    ("sql", "words"),
    [
        ("SELECT 1; SELECT 2", "has to be one SELECT"),
        ("", "has to be one SELECT"),
        (
            "SELECT symbol\nFROM trades\nWHER price > 1",
            r'syntax error at or near "price" \(line 3, at: price > 1\)',
        ),
        ("SELECT 'A\x1b'::INT", r"'A\?'"),
        ("SELECT prize FROM trades", r'"price".*\(line 1, at: prize FROM trades\)'),
        ("SELECT summ(price) FROM trades", 'mean "sum"'),
        (
            "SELECT * FROM trade",
            r"there is no trade in the archive; did you mean trades\? \(it has trades, quotes, events",
        ),
        ("SELECT * FROM luld", "has nothing for luld; it has trades, quotes, events, segments, gaps"),
        ("show tables", "without SQL"),
        ("FROM bars(60)", r"^.{,150}\(line 1, at: bars\(60\)\); bars\(INTERVAL 1 MINUTE\) are"),
        ("FROM bars()", r"bars\(INTERVAL 1 MINUTE\) are"),
    ],
)
def test_slips(market: Path, sql: str, words: str) -> None:
    """One line that says what is wrong, where and what there is, a status of its own, and no file has been read for it."""
    with pytest.raises(RecorderError, match=words) as caught:
        ask(market, sql, report=lambda *_: pytest.fail("was read"))
    assert caught.value.exit_status == EXIT_USAGE
    assert "\n" not in str(caught.value)
    assert "\x1b" not in str(caught.value)


@pytest.mark.parametrize("sql", ["SELECT ts::TIMESTAMP FROM trades", "FROM trades WHERE ts > '2026-11-21'"])
def test_times_are_explained(market: Path, sql: str) -> None:
    """Who takes Unix ms for a timestamp is told how to make one."""
    with pytest.raises(RecorderError, match="make_timestamp_ms") as caught:
        ask(market, sql)
    assert caught.value.exit_status == EXIT_USAGE


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT * FROM '{}/secret.csv'",
        "SELECT * FROM read_csv('{}/secret.csv')",
        "SELECT * FROM read_text('{}/market/../secret.csv')",
        "SELECT * FROM read_text('{}/market/polygon.manifest.ndjson')",
        "SELECT * FROM read_text('{}/market/link')",
        "SELECT * FROM read_blob('{}/secret.csv')",
        "SELECT * FROM read_json('{}/secret.csv')",
        "SELECT * FROM read_parquet('{}/secret.csv')",
        "SELECT * FROM sniff_csv('{}/secret.csv')",
        "SELECT * FROM parquet_schema('{}/secret.csv')",
        "SELECT * FROM read_text('/proc/self/environ')",
        "SELECT * FROM glob('{}/*')",
        "SELECT getenv('HOME')",
        "SELECT * FROM duckdb_secrets()",
        "SELECT * FROM query('SELECT * FROM read_text(''{}/secret.csv'')')",
        "SELECT * FROM query('COPY (SELECT 1) TO ''{}/out.csv''')",
        "SELECT * FROM json_execute_serialized_sql(json_serialize_sql('SELECT * FROM read_text(''{}/secret.csv'')'))",
        "SELECT * FROM read_text('https://127.0.0.1:9/')",
        "SELECT * FROM 's3://bucket/a.parquet'",
        "SELECT * FROM sqlite_scan('{}/secret.csv', 'a')",
        "SELECT * FROM trades, read_text('{}/secret.csv')",
        "SELECT * FROM market",
        "COPY (SELECT 1) TO '{}/out.csv'",
        "EXPLAIN ANALYZE COPY (SELECT 1) TO '{}/out.csv'",
        "EXPORT DATABASE '{}/out'",
        "ATTACH '{}/out.db'",
        "INSTALL httpfs",
        "LOAD httpfs",
        "SET enable_external_access = true",
        "RESET enable_external_access",
        "PRAGMA enable_profiling",
        "CALL enable_logging()",
        "SELECT * FROM enable_logging()",
        "INSERT INTO segments SELECT * FROM segments",
        "WITH a AS (SELECT 1) DELETE FROM segments",
        "CREATE TABLE a AS SELECT 1",
    ],
)
def test_nothing_else_can_be_reached(market: Path, sql: str) -> None:
    """Whatever the SQL tries, it gets the archive's files and no other, no variable, no network, and writes nothing."""
    top = market.parent
    (top / "secret.csv").write_text("hidden\n")
    if not (market / "link").is_symlink():
        (market / "link").symlink_to(top / "secret.csv")
    before = sorted(top.rglob("*"))
    with pytest.raises(RecorderError) as caught:
        ask(market, sql.replace("{}", str(top)))
    assert caught.value.exit_status == EXIT_USAGE
    assert "hidden" not in str(caught.value)
    assert sorted(top.rglob("*")) == before


def test_forms(market: Path, tmp_path: Path) -> None:
    """CSV, JSON and Parquet have the same rows; a file that exists is left alone."""
    sql = "SELECT symbol, seq, price, payload FROM trades ORDER BY run_id, seq -- all of them"
    run = CliRunner().invoke
    table = run(command, [str(market), sql])
    assert table.stdout == run(command, [str(market), sql, "--csv"]).stdout
    found = [json.loads(line) for line in run(command, [str(market), sql, "--json"]).stdout.splitlines()]
    alike = run(command, [str(market), "SELECT 1 AS a, 2 AS a_1, 3 AS A, 4 AS a", "--json"])
    assert json.loads(alike.stdout) == {"a": 1, "a_1": 2, "A_2": 3, "a_3": 4}
    odd = (
        "SELECT 2::HUGEINT << 69 AS h, [2::HUGEINT << 70] AS l, 'inf'::DOUBLE AS i, 1.50::DECIMAL(5, 2) AS d"
    )
    assert run(command, [str(market), odd, "--json"]).stdout == (
        '{"h":1180591620717411303424,"l":[2361183241434822606848],"i":null,"d":1.50}\n'
    )
    target = tmp_path / "out.parquet"
    assert run(command, [str(market), sql, "--parquet", str(target)]).exit_code == 0
    rows = duckdb.read_parquet(str(target)).fetchall()
    assert [tuple(row.values()) for row in found] == rows
    assert len(rows) == 26
    assert [path.name for path in tmp_path.iterdir()] == ["out.parquet"]
    again = run(command, [str(market), sql, "--parquet", str(target)])
    assert isinstance(again.exception, RecorderError)
    assert "exists" in str(again.exception)
    nowhere = run(command, [str(market), sql, "--parquet", str(tmp_path / "no" / "out.parquet")])
    assert isinstance(nowhere.exception, RecorderError)
    assert "no is not a folder" in str(nowhere.exception)
    picture = tmp_path / "out.png"
    for status in (0, 1):
        plotted = run(command, [str(market), sql, "--plot", str(picture)])
        assert (plotted.exit_code, picture.read_bytes()[:4]) == (status, b"\x89PNG")
    shown = run(
        command,
        [str(market), "--plot", "SELECT symbol, sum(size) AS n FROM trades GROUP BY symbol ORDER BY n"],
    )
    assert [line.split()[:2] for line in shown.stdout.splitlines()] == [
        ["symbol", "n"],
        ["B", "12"],
        ["A", "28"],
    ]
    assert run(command, [str(market), sql, "--plot", "out.gif"]).exit_code == EXIT_USAGE
    assert run(command, [str(market), sql, "--plot", "--csv"]).exit_code == EXIT_USAGE
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.parquet", "out.png"]
    listed = run(command, [str(market), "--sealed"])
    assert re.search(r"trades +25 ", listed.stdout)
    assert "not sealed yet" in listed.stderr
    listed = run(command, [str(market)])
    assert re.search(r"trades +26 ", listed.stdout)
    assert "not sealed" not in listed.stderr


def test_what_is_not_sealed_is_read_as_it_was(tmp_path: Path) -> None:
    """Of a recorder at work: whole lines, counted, until it was opened, whatever is written and renamed since."""
    archive = begin(tmp_path, max_bytes=1000)
    for n in range(5):
        record(archive, [trade("A", MS + n, "1", "1")])
    record(archive, [trade("B", MS + 9, "1.50", "2"), b'{"ev":"LULD","T":"B","h":5}'])
    found = open_sealed(tmp_path, with_tails=True)
    for n in range(5):
        record(archive, [trade("C", MS + n, "1", "1")])
    archive.close()
    query = Query(found, "SELECT count(*) FROM trades")
    counted = query.counted()
    assert counted is not None
    assert next(counted.rows) == [(6,)]
    assert found.views() == ["trades", "luld", "events"]

    def told(sql: str) -> list[tuple[Any, ...]]:
        with Query(found, sql).opened() as opened:
            return [row for rows in opened.answer().rows for row in rows]

    assert told("SELECT symbol, sum(size) FROM trades GROUP BY 1 ORDER BY 1") == [("A", 5), ("B", 2)]
    assert told("SELECT payload FROM luld") == [('{"ev":"LULD","T":"B","h":5}',)]
    assert told("SELECT sum(records), count(*) FILTER (last_seq IS NULL) FROM segments") == [(7, 2)]
    assert ask(tmp_path, "SELECT count(*) FROM trades WHERE true") == [(11,)]


def test_files_of_another_time_are_not_read(tmp_path: Path) -> None:
    """Only segments that may have records of the time are proven and read, and of these only such records are there."""
    archive = begin(tmp_path, max_bytes=500)
    begun_ms = archive.clock.wall_ns() // 1_000_000
    for n in range(8):
        record(archive, [trade("A", MS, "1", str(n)), trade("A", MS, "1", str(n))])
        archive.clock.advance(60)
    archive.close()
    for path in sorted(tmp_path.glob("*.trades*"))[:3]:
        path.write_bytes(b"damaged")  # whoever reads it is told
    found = open_sealed(tmp_path, start_ms=begun_ms + 240_000, end_ms=begun_ms + 360_000)

    def told(sql: str) -> list[tuple[Any, ...]]:
        query = Query(found, sql)
        assert query.counted() is None
        with query.opened() as opened:
            return [row for rows in opened.answer().rows for row in rows]

    assert told("SELECT size FROM trades ORDER BY seq") == [(4,), (4,), (5,), (5,)]
    assert told("SELECT count(*) FROM trades") == [(4,)]
    assert told("SELECT sum(trades) FROM bars(INTERVAL 1 DAY)") == [(4,)]
    found = open_sealed(tmp_path, start_ms=begun_ms + 3_600_000)
    assert told("SELECT count(*) FROM trades") == [(0,)], "at another time there are some"
    with pytest.raises(RecorderError, match="nothing for quotes; it has trades"):
        told("FROM quotes")
    run = CliRunner().invoke
    start, end = f"{begun_ms + 240_000}", "2026-11-22"
    assert run(command, [str(tmp_path), "FROM events", "--from", start, "--to", end, "--csv"]).exit_code == 0
    assert run(command, [str(tmp_path), "FROM events", "--to", end]).exit_code == 1
    assert run(command, [str(tmp_path), "--from", start]).exit_code == EXIT_USAGE
    backwards = run(command, [str(tmp_path), "FROM events", "--from", end, "--to", start])
    assert (backwards.exit_code, "--to must be later" in backwards.stderr) == (EXIT_USAGE, True)


@pytest.mark.parametrize("harm", ["cut", "gone"])
def test_damage_is_never_less(tmp_path: Path, harm: str) -> None:
    """A file that is cut off or gone is no shorter answer, unless one is asked for; it has its status then, too."""
    archive = begin(tmp_path, compression="zstd", max_bytes=600)
    for n in range(9):
        record(archive, [trade("A", MS + n, "1", "1")])
    archive.close()
    victim = sorted(tmp_path.glob("*.zst"))[1]
    if harm == "cut":
        victim.write_bytes(victim.read_bytes()[:-5])
    else:
        victim.unlink()
    with pytest.raises(RecorderError, match=victim.name.removesuffix(".zst")) as caught:
        ask(tmp_path, "SELECT sum(size) FROM trades")
    assert caught.value.exit_status == EXIT_DAMAGE
    [(rest,)] = ask(tmp_path, "SELECT sum(size) FROM trades", is_partial=True)
    assert 0 < rest < 9
    result = CliRunner().invoke(command, [str(tmp_path), "SELECT sum(size) FROM trades", "--partial"])
    assert result.exit_code == EXIT_DAMAGE
    assert "problem: " in result.stderr


def test_samples(tmp_path: Path) -> None:
    """Of each frame that the vendor documents, the payload is what came."""
    payloads = sample_payloads()
    archive = begin(tmp_path, split_per_type=False)
    record(archive, payloads)
    archive.close()
    assert [row[0].encode() for row in ask(tmp_path, "SELECT payload FROM events ORDER BY seq")] == payloads
    for word in open_sealed(tmp_path).views():
        [(count,)] = ask(tmp_path, f"SELECT count(payload) FROM {word}")
        assert count == sum(
            1 for one in payloads if word in ("events", CHANNELS[orjson.loads(one)["ev"]].word)
        )


NUMBERS = st.one_of(
    st.integers(-(10**19), 10**19).map(str),
    st.decimals(allow_nan=False, allow_infinity=False, places=3, min_value=-(10**6), max_value=10**6).map(
        str
    ),
    st.sampled_from(["152.90", "4.522e-05", "1234567890123456789", "0.0", "-0", "1E5", "1.0"]),
)
TEXTS = st.sampled_from(['"\\u0054"', '"é"', '"\\""', '"x,\\"hostname\\":\\"y"', '"|\\\\"', '""'])


@settings(max_examples=4, deadline=None)
@given(st.lists(st.tuples(NUMBERS, NUMBERS, NUMBERS, TEXTS), min_size=20, max_size=60))
def test_fuzzed_numbers(
    tmp_path_factory: pytest.TempPathFactory, values: list[tuple[str, str, str, str]]
) -> None:
    """Payloads byte for byte, typed columns as the standard library reads them, and sums as it adds them up."""
    folder = tmp_path_factory.mktemp("fuzzed")
    archive = begin(folder)
    payloads = [
        (
            f'{{"ev":"T","sym":"A","p":{price},"q":{number}, "ds" : {text},"c":[{number}],"z":"{number}",'
            f'"x":{{"hostname":"a","payload":{named}}},"t":{MS},"i":{named}}}'
        ).encode()
        for price, number, text, named in values
    ]
    record(archive, payloads)
    archive.close()
    expected = [cells_of("T", payload) for payload in payloads]
    names = ", ".join(expected[0])
    rows = ask(folder, f"SELECT payload, {names} FROM trades ORDER BY seq")
    assert [row[0].encode() for row in rows] == payloads
    assert [row[1:] for row in rows] == [tuple(cells.values()) for cells in expected]
    [sums] = ask(
        folder, "SELECT sum(price), sum(tape), count(exchange), max(id), sum(strlen(payload)) FROM trades"
    )
    tapes = [cells["tape"] for cells in expected if cells["tape"] is not None]
    prices = [cells["price"] for cells in expected if cells["price"] is not None]
    assert sums[0] == pytest.approx(math.fsum(prices), abs=1e-12 * math.fsum(map(abs, prices)))
    assert sums[1:] == (
        *(sum(tapes) if tapes else None, 0, max(cells["id"] for cells in expected), sum(map(len, payloads))),
    )
