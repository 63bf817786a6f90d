"""The collector: what it says is what the parts counted, in text that Prometheus accepts."""

from __future__ import annotations

import subprocess
from collections import Counter
from dataclasses import fields
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ops_parts import Counting, make_ready, maker_of, observe
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text
from tools import tool

from recorder import errors
from recorder.archive.pressure import Step
from recorder.archive.stats import ROTATIONS, ActiveSegment, ArchiveStats
from recorder.errors import UpstreamError
from recorder.ledger import CHANNELS_MAX, Ledger
from recorder.ops.metrics import Exposition
from recorder.ops.metrics_table import METRICS
from recorder.ops.observed import Observed
from recorder.ops.snapshot_builder import take_snapshot
from recorder.part import PartStats
from recorder.servers.stats import EVICTIONS, REFUSALS, RelayStats, ReplayStats, ServerStats
from recorder.sources.replay.stats import PlayStats
from recorder.stats import declarations
from recorder.workers.stats import WorkerStats

KEPT_NAMES = [
    "polygon_reconnects_total",
    "polygon_reconnect_success_total",
    "polygon_reconnect_failure_total",
    "polygon_read_timeouts_total",
    "polygon_heartbeats_sent_total",
    "polygon_messages_received_total",
    "polygon_trades_total",
    "polygon_quotes_total",
    "polygon_status_total",
    "polygon_errors_total",
    "polygon_channel_drops_total",
    "polygon_ndjson_written_total",
    "polygon_ndjson_drops_total",
    "polygon_build_info",
    "polygon_reconnect_duration_seconds",
    "polygon_message_interarrival_seconds",
]
"""Names that existing dashboards know, each with the label `feed`."""

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def scrape(observed: Observed) -> Samples:
    """Render and read back: (name, sorted labels) to value."""
    text = Exposition(observed).render("")[0].decode()
    found: Samples = {}
    for family in parse_text(text):
        for sample in family.samples:
            key = sample.name, tuple(sorted(sample.labels.items()))
            assert key not in found, "Prometheus refuses a scrape with doubled samples"
            found[key] = sample.value
    return found


def value(samples: Samples, name: str, **labels: str) -> float:
    """Return one sample's value."""
    return samples[name, tuple(sorted(labels.items()))]


def names(samples: Samples) -> set[str]:
    """Return the names of all samples."""
    return {name for name, _ in samples}


def busy() -> Observed:
    """Make a recorder with two clusters, two sinks, an archive and servers that have all seen something."""
    ledger = Ledger()
    archive = ArchiveStats()
    archive.rotations["size"] = 2
    archive.active["polygon.ndjson"] = ActiveSegment("polygon.ndjson", 1234, 5)
    archive.fsync_seconds.observe(0.002)
    archive.pressure.free_bytes, archive.pressure.free_inodes = 10**9, 10**6
    archive.pressure.transitions["warn"] = 1
    filtered = ServerStats("filtered", clients=3)
    filtered.evictions["slow_consumer"] = 2
    filtered.refused["origin"] = 1
    observed = observe(
        "stocks",
        "crypto",
        ledger=ledger,
        archive=archive,
        servers=[ServerStats("firehose"), filtered],
        makers=[maker_of("stocks"), maker_of("crypto")],
        replays=Counting(ReplayStats()),
        relay=Counting(RelayStats()),
        player=Counting(PlayStats("burst", 1, 2)),
    )
    for name in ("ndjson", "zmq"):
        sink = ledger.sink(name)
        sink.accepted["stocks", "T"] = 90
        sink.recorded["stocks", "T"] = 70
        sink.dropped["stocks", "T"] = 5
    trades = ledger.channel("stocks", "T")
    trades.received, trades.filtered = 100, 10
    quotes = ledger.channel("stocks", "Q")
    quotes.received, quotes.sampled_out = 8, 8
    unreadable = ledger.channel("crypto", "")
    unreadable.received = unreadable.rejected = 3
    observed.feeds[0].ended_by["read_timeout"] = 4
    observed.feeds[0].latency_seconds.observe(0.004, 3)
    return observed


@pytest.mark.parametrize("name", KEPT_NAMES)
def test_kept_names_have_a_feed_label(name: str) -> None:
    """Every name that dashboards know is served from the start, for each cluster, with the label `feed`."""
    found = {
        dict(labels)["feed"]
        for sample, labels in scrape(observe("stocks", "crypto"))
        if sample in (name, f"{name}_bucket")
    }
    assert found == {"stocks", "crypto"}


UNDECLARED = {
    "busy_since_ns": "exported as the seconds since",
    "consumer_failures": "exported as the sum over all processes",
    "log_lines_dropped": "exported as the sum over all processes",
    "given_up": "known when nobody can ask any more; among the dropped",
    "gap_since": "worked out together with what the archive knows of runs before",
    "since_ns": "shown in milliseconds",
    "subscribed_at_ns": "readiness asks for it",
}


def parts() -> tuple[Observed, list[Any]]:
    """Return a recorder, and what each of its parts counts."""
    ledger, archive, server, worker = Ledger(), ArchiveStats(), ServerStats("bars"), WorkerStats(1)
    replays, relay, maker = ReplayStats(), RelayStats(), maker_of("stocks")
    player = PlayStats("burst", 1, 2)
    observed = observe(
        "stocks",
        ledger=ledger,
        archive=archive,
        servers=[server],
        makers=[maker],
        replays=Counting(replays),
        relay=Counting(relay),
        workers=[worker],
        player=Counting(player),
    )
    sink = ledger.sink("zmq")
    counted = [
        observed.feeds[0],
        sink,
        archive,
        archive.pressure,
        server,
        worker,
        maker.stats,
        replays,
        relay,
        player,
    ]
    return observed, counted


@pytest.mark.parametrize("place", range(len(parts()[1])), ids=lambda place: type(parts()[1][place]).__name__)
def test_every_declared_number_is_exported(place: int) -> None:
    """Each integer that a part declares is in the metrics, unchanged; the others are known."""
    observed, counted = parts()
    stats = counted[place]
    declared = declarations(type(stats))
    integers = [field.name for field in fields(stats) if type(getattr(stats, field.name)) is int]
    assert {name for name in integers if name not in declared} <= UNDECLARED.keys()
    numbers = {
        name: 1_000_003 + 17 * position
        for position, name in enumerate(integers)
        if name in declared and declared[name].metric is not None and declared[name].metric.convert is None
    }
    assert numbers
    for name, number in numbers.items():
        setattr(stats, name, number)
    assert set(numbers.values()) <= set(scrape(observed).values())


def test_times_are_seconds() -> None:
    """Last-event and last-received times are Unix seconds with fractions."""
    observed = observe("stocks")
    observed.feeds[0].last_received_ns = 1_795_237_802_335_000_000
    observed.feeds[0].last_event_ms = 1_795_237_802_330
    samples = scrape(observed)
    assert value(samples, "polygon_last_received_timestamp_seconds", feed="stocks") == 1_795_237_802.335
    assert value(samples, "polygon_last_event_timestamp_seconds", feed="stocks") == 1_795_237_802.33


def test_trades_and_quotes_of_every_cluster() -> None:
    """Trades are T and XT, quotes Q, XQ and C, whatever becomes of them later; other channels are neither."""
    ledger = Ledger()
    for number, (cluster, channel) in enumerate(
        [
            ("stocks", "T"),
            ("stocks", "Q"),
            ("stocks", "AM"),
            ("crypto", "XT"),
            ("crypto", "XQ"),
            ("forex", "C"),
        ]
    ):
        ledger.channel(cluster, channel).received = 10**number
    samples = scrape(observe("stocks", "crypto", "forex", ledger=ledger))
    trades = [value(samples, "polygon_trades_total", feed=c) for c in ("stocks", "crypto", "forex")]
    quotes = [value(samples, "polygon_quotes_total", feed=c) for c in ("stocks", "crypto", "forex")]
    assert (trades, quotes) == ([1, 1000, 0], [10, 10000, 100000])
    assert value(samples, "polygon_events_total", feed="stocks", channel="AM") == 100


def test_ndjson_counts_are_those_of_ndjson_and_stdout() -> None:
    """Written and dropped NDJSON add up the sinks that write lines, all channels, and no other sink."""
    ledger = Ledger()
    for number, (sink, channel) in enumerate(
        [("ndjson", "T"), ("stdout", "T"), ("ndjson", "Q"), ("zmq", "T")]
    ):
        ledger.sink(sink).recorded["stocks", channel] = 10**number
        ledger.sink(sink).dropped["stocks", channel] = 2 * 10**number
    samples = scrape(observe("stocks", "crypto", ledger=ledger))
    assert value(samples, "polygon_ndjson_written_total", feed="stocks") == 111
    assert value(samples, "polygon_ndjson_drops_total", feed="stocks") == 222
    assert value(samples, "polygon_ndjson_written_total", feed="crypto") == 0


def test_histograms_are_cumulative() -> None:
    """A histogram has its bounds, cumulative counts, sum and count."""
    observed = observe("stocks")
    for seconds in (0.05, 0.5, 0.7, 100.0):
        observed.feeds[0].reconnect_seconds.observe(seconds)
    samples = scrape(observed)
    name = "polygon_reconnect_duration_seconds"
    assert [
        value(samples, f"{name}_bucket", feed="stocks", le=le) for le in ("0.1", "1.0", "60.0", "+Inf")
    ] == [
        1,
        3,
        3,
        4,
    ]
    assert value(samples, f"{name}_count", feed="stocks") == 4
    assert value(samples, f"{name}_sum", feed="stocks") == pytest.approx(101.25)


def test_ready_gauges_say_what_ready_says() -> None:
    """`polygon_ready` is /ready's answer; `polygon_feed_ready` and `polygon_sink_writable` are its parts."""
    ledger = Ledger()
    observed = observe("stocks", "crypto", ledger=ledger)
    for feed in observed.feeds:
        make_ready(feed, observed.clock)
    sink = ledger.sink("ndjson")
    assert value(scrape(observed), "polygon_ready") == 1
    sink.failure = "disk full"
    observed.feeds[1].subscribed = False
    samples = scrape(observed)
    assert value(samples, "polygon_ready") == 0
    assert value(samples, "polygon_feed_ready", feed="stocks") == 1
    assert value(samples, "polygon_feed_ready", feed="crypto") == 0
    assert value(samples, "polygon_sink_writable", sink="ndjson") == 0


def test_reasons_and_files_are_labels() -> None:
    """Ended connections and rotations count by reason, active files by name."""
    samples = scrape(busy())
    assert value(samples, "polygon_disconnects_total", feed="stocks", reason="read_timeout") == 4
    assert value(samples, "polygon_rotations_total", reason="size") == 2
    assert value(samples, "polygon_active_file_bytes", file="polygon.ndjson") == 1234
    assert value(samples, "polygon_active_file_records", file="polygon.ndjson") == 5


@pytest.mark.parametrize("group", ["Archive", "Servers", "Bars", "Replay"])
def test_what_does_not_run_has_no_metrics(group: str) -> None:
    """Where nothing is written to files, or served, no metric claims that all is well with it."""
    there = {definition.name for definition in METRICS[group]}
    there |= {f"{name}_bucket" for name in there}
    assert names(scrape(busy())) & there
    assert not names(scrape(observe("stocks"))) & there


def test_servers_have_a_label_port_and_reasons() -> None:
    """Each port has its own samples; evictions and refusals count by reason."""
    samples = scrape(busy())
    assert value(samples, "polygon_server_clients", port="filtered") == 3
    assert value(samples, "polygon_server_clients", port="firehose") == 0
    assert value(samples, "polygon_server_evictions_total", port="filtered", reason="slow_consumer") == 2
    assert value(samples, "polygon_server_refused_total", port="filtered", reason="origin") == 1


def test_a_counter_by_reason_begins_at_zero() -> None:
    """Every reason has a sample before it comes up: Prometheus sees no increase in a series that begins at 1."""
    samples = scrape(busy())
    for reason in set(EVICTIONS) - {"slow_consumer"}:
        assert value(samples, "polygon_server_evictions_total", port="filtered", reason=reason) == 0
    for reason in set(REFUSALS) - {"origin"}:
        assert value(samples, "polygon_server_refused_total", port="filtered", reason=reason) == 0
    ends = {
        kind.reason
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, UpstreamError)
    }
    for reason in ends - {"error", "read_timeout"}:
        assert value(samples, "polygon_disconnects_total", feed="stocks", reason=reason) == 0


def test_rotations_and_steps_of_disk_pressure_begin_at_zero() -> None:
    """An archive that has just begun has a sample for each reason of a rotation and each step of the ladder."""
    samples = scrape(observe("stocks", archive=ArchiveStats()))
    for reason in ROTATIONS:
        assert value(samples, "polygon_rotations_total", reason=reason) == 0
    for step in Step:
        assert value(samples, "polygon_disk_pressure_transitions_total", step=step.word) == 0


def test_trades_in_no_bar_count_by_reason() -> None:
    """Late trades, and all others that a bar is without, are told apart, and are there from the start."""
    maker = maker_of("stocks")
    maker.stats.late = 7
    samples = scrape(observe("stocks", makers=[maker]))
    assert value(samples, "polygon_bars_left_out_total", feed="stocks", reason="late") == 7
    assert value(samples, "polygon_bars_left_out_total", feed="stocks", reason="misdated") == 0


def test_clients_do_not_make_it_unready() -> None:
    """Whatever becomes of clients, readiness is about the data."""
    observed = observe("stocks", servers=[ServerStats("bars", auth_failures=9, lag_secs_max=99.0)])
    make_ready(observed.feeds[0], observed.clock)
    observed.servers[0].evictions["slow_consumer"] = 5
    assert observed.reasons() == []


def test_status_has_every_count_of_a_server() -> None:
    """/status says of each port what its counters say, and of the bars of each cluster."""
    observed = busy()
    observed.makers["stocks"].stats.bars = 4
    content = msgspec.to_builtins(take_snapshot(observed))
    filtered = content["servers"][1]
    assert filtered.keys() == {field.name for field in fields(ServerStats)}
    assert (filtered["port"], filtered["clients"], filtered["evictions"]) == (
        "filtered",
        3,
        {"slow_consumer": 2},
    )
    assert [(bars["cluster"], bars["bars"]) for bars in content["bars"]["made"]] == [
        ("stocks", 4),
        ("crypto", 0),
    ]


def test_each_part_says_how_it_fares() -> None:
    """A part that is degraded is 0, with its restarts; `/status` says why."""
    down = PartStats("zmq", True, "degraded", reason="no such device", restarts=3)
    down.failure, down.failed_at = "no such device", 1_760_375_617_000
    observed = observe("stocks", parts=[PartStats("live page", False, "up"), down])
    samples = scrape(observed)
    assert value(samples, "polygon_part_up", part="live page") == 1
    assert value(samples, "polygon_part_up", part="zmq") == 0
    assert value(samples, "polygon_part_restarts_total", part="zmq") == 3
    assert msgspec.to_builtins(take_snapshot(observed).parts[1]) == {
        "name": "zmq",
        "state": "degraded",
        "reason": "no such device",
        "restarts": 3,
        "failure": "no such device",
        "failed_at": 1_760_375_617_000,
    }


def test_failures_of_consumers_are_counted() -> None:
    """A consumer that raises on the bus shows in the metrics, and does not make the recorder unready."""
    observed = observe("stocks")
    observed.bus.failures = 7
    assert value(scrape(observed), "polygon_consumer_failures_total") == 7
    assert not any("consumer" in reason for reason in observed.reasons())


def test_build_says_what_runs() -> None:
    """The build is one sample a cluster, always 1, with the versions."""
    (labels,) = [dict(labels) for name, labels in scrape(observe("stocks")) if name == "polygon_build_info"]
    assert labels.keys() == {"feed", "version", "python"}
    assert value(scrape(observe("stocks")), "polygon_build_info", **labels) == 1


def test_process_and_gc_are_there() -> None:
    """The usual metrics of the process and of Python stand beside ours."""
    found = names(scrape(observe("stocks")))
    assert {
        "process_resident_memory_bytes",
        "process_open_fds",
        "python_gc_collections_total",
        "python_info",
    } <= found


CHANNELS = st.sampled_from(["T", "Q", "AM", "", "odd one"])
KEYS = st.tuples(st.sampled_from(["stocks", "crypto"]), CHANNELS)


@given(
    books=st.dictionaries(KEYS, st.tuples(*[st.integers(0, 1000)] * 6), max_size=8),
    lost=st.integers(-5, 5),
)
def test_balance_shows_every_event(books: dict[tuple[str, str], tuple[int, ...]], lost: int) -> None:
    """The states add up to what was received; what does not add up is the difference, to the event."""
    ledger = Ledger()
    sink = ledger.sink("ndjson")
    for key, (recorded, filtered, sampled_out, rejected, dropped, pending) in books.items():
        channel = ledger.channel(*key)
        channel.filtered, channel.sampled_out, channel.rejected = filtered, sampled_out, rejected
        sink.recorded[key], sink.dropped[key] = recorded, dropped
        sink.accepted[key] = recorded + dropped + pending
        channel.received = recorded + filtered + sampled_out + rejected + dropped + pending
    if books:
        ledger.channel(*next(iter(books))).received += lost
    samples = scrape(observe("stocks", ledger=ledger))
    assert value(samples, "polygon_balance_difference", sink="ndjson") == (abs(lost) if books else 0)
    states: Counter[str] = Counter()
    for (name, labels), number in samples.items():
        if name == "polygon_balance_events":
            states[dict(labels)["state"]] += int(number)
    assert states["received"] - (lost if books else 0) == states.total() - states["received"]
    assert states["pending"] == sum(counts[5] for counts in books.values())


def test_differences_do_not_hide_each_other() -> None:
    """One event too few on one channel and one too many on another are two differences, not none."""
    ledger = Ledger()
    sink = ledger.sink("ndjson")
    ledger.channel("stocks", "T").received = 1
    sink.recorded["stocks", "Q"] = 1
    assert value(scrape(observe("stocks", ledger=ledger)), "polygon_balance_difference", sink="ndjson") == 2


def test_channel_label_is_bounded() -> None:
    """Whatever channels the wire names, and however many, the label has few values and no event is lost."""
    ledger = Ledger()
    wild = [f"X{number}" for number in range(1000)] + [
        "a b",
        'q"\\\n',
        "é",
        "x" * 100_000,
        "none",
        "other",
        "",
    ]
    for channel in wild:
        ledger.channel("stocks", channel).received += 1
    samples = scrape(observe("stocks", ledger=ledger))
    found = {
        dict(labels)["channel"]: count
        for (name, labels), count in samples.items()
        if name == "polygon_events_total"
    }
    assert len(found) <= CHANNELS_MAX + 2
    assert {"X0", "other", "none"} <= found.keys()
    assert sum(found.values()) == len(wild)


def test_label_of_a_channel_never_changes() -> None:
    """A channel that was named once keeps its name, whatever comes after it."""
    ledger = Ledger()
    ledger.channel("stocks", "T").received = 5
    observed = observe("stocks", ledger=ledger)
    for number in range(CHANNELS_MAX + 10):
        ledger.channel("crypto", f"X{number}").received = 1
        assert value(scrape(observed), "polygon_events_total", feed="stocks", channel="T") == 5


def test_openmetrics_is_valid() -> None:
    """The OpenMetrics text passes its strict parser and says the same as the plain text."""
    observed = busy()
    body, content_type = Exposition(observed).render("application/openmetrics-text; version=1.0.0")
    assert content_type.startswith("application/openmetrics-text; version=1.0.0")
    samples = {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in parse_openmetrics(body.decode())
        for sample in family.samples
        if sample.name.startswith("polygon_")
    }
    plain = {key: number for key, number in scrape(observed).items() if key[0].startswith("polygon_")}
    assert samples == plain


@pytest.mark.parametrize(
    "accept", ["", "*/*", "text/html", "application/openmetrics-text; version=none", "\x00;;=,"]
)
def test_any_accept_header_gets_plain_text(accept: str) -> None:
    """A request that asks for no format that we know gets plain text, never an error."""
    assert Exposition(observe("stocks")).render(accept)[1] == "text/plain; version=0.0.4; charset=utf-8"


def test_promtool_finds_nothing() -> None:
    """Prometheus's own linter reads the whole output and has no complaint."""
    promtool = tool("promtool")
    text = Exposition(busy()).render("")[0]
    done = subprocess.run(
        [promtool, "check", "metrics"], input=text, capture_output=True, timeout=30, check=False
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, b"")


def test_catalog_names_each_metric_once() -> None:
    """No name stands twice in the catalog; counters end in `_total`, and nothing else does."""
    definitions = [definition for group in METRICS.values() for definition in group]
    assert len({definition.name for definition in definitions}) == len(definitions)
    assert all((d.kind == "counter") == d.name.endswith("_total") for d in definitions)


def test_feed_without_books_has_zeros() -> None:
    """A cluster that has received nothing yet still has its counters, so that rates begin at 0."""
    assert value(scrape(observe("forex")), "polygon_trades_total", feed="forex") == 0
