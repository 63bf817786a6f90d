"""The README and the docs tell the truth: their commands run, their tables are complete."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import duckdb
import pytest
from commands import clean_environment, finished
from readme import README, ask_duckdb, queries
from release import VERSION
from tools import tool

from recorder import cli, errors
from recorder.archive.entries import SIDE_CLOSED
from recorder.records import Record
from recorder.settings import load_settings

ROOT = Path(__file__).resolve().parents[2]


def blocks(language: str, text: str = README) -> list[str]:
    """Return the fenced blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which a demo has run."""
    folder = tmp_path_factory.mktemp("demo")
    result = finished("demo", "--seconds", "3", "--free-ports", cwd=folder)
    assert result.returncode == 0, result.stderr
    assert re.search(r"[\d,]+ events/s", result.stdout)
    assert "http://127.0.0.1:" in result.stdout
    assert result.stderr == ""
    return folder


def test_the_demo_records_what_verify_accepts(demo: Path) -> None:
    """No key, no network, one command: real-looking data in files per type, and nothing wrong with it."""
    result = finished("verify", "data", "--json", cwd=demo)
    assert result.returncode == 0
    report = json.loads(result.stdout)
    assert report["ok"] is True
    assert {Path(file["path"]).name.split(".")[1] for file in report["files"]} >= {
        "trades",
        "quotes",
        "second_aggs",
    }
    assert sum(file["records"] for file in report["files"]) > 5000


def test_the_one_liners_work_on_the_demo(demo: Path) -> None:
    """jq and DuckDB, as printed, give an answer."""
    last_trades, volumes, gaps = queries()
    rows = ask_duckdb(volumes, demo)
    assert len(rows) == 5
    assert all(trades > 0 and volume > 0 for _, trades, volume in rows)
    tool("jq")
    for command in (last_trades, gaps):
        result = subprocess.run(
            ["bash", "-euc", command.replace(".venv/bin/recorder", f"{sys.executable} -m recorder")],
            cwd=demo,
            capture_output=True,
            text=True,
            check=True,
        )
        assert command is gaps or len(json.loads(result.stdout)) == 5


def test_the_query_of_the_faq_works_on_the_demo(demo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """DuckDB takes the types that the query names, also of files that have just been begun."""
    [query] = blocks("sql", (ROOT / "docs" / "faq.md").read_text())
    monkeypatch.chdir(demo / "data")
    rows = duckdb.sql(query).fetchall()
    assert len(rows) > 5
    assert sum(volume for _, volume in rows) > 0


def test_the_record_in_the_readme_is_one() -> None:
    """The example line is a record of the present schema, as the present version writes it."""
    [line] = [text for text in blocks("json") if "ingest_ts" in text]
    record = Record.model_validate_json(line)
    assert (record.topic, record.app_version) == ("T:AAPL", VERSION)


@pytest.mark.parametrize("document", ["README.md", "docs/quickstart.md"])
def test_the_settings_for_a_first_record_are_accepted(document: str, tmp_path: Path) -> None:
    """The `.env` of the README, and of the quick start, loads without an error or a warning."""
    [env] = blocks("ini", (ROOT / document).read_text())
    (tmp_path / ".env").write_text(env)
    loaded = load_settings(environ={}, cwd=tmp_path)
    assert loaded.warnings == ()
    assert loaded.settings.sinks == ("ndjson",)


def test_every_command_is_in_the_readme() -> None:
    """The table of commands has all of them, and no other."""
    named = re.findall(r"^\| `recorder (\w+)", README, re.MULTILINE)
    assert sorted(named) == sorted(cli.COMMANDS)


def test_every_exit_status_is_in_the_readme() -> None:
    """The table of exit statuses has those of the code."""
    named = {int(number) for number in re.findall(r"^\| (\d+) \|", README, re.MULTILINE)}
    assert named == set(errors.EXIT_STATUSES)


def test_the_fields_of_a_record_are_documented_in_order() -> None:
    """docs/records.md names each field of the schema, in the order in which it is written."""
    text = (ROOT / "docs" / "records.md").read_text().partition("## Files")[0]
    named = [
        name
        for row in re.findall(r"^\| (`.*?`) \|", text, re.MULTILINE)
        for name in re.findall(r"`(\w+)`", row)
    ]
    assert named == list(Record.model_fields)


def test_schema_is_json_schema() -> None:
    """`recorder schema` prints the model's schema."""
    result = finished("schema", cwd=ROOT)
    assert json.loads(result.stdout)["required"] == list(Record.model_fields)


def test_config_shows_where_values_come_from_and_no_secret(tmp_path: Path) -> None:
    """The key is `***`; each value has its origin."""
    (tmp_path / ".env").write_text("NDJSON_ROTATE_SECS=3600\n")
    environment = clean_environment(POLYGON_API_KEY="very-secret-key", RUST_LOG="debug")
    del environment["ENV_FILE"]
    result = subprocess.run(
        [sys.executable, "-m", "recorder", "config"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "POLYGON_API_KEY=***\t# environment" in result.stdout
    assert re.search(r"^NDJSON_ROTATE_SECS=3600\t# .*\.env$", result.stdout, re.MULTILINE)
    assert "very-secret-key" not in result.stdout + result.stderr
    assert "RUST_LOG" in result.stderr


def test_every_kind_of_manifest_line_is_documented() -> None:
    """docs/records.md names each kind that the code writes, and no other."""
    code = "".join(
        path.read_text() for part in ("archive", "sinks") for path in (ROOT / "recorder" / part).glob("*.py")
    )
    calls = re.findall(r'(?:append|note)\(\s*"([a-z_]+)"', code)
    written = {kind for kind in calls if not kind.startswith("archive_")} | {*SIDE_CLOSED.values()}
    text = (ROOT / "docs" / "records.md").read_text().partition("## Manifest")[2].partition("A segment is")[0]
    rows = re.findall(r"^\| (`.*?`) \|", text, re.MULTILINE)
    assert {name for row in rows for name in re.findall(r"`(\w+)`", row)} == written
