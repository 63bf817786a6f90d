"""The C code under AddressSanitizer and UndefinedBehaviorSanitizer, on changed frames of every cluster, and by its tests."""

from __future__ import annotations

import os
import random
import struct
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from checkouts import PROJECT
from shared_data import SHARED
from tools import tool

from fuzz.claims import scanner_of, scanner_rows, seeds_of
from recorder.polygon.clusters import CLUSTERS

native: Any = pytest.importorskip("recorder._native", reason="native code was not built")

SANITIZE: Final = (
    *("-std=c11", "-g", "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"),
    "-fno-omit-frame-pointer",
)
WARNINGS: Final = ("-Wall", "-Wextra", "-Wshadow", "-Wconversion", "-Wvla", "-Wstrict-prototypes", "-Werror")
HEADERS: Final = ("-isystem", sysconfig.get_path("include"))
PLAIN, REFUSED, NO_MEMORY = range(3)
"""What the harness prints of a frame."""
FRAMES: Final = 4000
"""Changed frames for each cluster."""
SPICE: Final = (
    *(b'"', b"\\", b"{", b"}", b"[", b"]", b",", b":", b" ", b"\n", b"\0", b"\xff", b"\xc3\xa9", b"\x7f", b"-", b"."),
    *(b"0", b"1e5", b"null", b"tru", b"},{", b"],[", b'"t":5,', b'"ev":"Q",', b'"sym":"",', b'"p":"B",', b'"e":1,'),
    *(b"9" * 30, b"A" * 300, b"[" * 40, b"x" * 70_000),
)  # fmt: skip


def changed(frame: bytes, rng: random.Random) -> bytes:
    """Return the frame with up to three parts of it cut, doubled, or replaced."""
    data = bytearray(frame)
    for _ in range(rng.choice((0, 1, 1, 1, 2, 3))):
        begin = rng.randrange(len(data) + 1)
        end = min(len(data), begin + rng.choice((0, 0, 1, 2, 8, 40)))
        data[begin:end] = rng.choice((b"", data[begin:end] * 2, rng.choice(SPICE), rng.randbytes(1)))
    return bytes(data)


def bases() -> Iterator[bytes]:
    """Yield the frames to change."""
    for seed in seeds_of("scanning"):
        yield from seed[1:].split(b"\xff\x00\xff")
    samples = SHARED / "data/polygon_samples.ndjson"
    if samples.exists():
        for line in samples.read_bytes().splitlines():
            yield line[line.index(b'"frame": "') + 10 : line.index(b'", "symbol"')].replace(b'\\"', b'"')


def command(letter: bytes, data: bytes) -> bytes:
    """Return a command of the harness."""
    return letter + struct.pack("<I", len(data)) + data


def compiled(folder: Path, *arguments: str) -> Path:
    """Return what was compiled of C, with every warning an error."""
    made = folder / "made.so"  # Python imports no other suffix
    result = subprocess.run(
        [tool("cc"), *WARNINGS, *arguments, "-o", str(made)], cwd=PROJECT, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    return made


def test_no_warning_with_the_flags_of_the_build(tmp_path: Path) -> None:
    """Optimised code is looked at by warnings that other code is not."""
    compiled(tmp_path, "-std=c11", "-O3", "-DNDEBUG", "-shared", "-fPIC", *HEADERS, "native/module.c")


def test_the_scanner_reads_no_byte_beyond_its_frames(tmp_path: Path) -> None:
    """Whatever stands in them; and without Python it finds the same."""
    harness = compiled(tmp_path, *SANITIZE, "tests/native/harness.c")
    rng = random.Random(12)
    frames = list(bases())
    commands: list[bytes] = []
    expected: list[tuple[int, ...]] = []
    accepted = 0
    for cluster, row in CLUSTERS.items():
        commands.append(command(b"V", row.main.symbol_field.encode()))
        rows = scanner_rows()
        commands += [
            command(b"C", f"{code} {field} {'w' * windows}".encode()) for code, field, windows in rows
        ]
        expected += [(1,)] * (1 + len(rows))
        scanner = scanner_of(cluster)
        for _ in range(FRAMES):
            frame = changed(rng.choice(frames), rng)
            commands += [
                command(b"F", frame),
                command(b"W", frame),
                command(b"W", b"\x81%c" % min(len(frame), 99) + frame),
            ]
            block = scanner.scan([frame])
            accepted += block is not None
            expected.append((REFUSED, 0) if block is None else (PLAIN, len(block)))
            for data in (frame, b"\x81%c" % min(len(frame), 99) + frame):
                payloads: list[bytes] = []
                used, odd = native.split(data, 100, payloads)
                expected.append((used, len(payloads), odd))
    result = subprocess.run([harness], input=b"".join(commands), capture_output=True, timeout=100)
    assert result.returncode == 0, result.stderr.decode()[-3000:]
    found = [tuple(map(int, line.split())) for line in result.stdout.splitlines()]
    assert [line[: len(wanted)] for line, wanted in zip(found, expected, strict=True)] == expected
    assert accepted > FRAMES * len(CLUSTERS) // 10


def test_the_cutter_reads_no_byte_beyond_its_lines(tmp_path: Path) -> None:
    """Whatever stands in them; and without Python it finds the same."""
    harness = compiled(tmp_path, *SANITIZE, "tests/native/harness.c")
    rng = random.Random(14)
    blocks = list(seeds_of("cutting"))
    commands: list[bytes] = []
    expected: list[tuple[int, ...]] = []
    accepted = 0
    for _ in range(FRAMES):
        block = changed(rng.choice(blocks), rng)
        commands.append(command(b"L", block))
        found = native.cut(block)
        accepted += found is not None
        if found is None:
            expected.append((REFUSED, 0, 0))
            continue
        texts = [*found.payloads(0, len(found)), *(text.encode() for pair in found.names() for text in pair)]
        begin = 0
        for end, _, feed in found.reads():
            texts += [feed.encode()] * (end - begin)
            begin = end
        expected.append((PLAIN, len(found), sum(map(sum, texts))))
    result = subprocess.run([harness], input=b"".join(commands), capture_output=True, timeout=100)
    assert result.returncode == 0, result.stderr.decode()[-3000:]
    assert [tuple(map(int, line.split())) for line in result.stdout.splitlines()] == expected
    assert accepted > FRAMES // 10


KINDS: Final = (
    *("text", "real", "integer", "time", "integers", "flag", "levels"),
    *("seq", "ingest_ts", "ts", "type", "symbol", "feed", "payload"),
)
"""In the order of the harness."""


def test_tables_are_made_of_lines_and_of_no_byte_beyond(tmp_path: Path) -> None:
    """Whatever stands in them; and without Python they are the same, also of buffers that had to grow."""
    harness = compiled(tmp_path, *SANITIZE, "tests/native/harness.c")
    rng = random.Random(16)
    blocks = list(seeds_of("tabulating"))
    keys = (("T", tuple((key, place) for place, key in enumerate(("i", "p", "x", "t", "c", "o", "bids")))),)
    commands: list[bytes] = []
    expected: list[tuple[int, ...]] = []
    for _ in range(FRAMES):
        block = changed(rng.choice(blocks), rng)
        commands.append(command(b"T", block))
        records = native.cut(block)
        if records is None:
            expected.append((0, 0, 0, 0))
            continue
        columns, odd = native.tabulate((records,), KINDS, keys)
        valid = sum(len(records) - nulls for nulls, *_ in columns)
        expected.append(
            (1, len(odd), valid, sum(sum(bytes(part)) for _, _, *parts in columns for part in parts))
        )
    commands.append(command(b"M", b"3") + command(b"T", blocks[0]))
    result = subprocess.run([harness], input=b"".join(commands), capture_output=True, timeout=100)
    assert result.returncode == 0, result.stderr.decode()[-3000:]
    *found, starved = (tuple(map(int, line.split())) for line in result.stdout.splitlines())
    assert found == expected
    assert starved == (0, 0, 0, 0)
    assert sum(made for made, *_ in expected) > FRAMES // 10
    assert sum(odd for _, odd, *_ in expected) > 10


def test_memory_that_runs_out_is_said(tmp_path: Path) -> None:
    """Before the first event, and when there is no room for one more; nothing is leaked."""
    harness = compiled(tmp_path, *SANITIZE, "tests/native/harness.c")
    event = b'{"ev":"T","sym":"A","t":1790000000000}'
    one, two = (command(b"F", b"[" + b",".join([event] * count) + b"]") for count in (1, 2))
    commands = command(b"V", b"sym") + command(b"C", b"T sym ")
    for left in (b"0", b"1"):  # the second event needs more than the first
        commands += command(b"M", left) + one + command(b"M", left) + two
    commands += command(b"M", b"0") + command(b"L", next(seeds_of("cutting")))
    result = subprocess.run([harness], input=commands, capture_output=True, timeout=100)
    assert result.returncode == 0, result.stderr.decode()[-3000:]
    found = [int(line.split()[0]) for line in result.stdout.splitlines()[2:]]
    assert found == [NO_MEMORY, NO_MEMORY, PLAIN, NO_MEMORY, NO_MEMORY]


def test_the_sanitizers_would_find_it(tmp_path: Path) -> None:
    """A frame without its NUL is read beyond its end, and that is found."""
    source = (PROJECT / "tests/native/harness.c").read_text().replace("data[size] = 0;", "data[size] = '1';")
    broken = tmp_path / "harness.c"
    broken.write_text(source.replace("../../native", str(PROJECT / "native")))
    harness = compiled(tmp_path, *SANITIZE, str(broken))
    commands = command(b"V", b"sym") + command(b"F", b'[{"x":1')
    result = subprocess.run([harness], input=commands, capture_output=True, text=False, timeout=100)
    assert result.returncode != 0
    assert b"heap-buffer-overflow" in result.stderr


RUN: Final = """\
import importlib.util, sys
import recorder
spec = importlib.util.spec_from_file_location("recorder._native", sys.argv[1])
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
sys.modules["recorder._native"] = recorder._native = module
import pytest
sys.exit(pytest.main(sys.argv[2:]))
"""
"""Runs tests with another build of the module."""


@pytest.mark.timeout(600)
def test_the_tests_of_the_module_pass_under_the_sanitizers(tmp_path: Path) -> None:
    """Each object in memory of its own, so that no error is hidden by Python's allocator."""
    made = compiled(tmp_path, *SANITIZE, "-shared", "-fPIC", *HEADERS, "native/module.c")
    libraries = [
        subprocess.run(
            [tool("cc"), f"-print-file-name={name}"], capture_output=True, text=True, check=True
        ).stdout.strip()
        for name in ("libasan.so", "libubsan.so")
    ]
    environment = {
        **os.environ,
        "LD_PRELOAD": " ".join(libraries),
        # Python leaves objects behind when it ends; what is freed is kept back, but not so that a leak cannot be told.
        "ASAN_OPTIONS": "detect_leaks=0:quarantine_size_mb=8",
        "PYTHONMALLOC": "malloc",
        "PYTHONPATH": str(PROJECT),
        "HYPOTHESIS_PROFILE": "brief",
    }
    tests = [str(path) for path in sorted((PROJECT / "tests/unit").glob("test_native_*.py"))]
    result = subprocess.run(
        [sys.executable, "-c", RUN, str(made), "-q", "-p", "no:cacheprovider", *tests],
        cwd=PROJECT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=580,
    )
    assert result.returncode == 0, (result.stdout + result.stderr)[-5000:]
