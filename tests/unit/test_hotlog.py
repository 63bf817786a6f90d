"""The hot log: what is kept, what is offered, and what is said of what is not."""

from __future__ import annotations

from pathlib import Path

import hypothesis.strategies as st
import pytest
from fakes import batch_of
from hypothesis import given

from recorder.archive.wanted import Asked, Place
from recorder.bus import Missed, SessionClosed, SessionOpened
from recorder.polygon.position import Told
from recorder.servers.past import hotlog
from recorder.servers.past.hotlog import FLOOD_BYTES, HotLog
from recorder.servers.past.numbering import Numbering
from recorder.servers.past.outage import GAPS_MAX

T0_MS = 1_790_000_000_000


def log_of(bytes_max: int = 2**20, *reads: int) -> HotLog:
    """Return a log of reads of so many frames each, a second apart, the first of them a second behind its beginning."""
    log = HotLog("run", bytes_max, ["stocks", "options"], T0_MS)
    for number, frames in enumerate(reads, 1):
        add(log, frames, T0_MS + 1000 * number)
    return log


def add(log: HotLog, frames: int = 1, at_ms: int = T0_MS, cluster: str = "stocks") -> None:
    """Have a log take one read."""
    batch = batch_of(
        *[b"[%d]" % number for number in range(frames)], cluster=cluster, received_ns=at_ms * 10**6
    )
    Numbering(log).accept(batch)


@given(st.lists(st.integers(1, 9), max_size=60), st.integers(0, 4000))
def test_behind_each_position_on_offer_is_everything_that_came(reads: list[int], bytes_max: int) -> None:
    """Whatever the limit: the log stays below it, and refuses every other position with a reason."""
    log = log_of(bytes_max, *reads)
    assert log.size <= bytes_max
    borders = [sum(reads[:count]) for count in range(len(reads) + 1)]
    assert log.position == borders[-1]
    for position in range(borders[-1] + 2):
        start = log.after(f"run:{position}")
        if position in borders and position >= log.offered_position:
            assert (start.position, start.recovered, start.reason) == (position, True, "")
            behind = [len(log.batch(number).frames) for number in range(start.number, log.end)]
            assert behind == reads[borders.index(position) :]
        else:
            assert not start.recovered
            assert start.number == log.end
            assert start.reason


def test_what_is_under_way_has_a_head_start() -> None:
    """The oldest part of the log is no longer offered, but still there for a reader that has begun with it."""
    log = log_of(10_000)
    while log.after("run:1").recovered or not log.position:
        add(log)
    assert log.first <= 1
    assert log.batch(1).frames == [b"[0]"]
    assert log.size > 7_000


@pytest.mark.parametrize("frame_bytes", [65_536, 614_400])
def test_in_a_flood_little_is_kept_until_it_is_over(frame_bytes: int) -> None:
    """What fills the memory within moments would only cost the cache: nobody comes back in time to read it.

    It is over also where each read is larger than what is kept.
    """
    bytes_max, frame = 4 * FLOOD_BYTES, b"[%b]" % (b" " * frame_bytes)
    log = log_of(bytes_max)
    at_ms = T0_MS

    def flow(reads: int, every_ms: int) -> None:
        nonlocal at_ms
        for _ in range(reads):
            at_ms += every_ms
            log.append("stocks", [frame], at_ms * 10**6, log.position + 1)
            assert log.after(f"run:{log.position}").recovered
            assert log.after(f"run:{log.offered_position}").recovered

    flow(reads=bytes_max // len(frame), every_ms=1)
    assert log.size > FLOOD_BYTES, "not full yet"
    flow(reads=200, every_ms=1)
    assert log.size <= FLOOD_BYTES
    flow(reads=200, every_ms=frame_bytes // 6_400)
    assert bytes_max - 2 * len(frame) < log.size <= bytes_max


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is no position"),
        ("5", "is no position"),
        ("run:", "is no position"),
        ("run:-1", "is no position"),
        ("run:٣", "is no position"),
        ("run:" + "9" * 5000, "is no position"),
        ("other:1", "of another recorder, or from before"),
        ("run:99", "has not come as far"),
        ("run:1", "older than what is kept"),
        ("run:16", "has told nobody this position"),
    ],
)
def test_a_position_that_is_none_is_refused_with_the_reason(text: str, words: str) -> None:
    """Each in words for whoever wrote the client; what is quoted is short."""
    log = log_of(1500, 5, 5, 5, 5)
    start = log.after(text)
    assert not start.recovered
    assert words in start.reason
    assert len(start.reason) < 200
    assert (start.number, start.position) == (log.end, 20)


def test_a_time_is_a_position_too() -> None:
    """The first read of that millisecond or a later one; before what is kept, and in times to come, it is refused."""
    log = log_of(2**20, 1, 1, 1)
    now_ms = T0_MS + 10_000
    assert log.since(T0_MS + 2000, now_ms)[:4] == (1, 1, True, "")
    assert log.since(T0_MS + 2001, now_ms)[:4] == (2, 2, True, "")
    assert log.since(T0_MS, now_ms)[:4] == (0, 0, True, "")
    assert log.since(now_ms, now_ms)[:4] == (3, 3, True, "")
    assert "not come yet" in log.since(now_ms + 1, now_ms).reason
    assert f"from {T0_MS} on" in log.since(T0_MS - 1, now_ms).reason
    assert not log.since(0, now_ms).recovered


def test_a_clock_that_is_set_back_hides_nothing() -> None:
    """What came at an earlier time by the clock, but later, is there for both times."""
    log = log_of()
    add(log, at_ms=T0_MS + 5000)
    add(log, at_ms=T0_MS + 1000)
    assert log.since(T0_MS + 1000, T0_MS + 6000).number == 0
    assert log.since(T0_MS + 5000, T0_MS + 6000).number == 0


def test_without_memory_a_client_that_missed_nothing_resumes() -> None:
    """`RESUME_BUFFER_BYTES=0`: positions go on, nothing is kept."""
    log = log_of(0, 3, 4)
    assert log.after("run:7").recovered
    assert not log.after("run:3").recovered
    assert log.size == 0
    assert log.first == log.end == 0


def closed(log: HotLog, from_ms: int, cluster: str = "stocks") -> None:
    log.session_changed(SessionClosed(cluster, (from_ms + 50) * 10**6, "disconnected", from_ms * 10**6))


def opened(log: HotLog, at_ms: int, cluster: str = "stocks") -> None:
    log.session_changed(SessionOpened(cluster, at_ms * 10**6))


def test_gaps_of_the_recorder_are_known() -> None:
    """A gap counts for whoever has not come past its end; one that lasts has none. Each cluster has its own."""
    log = log_of()
    opened(log, T0_MS)
    add(log)
    closed(log, T0_MS + 100)
    opened(log, T0_MS + 200)
    add(log)
    closed(log, T0_MS + 300, "options")
    gap = {"cluster": "stocks", "from": T0_MS + 100, "to": T0_MS + 200, "reason": "disconnected"}
    lasting = {"cluster": "options", "from": T0_MS + 300, "to": None, "reason": "disconnected"}
    assert [outage.shown() for outage in log.outages(0, "")] == [gap, lasting]
    assert [outage.shown() for outage in log.outages(0, "stocks")] == [gap]
    assert [outage.shown() for outage in log.outages(2, "")] == [lasting]
    assert log.outages(2, "stocks") == []


def test_a_cut_from_another_recorder_is_no_gap_until_that_is_known() -> None:
    """What came meanwhile may still come: then there is none. What that recorder missed itself is one at once."""
    log = log_of(2**20, 1)
    close = SessionClosed("stocks", T0_MS * 10**6, "disconnected", T0_MS * 10**6, "run:1")
    log.session_changed(close)
    assert log.outages(0, "") == []
    missed = Missed(T0_MS - 50, T0_MS - 20, "read_timeout")
    log.session_changed(SessionOpened("stocks", (T0_MS + 100) * 10**6, 5, (missed,)))
    assert [outage.shown()["reason"] for outage in log.outages(0, "")] == ["read_timeout"]
    log.session_changed(close)
    log.session_changed(SessionOpened("stocks", (T0_MS + 300) * 10**6))
    assert [outage.shown()["reason"] for outage in log.outages(0, "")] == ["read_timeout", "disconnected"]


def test_a_session_that_brings_nothing_ends_no_gap() -> None:
    """An exchange that is flapping all night is one gap, not thousands."""
    log = log_of()
    add(log)
    for attempt in range(3 * GAPS_MAX):
        closed(log, T0_MS)
        opened(log, T0_MS + 1000 * (attempt + 1))
    [outage] = log.outages(0, "stocks")
    assert (outage.from_ms, outage.to_ms) == (T0_MS, T0_MS + 3000 * GAPS_MAX)


def test_a_gap_that_is_forgotten_takes_what_came_before_along() -> None:
    """Whoever resumes is told of every gap: behind more gaps than are remembered nothing is offered."""
    log = log_of()
    for number in range(GAPS_MAX + 10):
        add(log)
        closed(log, T0_MS + 1000 * number)
        opened(log, T0_MS + 1000 * number + 500)
    assert log.offered_position == 11
    assert not log.after("run:10").recovered
    assert log.after("run:11").recovered
    assert len(log.outages(log.offered_position, "")) == GAPS_MAX


def test_a_log_that_begins_later_offers_nothing_from_before() -> None:
    """A worker that was replaced has what it was fed, and says so; positions are those of the run."""
    log = log_of(2**20, 2, 2)
    log.begin(100, T0_MS + 9000)
    add(log, 3, T0_MS + 10_000)
    assert log.told(log.position) == "run:103"
    assert log.after("run:100").recovered
    assert not log.after("run:4").recovered
    assert not log.since(T0_MS + 8000, T0_MS + 11_000).recovered
    assert log.size < 1000


def test_what_is_read_together_is_decoded_once() -> None:
    """Clients that catch up side by side share the decoded batch; once nobody reads, it is gone."""
    log = log_of(2**20, *[1] * 40)
    first = log.batch(0)
    assert log.batch(0) is first
    for number in range(1, 40):
        log.batch(number)
    assert log.batch(0) is not first
    again = log.batch(0)
    log.rest()
    assert log.batch(0) is not again
    assert repr(log).startswith("HotLog(run:40, 40 reads, ")


def archived(bytes_max: int = 2**20, *records: int) -> HotLog:
    """Return the log of a recorder with an archive: reads of a frame each, with so many records."""
    log = HotLog("run", bytes_max, ["stocks"], T0_MS, manifest=Path("polygon.manifest.ndjson"))
    for number, count in enumerate(records, 1):
        log.append("stocks", [b"[]"], (T0_MS + 1000 * number) * 10**6, number, log.seq + count)
    return log


def test_a_position_says_where_it_is_in_the_archive() -> None:
    """Behind which record; one that was told without that is as good, as long as memory has it."""
    log = archived(2**20, 2, 0, 3)
    assert log.told(log.position, log.seq) == "run:3:5"
    for text in ("run:1:2", "run:1"):
        assert log.after(text)[:2] == (1, 1)
        assert log.after(text).recovered
    assert log.after("run:1:2").seq == 2
    assert log.available_to("stocks") == "run:0:0"


@pytest.mark.parametrize(
    ("text", "older"),
    [
        ("run:1:2", Place("run", 2)),
        ("other:7:9", Asked(Told("other", 7, 9), ("stocks",))),
        ("other::9", Asked(Told("other", None, 9), ("stocks",))),
        ("run::2", Place("run", 2)),
        ("run:1", None),
        ("other:7", Asked(Told("other", 7, None), ("stocks",))),
        ("run:99:200", None),
        ("run::200", None),
        ("run::", None),
        ("::", None),
    ],
)
def test_what_memory_does_not_have_the_archive_is_asked_for(text: str, older: Place | Asked | None) -> None:
    """Of another run it may have any position; and nobody is asked for what has not come yet."""
    log = archived(1000, 2, 2, 2, 2)
    start = log.after(text)
    assert not start.recovered
    assert start.reason
    assert start.older == older
    assert log.since(T0_MS, T0_MS + 9000).older == T0_MS
    assert log.since(T0_MS + 9001, T0_MS + 9000).older is None
    assert log_of(1500, 5, 5, 5, 5).after("run:5:5").older is None, "without an archive"


def test_a_place_in_the_archive_is_found_in_memory() -> None:
    """Where it is a border of two reads; what is amid one is read from the archive."""
    log = archived(2**20, 2, 0, 3)
    assert log.after("run::2")[:3] == (1, 1, True)
    assert log.after("run::5")[:3] == (3, 3, True)
    assert log.after("run::0")[:3] == (0, 0, True)
    assert log.after("run::3").older == Place("run", 3)


@given(st.lists(st.integers(0, 4), max_size=40), st.integers(0, 4000), st.integers(0, 100))
def test_a_reader_of_the_archive_meets_the_log_at_a_border(
    records: list[int], bytes_max: int, seq: int
) -> None:
    """Before the entry that it is told, there is exactly what it has by then; however small the log."""
    log = archived(bytes_max, 1, 1)
    log.hold()
    for number, count in enumerate(records, 3):
        log.append("stocks", [b"[]"], (T0_MS + number) * 10**6, number, log.seq + count)
    number, until_seq = log.meeting(seq)
    assert log.begin_seq(number) == until_seq
    assert log.first <= number <= log.end
    if seq <= log.seq:
        assert until_seq >= seq
    else:
        assert (number, until_seq) == (log.end, log.seq)
    assert log.end - log.first >= min(len(records), hotlog.HELD_BYTES // 1000)
    log.let_go()
    assert log.size <= bytes_max
