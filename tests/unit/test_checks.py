"""The parts of `recorder check` that need no process: bounds of clocks, certificates, sockets, limits of time, words."""

from __future__ import annotations

import os
import socket
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import orjson
import pytest
from certificates import self_signed
from fakes import FakeClock
from hypothesis import given
from hypothesis import strategies as st

from recorder.archive.manifest_index import Entry, ManifestIndex
from recorder.checks import space, table
from recorder.checks.certificates import CertificateError, validity_of
from recorder.checks.findings import Finding, Level, failure, ok, skipped, warning
from recorder.checks.offset import Offset, bounds
from recorder.checks.report import as_json, as_lines, verdict
from recorder.checks.scene import Scene, in_thread
from recorder.checks.sockets import connected_to, listener_on
from recorder.checks.table import Check
from recorder.settings import Settings

HOUR_MS = 3_600_000


@given(
    st.floats(-1e5, 1e5),
    st.lists(st.tuples(st.floats(0, 2), st.floats(0, 2), st.floats(0, 1e4)), min_size=1, max_size=6),
)
def test_the_true_offset_is_within_its_bounds(offset: float, looks: list[tuple[float, float, float]]) -> None:
    """However long question and answer take, and however many looks are put together."""
    found: Offset | None = None
    for before, after, at in looks:
        told = float(int(1e9 + at + offset))  # whole seconds, as in `Date`
        seen = bounds(told, 1e9 + at - before, 1e9 + at + after)
        found = seen if found is None else found.narrowed(seen)
    assert found is not None
    assert found.least - 1e-3 <= offset <= found.most + 1e-3
    assert found.certain <= abs(offset) + 1e-3
    assert found.possible >= abs(offset) - 1e-3


def test_servers_that_contradict_each_other_narrow_nothing() -> None:
    """Then either may be right."""
    assert Offset(0, 1).narrowed(Offset(5, 6)) == (0, 6)
    assert Offset(0, 1).narrowed(Offset(0.5, 1.5)) == (0.5, 1)


def test_when_a_certificate_is_valid(tmp_path: Path) -> None:
    """As openssl has made it, before and after 2050, where the form of the year changes."""
    for days in (30, 20_000):
        made, _ = self_signed(tmp_path, "one", days)
        begins, ends = validity_of(made)
        assert ends - begins == timedelta(days=days)
        assert abs(datetime.now(UTC) - begins) < timedelta(hours=1)


@pytest.mark.parametrize(
    "text",
    ["", "no certificate", "-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n"],
)
def test_what_is_no_certificate(tmp_path: Path, text: str) -> None:
    """Is said to be none."""
    (tmp_path / "c.pem").write_text(text)
    with pytest.raises(CertificateError, match=r"c\.pem"):
        validity_of(tmp_path / "c.pem")


def test_sockets_are_found_with_their_owners() -> None:
    """The process that listens on a port, or is connected to an address, is found: here this one, by both families."""
    for family, host in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
        with socket.create_server((host, 0), family=family) as listener:
            port = listener.getsockname()[1]
            listening = listener_on(port)
            assert listening is not None
            assert listening.pid == os.getpid()
            assert connected_to({host}, port) == []
            with socket.create_connection((host, port)):
                [owner] = connected_to({host, "192.0.2.1"}, port)
                assert owner is not None
                assert owner.pid == os.getpid()
                assert connected_to({"192.0.2.1"}, port) == []


async def test_a_call_that_hangs_is_left_behind() -> None:
    """The check has its time and no more, says so, and the others are not kept."""
    hanging = threading.Event()

    async def hang(scene: Scene) -> list[Finding]:
        await in_thread(hanging.wait)
        return []

    async def fail(scene: Scene) -> list[Finding]:
        raise PermissionError(13, "Permission denied", "/secret")

    scene = Scene(Settings.of(), (), FakeClock(), offline=True)
    try:
        [hung] = await table._run(Check("disk", hang, 0.05), scene)
        [refused] = await table._run(Check("archive", fail), scene)
    finally:
        hanging.set()
    assert (hung.level, hung.subject) == (Level.FAILURE, "disk")
    assert "no answer within 0.05 s" in hung.text
    assert refused.text == "could not be looked at: Permission denied (/secret)"


async def test_a_thread_gives_its_result_or_its_error() -> None:
    """As if the function had been called here."""
    assert await in_thread(lambda: 7) == 7
    with pytest.raises(ZeroDivisionError):
        await in_thread(lambda: 1 // 0)


def test_every_check_ends_in_time() -> None:
    """The slowest of the first and the slowest behind them, and what is asked before: 15 s, without the sample."""
    slowest = [max(check.limit_secs for check in checks) for checks in (table.FIRST, table.THEN)]
    assert sum(slowest) + 2.5 <= 15


def test_the_probe_of_the_disk_has_no_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While it is written nothing is in the folder, also where the file system knows no nameless files."""
    seen: list[list[Path]] = []
    write = os.write

    def look(fd: int, data: bytes) -> int:
        seen.append(list(tmp_path.iterdir()))
        return write(fd, data)

    monkeypatch.setattr(os, "write", look)
    assert space.measure(tmp_path, 3 << 20).bytes_per_sec > 0
    monkeypatch.setattr(
        os, "O_TMPFILE", os.O_DIRECTORY | os.O_WRONLY
    )  # as a file system that knows none: EISDIR
    assert space.measure(tmp_path, 3 << 20).sync_secs_max > 0
    assert len(seen) == 6
    assert not any(seen)
    assert not any(tmp_path.iterdir())


def scene_with(*entries: Entry, **variables: object) -> Scene:
    """Make a scene whose archive was recorded so."""
    clock = FakeClock()
    known = {"SINK": ("ndjson",), "NDJSON_DEST": "/x/polygon.ndjson", **variables}
    made = Scene(Settings.of(known), (), clock)
    made.index = ManifestIndex()
    for entry in entries:
        made.index.add(entry)
    return made


def segment(clock: FakeClock, hours_ago: float, hours: float, size: int, file: str) -> Entry:
    """Return the entry of a file that was recorded that long ago, over that long a time."""
    begin = clock.wall_ns() // 1_000_000 - int(hours_ago * HOUR_MS)
    return Entry(
        "segment_closed",
        "run",
        begin,
        "",
        file=file,
        records=1,
        bytes=size,
        first_ingest_ts=begin,
        last_ingest_ts=begin + int(hours * HOUR_MS),
    )


def test_the_rate_of_the_last_week() -> None:
    """Nights count, what is older does not; files that are compressed tell how well files compress."""
    clock = FakeClock()
    scene = scene_with(
        segment(clock, 400, 1, 10**12, "old"),
        segment(clock, 48, 1, 72_000_000, "a"),
        segment(clock, 24, 1, 100_800_000, "b"),
        Entry("segment_compressed", "run", 0, "", file="a", bytes=7_200_000, codec="zstd"),
        NDJSON_COMPRESSION="zstd",
    )
    rate = space._recorded_rate(scene, scene.index)
    assert rate is not None
    assert rate.bytes_per_sec == pytest.approx(1000)
    assert "2.0 days" in rate.source
    assert space._with_share(scene, rate, scene.index).kept_share == pytest.approx(0.1)


def test_a_short_recording_tells_no_rate() -> None:
    """Half an hour is not a day."""
    scene = scene_with(segment(FakeClock(), 0.5, 0.5, 10**9, "a"))
    assert space._recorded_rate(scene, scene.index) is None
    assert space._recorded_rate(scene, None) is None


FINDINGS = [
    ok("settings", "fine"),
    warning("clock", "late", "mend it", offset_secs=2.0),
    failure("ports", "taken", "free it"),
    skipped("tls", "not used"),
]


def test_the_report_says_it_for_people_and_programs() -> None:
    """Each finding is a line, with what to do below; the JSON has the same, and the figures."""
    assert as_lines(FINDINGS, writes_files=True).splitlines() == [
        "ok       settings  fine",
        "warning  clock     late",
        "                   -> mend it",
        "failure  ports     taken",
        "                   -> free it",
        "skipped  tls       not used",
        "1 failure, 1 warning, 1 ok, 1 skipped: not ready to record",
    ]
    report = orjson.loads(as_json(FINDINGS, 1))
    assert (report["ok"], report["exit_status"]) == (False, 1)
    assert report["counts"] == {"ok": 1, "skipped": 1, "warning": 1, "failure": 1}
    assert report["findings"][1]["figures"] == {"offset_secs": 2.0}
    assert verdict(FINDINGS[:1] * 2, writes_files=True) == "2 ok: ready to record"
    assert verdict(FINDINGS[:1], writes_files=False) == "1 ok: ready to run, and no file will be written"


def test_who_finds_fault_says_what_to_do() -> None:
    """A warning without advice is a defect."""
    with pytest.raises(AssertionError):
        failure("ports", "taken", "")


def test_spans_of_time() -> None:
    """Spans are told in the unit in which a person thinks of them."""
    spans = [space._span(secs) for secs in (5, 150, 7300, 3 * 86_400, 800 * 86_400)]
    assert spans == ["5 seconds", "2 minutes", "2 hours", "3 days", "2 years"]
