"""Logs: form, levels, masking, limits, and what libraries write."""

from __future__ import annotations

import io
import json
import logging
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from recorder import log
from recorder.log_events import message_of
from recorder.log_output import LogWriter

SECRET = "s3cr3t/key+of=mine"


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


class Broken(io.StringIO):
    """A pipe whose reader is gone."""

    def write(self, text: str) -> int:
        raise BrokenPipeError(32, "Broken pipe")


@pytest.fixture(autouse=True)
def _log_as_before() -> Iterator[None]:
    """Leave the process's log as it was."""
    root = logging.getLogger()
    level, handlers = root.level, list(root.handlers)
    yield
    log.forget_secrets()
    log.configure({}, "json")
    structlog.reset_defaults()
    root.setLevel(level)
    root.handlers[:] = handlers


@pytest.fixture
def stream() -> io.StringIO:
    return io.StringIO()


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_an_event_is_one_json_line_with_its_keys_in_order(stream: io.StringIO) -> None:
    """Timestamp (RFC 3339, UTC, microseconds), level, target, event come first, then the event's own keys."""
    log.configure({}, "json", stream)
    log.get_logger("polygon_upstream").info("subscribed", cluster="stocks", topics=2)
    (line,) = lines(stream)
    assert list(line) == ["timestamp", "level", "target", "event", "message", "cluster", "topics"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", line.pop("timestamp"))
    assert line == {
        "level": "INFO",
        "target": "polygon_upstream",
        "event": "subscribed",
        "message": message_of("subscribed"),
        "cluster": "stocks",
        "topics": 2,
    }


def test_fields_of_the_process_are_in_every_line(stream: io.StringIO) -> None:
    """Where several processes share a log, each line says which process wrote it, also a line of a library."""
    log.configure({}, "json", stream, fields={"worker": 2})
    log.get_logger("polygon_clients").info("client_left", secs=1)
    logging.getLogger("aiohttp").warning("odd")
    assert [(line["event"], line["worker"]) for line in lines(stream)] == [
        ("client_left", 2),
        ("library_log", 2),
    ]


def test_logs_go_to_stderr_unless_told_otherwise(capsys: pytest.CaptureFixture[str]) -> None:
    """Standard output stays pure data."""
    log.configure({}, "json")
    log.get_logger("polygon_stats").info("stats")
    captured = capsys.readouterr()
    assert captured.out == ""
    assert json.loads(captured.err)["event"] == "stats"


def test_levels_are_set_by_target(stream: io.StringIO) -> None:
    """A target's own level counts, above or below the rest's, also for a logger taken before."""
    upstream, stats, archive = map(log.get_logger, ("polygon_upstream", "polygon_stats", "polygon_archive"))
    log.configure({"": "warning", "polygon_stats": "debug", "polygon_archive": "error"}, "json", stream)
    for logger in (upstream, stats, archive):
        logger.debug("debug")
        logger.warning("warning")
        logger.error("error")
    assert [(line["target"], line["event"]) for line in lines(stream)] == [
        ("polygon_upstream", "warning"),
        ("polygon_upstream", "error"),
        ("polygon_stats", "debug"),
        ("polygon_stats", "warning"),
        ("polygon_stats", "error"),
        ("polygon_archive", "error"),
    ]
    assert log.enabled("polygon_stats", "debug")
    assert not log.enabled("polygon_events")


def test_console_is_for_people_and_coloured_on_a_terminal_only() -> None:
    """`auto` follows the stream; the same event keeps its keys in both forms."""
    plain, terminal = io.StringIO(), Terminal()
    log.configure({}, "console", plain)
    log.get_logger("polygon_archive").warning("disk full", path="/data")
    log.configure({}, "auto", terminal)
    log.get_logger("polygon_archive").warning("disk full", path="/data")
    for text in (plain.getvalue(), terminal.getvalue()):
        assert "disk full" in text
        assert "polygon_archive" in text
        assert not text.startswith("{")
    assert "path=/data" in plain.getvalue()
    assert "\x1b[" not in plain.getvalue()
    assert "\x1b[" in terminal.getvalue()


def test_auto_is_json_where_nobody_looks(stream: io.StringIO) -> None:
    """A pipe or a file gets JSON lines."""
    log.configure({}, "auto", stream)
    log.get_logger("polygon_config").info("started")
    assert lines(stream)[0]["event"] == "started"


def test_libraries_log_warnings_in_the_same_form(stream: io.StringIO) -> None:
    """The logger's name is the target; below WARNING they are silent; their tracebacks stay in the line."""
    log.configure({"": "debug"}, "json", stream)
    library = logging.getLogger("aiohttp.server")
    library.info("noise")
    library.warning("odd %s", "request")
    try:
        raise RuntimeError("boom")
    except RuntimeError:
        library.exception("failed")
    odd, failed = lines(stream)
    assert (odd["level"], odd["target"], odd["event"]) == ("WARNING", "aiohttp.server", "library_log")
    assert odd["message"] == "odd request"
    assert "RuntimeError: boom" in failed["exception"]


def test_libraries_are_no_louder_than_the_root_level(stream: io.StringIO) -> None:
    """`LOG_LEVEL=error` silences their warnings too."""
    log.configure({"": "error"}, "json", stream)
    logging.getLogger("aiohttp.server").warning("odd")
    assert stream.getvalue() == ""


def test_configuring_again_replaces_the_stream(stream: io.StringIO) -> None:
    """No line is written twice or to the old stream."""
    log.configure({}, "json", io.StringIO())
    log.configure({}, "json", stream)
    logging.getLogger("aiohttp").warning("odd")
    log.get_logger("polygon_config").info("started")
    assert [line["event"] for line in lines(stream)] == ["library_log", "started"]


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_a_secret_never_appears(stream: io.StringIO, log_format: str) -> None:
    """Not in a text, a key, a nested value, bytes, a URL, an exception, or what a library logs."""
    log.register_secret(SECRET)
    log.configure({}, log_format, stream)
    logger = log.get_logger("polygon_upstream")
    quoted = "s3cr3t%2Fkey%2Bof%3Dmine"
    logger.info(f"sent {SECRET}", url=f"wss://h/?k={quoted}", nested={"a": [SECRET, {SECRET}], SECRET: 1})
    logger.info("raw", raw=SECRET.encode(), error=ValueError(f"bad key {SECRET}"))
    try:
        raise ValueError(f"key {SECRET}")
    except ValueError as error:
        logger.exception("failed", error=error)
        logging.getLogger("aiohttp").warning("key %s", SECRET, exc_info=error)
    text = stream.getvalue()
    assert SECRET not in text
    assert quoted not in text
    assert text.count(log.MASK) >= 8


def test_a_short_secret_is_masked_as_a_word() -> None:
    """A key `key` is hidden and leaves `key_refused` readable."""
    log.register_secret("key")
    assert log.mask("params=key, reason=key_refused") == "params=***, reason=key_refused"


@pytest.mark.parametrize(
    "path", ["/home/demo/data", "demo/a.ndjson", "data/demo.ndjson", "/data/demo-1", "./demo"]
)
def test_a_short_secret_leaves_paths_readable(path: str) -> None:
    """A key `demo` is hidden wherever it is a value, and is no part of a path."""
    log.register_secret("demo")
    text = "folder {}: params={}; key '{}', {}. [\"{}\"] wss://me:{}@h?k={}&x"
    assert log.mask(text.format(path, *["demo"] * 6)) == text.format(path, *["***"] * 6)


@given(st.text(st.characters(exclude_characters="~"), min_size=8, max_size=40), st.integers(0, 3))
def test_a_secret_is_masked_whatever_signs_it_has(secret: str, around: int) -> None:
    """Nothing of it is left, and all of what stands around it."""
    log.forget_secrets()
    log.register_secret(secret)
    sides = "~" * around
    assert log.mask(f"{sides}{secret}{sides}") == f"{sides}***{sides}"


def test_an_empty_secret_masks_nothing() -> None:
    """A missing key does not turn every line into stars."""
    log.register_secret("")
    assert log.mask("text") == "text"


def test_values_of_any_type_are_written(stream: io.StringIO) -> None:
    """What JSON or orjson does not know is written as text, never lost and never an error."""
    log.configure({}, "json", stream)
    log.get_logger("polygon_config").info("odd", big=2**70, lone="\ud800", path=io, many={"b"}, raw=b"\xff")
    (line,) = lines(stream)
    assert line["big"] == 2**70
    assert line["many"] == ["b"]
    assert line["raw"] == "\\xff"


def test_a_log_that_cannot_be_written_stops_nothing() -> None:
    """A broken pipe and a closed stream are borne."""
    log.configure({}, "json", Broken())
    log.get_logger("polygon_config").info("lost")
    closed = io.StringIO()
    log.configure({}, "json", closed)
    closed.close()
    log.get_logger("polygon_config").info("lost")


def test_a_bad_call_of_a_library_stops_nothing(
    stream: io.StringIO, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As with logging's own handlers, the mistake is shown on stderr and the caller continues."""
    monkeypatch.setattr(logging, "raiseExceptions", True)
    log.configure({}, "json", stream)
    logger = logging.getLogger("library")
    logger.propagate = False
    handler = next(h for h in logging.getLogger().handlers if type(h).__module__ == log.__name__)
    logger.addHandler(handler)
    try:
        logger.warning("%d", "no number")
    finally:
        logger.removeHandler(handler)
        logger.propagate = True
    assert stream.getvalue() == ""
    assert "no number" in capsys.readouterr().err


@contextmanager
def pipe() -> Iterator[tuple[int, int]]:
    """Yield the ends of a pipe, for reading and for writing."""
    ends = os.pipe()
    try:
        yield ends
    finally:
        for end in ends:
            with suppress(OSError):
                os.close(end)


def read_lines(fd: int, until: bytes) -> list[bytes]:
    """Read until a line that begins so has come."""
    data = b""
    while not any(line.startswith(until) for line in data.splitlines()) or not data.endswith(b"\n"):
        data += os.read(fd, 65536)
    return data.splitlines()


def test_a_log_that_nobody_reads_holds_up_nobody() -> None:
    """Lines wait up to the limit; the rest is dropped and counted, and once it is read again a line says so."""
    with pipe() as (reading, writing):
        writer = LogWriter(writing, lambda missing: f"missing {missing}", waiting_bytes_max=200_000)
        for number in range(10_000):
            writer.msg(f"{number:0100d}")
        assert writer.dropped >= 7_000
        dropped = writer.dropped
        assert not writer.drain(0.01)
        # The first lines may be written while the others come, so that more than one line speaks of what is missing.
        missing, numbers = 0, []
        while missing < dropped:
            for line in read_lines(reading, b"missing"):
                if line.startswith(b"missing "):
                    missing += int(line.removeprefix(b"missing "))
                else:
                    numbers.append(int(line))
        assert missing == dropped
        assert numbers == sorted(set(numbers))
        assert len(numbers) == 10_000 - dropped
        writer.msg("again")
        assert writer.drain(10)
        assert os.read(reading, 100) == b"again\n"


def test_a_log_whose_reader_is_gone_is_dropped_and_counted() -> None:
    """Nothing is raised, nothing waits."""
    with pipe() as (reading, writing):
        writer = LogWriter(writing)
        os.close(reading)
        writer.msg("to nobody")
        assert writer.drain(10)
        assert writer.dropped == 1


def test_a_log_that_another_program_made_non_blocking_is_written_whole() -> None:
    """The flag belongs to the open file, which others share; a full pipe is waited for."""
    with pipe() as (reading, writing):
        os.set_blocking(writing, False)
        writer = LogWriter(writing)
        for number in range(2_000):
            writer.msg(f"{number:0100d}")
        lines = read_lines(reading, b"%0100d" % 1_999)
        assert [int(line) for line in lines] == list(range(2_000))


def test_what_was_logged_is_written_before_the_process_ends() -> None:
    """A short program loses no line, and its last words come last."""
    code = (
        "from recorder import log; log.configure({}, 'json'); logger = log.get_logger('polygon_config')\n"
        "for number in range(500): logger.info('line', number=number)\n"
        "log.say('the end')"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    *lines, last = result.stderr.splitlines()
    assert [json.loads(line)["number"] for line in lines] == list(range(500))
    assert last == "the end"


def test_threads_write_whole_lines(stream: io.StringIO) -> None:
    """Lines of several threads never mix."""
    log.configure({}, "json", stream)
    logger = log.get_logger("polygon_archive")
    threads = [threading.Thread(target=lambda: [logger.info("x" * 200) for _ in range(50)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(lines(stream)) == 200


def test_a_limited_warning_says_how_many_it_held_back() -> None:
    """One in five seconds passes, with the number of those before it that did not."""
    limit = log.RateLimited(5)
    second = 1_000_000_000
    assert [limit.ready(at * second) for at in (0, 1, 4, 5, 6, 11)] == [0, None, None, 2, None, 1]
    assert "suppressed=0" in repr(limit)


def test_no_interval_lets_everything_through() -> None:
    """0 seconds limit nothing."""
    limit = log.RateLimited(0)
    assert [limit.ready(7), limit.ready(7)] == [0, 0]


@given(st.lists(st.integers(0, 10**9), min_size=1), st.floats(0.001, 10))
def test_every_warning_is_counted_once(gaps: list[int], interval_secs: float) -> None:
    """Passed plus held back is all there were."""
    limit = log.RateLimited(interval_secs)
    now, passed, reported = 0, 0, 0
    for gap in gaps:
        now += gap
        suppressed = limit.ready(now)
        if suppressed is not None:
            passed += 1
            reported += suppressed
    assert passed + reported + limit.suppressed == len(gaps)
