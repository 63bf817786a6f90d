"""Readiness in words, and the lag of the loop."""

from __future__ import annotations

import asyncio

import pytest
from fakes import FakeClock
from hypothesis import given
from hypothesis import strategies as st
from ops_parts import feed_of

from recorder.archive.pressure import PressureStats
from recorder.ledger import SinkStats
from recorder.ops.health import part_reasons, readiness, warnings
from recorder.ops.lag import INTERVAL_SECS, LoopLag
from recorder.part import PartStats
from recorder.sources.stats import FeedStats
from recorder.workers.stats import WorkerStats

SECOND_NS = 1_000_000_000


def streaming(cluster: str = "stocks", frames: int = 1, subscribed_at_ns: int = 0) -> FeedStats:
    """Make a feed that is subscribed and has received `frames` data frames since."""
    feed = feed_of(cluster)
    feed.connected = feed.subscribed = True
    feed.reason = ""
    feed.frames_since_subscribed = frames
    feed.subscribed_at_ns = subscribed_at_ns
    return feed


def reasons(
    feeds: list[FeedStats],
    sinks: tuple[SinkStats, ...] = (),
    min_messages: int = 1,
    delay_ms: int = 0,
    now_ns: int = 10 * SECOND_NS,
) -> list[str]:
    """Ask for the reasons with the defaults of the settings."""
    return readiness(
        feeds,
        sinks,
        ready_min_messages=min_messages,
        ready_delay_ms=delay_ms,
        now_monotonic_ns=now_ns,
    )


def test_ready_when_all_flows() -> None:
    """Every cluster subscribed with data, every sink writing: no reason."""
    assert reasons([streaming("stocks"), streaming("crypto")], (SinkStats("ndjson"),)) == []


@pytest.mark.parametrize(
    ("word", "losing", "words"),
    [
        ("warn", False, "nothing is done about it yet"),
        ("compress", False, "files are rotated and compressed early"),
        ("delete", False, "retention is applied at once"),
        ("sample", True, "only some quotes are recorded"),
        ("no_quotes", True, "no quotes are recorded"),
        ("stop", True, "recording is paused"),
    ],
)
def test_disk_pressure_is_a_reason_once_data_is_left_out(word: str, losing: bool, words: str) -> None:
    """Until then it is a warning, in the same words."""
    pressure = PressureStats(
        step=1,
        word=word,
        losing=losing,
        free_bytes=1_500_000,
        needed_bytes=3 * 2**30 // 2,
        min_free_bytes=2**30,
    )
    text = (
        f"archive: disk pressure, {words}: 1.4 MiB free, undone at 1.5 GiB; NDJSON_MIN_FREE_BYTES is 1.0 GiB"
    )
    found = readiness(
        [streaming()],
        [],
        pressure=pressure,
        ready_min_messages=1,
        ready_delay_ms=0,
        now_monotonic_ns=10 * SECOND_NS,
    )
    assert found == ([text] if losing else [])
    assert warnings(pressure) == ([] if losing else [text])


def test_without_pressure_there_is_no_warning() -> None:
    """Neither where there is space, nor where there is no archive."""
    assert warnings(PressureStats(free_bytes=1)) == warnings(None) == []


def test_a_part_that_is_not_up_is_a_reason_where_data_is_missing() -> None:
    """The archive amid its repair, and a port that failed; what only watches is a warning."""
    archive = PartStats("ndjson", state="starting", opening="repairing what is there", since_ns=2 * SECOND_NS)
    port = PartStats("firehose", state="degraded", reason="the address is in use")
    ops = PartStats("ops", carries_data=False, state="degraded", reason="a defect")
    parts = [archive, port, ops, PartStats("zmq", state="up"), PartStats("feed stocks")]
    assert part_reasons(parts, 5 * SECOND_NS) == [
        "ndjson: repairing what is there, for 3 s now",
        "firehose: the address is in use; it is being started again",
    ]
    assert warnings(None, parts) == [
        "ops: a defect; it is being started again, and no data is missing for that"
    ]


def test_a_worker_that_is_down_is_a_warning_while_another_serves() -> None:
    """With none up, that is the reason, and no warning says it again."""
    down, up = WorkerStats(1, state="down", reason="ended"), WorkerStats(2, state="up")
    assert warnings(None, workers=[down, up]) == ["worker 1: ended; the others serve meanwhile"]
    assert warnings(None, workers=[down]) == []


def test_bars_that_do_not_come_from_another_recorder_are_a_warning() -> None:
    """The connection says why, as that of a cluster does."""
    feed = feed_of("stocks")
    feed.reason = "the recorder refused the token"
    assert warnings(None, bar_feeds=[feed, streaming()]) == ["bars of stocks: the recorder refused the token"]


def test_feed_says_why_no_data_can_come() -> None:
    """A cluster that is not subscribed gives its own reason, under its name."""
    feed = feed_of("crypto")
    feed.reason = "the exchange refused the key"
    assert reasons([streaming(), feed]) == ["crypto: the exchange refused the key"]


def test_feed_without_a_reason_gives_its_state() -> None:
    """A cluster on its way to a subscription is named by its state."""
    feed = feed_of("stocks")
    feed.connected, feed.reason, feed.state = True, "", "authenticating"
    assert reasons([feed]) == ["stocks: authenticating"]


@pytest.mark.parametrize(
    ("frames", "min_messages", "reason"),
    [
        (0, 1, "waiting for the first data frame since subscribing"),
        (0, 10, "waiting for the first of 10 data frames since subscribing"),
        (3, 10, "3 of 10 data frames since subscribing"),
    ],
)
def test_data_must_have_come(frames: int, min_messages: int, reason: str) -> None:
    """READY_MIN_MESSAGES counts the data frames of this subscription."""
    assert reasons([streaming(frames=frames)], min_messages=min_messages) == [f"stocks: {reason}"]


def test_no_data_is_needed_if_none_is_asked_for() -> None:
    """READY_MIN_MESSAGES=0 is ready as soon as the subscription is acknowledged."""
    assert reasons([streaming(frames=0)], min_messages=0) == []


def test_delay_must_have_passed() -> None:
    """READY_DELAY_MS is measured from the acknowledgement, to the millisecond."""
    feed = streaming(subscribed_at_ns=2 * SECOND_NS)
    early = reasons([feed], delay_ms=1500, now_ns=3 * SECOND_NS)
    assert early == ["stocks: subscribed for 1000 ms of the 1500 ms that READY_DELAY_MS asks for"]
    assert reasons([feed], delay_ms=1500, now_ns=3 * SECOND_NS + 500_000_000) == []


@pytest.mark.parametrize(
    ("pending", "words"),
    [
        (0, "0 bytes"),
        (1023, "1023 bytes"),
        (1024, "1.0 KiB"),
        (12_897_485, "12.3 MiB"),
        (3 << 30, "3.0 GiB"),
        (3 << 40, "3072.0 GiB"),
    ],
)
def test_failing_sink_says_why_and_how_much_waits(pending: int, words: str) -> None:
    """A sink that cannot write makes the recorder not ready, in its words and with its pending bytes."""
    full = SinkStats("ndjson", pending_bytes=pending, failure="disk full (No space left on device)")
    assert reasons([streaming()], (SinkStats("stdout"), full)) == [
        f"ndjson: disk full (No space left on device); {words} pending"
    ]


def test_a_sink_whose_write_does_not_return_says_for_how_long() -> None:
    """A write that has taken 5 seconds makes the recorder not ready; a shorter one, or none, does not."""
    hung = SinkStats("ndjson", pending_bytes=1024, busy_since_ns=2 * SECOND_NS)
    assert reasons([streaming()], (hung, SinkStats("stdout")), now_ns=7 * SECOND_NS) == [
        "ndjson: the last write has not returned for 5 s; 1.0 KiB pending"
    ]
    assert reasons([streaming()], (hung,), now_ns=7 * SECOND_NS - 1) == []


def test_no_feed_is_not_ready() -> None:
    """A recorder that follows nothing is never ready."""
    assert reasons([]) == ["no upstream connection is configured"]


@given(
    connected=st.booleans(),
    subscribed=st.booleans(),
    frames=st.integers(0, 5),
    min_messages=st.integers(0, 5),
    delay_ms=st.integers(0, 3000),
    passed_ms=st.integers(0, 3000),
    failure=st.sampled_from(["", "disk full"]),
)
def test_ready_exactly_when_all_conditions_hold(
    connected: bool,
    subscribed: bool,
    frames: int,
    min_messages: int,
    delay_ms: int,
    passed_ms: int,
    failure: str,
) -> None:
    """Ready is the conjunction of its conditions, and every reason names the part that it is about."""
    feed = streaming(frames=frames)
    feed.connected, feed.subscribed = connected, subscribed
    found = reasons(
        [feed], (SinkStats("ndjson", failure=failure),), min_messages, delay_ms, now_ns=passed_ms * 1_000_000
    )
    feed_ready = connected and subscribed and frames >= min_messages and passed_ms >= delay_ms
    assert [reason.partition(": ")[0] for reason in found] == ["stocks"] * (not feed_ready) + [
        "ndjson"
    ] * bool(failure)


class LateClock(FakeClock):
    """Wakes each sleeper as late as it is told, then cancels it."""

    def __init__(self, late_secs: list[float]) -> None:
        super().__init__()
        self._late_secs = late_secs

    async def sleep(self, seconds: float) -> None:
        if not self._late_secs:
            raise asyncio.CancelledError
        self.advance(seconds + self._late_secs.pop(0))


async def test_lag_is_what_the_timer_misses() -> None:
    """The lag is the time beyond the interval; a timer that fires early is on time."""
    lag = LoopLag(LateClock([0.003, 61.0, -INTERVAL_SECS / 50]))
    with pytest.raises(asyncio.CancelledError):
        await lag.run()
    assert dict(lag.seconds.cumulative()) | {"0.001": 1, "0.005": 2, "60": 2, "+Inf": 3} == dict(
        lag.seconds.cumulative()
    )
    assert lag.peak_secs == pytest.approx(61.0)
    assert lag.last_secs == 0.0
    assert repr(lag) == "LoopLag(last=0.0000 s, peak=61.0000 s)"


@pytest.mark.parametrize(
    ("states", "ready"),
    [(["up", "up"], True), (["down", "up"], True), (["down", "starting"], False), ([], True)],
)
def test_one_worker_that_is_up_is_enough(states: list[str], ready: bool) -> None:
    """Clients of the others reconnect; with none up nobody is served, unless the recorder itself serves."""
    workers = [WorkerStats(number, state) for number, state in enumerate(states, start=1)]
    found = readiness(
        [streaming()],
        [],
        workers=workers,
        ready_min_messages=1,
        ready_delay_ms=0,
        now_monotonic_ns=10 * SECOND_NS,
    )
    words = "servers: no worker is up, so no client is served; they are being restarted"
    assert found == ([] if ready else [words])
