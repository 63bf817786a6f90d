"""What a scenario is: a question, cases that answer it, targets; how its cases are run, and what is kept of them."""

from __future__ import annotations

import json
import statistics
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from benchmarks.calibration import calibration_ns
from benchmarks.facts import facts
from benchmarks.harness import TAPE_EVENTS
from benchmarks.peers.option import Peer

RESULTS: Final = Path(__file__).parent / "results"
RECORDER: Final = "recorder"
"""Who a row is about: the program of this project. Peers have their own names."""
ALONE: Final = "simulator alone"
"""The row that tells how fast the load goes when a client merely reads it."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How long and how often to measure."""

    runs: int = 3
    seconds: float = 10.0
    quick: bool = False
    """Everything as short and small as it can be: shows that it works, and no figure worth quoting."""
    folder: Path | None = None
    """Where archives go; None: the system's folder for temporary files."""
    peers: tuple[Peer, ...] = ()
    """Programs that were given by option, to be measured beside ours."""

    def pick(self, full: float, quick: float) -> float:
        """Return a quantity of this plan."""
        return quick if self.quick else full

    @property
    def warm_up_events(self) -> float:
        """Events before the measured time: once the simulator has played its tape, it has all its texts."""
        return self.pick(1.5 * TAPE_EVENTS, 0.1 * TAPE_EVENTS)

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        """Yield a folder for one run."""
        with tempfile.TemporaryDirectory(prefix="bench-", dir=self.folder) as made:
            yield Path(made)


@dataclass(slots=True)
class Run:
    """One run of one case."""

    figures: dict[str, float] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    """Why its figures do not count: anything dropped, anybody cut."""
    series: dict[str, list[float]] = field(default_factory=dict)
    """What was seen over time, for plots."""
    calibration_ns: int = 0


@dataclass(frozen=True, slots=True)
class Case:
    """One row of a scenario's table: some work, and the program that does it."""

    work: str
    who: str
    measure: Callable[[Plan], Run]
    once: bool = False
    """One run is enough: it is long."""


@dataclass(frozen=True, slots=True)
class Column:
    """A figure as the table shows it."""

    figure: str
    heading: str
    form: str = ",.0f"


@dataclass(frozen=True, slots=True)
class Target:
    """What a figure of one row must be; with `versus`, what it must be as a multiple of the same figure there."""

    text: str
    work: str
    figure: str
    at_least: float | None = None
    at_most: float | None = None
    who: str = RECORDER
    versus: tuple[str, str] | None = None
    """The work and the program of the other row; both are measured in the same turn."""
    form: str = ",.0f"


@dataclass(frozen=True, slots=True)
class Plot:
    """A picture of a scenario's medians, a line for each `who`; or of one row's series over time."""

    file: str
    """Its name in docs/images, without the ending."""
    title: str
    x: str
    """The figure, or the series, along the axis."""
    y: Mapping[str, str]
    """The figures to draw, and what each is called in the legend; empty where there is but one."""
    x_label: str
    y_label: str
    per: str = ""
    """A figure, or `work`, whose values have lines of their own."""
    series_of: str = ""
    """The work whose series of its first run are drawn."""
    x_log: bool = False
    y_log: bool = False


@dataclass(frozen=True, slots=True)
class Scenario:
    """A question about speed, and how it is answered."""

    number: int
    name: str
    question: str
    columns: Sequence[Column]
    cases: Callable[[Plan], list[Case]]
    targets: Sequence[Target] = ()
    plots: Sequence[Plot] = ()
    note: str = ""
    """What a reader of the table must know."""


def measure(scenario: Scenario, plan: Plan, say: Callable[[str], None]) -> dict[str, Any]:
    """Run all cases in turn, and again; return what is to be kept."""
    cases = scenario.cases(plan)
    runs: list[list[Run]] = [[] for _ in cases]
    for turn in range(plan.runs):
        for case, done in zip(cases, runs, strict=True):
            if turn and case.once:
                continue
            say(
                f"{scenario.name}: {case.work}, {case.who}, run {turn + 1} of {1 if case.once else plan.runs}"
            )
            done.append(_attempt(case, plan))
    rows = [
        {
            "work": case.work,
            "who": case.who,
            "median": _medians(done),
            "failures": sorted({failure for run in done for failure in run.failures}),
            "runs": [asdict(run) for run in done],
        }
        for case, done in zip(cases, runs, strict=True)
    ]
    return {
        "number": scenario.number,
        "scenario": scenario.name,
        "question": scenario.question,
        "note": scenario.note,
        "seconds": plan.seconds,
        "quick": plan.quick,
        "facts": facts(),
        "columns": [asdict(column) for column in scenario.columns],
        "rows": rows,
        "targets": [
            judged(target, rows) for target in (*scenario.targets, *_against(plan.peers, scenario, cases))
        ],
        "plots": [asdict(plot) for plot in scenario.plots],
    }


def _against(peers: Sequence[Peer], scenario: Scenario, cases: Sequence[Case]) -> Iterator[Target]:
    """Yield what is asked of us beside each peer that was given: to be ahead of it in what the first column shows."""
    names = {peer.name for peer in peers}
    for case in cases:
        if case.who in names:
            yield Target(
                f"ahead of {case.who}, {case.work}",
                case.work,
                scenario.columns[0].figure,
                at_least=1,
                versus=(case.work, case.who),
                form=".2f",
            )


def _attempt(case: Case, plan: Plan) -> Run:
    """Run a case; a program that ends or an answer that never comes fails this run, not the others."""
    calibration = calibration_ns()
    try:
        run = case.measure(plan)
    except Exception as error:
        lines = f"{type(error).__name__}: {error}".splitlines()
        run = Run(failures=[lines[0][:300]])
    run.calibration_ns = calibration
    return run


def _medians(runs: Sequence[Run]) -> dict[str, float]:
    names = dict.fromkeys(name for run in runs for name in run.figures)
    return {
        name: statistics.median(run.figures[name] for run in runs if name in run.figures) for name in names
    }


def judged(target: Target, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Hold rows against a target; `met` is None where nothing was measured, and never true of a run that failed."""
    concerned = [row for row in (_row(rows, target.work, target.who),) if row]
    other = _row(rows, *target.versus) if target.versus else None
    values: list[float] = []
    if concerned and target.versus is None:
        values = [
            run["figures"][target.figure] for run in concerned[0]["runs"] if target.figure in run["figures"]
        ]
    elif concerned and other:
        values = [
            own["figures"][target.figure] / peer["figures"][target.figure]
            for own, peer in zip(concerned[0]["runs"], other["runs"], strict=False)
            if target.figure in own["figures"] and peer["figures"].get(target.figure)
        ]
    failed = any(row["failures"] for row in (*concerned, *([other] if other else ())))
    value = statistics.median(values) if values else None
    met = None
    if value is not None:
        met = not failed and (
            (target.at_least is None or value >= target.at_least)
            and (target.at_most is None or value <= target.at_most)
        )
    return {
        "text": target.text,
        "measured": None if value is None else format(value, target.form) + ("×" if target.versus else ""),
        "failed": failed,
        "met": met,
    }


def _row(rows: Sequence[dict[str, Any]], work: str, who: str) -> dict[str, Any] | None:
    return next((row for row in rows if (row["work"], row["who"]) == (work, who)), None)


def save(result: dict[str, Any], folder: Path) -> None:
    """Keep a result."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{result['scenario']}.json"
    path.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n")


def kept(folder: Path = RESULTS) -> list[dict[str, Any]]:
    """Return the kept results in the order of their numbers."""
    results = [json.loads(path.read_text()) for path in folder.glob("*.json")]
    return sorted((result for result in results if "scenario" in result), key=lambda result: result["number"])
