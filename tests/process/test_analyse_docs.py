"""docs/analyse.md and examples/analyse.ipynb tell the truth: they run as they stand, and their answers agree."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Final

import duckdb
import nbformat
import pytest
from checkouts import PROJECT
from commands import finished
from nbclient import NotebookClient
from recorded_events import begin, record, trade

NOTEBOOK: Final = PROJECT / "examples" / "analyse.ipynb"
BLOCKS: Final = re.findall(
    r"^```(?:sql|python)\n(?:--|#) (\w+)\n(.*?)^```$",
    (PROJECT / "docs" / "analyse.md").read_text(),
    re.DOTALL | re.MULTILINE,
)
MS: Final = 1_795_237_800_000


def test_the_notebook_goes_from_an_archive_to_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its cells run in order, bars of ours equal the exchange's, it finds its gap, and it is stored without outputs."""
    notebook = nbformat.read(NOTEBOOK, 4)
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in notebook.cells)
    for name in ("NOTEBOOK_ARCHIVE", "BAR_CONDITIONS", "ENV_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    NotebookClient(notebook, timeout=100, resources={"metadata": {"path": str(tmp_path)}}).execute()
    printed = "".join(
        output.text
        for cell in notebook.cells
        for output in cell.get("outputs", [])
        if output.output_type == "stream"
    )
    [(equal, bars)] = re.findall(r"([\d,]+) of ([\d,]+) bars that both have are equal", printed)
    assert equal == bars != "0"
    assert re.search(r"gap of \d+\.\d s: not_running", printed)
    assert (tmp_path / "completeness.png").read_bytes().startswith(b"\x89PNG")

    # An archive of one's own is read as it is: the simulated one has no minutes, and says which trades count.
    [archive] = [path for path in tmp_path.glob("tmp*") if list(path.glob("*.manifest.ndjson"))]
    monkeypatch.setenv("NOTEBOOK_ARCHIVE", str(archive))
    monkeypatch.setenv("BAR_CONDITIONS", "all")
    space: dict[str, Any] = {}
    for cell in [cell for cell in notebook.cells if cell.cell_type == "code"][:2]:
        exec(cell.source, space)  # noqa: S102 - what the notebook says
    chosen = [space[name] for name in ("archive_path", "aggregates", "step", "step_ms", "conditions")]
    assert chosen == [str(archive), "A", "1s", 1000, "all"]


def test_all_readers_of_a_tree_agree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """DuckDB, Polars and pandas have the same prices and volumes, in the same order; Spark's code is code."""
    archive = begin(tmp_path / "data", max_bytes=2000)
    for n in range(40):
        record(
            archive,
            [trade("AB"[n % 2], MS + n * 7000, f"{100 + n}.25", str(n), ',"ds":"1.5"' if n % 5 == 0 else "")],
        )
    archive.close()
    done = finished("export", "data", "--to", "lake", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    monkeypatch.chdir(tmp_path)
    found: dict[str, list[tuple[Any, ...]]] = {}
    for name, code in BLOCKS:
        compile(code if name != "DuckDB" else "", name, "exec")
        if name == "DuckDB":
            with duckdb.connect() as connection:
                found[name] = connection.execute(code).fetchall()
        elif name != "Spark":
            space: dict[str, Any] = {}
            exec(code, space)  # noqa: S102 - what the page says
            vwap = space["vwap"]
            found[name] = vwap.rows() if name == "Polars" else list(vwap.itertuples(index=False, name=None))
    assert list(found) == ["DuckDB", "Polars", "pandas"]
    assert [name for name, _ in BLOCKS] == [*found, "Spark"]
    rows = found["DuckDB"]
    assert len(rows) == 10
    assert sum(row[3] for row in rows) == sum(1.5 if n % 5 == 0 else n for n in range(40))
    for other in (found["Polars"], found["pandas"]):
        assert [(row[0], row[1].timestamp()) for row in other] == [
            (row[0], row[1].timestamp()) for row in rows
        ]
        assert [row[2] for row in other] == pytest.approx([row[2] for row in rows], rel=1e-12)
        assert [row[3] for row in other] == [row[3] for row in rows]
