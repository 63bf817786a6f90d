"""`recorder audit`: lines of the access log, added up by day and token; what is missing is said."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from access_lines import line_of
from click.testing import CliRunner, Result

from recorder.archive.codec import encoder
from recorder.cli.audit import command
from recorder.errors import NoArchive

DAY_SECS = 86_400


def audited(*arguments: str | Path) -> Result:
    """Run the command."""
    return CliRunner().invoke(command, list(map(str, arguments)))


def rows(*arguments: str | Path) -> list[dict[str, object]]:
    """Return the rows of its JSON."""
    found: list[dict[str, object]] = json.loads(audited(*arguments, "--json").stdout)["totals"]
    return found


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """A log of two days and two tokens; `a` has two connections."""
    path = tmp_path / "access.jsonl"
    path.write_bytes(
        line_of(0, 0, connection="a1")
        + line_of(10, 1, connection="a1", subscribed=["Q.*"], kind="left")
        + line_of(5, 0, connection="a2", port="bars", address="192.0.2.9", kind="left")
        + line_of(0, 0, connection="b1", token="other", fingerprint="ba9876543210", events=None)
        + line_of(DAY_SECS, 1, connection="b1", token="other", fingerprint="ba9876543210", kind="left")
    )
    return path


def test_a_row_for_each_day_and_token(log: Path) -> None:
    """Events, bytes and time add up; topics, ports and addresses are named once."""
    first, second, third = rows(log)
    assert first == {
        "day": "2026-01-30",
        "token": "acme",
        "fingerprint": "0123456789ab",
        "connections": 2,
        "first": "2026-01-30T12:00:00.000Z",
        "last": "2026-01-30T12:00:11.000Z",
        "connected_secs": 3.0,
        "events": 30,
        "bytes": 3000,
        "ports": ["bars", "filtered"],
        "addresses": ["192.0.2.7", "192.0.2.9"],
        "clusters": ["stocks"],
        "topics": ["Q.*", "T.*"],
    }
    assert (second["token"], second["events"], third["day"]) == ("other", None, "2026-01-31")


def test_a_token_and_a_day_choose(log: Path) -> None:
    """A token goes by its name or by its fingerprint."""
    assert [row["token"] for row in rows(log, "--day", "2026-01-30")] == ["acme", "other"]
    assert [row["day"] for row in rows(log, "--token", "ba9876543210")] == ["2026-01-30", "2026-01-31"]
    assert rows(log, "--token", "acme", "--day", "2026-01-31") == []
    assert "is no day such as" in audited(log, "--day", "yesterday").stderr


def test_files_count_once_whatever_their_form(log: Path) -> None:
    """Plain and compressed files of the same lines, in any order, are the same."""
    for codec, suffix in (("gzip", ".gz"), ("zstd", ".zst")):
        content, packer = log.read_bytes(), encoder(codec, len(log.read_bytes()))
        log.with_name(f"access.jsonl{suffix}").write_bytes(packer.compress(content) + packer.flush())
    assert rows(f"{log}.zst", log, f"{log}.gz") == rows(log)


def test_a_missing_line_is_an_error_that_is_named(tmp_path: Path) -> None:
    """Figures that leave something out must not look whole."""
    path = tmp_path / "access.jsonl"
    path.write_bytes(line_of(0, 0) + line_of(2, 2, kind="left"))
    found = audited(path)
    assert found.exit_code == 1
    assert "1 lines are missing" in found.stderr


def test_a_connection_without_an_end_is_a_note(tmp_path: Path) -> None:
    """It may last; after a kill its last interval is in no line. What came before these files is no loss."""
    path = tmp_path / "access.jsonl"
    path.write_bytes(line_of(0, 7) + line_of(1, 8))
    found = audited(path)
    assert found.exit_code == 0
    assert "the end of 1 connections is not in these files" in found.stderr


def test_what_cannot_be_read_is_named_and_the_rest_counts(log: Path) -> None:
    """A torn line, a later version and a damaged file are problems with their place."""
    log.write_bytes(log.read_bytes() + b'{"schema_version":1,"kin\n' + b'{"schema_version":2}\n')
    damaged = log.with_name("access.1.jsonl.gz")
    damaged.write_bytes(b"no gzip")
    found = audited(log, damaged)
    assert found.exit_code == 1
    assert f"{log}:6: is no line of an access log" in found.stderr
    assert f"{log}:7: has schema version 2; this recorder reads version 1" in found.stderr
    assert f"{damaged}" in found.stderr
    assert len(rows(log, damaged)) == 3
    nothing = audited(log.parent).exception
    assert "is no file; name access logs" in str(nothing)
    assert isinstance(nothing, NoArchive)


def test_a_table_for_people_and_a_csv_for_spreadsheets(log: Path) -> None:
    """The same figures; a name that a spreadsheet takes for a formula is made harmless, and no terminal is steered."""
    log.write_bytes(log.read_bytes() + line_of(0, 0, connection="c", token="=1+1", subscribed=["T.\x1b[31m"]))
    table = audited(log).stdout
    assert "acme (0123456789ab)" in table
    assert "not counted" in table
    assert "\x1b" not in table
    cells = list(csv.DictReader(audited(log, "--csv").stdout.splitlines()))
    assert [cell["token"] for cell in cells] == ["'=1+1", "acme", "other", "other"]
    assert cells[1]["topics"] == "Q.* T.*"
    assert cells[2]["events"] == ""
