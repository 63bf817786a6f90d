"""`recorder top`: live on a terminal, one plain snapshot without, and clear words where nothing can be shown."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import StringIO
from pathlib import Path

import pytest
from commands import RECORDER, Running, clean_environment, finished, live_settings, running, simulating
from ops_parts import make_ready, observe
from rich.console import Console
from waiting import eventually_sync

from recorder.archive.stats import ActiveSegment, ArchiveStats
from recorder.clock import SystemClock
from recorder.errors import EXIT_CONFIG, EXIT_FAILURE, EXIT_OK
from recorder.fleet_screen import draw_lines
from recorder.ops.lines import NO_ANSWER, Line, named
from recorder.ops.snapshot_builder import take_snapshot
from recorder.ops.status_schema import Snapshot
from recorder.part import PartStats
from recorder.screen import Screen
from recorder.servers.stats import ClientStats, ServerStats
from recorder.sources.stats import Gap

ROWS, COLUMNS = 30, 110


@pytest.fixture
def exchange_port(tmp_path: Path) -> Iterator[int]:
    """The port of a simulated exchange."""
    with simulating("--cluster", "stocks", "--symbols", "20", "--rate", "1000", cwd=tmp_path) as port:
        yield port


@pytest.fixture
def recorder(tmp_path: Path, exchange_port: int) -> Iterator[Running]:
    """A recorder that records a simulated market."""
    with running("run", cwd=tmp_path, **live_settings(exchange_port, tmp_path / "a")) as recorder:
        recorder.wait_for("subscribed")
        eventually_sync(lambda: recorder.get("/ready")[0] == 200, "ready")
        eventually_sync(lambda: recorder.metric("polygon_active_file_bytes"), "a file")
        yield recorder


class Terminal:
    """A command on a terminal of its own."""

    def __init__(self, cwd: Path, *arguments: str, size: tuple[int, int] = (ROWS, COLUMNS)) -> None:
        self._master, slave = pty.openpty()
        self.resize(*size, tell=False)
        self.before = termios.tcgetattr(slave)
        self.process = subprocess.Popen(
            [*RECORDER, *arguments],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            cwd=cwd,
            env=clean_environment(TERM="xterm-256color", LANG="C.UTF-8"),
            start_new_session=True,
        )
        self._slave = slave
        self.output = ""

    def resize(self, rows: int, columns: int, *, tell: bool = True) -> None:
        """Resize the terminal."""
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        if tell:
            self.process.send_signal(signal.SIGWINCH)

    def read(self) -> str:
        """Return all that was written so far."""
        while select.select([self._master], [], [], 0)[0]:
            with suppress(OSError):
                self.output += os.read(self._master, 65536).decode("utf-8", "replace")
                continue
            break
        return self.output

    def frames(self) -> list[list[str]]:
        """Return each picture, as lines without their colours."""
        pictures = self.read().split("\x1b[H")[1:]
        plain = [re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", picture) for picture in pictures]
        return [picture.replace("\r", "").split("\n") for picture in plain]

    def type(self, keys: bytes) -> None:
        """Press keys."""
        os.write(self._master, keys)

    def wait(self) -> int:
        """Wait for the end; return the exit status."""

        def status() -> bool:
            self.read()
            return self.process.poll() is not None

        eventually_sync(status, "the end of the command")
        assert termios.tcgetattr(self._slave) == self.before, "the terminal is left as it was found"
        return self.process.returncode

    def close(self) -> None:
        """End it in any case."""
        self.process.kill()
        self.process.wait()
        os.close(self._slave)
        os.close(self._master)


@contextmanager
def on_terminal(cwd: Path, *arguments: str, size: tuple[int, int] = (ROWS, COLUMNS)) -> Iterator[Terminal]:
    """Run a command on a terminal of that many rows and columns."""
    terminal = Terminal(cwd, *arguments, size=size)
    try:
        yield terminal
    finally:
        terminal.close()


def test_live_until_q(tmp_path: Path, recorder: Running) -> None:
    """The picture moves each second, fits the terminal also after a resize, and `q` ends it with 0."""
    with on_terminal(tmp_path, "top", f"http://{recorder.address}") as terminal:
        eventually_sync(lambda: len(terminal.frames()) >= 3, "some pictures", every_secs=0.05)
        first, last = terminal.frames()[0], terminal.frames()[-2]
        assert "RECORDING" in [line.strip() for line in last]
        assert first != last
        assert any("stocks" in line and "streaming for" in line for line in last)
        assert all(len(line) <= COLUMNS for line in last)
        assert len(last) <= ROWS
        assert "q: quit" in "".join(last)
        terminal.resize(12, 60)
        eventually_sync(
            lambda: len(terminal.frames()) > 3 and max(map(len, terminal.frames()[-2])) <= 60,
            "a picture of the new size",
            every_secs=0.05,
        )
        assert len(terminal.frames()[-2]) <= 12
        terminal.type(b"q")
        assert terminal.wait() == EXIT_OK
        assert terminal.output.rstrip().endswith("\x1b[?1049l"), "the screen of before is back"


@pytest.mark.parametrize(("rows", "columns"), [(24, 80), (30, 100)])
def test_usual_terminals_show_whole_words(tmp_path: Path, recorder: Running, rows: int, columns: int) -> None:
    """At 80 and at 100 columns no heading, state or figure is cut; the spark line is what goes first."""
    with on_terminal(tmp_path, "top", recorder.address, size=(rows, columns)) as terminal:
        eventually_sync(lambda: len(terminal.frames()) >= 4, "some pictures", every_secs=0.05)
        last = terminal.frames()[-2]
        assert max(map(len, last)) <= columns
        assert len(last) <= rows
        words = [" ".join(line.split()) for line in last]
        assert "…" not in "".join(words)
        headings = ["feed", "state", "rate", "last data", "topics", "reconnects", "gaps"]
        assert " ".join(headings) in words
        assert "file events size next rotation" in words
        [feed] = [line for line in words if line.startswith("stocks ")]
        spark = "" if columns == 80 else r" [▁-█]+"
        assert re.fullmatch(rf"stocks streaming for \d+ s [\d,]+/s{spark} (now|\d+ s ago) 2/2 0 0", feed), (
            feed
        )
        assert "books balance" in "".join(words)
        terminal.type(b"q")
        assert terminal.wait() == EXIT_OK


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_end_it(tmp_path: Path, recorder: Running, number: signal.Signals) -> None:
    """A signal is as good as `q`."""
    with on_terminal(tmp_path, "top", recorder.address) as terminal:
        eventually_sync(lambda: "RECORDING" in terminal.read(), "a picture", every_secs=0.05)
        terminal.process.send_signal(number)
        assert terminal.wait() == EXIT_OK


def test_a_lost_connection_is_said(tmp_path: Path, recorder: Running) -> None:
    """When the recorder goes, what was seen last stays, with its age; `q` still ends it."""
    with on_terminal(tmp_path, "top", recorder.address) as terminal:
        eventually_sync(lambda: "RECORDING" in terminal.read(), "a picture", every_secs=0.05)
        assert recorder.stop() == 0
        eventually_sync(lambda: "NO CONNECTION" in terminal.read(), "the loss", every_secs=0.05)
        terminal.type(b"q")
        assert terminal.wait() == EXIT_OK


@pytest.mark.parametrize("arguments", [(), ("--once",)])
def test_without_a_terminal_one_plain_snapshot(
    tmp_path: Path, recorder: Running, arguments: tuple[str, ...]
) -> None:
    """In a pipe, and with `--once`, it prints one snapshot without colours and ends with 0."""
    result = finished("top", f"http://{recorder.address}/", *arguments, cwd=tmp_path)
    assert (result.returncode, result.stderr) == (EXIT_OK, "")
    assert "\x1b" not in result.stdout
    assert "RECORDING" in result.stdout.splitlines()
    assert re.search(r"^stocks +streaming for ", result.stdout, re.MULTILINE)
    assert "polygon.ndjson" in result.stdout
    assert "0 dropped" in result.stdout


def test_the_address_of_the_settings_is_the_default(tmp_path: Path, recorder: Running) -> None:
    """Without an address METRICS_ADDR is asked; an empty one has nobody to ask."""
    result = finished("top", cwd=tmp_path, METRICS_ADDR=f"localhost:{recorder.address.rpartition(':')[2]}")
    assert (result.returncode, "RECORDING" in result.stdout) == (EXIT_OK, True)
    result = finished("top", cwd=tmp_path, METRICS_ADDR="")
    assert result.returncode == EXIT_CONFIG
    assert "METRICS_ADDR is empty" in result.stderr


def test_a_recorder_that_others_reach_is_asked_with_its_own_token(tmp_path: Path, exchange_port: int) -> None:
    """Its settings name the address and a token; without that a token must be in the address, and the message says so."""
    tokens = {"AUTH_TOKENS": "prometheus:a/token-with:signs"}
    settings = live_settings(exchange_port, tmp_path / "a", METRICS_ADDR="0.0.0.0:0", **tokens)
    with running("run", cwd=tmp_path, **settings) as recorder:
        port = recorder.address.rpartition(":")[2]
        recorder.wait_for("subscribed")
        result = finished("top", cwd=tmp_path, METRICS_ADDR=f":{port}", **tokens)
        assert (result.returncode, "stocks" in result.stdout) == (EXIT_OK, True), result.stderr
        result = finished("top", f"http://127.0.0.1:{port}", cwd=tmp_path)
        assert result.returncode == EXIT_FAILURE
        assert (
            "answered 401 Unauthorized: it wants a token: give it as http://any:TOKEN@host:port"
            in result.stderr
        )


def test_several_recorders_have_a_line_each(tmp_path: Path, recorder: Running, exchange_port: int) -> None:
    """What each is and does; one that does not answer is named, with why, and `q` ends it. Status 1 where none answers."""
    tier_settings = live_settings(exchange_port, tmp_path / "b", SINK="none")
    with running("run", cwd=tmp_path, **tier_settings) as tier:
        tier.wait_for("subscribed")
        eventually_sync(lambda: tier.get("/ready")[0] == 200, "ready")
        urls = (recorder.address, f"http://{tier.address}", "http://me:secret@127.0.0.1:9")
        once = finished("top", *urls, cwd=tmp_path)
        assert (once.returncode, once.stderr) == (EXIT_OK, "")
        head, _, *rows = once.stdout.splitlines()
        assert head == "recorders  2 of 3 are ready"
        assert re.match(
            rf"\S+ {recorder.address} +recording +records \(ndjson\), serves +stocks +[\d,]+/s ", rows[0]
        )
        assert re.match(rf"\S+ {tier.address} +serving +serves +stocks +[\d,]+/s ", rows[1])
        assert re.match(r"127\.0\.0\.1:9 +no answer\s*$", rows[2])
        assert rows[3].startswith(
            "127.0.0.1:9: cannot be reached: Connection refused. Is the recorder running"
        )
        assert "secret" not in once.stdout
        with on_terminal(tmp_path, "top", *urls, size=(24, 80)) as terminal:
            eventually_sync(lambda: "2 of 3 are ready" in terminal.read(), "a picture", every_secs=0.05)
            assert tier.stop() == 0
            eventually_sync(lambda: "1 of 3 are ready" in terminal.read(), "the loss", every_secs=0.05)
            last = terminal.frames()[-1]
            assert max(map(len, last)) <= 80
            terminal.type(b"q")
            assert terminal.wait() == EXIT_OK
    none = finished("top", "127.0.0.1:9", "127.0.0.1:10", cwd=tmp_path)
    assert (none.returncode, none.stdout.count("no answer")) == (EXIT_FAILURE, 2)


def test_many_recorders_fit_the_terminal() -> None:
    """Those that are well are left out first, and it is said how many; nothing steers the terminal."""
    lines = [
        Line(f"http://10.0.0.{place}:9898", "recording", hostname=f"host-{place}") for place in range(50)
    ]
    lines[40] = Line("http://10.0.0.40:9898", NO_ANSWER, ["cannot\x1b[2J be reached"])
    lines = named(lines)
    for height in (4, 8, 24, 60):
        console = Console(width=60, record=True, file=StringIO(), force_terminal=False, markup=False)
        console.print(draw_lines(lines, console, height=height, hint="q: quit"))
        text = console.export_text()
        assert len(text.splitlines()) <= height
        assert "10.0.0.40:9898" in text
        assert ("more" in text) == (4 < height < 55)
        assert "\x1b" not in text


@contextmanager
def another_server(status: int, body: bytes) -> Iterator[str]:
    """Run a server that answers all alike; return its address."""

    class Request(BaseHTTPRequestHandler):
        def do_GET(self) -> None:  # the name is http.server's
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Request) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield f"127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join(10)


@pytest.mark.parametrize(
    ("status", "body", "words"),
    [
        (200, b"<html>hello</html>", "is not the ops server of a recorder"),
        (200, b'{"status":"ok"}', "is not the ops server of a recorder"),
        (200, b'{"schema_version":99,"version":"9.0"}', "is of version 9.0"),
        (401, b"", "answered 401 Unauthorized: it wants a token"),
        (404, b"", "answered 404 Not Found: is that a recorder's METRICS_ADDR?"),
        (421, b"", "answered 421 Misdirected Request: it listens for this machine alone"),
        (500, b"", "answered 500 Internal Server Error"),
    ],
)
def test_a_wrong_service_is_named(tmp_path: Path, status: int, body: bytes, words: str) -> None:
    """What answers otherwise is one line and status 1, and never shows the password of the address."""
    with another_server(status, body) as address:
        result = finished("top", f"http://me:secret@{address}", cwd=tmp_path)
    assert (result.returncode, result.stdout) == (EXIT_FAILURE, "")
    [line] = result.stderr.splitlines()
    assert line.startswith(f"recorder: http://{address} ")
    assert words in line
    assert "secret" not in result.stderr


def test_nobody_there(tmp_path: Path) -> None:
    """A port where nobody listens gives status 1, also on a terminal; an invalid address gives status 2."""
    result = finished("top", "127.0.0.1:9", cwd=tmp_path)
    assert result.returncode == EXIT_FAILURE
    assert result.stderr == (
        "recorder: http://127.0.0.1:9 cannot be reached: Connection refused. "
        "Is the recorder running, with METRICS_ADDR there?\n"
    )
    with on_terminal(tmp_path, "top", "127.0.0.1:9") as terminal:
        assert terminal.wait() == EXIT_FAILURE
        assert "cannot be reached" in terminal.output
    for address in ("ftp://127.0.0.1:1", "http://", "http://[::1", "http://h:99999"):
        result = finished("top", address, cwd=tmp_path)
        assert (result.returncode, "is not an address" in result.stderr) == (2, True), address


def drawn(make: Callable[[], Snapshot], height: int | None = None, width: int = 100) -> str:
    """Draw a snapshot on paper."""
    paper = open(os.devnull, "w")  # noqa: SIM115 - closed with the console below
    console = Console(width=width, record=True, file=paper, force_terminal=False, markup=False)
    with console.file:
        snapshot = make()
        console.print(Screen(console).draw(snapshot, {}, height=height))
        return console.export_text()


def test_everything_has_its_bound_and_nothing_steers_the_terminal() -> None:
    """A picture is never higher than its terminal; control characters from outside are shown as `?`."""
    clock = SystemClock()
    archive = ArchiveStats(rotate_bytes=2**24)
    archive.active = {f"file-{place}": ActiveSegment(f"file-{place}", place, 1) for place in range(100)}
    client = ClientStats(
        port="filtered",
        number=1,
        worker=2,
        address="2001:db8::1",
        address_port=5,
        cluster="",
        token="\x1b]0;owned\x07",
        agent="",
        topics=("T.\x1b[2J",),
        topics_count=30,
        unread_bytes=5,
        lag_secs=3.0,
        events=1,
        bytes=1,
        connected_secs=5.0,
    )

    def make() -> Snapshot:
        observed = observe(
            *(f"cluster-{place}" for place in range(5)),
            archive=archive,
            clock=clock,
            servers=[ServerStats("filtered", clients=500)],
        )
        for feed in observed.feeds:
            make_ready(feed, clock)
            feed.recent_gaps = (Gap(1_000, 5_000, "read\x1btimeout"),) * 20
        observed.feeds[0].connected = False
        observed.feeds[0].reason = "said \x1b[31m"
        observed.feeds[0].gap_since = clock.wall_ns() // 1_000_000 - 12_000
        observed.feeds[0].gap_reason = "read\x1btimeout"
        return take_snapshot(replace(observed, clients=lambda _: [client] * 200))

    for height in (3, 8, 15, 24, 50):
        assert len(drawn(make, height).splitlines()) <= height
    text = drawn(make)
    assert "\x1b" not in text.replace("\x1b[0m", "")
    assert "T.?[2J and 29 more" in text
    assert "and 400 more" in text
    assert re.search(r"gap: cluster-0, 1\d\.\d s so far \(read\?timeout\)", text)
    assert "92 more, 0 finished" in text


def test_parts_that_do_not_simply_run_are_listed() -> None:
    """One that failed stays, with its restarts and its last failure; one that runs, or waits for its turn, is left out."""
    clock = SystemClock()
    failed_at = clock.wall_ns() // 1_000_000 - 80_000
    parts = [
        PartStats("ops", state="up"),
        PartStats("archive", state="starting"),
        PartStats("zmq", state="degraded", restarts=3, failure="[/]no\x1bdevice", failed_at=failed_at),
        PartStats(
            "servers", state="up", restarts=1, failure="a defect: OSError", failed_at=failed_at - 3_600_000
        ),
        PartStats("feed stocks"),
    ]
    text = drawn(lambda: take_snapshot(observe("stocks", parts=parts, clock=clock)))
    _, _, listed = text.partition("parts that failed or do not run")
    assert [" ".join(line.split()) for line in listed.splitlines()[2:5]] == [
        "zmq degraded 3 1 min 20 s ago [/]no?device",
        "servers up 1 1 h 1 min ago a defect: OSError",
        "archive starting 0",
    ]
    assert "parts that" not in drawn(
        lambda: take_snapshot(observe("stocks", parts=[PartStats("ops", state="up")]))
    )


def test_narrow_terminals_lose_columns_and_never_figures() -> None:
    """The narrower, the fewer columns: those that stay are whole. What is a sentence goes on in the next line."""
    clock = SystemClock()
    observed = observe("stocks", clock=clock)
    [feed] = observed.feeds
    make_ready(feed, clock)
    feed.reconnects, feed.gaps = 12_345, 678
    why = "the disk is full since noon and whoever reads this has to make room on it before anything is recorded"
    observed.parts = lambda: [PartStats("archive", True, "degraded", reason=why)]
    seen = []
    for width in (100, 80, 70, 60, 50, 40):
        lines = drawn(lambda: take_snapshot(observed), width=width).splitlines()
        assert max(map(len, lines)) <= width
        words = " ".join(" ".join(lines).split())
        assert f"archive: {why}; it is being started again" in words
        [row] = [line.split() for line in lines if line.startswith("stocks ")]
        assert not any("…" in cell for cell in row)
        seen.append("12,345" in row)
        assert ("reconnects" in words) == ("12,345" in row)
    assert seen == sorted(seen, reverse=True)
    assert set(seen) == {True, False}
