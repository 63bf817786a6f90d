"""docs/clients.md tells the truth: each of its examples runs as printed, against a real recorder, and shows events."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from browser import chromium
from client.programs import HERE, javascript_packages, make_installation, serving_page
from commands import Running, live_settings, running, simulating
from front import front, relaying
from listening import listening
from tools import tool
from waiting import eventually_sync

KEY = "test-key-0123456789"
TEXT = (HERE.parents[1] / "docs" / "clients.md").read_text()
FENCED = re.compile(r"^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
DEFAULT_ADDRESSES = {
    "filtered": "127.0.0.1:8765",
    "firehose": "127.0.0.1:8767",
    "bars": "127.0.0.1:8768",
}
EVENT_LINE = r"^(T AAPL|Q [A-Z]+) \d{13}$"
EXAMPLES = {
    "Python: the vendor's client": EVENT_LINE,
    "Python: websockets": EVENT_LINE,
    "Python: recorder.follow": EVENT_LINE,
    "JavaScript": EVENT_LINE,
    "Resume: Python": EVENT_LINE,
    "Resume: JavaScript": EVENT_LINE,
    "Last values, intervals, slow clients: Python": (
        r"^the last values of \d+ symbols and channels\n(.*\n)*[TQ] [A-Z]+ \d{13}$"
    ),
    "A terminal": r'"ev":"T".*"sym":"AAPL"',
    "A browser": r"^T AAPL \d{13}$",
    "The firehose": r"^T AAPL$",
    "Bars": r"^MB AAPL 100 \d+\.?\d* ",
}
"""What each section's examples must show."""
TELL_THE_TEST = """
<script>
  new MutationObserver(() => {
    const shown = document.querySelector("#events li");
    fetch("/say", { method: "POST", body: JSON.stringify({ shown: shown.textContent }) });
  }).observe(document.getElementById("events"), { childList: true });
</script>
"""


def examples(section: str) -> list[tuple[str, str]]:
    """Return language and text of each example of a section."""
    [body] = re.findall(rf"^## {re.escape(section)}\n(.*?)(?=^## |\Z)", TEXT, re.DOTALL | re.MULTILINE)
    return FENCED.findall(body)


@pytest.fixture
def simulator(tmp_path: Path) -> Iterator[int]:
    """The port of an exchange for stocks."""
    with simulating(
        "--cluster", "stocks", "--symbols", "12", "--rate", "600", "--no-bursts", cwd=tmp_path
    ) as port:
        yield port


@pytest.fixture
def recorder(simulator: int, tmp_path: Path) -> Iterator[Running]:
    """A recorder to follow."""
    with running("run", cwd=tmp_path, **live_settings(simulator, tmp_path)) as recorder:
        yield recorder


def adapted(example: str, recorder: Running) -> str:
    """Return an example with the addresses and the token of this recorder, and nothing else changed."""
    for server, address in DEFAULT_ADDRESSES.items():
        example = example.replace(address, recorder.address_of(server))
    return example.replace("your-key", KEY)


@contextmanager
def output_of(command: list[str], cwd: Path, path: str = "") -> Iterator[Callable[[], str]]:
    """Run a command that does not end by itself; return what it has written so far."""
    environment = {**os.environ, "PATH": f"{path}{os.pathsep}{os.environ['PATH']}"}
    with subprocess.Popen(
        command,
        cwd=cwd,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        lines: list[str] = []
        reader = threading.Thread(target=lines.extend, args=(process.stdout,), daemon=True)
        reader.start()
        try:
            yield lambda: "".join(list(lines))
        finally:
            process.stdin.close()
            process.terminate()
            process.wait(15)
            reader.join(15)


def assert_shows(command: list[str], section: str, cwd: Path, path: str = "") -> None:
    """The command writes what the section's examples must show."""
    with output_of(command, cwd, path) as output:

        def shown() -> bool:
            return re.search(EXAMPLES[section], output(), re.MULTILINE) is not None

        try:
            eventually_sync(shown, f"{EXAMPLES[section]} of {section}")
        except AssertionError as error:
            raise AssertionError(f"{error}; it wrote: {output()[-2000:]}") from None


def test_every_example_is_run() -> None:
    """Each section with examples has a test here, in the languages that the tests run."""
    sections = [section for section in re.findall(r"^## (.+)$", TEXT, re.MULTILINE) if examples(section)]
    assert sections == list(EXAMPLES)
    assert sum(len(examples(section)) for section in sections) == len(FENCED.findall(TEXT))
    assert {language for language, _ in FENCED.findall(TEXT)} == {"python", "js", "html", "sh"}


@pytest.mark.parametrize(
    "section",
    [
        "Python: the vendor's client",
        "Python: websockets",
        "Last values, intervals, slow clients: Python",
        "The firehose",
        "Bars",
    ],
)
def test_python(section: str, recorder: Running, tmp_path: Path) -> None:
    """Each Python example shows the events that it asks for."""
    [(language, example)] = examples(section)
    assert language == "python"
    script = tmp_path / "example.py"
    script.write_text(adapted(example, recorder))
    assert_shows([sys.executable, "-u", str(script)], section, tmp_path)


@pytest.mark.parametrize(
    ("section", "package"),
    [
        ("JavaScript", "@massive.com/client-js"),
        ("JavaScript", "@polygon.io/client-js"),
    ],
)
def test_javascript(
    section: str, package: str, recorder: Running, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """The JavaScript example runs under Node, with either name of the vendor's package."""
    packages = javascript_packages(make_installation(request.config))
    (tmp_path / "node_modules").symlink_to(packages)
    [(language, example)] = examples(section)
    assert language == "js"
    assert "@massive.com/client-js" in example
    script = tmp_path / "example.mjs"
    script.write_text(adapted(example, recorder).replace("@massive.com/client-js", package))
    assert_shows([tool("node"), str(script)], section, tmp_path)


@pytest.mark.parametrize("section", ["Python: recorder.follow", "Resume: Python", "Resume: JavaScript"])
def test_who_resumes_misses_nothing(
    section: str, recorder: Running, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """Cut again and again, each example shows what a client shows that never was: each event once, in order."""
    [(language, example)] = examples(section)
    if language == "js":
        (tmp_path / "node_modules").symlink_to(javascript_packages(make_installation(request.config)))
    command = [sys.executable, "-u"] if language == "python" else [tool("node")]
    script = tmp_path / ("example.py" if language == "python" else "example.mjs")
    cuts = [relaying(int(recorder.port_of("filtered")), bytes_max) for bytes_max in (20_000, 8_000, 30_000)]
    with (
        listening(f"ws://{recorder.address_of('filtered')}/stocks", "T.AAPL,Q.*") as reference,
        front(*cuts, relaying(int(recorder.port_of("filtered")))) as door,
    ):
        cut = example.replace(DEFAULT_ADDRESSES["filtered"], f"127.0.0.1:{door.port}")
        script.write_text(adapted(cut, recorder))
        with output_of([*command, str(script)], tmp_path) as output:
            eventually_sync(lambda: door.accepted > len(cuts), f"three cuts; it wrote: {output()[-2000:]}")
            seen = output().count("\n")
            eventually_sync(lambda: output().count("\n") > seen + 500, "events behind the last cut")
            lines = output().splitlines()[:-1]
        assert not any("missing" in line for line in lines)
        shown = [line for line in lines if re.match(EVENT_LINE, line)]

        def is_part_of_the_whole() -> bool:
            events = [json.loads(event) for event in reference.events]
            whole = [f"{event['ev']} {event['sym']} {event['t']}" for event in events]
            begins = [place for place, line in enumerate(whole) if line == shown[0]]
            return any(whole[begin : begin + len(shown)] == shown for begin in begins)

        eventually_sync(is_part_of_the_whole, "the same of the other client", 10, every_secs=0.2)


@pytest.mark.parametrize("program", ["websocat", "websockets"])
def test_a_terminal(program: str, recorder: Running, tmp_path: Path) -> None:
    """The shell examples run as printed; where websocat is missing (Debian has none), a stand-in takes its place."""
    [example] = [
        text for language, text in examples("A terminal") if language == "sh" and f"{program} ws" in text
    ]
    programs = tmp_path / "bin"
    programs.mkdir()
    arguments = "-u -m websockets" if program == "websockets" else f'"{HERE / "websocat.py"}"'
    if program == "websockets" or shutil.which(program) is None:
        starter = programs / program
        starter.write_text(f'#!/bin/sh\nexec "{sys.executable}" {arguments} "$@"\n')
        starter.chmod(0o755)
    assert_shows(["sh", "-c", adapted(example, recorder)], "A terminal", tmp_path, str(programs))


def test_a_browser(simulator: int, tmp_path: Path) -> None:
    """The page shows trades once ALLOWED_ORIGINS names its origin."""
    tool("chromium")
    [(language, example)] = examples("A browser")
    assert language == "html"
    with serving_page(b"") as server:
        settings = live_settings(simulator, tmp_path, ALLOWED_ORIGINS=server.origin)
        with running("run", cwd=tmp_path, **settings) as recorder:
            server.page = (adapted(example, recorder) + TELL_THE_TEST).encode()
            with chromium(tmp_path / "chromium", server.origin):
                [first, *_] = eventually_sync(lambda: server.told.shown, "an event on the page")
    assert re.match(EXAMPLES["A browser"], first)
