"""The shape of the code in figures: `python tests/shape.py [--since REVISION]`, or `make shape SINCE=REVISION`.

Lines of each folder, now and then; what is larger than a reader likes, with its reason; files that each recipe touches;
how long `make test` took here, the last time.
"""

from __future__ import annotations

import argparse
import ast
import io
import subprocess
import tarfile
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

PROJECT: Final = Path(__file__).resolve().parents[1]
PACKAGE: Final = "recorder"
FOLDERS: Final = (PACKAGE, "tests", "benchmarks", "fuzz", "examples", "grafana")
MODULE_LINES_MAX: Final = 400
CONSTRUCTOR_PARAMETERS_MAX: Final = 8
FUNCTION_LINES_MAX: Final = 60
TIMING: Final = PROJECT / "build" / "test-seconds"
"""Where `make test` leaves how long it took."""

REASONS: Final[dict[str, str]] = {
    "recorder/archive/active_file.py": "one file from first line to name; a step that fails is taken up again",
    "recorder/bars/windows.py": "all that is done for each trade and each bar, so that one file can be compiled",
    "recorder/bars/windows.py:Windows.add": "one loop over the trades of a batch: a call for each would cost more",
    "recorder/ops/metrics_table.py": "one table: every metric that no stats class declares",
    "recorder/servers/past/hotlog.py": "one log: what is kept, offered, found and told is all about its entries",
    "recorder/workers/process.py": "one process: its link, what stands in for parts of the recording process, its life",
    "recorder/workers/pool.py": "one pool: start, feed, replace and end of its workers share their state",
    "recorder/workers/pool.py:WorkerPool.__init__": "the interface of Serving, and what further processes need besides",
}
"""Why something may be larger: `path`, or `path:qualified name`, to the reason.

A test fails for what is larger and has no reason here, and for a reason of what is no longer larger.
"""


@dataclass(frozen=True)
class Large:
    """Something that is larger than its limit."""

    what: str
    """`module`, `constructor` or `function`."""
    name: str
    """`path`, or `path:qualified name`: the key of its reason."""
    size: int


def lines_by_folder(files: Iterable[tuple[str, str]]) -> Counter[str]:
    """Count the lines of Python in the package's folders and in each other folder; `files` are paths and texts."""
    counts: Counter[str] = Counter()
    for path, text in files:
        parts = Path(path).parts
        if parts[0] not in FOLDERS:
            continue
        folder = parts[0] if parts[0] != PACKAGE or len(parts) == 2 else "/".join(parts[:2])
        counts[folder] += text.count("\n")
    return counts


def present_files() -> Iterator[tuple[str, str]]:
    """Yield path and text of each Python file of the project as it is now."""
    for folder in FOLDERS:
        for path in sorted((PROJECT / folder).rglob("*.py")):
            yield str(path.relative_to(PROJECT)), path.read_text(encoding="utf-8")


def files_at(revision: str) -> Iterator[tuple[str, str]]:
    """Yield path and text of each Python file of a git revision."""
    archive = subprocess.run(["git", "archive", revision], cwd=PROJECT, stdout=subprocess.PIPE, check=True)
    with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as tar:
        for member in tar:
            if member.isfile() and member.name.endswith(".py"):
                file = tar.extractfile(member)
                assert file is not None
                yield member.name, file.read().decode()


def large_of(path: str, text: str) -> Iterator[Large]:
    """Yield what is over a limit in one module."""
    if text.count("\n") > MODULE_LINES_MAX:
        yield Large("module", path, text.count("\n"))
    yield from _large_in(path, ast.parse(text), ())


def _large_in(path: str, node: ast.AST, outer: tuple[str, ...]) -> Iterator[Large]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.ClassDef):
            yield from _large_in(path, child, (*outer, child.name))
        elif isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            name = f"{path}:{'.'.join((*outer, child.name))}"
            if child.name == "__init__" and _parameters(child) > CONSTRUCTOR_PARAMETERS_MAX:
                yield Large("constructor", name, _parameters(child))
            if _body_lines(child) > FUNCTION_LINES_MAX:
                yield Large("function", name, _body_lines(child))
            yield from _large_in(path, child, (*outer, child.name))
        else:
            yield from _large_in(path, child, outer)


def _parameters(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Count the parameters besides `self`."""
    arguments = function.args
    return len(arguments.posonlyargs) + len(arguments.args) + len(arguments.kwonlyargs) - 1


def _body_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Count the lines from the first statement behind the docstring to the last."""
    assert function.end_lineno is not None
    statements = function.body[1:] if ast.get_docstring(function) else function.body
    return function.end_lineno - statements[0].lineno + 1 if statements else 0


def all_large() -> list[Large]:
    """Return what is over a limit in the package."""
    return [
        one
        for path, text in present_files()
        if path.startswith(f"{PACKAGE}/")
        for one in large_of(path, text)
    ]


def _table(head: tuple[str, ...], rows: Iterable[tuple[object, ...]]) -> list[str]:
    return [f"| {' | '.join(map(str, row))} |" for row in (head, ("---",) * len(head), *rows)] + [""]


def report(since: str | None) -> str:
    """Return the figures as Markdown."""
    from recipes import recipes  # the figures alone need nothing that is installed

    now = lines_by_folder(present_files())
    then = lines_by_folder(files_at(since)) if since else Counter[str]()
    lines = ["## Lines of Python", ""]
    names = sorted({*now, *then})
    total = ("all", sum(then.values()), sum(now.values()))
    package = (
        f"{PACKAGE}, whole",
        *(sum(count for name, count in one.items() if name.startswith(PACKAGE)) for one in (then, now)),
    )
    rows = [*((name, then[name], now[name]) for name in names), package, total]
    if since:
        lines += _table(
            ("folder", since, "now", "change"),
            ((name, f"{old:,}", f"{new:,}", f"{new - old:+,}") for name, old, new in rows),
        )
    else:
        lines += _table(("folder", "lines"), ((name, f"{new:,}") for name, _, new in rows))
    limits = {
        "module": f"Modules over {MODULE_LINES_MAX} lines",
        "constructor": f"Constructors over {CONSTRUCTOR_PARAMETERS_MAX} parameters",
        "function": f"Functions over {FUNCTION_LINES_MAX} lines",
    }
    large = all_large()
    for what, title in limits.items():
        found = sorted((one for one in large if one.what == what), key=lambda one: -one.size)
        lines += [f"## {title}: {len(found)}", ""]
        if found:
            lines += _table(
                ("where", "size", "reason"),
                ((one.name, one.size, REASONS.get(one.name, "—")) for one in found),
            )
    lines += ["## Files that a recipe touches", ""]
    lines += _table(
        ("to add", "files", "which"),
        ((recipe.adds, len(recipe.files), ", ".join(recipe.files)) for recipe in recipes()),
    )
    lines += ["## Time of `make test`", ""]
    lines += [f"{TIMING.read_text().strip()} s" if TIMING.exists() else "not run here", ""]
    return "\n".join(lines)


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description="The shape of the code in figures.")
    parser.add_argument("--since", metavar="REVISION", help="a git revision to compare the lines with")
    print(report(parser.parse_args().since))  # noqa: T201  printing is what it does


if __name__ == "__main__":
    main()
