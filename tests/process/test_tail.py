"""`recorder tail`: JSON lines in a pipe, a table on a terminal, and a good end of its own."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from certificates import self_signed
from commands import RECORDER, Running, clean_environment, finished, live_settings, running, simulating
from listening import listening
from waiting import eventually_sync

from recorder.errors import EXIT_CONFIG, EXIT_FAILURE
from recorder.tail import Row, row_of

KEY = "test-key-0123456789"


@contextmanager
def serving(cwd: Path, port: int, **variables: str) -> Iterator[Running]:
    """Run a recorder that serves a simulator's stocks."""
    environment = live_settings(port, cwd / "a", SINK="none", **variables)
    with running("run", cwd=cwd, **environment) as recorder:
        recorder.wait_for("subscribed")
        yield recorder


@pytest.fixture
def exchange_port(tmp_path: Path) -> Iterator[int]:
    """The port of a simulated exchange."""
    with simulating("--cluster", "stocks", "--symbols", "20", "--rate", "2000", cwd=tmp_path) as port:
        yield port


def test_a_pipe_gets_the_events_as_they_came(tmp_path: Path) -> None:
    """One event a line, byte for byte as the exchange sent it; after `--count` of them it ends with 0."""
    log = tmp_path / "sent.ndjson"
    with (
        simulating("--cluster", "stocks", "--rate", "2000", "--log", str(log), cwd=tmp_path) as port,
        serving(tmp_path, port) as recorder,
    ):
        url = f"ws://{recorder.address_of('filtered')}/stocks"
        result = finished("tail", url, "T.*", "--count", "300", cwd=tmp_path, POLYGON_API_KEY=KEY)
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert len(lines) == 300
    assert {json.loads(line)["ev"] for line in lines} == {"T"}
    sent = log.read_text()
    assert all(line in sent for line in lines)
    assert "subscribed to: T.*" in result.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ("simulate", "--port", "0", "--ticks", "ticks"),
        ("tail", "ws://127.0.0.1:9/stocks", "T.*", "--token", "x"),
    ],
    ids=lambda arguments: arguments[0],
)
def test_the_env_file_says_whether_native_code_is_used(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    """As for a recorder, also by commands that need no other setting: another word than yes or no ends them."""
    (tmp_path / "ticks").write_text('{"at_us":0,"m":{"ev":"T","sym":"A","t":1790000000000,"p":1,"s":1}}\n')
    (tmp_path / ".env").write_text("RECORDER_NATIVE=perhaps\n")
    ended = finished(*arguments, cwd=tmp_path, timeout_secs=20, ENV_FILE="", RECORDER_NATIVE="")
    assert "RECORDER_NATIVE='perhaps': must be yes or no" in ended.stderr
    assert ended.returncode == EXIT_CONFIG


def test_the_exchange_itself_can_be_followed(tmp_path: Path, exchange_port: int) -> None:
    """The vendor's own servers are followed like a recorder's: same handshake, same topics."""
    url = f"ws://127.0.0.1:{exchange_port}/stocks"
    result = finished("tail", url, "Q.*", "T.*", "--count", "50", "--token", KEY, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert len(result.stdout.splitlines()) == 50


def test_a_closed_pipe_is_a_good_end(tmp_path: Path, exchange_port: int) -> None:
    """`recorder tail | head` ends with 0 and without a complaint once `head` has enough."""
    arguments = ["tail", f"ws://127.0.0.1:{exchange_port}/stocks", "T.*", "--token", KEY]
    with subprocess.Popen(
        [*RECORDER, *arguments],
        env=clean_environment(),
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as tail:
        assert tail.stdout is not None
        assert tail.stderr is not None
        assert json.loads(tail.stdout.readline())["ev"] == "T"
        tail.stdout.close()
        complaint = tail.stderr.read().decode()
        assert tail.wait(30) == 0
    assert complaint == "subscribed to: T.*\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_a_good_end(tmp_path: Path, exchange_port: int, number: signal.Signals) -> None:
    """Ctrl-C ends it with 0, and what was printed is whole lines."""
    url = f"ws://127.0.0.1:{exchange_port}/stocks"
    with running("tail", url, "T.*", "--token", KEY, cwd=tmp_path) as tail:
        eventually_sync(lambda: len(tail.out) >= 10, "some events")
        assert tail.stop(number) == 0
        assert all(json.loads(line)["ev"] == "T" for line in tail.out)
        assert tail.lines == ["subscribed to: T.*"]


def test_a_refused_token_is_one_clear_line(tmp_path: Path, exchange_port: int) -> None:
    """The exit status is 78; the message says who refused the token and what to do, and never shows it."""
    with serving(tmp_path, exchange_port) as recorder:
        url = f"ws://{recorder.address_of('filtered')}"
        result = finished("tail", url, "T.*", "--token", "not-the-token", cwd=tmp_path)
    assert result.returncode == EXIT_CONFIG
    [line] = result.stderr.splitlines()
    assert line.startswith(f"recorder: {url} refused the token: authentication failed.")
    assert "--token" in line
    assert "not-the-token" not in result.stderr


def test_without_a_token_it_says_so(tmp_path: Path) -> None:
    """No token given and none in the settings: exit status 78 before anything is connected."""
    result = finished("tail", "ws://127.0.0.1:9", "T.*", cwd=tmp_path)
    assert result.returncode == EXIT_CONFIG
    assert result.stderr == "recorder: no token: give one with --token, or set POLYGON_API_KEY\n"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("http://127.0.0.1:1", "T.*"), "ws://"),
        (("ws://127.0.0.1:1", ","), "T.AAPL"),
        (("ws://h",), "TOPICS"),
    ],
)
def test_a_wrong_command_line_is_refused(tmp_path: Path, arguments: tuple[str, ...], words: str) -> None:
    """An address that is no WebSocket's, or no topic: exit status 2 and what is expected."""
    result = finished("tail", *arguments, "--token", KEY, cwd=tmp_path)
    assert result.returncode == 2
    assert words in result.stderr


def test_a_topic_that_is_refused_is_named(tmp_path: Path, exchange_port: int) -> None:
    """What the server says against a topic goes to stderr; the other topics are followed."""
    with serving(tmp_path, exchange_port) as recorder:
        url = f"ws://{recorder.address_of('bars')}"
        result = finished(
            "tail", url, "50Ms.*,T.AAPL,nothing", "--count", "5", cwd=tmp_path, POLYGON_API_KEY=KEY
        )
    assert result.returncode == 0, result.stderr
    assert [json.loads(line)["interval"] for line in result.stdout.splitlines()] == [50] * 5
    assert result.stderr.count("T.AAPL: this port has bars") == 1
    assert "nothing: a topic is a channel and a symbol" in result.stderr


def test_it_ends_when_every_topic_is_refused(tmp_path: Path, exchange_port: int) -> None:
    """Nothing can ever come: exit status 1 and the server's words, instead of waiting for ever, of one topic, too."""
    with serving(tmp_path, exchange_port) as recorder:
        url = f"ws://{recorder.address_of('filtered')}/stocks"
        result = finished("tail", url, "AAPL,T.", "--count", "3", cwd=tmp_path, POLYGON_API_KEY=KEY)
    assert result.returncode == EXIT_FAILURE
    assert result.stdout == ""
    *_, line = result.stderr.splitlines()
    assert line.startswith(f"recorder: {url} refuses every topic: AAPL: a topic is a channel and a symbol")
    assert "; T.: " in line


def test_it_ends_when_the_plan_allows_no_topic(tmp_path: Path) -> None:
    """The exchange does not name the topic that it refuses; with one topic it can only be that one."""
    fault = ("--fault", "not-authorized:topics=T")
    with simulating("--cluster", "stocks", "--rate", "2000", *fault, cwd=tmp_path) as port:
        url = f"ws://127.0.0.1:{port}/stocks"
        result = finished("tail", url, "T.*", "--count", "3", "--token", KEY, cwd=tmp_path)
    assert result.returncode == EXIT_FAILURE
    assert result.stderr.splitlines()[-1] == (
        f"recorder: {url} refuses every topic: T.*: the plan of this token does not include it. "
        "Name topics that it serves to this token, such as T.AAPL or T.*"
    )


@pytest.mark.parametrize("topics", [("AAPL",), ("T.*", "AAPL")])
def test_it_ends_when_the_exchange_ignores_every_topic(tmp_path: Path, topics: tuple[str, ...]) -> None:
    """The vendor says nothing to what is no topic; once the time for its answer is over, nothing can ever come.

    So it is where the plan does not include the others: there is nothing to try again for.
    """
    # The command with a shorter patience: that of production is 10 s.
    code = "from recorder.client import follower; follower.STEP_TIMEOUT_SECS = 1.0; from recorder import cli; cli.main()"
    fault = ("--fault", "not-authorized:topics=T")
    with simulating("--cluster", "stocks", "--rate", "100", *fault, cwd=tmp_path) as port:
        url = f"ws://127.0.0.1:{port}/stocks"
        result = subprocess.run(
            [sys.executable, "-c", code, "tail", url, *topics, "--token", KEY],
            env=clean_environment(),
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=30,
        )
    assert (result.returncode, result.stdout) == (EXIT_FAILURE, "")
    *_, line = result.stderr.splitlines()
    silence = "the server has not acknowledged it within 1 s, as if it did not know it"
    assert line.startswith(f"recorder: {url} refuses every topic: AAPL: {silence}")
    assert line.endswith("Name topics that it serves to this token, such as T.AAPL or T.*")


def test_tls_works_or_says_what_to_do(tmp_path: Path, exchange_port: int) -> None:
    """`--cafile` trusts a certificate that nobody signed; what another attempt cannot mend ends at once, in words."""
    certificate, key = self_signed(tmp_path, "localhost")
    (tmp_path / "empty.pem").write_text("no certificate\n")
    tls = {"TLS_CERT_FILE": str(certificate), "TLS_KEY_FILE": str(key)}
    with serving(tmp_path, exchange_port, **tls) as recorder:
        port = recorder.port_of("filtered")
        trusting = ("--cafile", str(certificate))
        followed = finished(
            "tail", f"wss://localhost:{port}", "T.*", "--count", "3", "--token", KEY, *trusting, cwd=tmp_path
        )
        assert followed.returncode == 0, followed.stderr
        assert len(followed.stdout.splitlines()) == 3
        for url, arguments, words in (
            (
                f"wss://localhost:{port}",
                (),
                "the certificate of the server is not trusted: self-signed certificate. "
                "If you trust it, name it or the CA that signed it with --cafile FILE.",
            ),
            (f"wss://127.0.0.1:{port}", trusting, "certificate is not valid for '127.0.0.1'"),
            (f"ws://localhost:{port}", (), "this port speaks TLS; its address begins with wss://"),
            (
                f"wss://127.0.0.1:{exchange_port}",
                (),
                "this port speaks no TLS; its address begins with ws://",
            ),
            (
                f"wss://localhost:{port}",
                ("--cafile", "empty.pem"),
                "empty.pem: has no certificate in PEM form",
            ),
        ):
            result = finished("tail", url, "T.*", "--token", KEY, *arguments, cwd=tmp_path)
            assert (result.returncode, result.stdout) == (EXIT_CONFIG, ""), result.stderr
            [line] = result.stderr.splitlines()
            assert words in line
            assert line.startswith(f"recorder: {'empty.pem' if 'empty.pem' in arguments else url}: ")


def test_since_brings_the_bars_of_the_past(tmp_path: Path, exchange_port: int) -> None:
    """With `--since` bars come that had closed before; the answer says what is too long ago."""
    with serving(tmp_path, exchange_port) as recorder:
        url = f"ws://{recorder.address_of('bars')}/stocks"
        eventually_sync(
            lambda: recorder.metric("polygon_received_bytes_total") >= 300_000, "a second of trades"
        )
        begun_ms = time.time_ns() // 1_000_000
        result = finished(
            "tail", url, "50Ms.*", "--since", "1", "--count", "400", cwd=tmp_path, POLYGON_API_KEY=KEY
        )
        assert recorder.metric("polygon_bars_replays_total") == 1
    assert result.returncode == 0, result.stderr
    assert "what there is follows: that is longer ago than BAR_PAST_MAX_SECS: ask for" in result.stderr
    bars = [json.loads(line) for line in result.stdout.splitlines()]
    assert min(bar["s"] for bar in bars) < begun_ms


def test_what_recorders_alone_offer_can_be_asked_for(tmp_path: Path, exchange_port: int) -> None:
    """With `--amend` each topic is asked for so; the recorder says where that has no effect, and only there. So are the
    manners of delivery: the last values come first."""
    with serving(tmp_path, exchange_port) as recorder:
        url = f"ws://{recorder.address_of('filtered')}/stocks"
        topics = ("tail", url, "T.AAPL", "100Ms.*", "--count", "10")
        plain = finished(*topics, cwd=tmp_path, POLYGON_API_KEY=KEY)
        amended = finished(*topics, "--amend", cwd=tmp_path, POLYGON_API_KEY=KEY)
        manners = ("--snapshot", "--interval", "50", "--slow", "drop")
        chosen = finished("tail", url, "Q.*", *manners, "--count", "99", cwd=tmp_path, POLYGON_API_KEY=KEY)
        conflated = recorder.metric("polygon_server_conflated_events_total")
        firehose = f"ws://{recorder.address_of('firehose')}"
        every = finished("tail", firehose, "*", "--count", "9", cwd=tmp_path, POLYGON_API_KEY=KEY)
    assert plain.stderr.splitlines() == ["subscribed to: T.AAPL", "subscribed to: 100Ms.*"]
    assert amended.stderr.splitlines() == [
        "subscribed to: T.AAPL (amend is without effect: only bars are amended)",
        "subscribed to: 100Ms.*",
    ]
    assert [re.sub(r"\d+", "N", line) for line in chosen.stderr.splitlines()] == [
        "subscribed to: Q.*",
        "the last values of your topics follow",
        "that was the snapshot: N",
    ]
    assert len(chosen.stdout.splitlines()) == 99
    assert conflated > 0
    assert (every.stderr, len(every.stdout.splitlines())) == ("subscribed to: *\n", 9)


def test_it_comes_back_when_the_recorder_restarts(tmp_path: Path, exchange_port: int) -> None:
    """A recorder that stops says 1012; its client reconnects and continues, and says what is missing."""
    with serving(tmp_path, exchange_port) as first:
        port = first.port_of("filtered")
        url = f"ws://127.0.0.1:{port}"
        with running("tail", url, "T.*", cwd=tmp_path, POLYGON_API_KEY=KEY) as tail:
            eventually_sync(lambda: len(tail.out) >= 100, "events of the first recorder")
            assert first.stop() == 0
            eventually_sync(lambda: any("1012" in line for line in tail.lines), "the end in the log")
            before = len(tail.out)
            with serving(tmp_path, exchange_port, FILTERED_PROXY_PORT=port):
                eventually_sync(lambda: len(tail.out) >= before + 100, "events of the second recorder")
                assert any(line.startswith("events are missing from") for line in tail.lines)
                assert tail.stop(signal.SIGINT) == 0
            numbers = [json.loads(line)["q"] for line in tail.out]
            assert len(set(numbers)) == len(numbers)


def test_a_terminal_gets_a_table(tmp_path: Path, exchange_port: int) -> None:
    """On a terminal there are columns under a heading, with colours, and no JSON."""
    main, terminal = pty.openpty()
    url = f"ws://127.0.0.1:{exchange_port}/stocks"
    with os.fdopen(main, "rb") as screen:
        command = [*RECORDER, "tail", url, "T.*", "Q.*", "--count", "40", "--token", KEY]
        environment = clean_environment(TERM="xterm", COLUMNS="120")
        with subprocess.Popen(
            command, env=environment, cwd=tmp_path, stdout=terminal, stderr=subprocess.PIPE
        ) as tail:
            os.close(terminal)
            text = b""
            with suppress(OSError):  # Linux says EIO where the other side of a terminal is closed
                while part := screen.read1(65536):
                    text += part
            assert tail.stderr is not None
            complaint = tail.stderr.read().decode()
            assert tail.wait(30) == 0, complaint
    lines = text.decode().splitlines()
    assert len(lines) == 41
    assert [word in lines[0] for word in ("time (UTC)", "type", "symbol", "price", "size")] == [True] * 5
    assert "\x1b[" in lines[1]
    assert all("{" not in line for line in lines)
    assert any(" / " in line for line in lines), "bid and ask of a quote"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has a device that is always full")
def test_a_full_disk_is_an_error(tmp_path: Path, exchange_port: int) -> None:
    """What cannot be written ends it with 1 and the reason."""
    url = f"ws://127.0.0.1:{exchange_port}/stocks"
    with (
        Path("/dev/full").open("wb") as full,
        running("tail", url, "T.*", "--token", KEY, cwd=tmp_path, stdout=full) as tail,
    ):
        assert tail.wait() == EXIT_FAILURE
        assert tail.lines[-1] == "recorder: stdout cannot be written: No space left on device"


@pytest.mark.parametrize(
    ("channel", "symbol", "event", "row"),
    [
        (
            "T",
            "AAPL",
            b'{"ev":"T","sym":"AAPL","p":150.2500,"s":0,"ds":"0.25","x":4,"c":[37,41]}',
            ("150.2500", "0.25", "x=4 c=[37,41]"),
        ),
        (
            "Q",
            "AAPL",
            b'{"ev":"Q","sym":"AAPL","bp":150.20,"bs":3,"ap":150.30,"as":5}',
            ("150.20 / 150.30", "3 / 5", ""),
        ),
        ("Q", "AAPL", b'{"ev":"Q","sym":"AAPL","ap":150.30,"as":5}', ("- / 150.30", "- / 5", "")),
        (
            "AM",
            "AAPL",
            b'{"ev":"AM","sym":"AAPL","o":1.0,"h":3,"l":0.5,"c":2,"v":70,"vw":1.5}',
            ("2", "70", "o=1.0 h=3 l=0.5 vw=1.5"),
        ),
        (
            "MB",
            "AAPL",
            b'{"ev":"MB","sym":"AAPL","interval":100,"o":1,"h":3,"l":1,"c":2,"v":70,"vw":1.5,"n":4,"rev":1}',
            ("2", "70", "interval=100 o=1 h=3 l=1 vw=1.5 n=4 rev=1"),
        ),
        ("C", "", b'{"ev":"C","p":"EUR/USD","b":1.1,"a":1.2,"x":48}', ("1.1 / 1.2", "", "x=48")),
        ("V", "I:SPX", b'{"ev":"V","T":"I:SPX","val":6000.10}', ("6000.10", "", "")),
        ("NEW", "AAPL", b'{"ev":"NEW","sym":"AAPL","z":[1],"w":"a"}', ("", "", "z=[1] w=a")),
        ("T", "AAPL", b'{"ev":"T","p":"\\u001b[2J\xc2\x9b"}', ("\\u001b[2J?", "", "")),
    ],
)
def test_columns_suit_the_channel(channel: str, symbol: str, event: bytes, row: tuple[str, str, str]) -> None:
    """Price and size are where the channel has them, with their digits; nothing on the wire steers the terminal."""
    found = row_of(channel, symbol, 1_760_375_617_662, event)
    assert found == Row("17:13:37.662", channel, symbol or "EUR/USD", *row)


def test_it_goes_on_where_it_was(tmp_path: Path, exchange_port: int) -> None:
    """With `--resume` nothing is missing between two runs of the command; at most the last second comes again."""
    place = tmp_path / "position"
    with serving(tmp_path, exchange_port) as recorder:
        url = f"ws://{recorder.address_of('filtered')}/stocks"
        shown: list[bytes] = []
        with listening(url, "T.*") as reference:
            for _ in range(2):
                before = place.read_text() if place.exists() else ""
                with running(
                    "tail", url, "T.*", "--token", KEY, "--resume", str(place), cwd=tmp_path
                ) as tail:
                    eventually_sync(
                        lambda before=before, tail=tail: (
                            len(tail.out) > 100 and place.exists() and place.read_text() != before
                        ),
                        "a position",
                    )
                    assert tail.stop(signal.SIGINT) == 0
                    shown += [line.encode() for line in tail.out]
                    notes = tail.lines
            eventually_sync(lambda: shown[-1] in reference.events, "the last event")
            whole = reference.events
    assert notes[1] == "what you missed follows"
    once = list(dict.fromkeys(shown))
    begin = whole.index(once[0])
    assert once == whole[begin : begin + len(once)]


def test_a_position_that_cannot_be_kept_ends_it(tmp_path: Path, exchange_port: int) -> None:
    """A file that is none, or in no folder: exit status 1 and one line that names it."""
    url = f"ws://127.0.0.1:{exchange_port}/stocks"
    (tmp_path / "binary").write_bytes(b"\xff")
    result = finished("tail", url, "T.*", "--token", KEY, "--resume", "binary", cwd=tmp_path)
    assert result.returncode == EXIT_FAILURE
    assert result.stderr.startswith("recorder: binary cannot be read as a position: ")
    with serving(tmp_path, exchange_port) as recorder:
        url = f"ws://{recorder.address_of('filtered')}/stocks"
        result = finished("tail", url, "T.*", "--token", KEY, "--resume", "none/here", cwd=tmp_path)
    assert result.returncode == EXIT_FAILURE
    assert (
        result.stderr.splitlines()[-1] == "recorder: none/here cannot be written: No such file or directory"
    )
    result = finished("tail", url, "T.*", "--token", KEY, "--after", "run:1", "--since", "1", cwd=tmp_path)
    assert result.returncode == 2
