"""docs/recipes.md tells the truth: each query runs as printed, on an archive with gaps and on one without."""

from __future__ import annotations

import json
import re
import signal
import subprocess
from collections import defaultdict
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import dataclass
from datetime import UTC, datetime
from fractions import Fraction
from io import StringIO
from pathlib import Path
from typing import Any, Final
from zoneinfo import ZoneInfo

import duckdb
import pytest
import zstandard
from checkouts import PROJECT
from commands import clean_environment, live_settings, running, simulating
from tools import tool
from waiting import eventually_sync

TEXT: Final = (PROJECT / "docs" / "recipes.md").read_text()
SECTIONS: Final = dict(re.findall(r"^## ([^\n]+)\n(.*?)(?=^## |\Z)", TEXT, re.DOTALL | re.MULTILINE))
NEW_YORK: Final = ZoneInfo("America/New_York")
MOMENT_MS: Final = int(datetime(2026, 11, 20, 15, 30, tzinfo=NEW_YORK).timestamp() * 1000)
"""The time that the page asks the quotes for."""
TICKS: Final = 400
NOT_COUNTED: Final = {15, 16, 38}


def blocks(section: str, language: str) -> list[str]:
    """Return the fenced blocks of a language in a section."""
    return re.findall(rf"^```{language}\n(.*?)^```$", SECTIONS[section], re.DOTALL | re.MULTILINE)


WRITTEN = 'polygon_sink_written_bytes_total{sink="ndjson"}'
LINE_BYTES = 300
"""More than a record of the ticks takes, so that some of those that are written are trades."""


def tick(number: int) -> dict[str, Any]:
    """Return an event; all of them reach over two days of New York, and over midnight in UTC."""
    begin_ms = int(datetime(2026, 11, 19, 18, 30, tzinfo=NEW_YORK).timestamp() * 1000)
    at_ms = begin_ms + number * 193_217  # 21 hours in all
    symbol = ("AAPL", "MSFT", "BRK.B")[number % 3]
    cents = 10_000 + number * 37 % 911
    if number % 4 == 1:
        quote = {"ev": "Q", "sym": symbol, "bp": cents / 100, "ap": cents / 100 + 0.01, "t": at_ms}
        if number % 20 == 1:
            del quote["bp"]  # one-sided
        return quote
    trade = {
        "ev": "T",
        "sym": symbol,
        "p": cents / 100,
        "s": number % 7 * 10,
        "t": at_ms - number % 5 * 9_000,
    }
    if number % 6 == 0:
        trade["ds"] = f"{number % 7}.5"
    if number % 9 == 0:
        trade["c"] = [12, 15] if number % 2 else [14, 41]
    return trade


@dataclass
class Sample:
    """An archive, and what a reader that knows nothing of the recipes finds in it."""

    folder: Path
    records: list[dict[str, Any]]
    manifest: list[dict[str, Any]]

    def of_type(self, channel: str) -> list[dict[str, Any]]:
        """Return the records of a channel in the order of their time."""
        found = [record for record in self.records if record["type"] == channel]
        return sorted(found, key=lambda record: (record["ts"], record["ingest_ts"], record["seq"]))


def read(folder: Path) -> Sample:
    """Read every line of an archive."""
    records = []
    for path in folder.glob("data/polygon.*"):
        if path.suffix not in (".ndjson", ".zst") or "manifest" in path.name:
            continue
        text = path.read_bytes()
        if path.suffix == ".zst":
            text = zstandard.ZstdDecompressor().decompressobj().decompress(text)
        records += [json.loads(line) for line in text.splitlines()]
    lines = (folder / "data" / "polygon.manifest.ndjson").read_text().splitlines()
    return Sample(folder, records, [json.loads(line) for line in lines])


def record(folder: Path, runs: int, sessions: int, *options: str) -> Sample:
    """Record the ticks in as many runs and sessions in each; each run rotates its files once while ticks come."""
    ticks = folder / "ticks.ndjson"
    lines = [json.dumps({"at_us": number * 2000, "m": tick(number)}) for number in range(TICKS)]
    ticks.write_text("".join(f"{line}\n" for line in lines))
    for run in range(1, runs + 1):
        with simulating("--cluster", "stocks", "--ticks", str(ticks), *options, cwd=folder) as port:
            settings = live_settings(
                port,
                folder / "data",
                NDJSON_SPLIT_PER_TYPE="true",
                NDJSON_COMPRESSION="zstd",
                ROLES="archive,ops",
            )
            with running("run", cwd=folder, **settings) as recorder:
                # A file to which nothing has been written would not be rotated.
                eventually_sync(lambda: recorder.metric(WRITTEN) >= 20 * LINE_BYTES, "trades on disk")
                recorder.send(signal.SIGUSR1)
                files = run  # so many have been compressed, one in each run
                eventually_sync(
                    lambda: len(list(folder.glob("data/*trades*.zst"))) >= files,
                    "a compressed file",
                    60,  # compression has the lowest priority: on a busy machine it takes its time
                )
                eventually_sync(lambda: recorder.received() >= TICKS, "all ticks")
                eventually_sync(lambda: recorder.metric("polygon_sessions_total") >= sessions, "sessions")
                assert recorder.stop() == 0, recorder.lines[-5:]
    return read(folder)


@pytest.fixture(scope="module", params=["whole", "with gaps"])
def sample(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Sample:
    """An archive of one run without a gap; or of two runs with connections that ended."""
    folder = tmp_path_factory.mktemp("archive")
    if request.param == "whole":
        made = record(folder, 1, 1)
        assert len(made.records) == TICKS
        assert not [line for line in made.manifest if line["kind"] == "gap"]
        return made
    fault = ("--fault", "close:code=1006,after=80,times=1")
    made = record(folder, 2, 2, "--loop", *fault)  # played again, what the fault costs is not missed
    reasons = {line["reason"] for line in made.manifest if line["kind"] == "gap"}
    assert "not_running" in reasons
    assert len(reasons) > 1
    return made


Rows = list[tuple[Any, ...]]
Query = Callable[[Sample, str], Rows]


def by_duckdb(sample: Sample, section: str, place: int = 0) -> Rows:
    """Run a section's SQL."""
    with duckdb.connect() as connection:
        [views] = blocks("Begin here", "sql")
        connection.execute(views)
        return connection.execute(blocks(section, "sql")[place]).fetchall()


def by_polars(sample: Sample, section: str, place: int = 0) -> Rows:
    """Run a section's Python; its last value is the answer, which it also prints."""
    namespace: dict[str, Any] = {}
    [frames] = blocks("Begin here", "python")
    block = blocks(section, "python")[place]
    with redirect_stdout(StringIO()) as printed:
        exec(frames + block, namespace)  # noqa: S102 the page's own code
    [name] = re.findall(r"^print\((\w+)\)$", block, re.MULTILINE)
    assert "shape:" in printed.getvalue()
    rows: Rows = namespace[name].rows()
    return rows


def by_jq(sample: Sample, section: str) -> Rows:
    """Run a section's shell commands; each line's words are a row."""
    tool("jq")
    tool("zstd")
    [functions] = blocks("Begin here", "sh")
    [command] = blocks(section, "sh")
    result = subprocess.run(
        [tool("bash"), "-euo", "pipefail", "-c", functions + command],
        cwd=sample.folder,
        env=clean_environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return [tuple(line.split("\t")) for line in result.stdout.splitlines()]


@pytest.fixture(autouse=True)
def in_its_folder(sample: Sample, monkeypatch: pytest.MonkeyPatch) -> None:
    """The queries name `data/`."""
    monkeypatch.chdir(sample.folder)


def size_of(trade: dict[str, Any]) -> Fraction:
    return Fraction(trade["payload"].get("ds", trade["payload"]["s"]))


def day_of(record: dict[str, Any]) -> str:
    return str(datetime.fromtimestamp(record["ts"] / 1000, NEW_YORK).date())


def plain(rows: Rows) -> Rows:
    """Return rows in which numbers are floats and everything else is text."""
    return [tuple(as_number(value) for value in row) for row in rows]


def as_number(value: Any) -> Any:
    if value in (None, ""):
        return None
    if isinstance(value, datetime):
        return value.replace(microsecond=0).isoformat()
    try:
        return pytest.approx(float(value), abs=1e-6)
    except (TypeError, ValueError):
        return re.sub(r"Z$", "", str(value))


def test_every_block_is_run() -> None:
    """The page has the sections that the tests below know."""
    assert list(SECTIONS) == [
        "Begin here",
        "Daily VWAP",
        "One-minute bars",
        "The last quote as of a time",
        "Gaps",
        "Completeness",
        "Parquet",
    ]


@pytest.mark.parametrize("query", [by_duckdb, by_polars, by_jq])
def test_daily_vwap(sample: Sample, query: Query) -> None:
    """By the days of New York; what the vendor does not count is left out."""
    sums: dict[tuple[str, str], list[Fraction]] = defaultdict(lambda: [Fraction(0), Fraction(0)])
    for trade in sample.of_type("T"):
        size = size_of(trade)
        if size and not NOT_COUNTED & set(trade["payload"].get("c", [])):
            money = sums[day_of(trade), trade["symbol"]]
            money[0] += Fraction(str(trade["payload"]["p"])) * size
            money[1] += size
    expected = [(*key, money / size, size) for key, (money, size) in sorted(sums.items())]
    assert len({day for day, *_ in expected}) == 2
    assert plain(query(sample, "Daily VWAP")) == plain(expected)


@pytest.mark.parametrize("query", [by_duckdb, by_polars, by_jq])
def test_one_minute_bars(sample: Sample, query: Query) -> None:
    """Trades in the order of their time, which is not that of their arrival."""
    minutes: dict[tuple[str, datetime], list[dict[str, Any]]] = defaultdict(list)
    for trade in sample.of_type("T"):
        minute = datetime.fromtimestamp(trade["ts"] // 60_000 * 60, UTC).replace(tzinfo=None)
        minutes[trade["symbol"], minute].append(trade)
    expected = []
    for key, trades in sorted(minutes.items()):
        prices = [trade["payload"]["p"] for trade in trades]
        volume = sum(map(size_of, trades))
        expected.append((*key, prices[0], max(prices), min(prices), prices[-1], volume, len(trades)))
    assert plain(query(sample, "One-minute bars")) == plain(expected)


@pytest.mark.parametrize("query", [by_duckdb, by_polars, by_jq])
def test_the_last_quote_as_of_a_time(sample: Sample, query: Query) -> None:
    """One row for each symbol; a side that the quote does not have is empty."""
    last = {quote["symbol"]: quote for quote in sample.of_type("Q") if quote["ts"] <= MOMENT_MS}
    assert max(quote["ts"] for quote in sample.of_type("Q")) > MOMENT_MS
    expected = [
        (symbol, quote["payload"].get("bp"), quote["payload"].get("ap"), quote["ts"])
        for symbol, quote in sorted(last.items())
    ]
    assert len(expected) == 3
    assert plain(query(sample, "The last quote as of a time")) == plain(expected)


@pytest.mark.parametrize("query", [by_duckdb, by_polars])
def test_the_quote_in_force_at_each_trade(sample: Sample, query: Callable[[Sample, str, int], Rows]) -> None:
    """A row for each trade; none before the first quote."""
    expected = []
    quotes = sample.of_type("Q")
    for trade in sorted(sample.of_type("T"), key=lambda one: one["symbol"]):
        before = [
            quote["payload"]
            for quote in quotes
            if quote["symbol"] == trade["symbol"] and quote["ts"] <= trade["ts"]
        ]
        last = before[-1] if before else {}
        row = (
            trade["symbol"],
            trade["ts"],
            trade["payload"]["p"],
            size_of(trade),
            last.get("bp"),
            last.get("ap"),
        )
        expected.append(row)
    assert plain(query(sample, "The last quote as of a time", 1)) == plain(expected)


@pytest.mark.parametrize("query", [by_duckdb, by_polars, by_jq])
def test_gaps(sample: Sample, query: Query) -> None:
    """Each gap of the manifest; none in an archive without."""
    expected = [
        (
            line["cluster"],
            datetime.fromtimestamp(line["from"] / 1000, UTC).replace(tzinfo=None),
            datetime.fromtimestamp(line["to"] / 1000, UTC).replace(tzinfo=None),
            (line["to"] - line["from"]) / 1000,
            line["reason"],
        )
        for line in sample.manifest
        if line["kind"] == "gap"
    ]
    assert plain(query(sample, "Gaps")) == plain(expected)


@pytest.mark.parametrize("query", [by_duckdb, by_polars, by_jq])
def test_completeness(sample: Sample, query: Query) -> None:
    """The share of the time between the first connection and the last, less the gaps."""
    gaps = [line["to"] - line["from"] for line in sample.manifest if line["kind"] == "gap"]
    first = min(line["at"] for line in sample.manifest if line["kind"] == "session_opened")
    last = max(line["at"] for line in sample.manifest if line["kind"] == "session_closed")
    expected = [("stocks", len(gaps), sum(gaps) / 1000, 1 - sum(gaps) / (last - first), 0)]
    assert plain(query(sample, "Completeness")) == plain(expected)


@pytest.mark.parametrize("language", ["sql", "python"])
def test_parquet(sample: Sample, language: str) -> None:
    """Every trade is in the file."""
    [begin], [block] = blocks("Begin here", language), blocks("Parquet", language)
    if language == "sql":
        with duckdb.connect() as connection:
            connection.execute(begin + block)
    else:
        exec(begin + block, {})  # noqa: S102 the page's own code
    found = duckdb.sql("SELECT count(*), sum(seq) FROM 'trades.parquet'").fetchall()
    trades = sample.of_type("T")
    assert found == [(len(trades), sum(trade["seq"] for trade in trades))]
