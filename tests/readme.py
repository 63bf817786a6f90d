"""The README as tests follow it: its blocks of commands, and what its queries answer."""

from __future__ import annotations

import re
from contextlib import chdir
from pathlib import Path
from typing import Any, Final

import duckdb
from checkouts import PROJECT

README: Final = (PROJECT / "README.md").read_text()
BLOCKS: Final = re.findall(r"^```(sh|python|ini)\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)
"""Language and text of each."""


def block(words: str) -> str:
    """Return the one block of the README that has these words."""
    [found] = [text for _, text in BLOCKS if words in text]
    return found


def queries() -> tuple[str, str, str]:
    """Return the commands that ask the archive of a demo something: by jq, by DuckDB, by `recorder gaps`."""
    last_trades, volumes, gaps = block("duckdb -c").strip().split("\n\n")
    return last_trades, volumes, gaps


def ask_duckdb(command: str, folder: Path) -> list[Any]:
    """Return the rows of a `duckdb -c` command, from Python's DuckDB: Debian has no package of the program."""
    [sql] = re.findall(r'duckdb -c "(.*)"', command, re.DOTALL)
    with chdir(folder):
        return duckdb.sql(sql).fetchall()
