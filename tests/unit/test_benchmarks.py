"""What benchmarks do with what they have measured."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from benchmarks.bar_client import totals
from benchmarks.check import INSTRUCTIONS, RELATIVE, compared
from benchmarks.harness import Look, Metrics, Span, percentile
from benchmarks.peers.option import Peer
from benchmarks.plots import lines
from benchmarks.scenario import Case, Column, Plan, Plot, Run, Scenario, Target, judged, kept, measure, save
from benchmarks.scenarios import SCENARIOS
from benchmarks.workload import CLIENTS, CLUSTER, EVENTS, market, parts, work
from recorder.frames import frame
from recorder.polygon.events import Decoder


def row(work: str, who: str, *values: float, failures: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return a row of runs with one figure."""
    runs = [{"figures": {"speed": value}} for value in values]
    return {"work": work, "who": who, "runs": runs, "failures": list(failures), "median": {}}


@pytest.mark.parametrize("name", SCENARIOS)
def test_targets_and_plots_speak_of_what_is_measured(name: str) -> None:
    """Each target's rows are among the cases, and each plot of a series is of one of them."""
    scenario = SCENARIOS[name]
    cases = {(case.work, case.who) for case in scenario.cases(Plan())}
    works = {work for work, _ in cases}
    for target in scenario.targets:
        assert (target.work, target.who) in cases
        assert target.versus is None or target.versus in cases
        assert target.at_least is not None or target.at_most is not None
    assert all(not plot.series_of or plot.series_of in works for plot in scenario.plots)


def test_a_target_is_met_by_the_median() -> None:
    """One slow run of three does not fail it, and one fast run does not meet it."""
    target = Target("≥ 10", "w", "speed", at_least=10)
    assert judged(target, [row("w", "recorder", 3, 11, 12)])["met"] is True
    assert judged(target, [row("w", "recorder", 30, 9, 8)])["met"] is False


def test_a_ratio_is_of_runs_in_the_same_turn() -> None:
    """The machine may be slower in one turn than in the other: both are, then."""
    target = Target("≥ 2 ×", "w", "speed", at_least=2, versus=("w", "peer"), form=".1f")
    verdict = judged(target, [row("w", "recorder", 10, 100, 1000), row("w", "peer", 4, 40, 400)])
    assert (verdict["met"], verdict["measured"]) == (True, "2.5×")


def test_a_failed_run_meets_no_target() -> None:
    """Neither does one whose peer failed, and what was not measured has no verdict."""
    failed = row("w", "recorder", 100, failures=("1 records dropped",))
    assert judged(Target("≥ 10", "w", "speed", at_least=10), [failed])["met"] is False
    ratio = Target("≥ 2 ×", "w", "speed", at_least=2, versus=("w", "peer"))
    assert (
        judged(ratio, [row("w", "recorder", 100), row("w", "peer", 1, failures=("ended",))])["met"] is False
    )
    assert judged(ratio, [row("w", "recorder", 100)])["met"] is None


def test_cases_take_turns_and_one_that_breaks_fails_alone(tmp_path: Any) -> None:
    """Ours, the peer, and again; an error is the failure of its run; the result can be kept and read."""
    turns: list[str] = []

    def ours(plan: Plan) -> Run:
        turns.append("ours")
        return Run({"speed": float(len(turns))})

    def peer(plan: Plan) -> Run:
        turns.append("peer")
        raise OSError("not installed")

    scenario = Scenario(
        1, "some", "?", [], lambda plan: [Case("w", "recorder", ours), Case("w", "peer", peer, once=True)]
    )
    result = measure(scenario, Plan(runs=2), lambda line: None)
    assert turns == ["ours", "peer", "ours"]
    assert result["rows"][0]["median"] == {"speed": 2.0}
    assert result["rows"][1]["failures"] == ["OSError: not installed"]
    save(result, tmp_path)
    assert kept(tmp_path) == [json.loads(json.dumps(result))]


def test_a_peer_by_option_is_a_command_with_places() -> None:
    """Words as a shell cuts them, each place filled in; with a file it records, with a port it serves."""
    both = Peer.parse("fast one='/opt/my streamer' --from={url} --listen 127.0.0.1:{port} -o {file}")
    assert (both.name, both.words[0], both.records, both.serves) == (
        "fast one",
        "/opt/my streamer",
        True,
        True,
    )
    assert not Peer.parse("a=b {url} {file}").serves
    assert not Peer.parse("a=b {url} {port}").records


@pytest.mark.parametrize(
    "text", ["", "name", "=b {url} {file}", "a=", "a=b {url}", "a=b {file}", "a=b {url} 'x"]
)
def test_what_is_no_peer_is_refused(text: str) -> None:
    """Without a name, a command, the exchange to follow, or a place to see what it does."""
    with pytest.raises(ValueError, match="is not NAME=COMMAND"):
        Peer.parse(text)


def test_we_are_measured_against_each_peer_by_option() -> None:
    """A peer that was given is a target of each work that both do."""

    def does(speed: float) -> Callable[[Plan], Run]:
        return lambda plan: Run({"speed": speed})

    cases = [Case("w", "recorder", does(30.0)), Case("w", "given", does(10.0)), Case("w", "fixed", does(1.0))]
    scenario = Scenario(1, "some", "?", [Column("speed", "speed")], lambda plan: cases)
    plan = Plan(runs=1, peers=(Peer.parse("given=b {url} {file}"),))
    targets = measure(scenario, plan, lambda line: None)["targets"]
    assert [(each["text"], each["measured"], each["met"]) for each in targets] == [
        ("ahead of given, w", "3.00×", True)
    ]


def test_metrics_are_read_by_name_and_labels() -> None:
    """A total is over all samples that have the labels; names are whole names."""
    metrics = Metrics('# HELP a b\na{x="1",y="2"} 3\na{x="1"} 4\na{x="2"} 5\na_total 100\n')
    assert metrics.total("a") == 12
    assert metrics.total("a", x="1") == 7
    assert metrics.total("a_total") == 100
    assert metrics.total("b") == 0


def test_a_percentile_is_of_the_new_observations() -> None:
    """In proportion between two bounds; what is beyond the last one is at it."""

    def look(within_1: int, within_2: int, all_: int) -> Look:
        text = f'h_bucket{{le="1"}} {within_1}\nh_bucket{{le="2"}} {within_2}\nh_bucket{{le="+Inf"}} {all_}\n'
        return Look(0.0, 0.0, 0.0, 0.0, Metrics(text))

    span = Span(look(1000, 1000, 1000), look(1050, 1100, 1100))
    assert span.percentile("h", 0.75) == 1.5
    assert Span(look(0, 0, 0), look(0, 0, 5)).percentile("h", 0.5) == 2
    assert percentile({}, 0.5) == 0


def test_bars_are_added_up_from_frames() -> None:
    """Statuses do not count, a frame that is not whole does not either, volumes are exact."""
    bar = '{"ev":"MB","interval":%d,"n":2,"v":%s}'
    whole = f"[{bar % (100, '0.1')},{bar % (100, '0.2')},{bar % (1000, '3')}]".encode()
    data = frame(b'[{"ev":"status"}]') + frame(whole) + frame(whole)[:-1]
    assert totals(data) == {
        "bars": {100: 2, 1000: 1},
        "trades": {100: 4, 1000: 2},
        "volume": {100: "0.3", 1000: "3"},
    }


def test_costs_are_compared_by_instructions_where_both_have_them() -> None:
    """Worse is what passes the tolerance; CPU time is the measure where instructions are missing on one side."""
    before = {INSTRUCTIONS: {"record": 1000.0, "bars": 1000.0}, RELATIVE: {"record": 10.0, "bars": 10.0}}
    now = {INSTRUCTIONS: {"record": 1020.0, "bars": 1040.0}, RELATIVE: {"record": 20.0, "bars": 5.0}}
    measure_, rows = compared(before, now)
    assert measure_ == INSTRUCTIONS
    assert [name for name, (_, _, worse) in rows.items() if worse] == ["bars"]
    measure_, rows = compared(before, {RELATIVE: now[RELATIVE]})
    assert [name for name, (_, _, worse) in rows.items() if worse] == ["record"]


def test_plots_have_a_line_for_each_program() -> None:
    """Points rise along the axis; rows that failed, or lack the figures, have none."""
    plot = {"x": "clients", "y": {"speed": ""}, "per": "", "series_of": ""}
    rows = [
        {"who": who, "work": "", "median": median, "failures": failures}
        for who, median, failures in (
            ("recorder", {"clients": 10, "speed": 2.0}, []),
            ("recorder", {"clients": 1, "speed": 1.0}, []),
            ("peer", {"clients": 1, "speed": 3.0}, []),
            ("peer", {"clients": 10, "speed": 4.0}, ["cut"]),
            ("simulator alone", {"speed": 5.0}, []),
        )
    ]
    assert list(lines({"rows": rows}, plot)) == [("recorder", [1, 10], [1.0, 2.0]), ("peer", [1], [3.0])]
    assert Plot("f", "t", "x", {}, "", "").series_of == ""


def test_the_guarded_workload_does_its_work() -> None:
    """What is counted is work: every event recorded, served to whom it concerns, and every trade in bars."""
    made, batches, decoder = parts(), market(), Decoder(CLUSTER)
    for part in made.values():
        work(part, batches, decoder, 1)
    recording, firehose, filtered, bars = (part.__self__ for part in made.values())  # type: ignore[attr-defined]
    events = [event for frames in batches for one in frames for event in json.loads(one)]
    trades = sum(event["ev"] == "T" for event in events)
    assert recording.stage.seq == len(events) == EVENTS
    assert firehose._stats.frames_delivered == CLIENTS * sum(map(len, batches))
    assert 0 < filtered._stats.events_delivered < CLIENTS * EVENTS
    assert bars.makers[CLUSTER].stats.trades == trades > 0
