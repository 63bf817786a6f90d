"""docs/reliability.md from the figures of the trials: `python tests/reliability.py REPORT` takes a report in.

The page opens with a summary, a row for each trial; its worst figures are read out of the rows of docs/reliability.json.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

DOCS: Final = Path(__file__).resolve().parents[1] / "docs"
PAGE: Final = DOCS / "reliability.md"
FIGURES: Final = DOCS / "reliability.json"
COLUMNS: Final = ("fault", "injected", "holds", "figure", "form", "date")
_MARKS: Final = "<!-- {name}: begin -->\n", "<!-- {name}: end -->\n"

Figures = list[dict[str, Any]]


@dataclass(frozen=True)
class Worst:
    """One number of a summary, over all rows of a trial: the greatest, or the sum."""

    text: str
    """What is said of it, with `{}` for the number."""
    pattern: str
    """Finds the number in a row's figure, as its only group."""
    over: Callable[[Iterable[float]], float] = max

    def of(self, figures: Figures) -> str | None:
        """Return the text with the number; None if no row has one."""
        found = [
            float(number.replace(",", ""))
            for figure in figures
            for number in re.findall(self.pattern, figure["figure"], re.MULTILINE)
        ]
        if not found:
            return None
        number = self.over(found)
        return self.text.format(f"{number:,.0f}" if number == int(number) else f"{number:,.1f}")


@dataclass(frozen=True)
class Trial:
    """One row of the summary."""

    fault: str
    promise: str
    worst: tuple[Worst, ...]


TRIALS: Final = {
    0: Trial(
        "an archive is changed, or verified while it is recorded to",
        "`verify` finds every change, and accuses no sound archive",
        (
            Worst("{} changes", r"^[\d,]+ of ([\d,]+) found", sum),
            Worst("{} found", r"^([\d,]+) of [\d,]+ found", sum),
        ),
    ),
    1: Trial(
        "`kill -9`, at random and at chosen calls",
        "nothing is lost that was flushed; no line is torn or doubled",
        (
            Worst("{} kills", r"^([\d,]+) kills", sum),
            Worst("{} flushed records lost", r"([\d,]+) flushed ones lost"),
            Worst("at most the last {} ms of a run missing", r"the last ([\d,]+) ms"),
        ),
    ),
    2: Trial(
        "power loss",
        "what `NDJSON_FSYNC` promises is there; what is missing is named",
        (
            Worst("{} losses", r"^([\d,]+) losses", sum),
            Worst(
                "at most {} records lost with the power or sent while it was off", r"records; ([\d,]+) lost"
            ),
        ),
    ),
    3: Trial(
        "SIGTERM under load",
        "every event received is on disk; the stop takes no longer than it may",
        (
            Worst("{} stops", r"^([\d,]+) stops", sum),
            Worst("{} events lost", r"received, ([\d,]+) lost"),
            Worst("slowest stop {} s", r"slowest stop ([\d.]+) s"),
        ),
    ),
    4: Trial(
        "the disk is full",
        "recording waits, then leaves out or drops by name; it goes on by itself",
        (
            Worst("{} events dropped, every one counted", r"([\d,]+) (?:events )?dropped", sum),
            Worst("{} unexplained", r"([\d,]+) unexplained"),
            Worst("back to normal {} s after there was room", r"all undone ([\d.]+) s"),
        ),
    ),
    5: Trial(
        "the disk fails",
        "a call that fails is tried again; what may not be durable is noted",
        (
            Worst("{} calls failed", r"^([\d,]+) calls failed", sum),
            Worst("{} events lost", r"recorded, ([\d,]+) lost"),
        ),
    ),
    6: Trial(
        "the disk is slow or hangs",
        "memory has a limit; clients and the ops server notice nothing",
        (
            Worst("client p99 {} ms", r"client p99 ([\d.]+) ms \("),
            Worst("slowest answer {} ms", r"slowest answer ([\d.]+) ms"),
        ),
    ),
    7: Trial(
        "files are damaged",
        "damage is found, whole lines are kept",
        (
            Worst("{} bits flipped", r"^([\d,]+) flips", sum),
            Worst("{} found", r"flips, ([\d,]+) found", sum),
            Worst("{} whole lines lost", r"([\d,]+) (?:whole lines|records) lost"),
        ),
    ),
    8: Trial(
        "files are rotated all the time, by us and by logrotate",
        "every record is in exactly one file",
        (
            Worst("{} rotations", r"^([\d,]+) (?:rotations|segments)", sum),
            Worst("{} records lost", r"records, ([\d,]+) (?:lost|dropped)"),
            Worst("{} doubled", r"([\d,]+) twice"),
        ),
    ),
    9: Trial(
        "the exchange ends, stalls, refuses, sends nonsense",
        "each end has its name, its gap in the manifest, and a new connection",
        (
            Worst("{} ends and failures named", r"^([\d,]+) (?:ends|failures)", sum),
            Worst("longest gap {} s", r"gap of ([\d.]+) s"),
        ),
    ),
    10: Trial(
        "clients do not read",
        "they are cut in time; memory has a limit; the others miss nothing",
        (
            Worst("cut within {} s", r"cut within ([\d.]+) s"),
            Worst("{} events missing to a good client", r"good client, ([\d,]+) missing"),
            Worst("its p99 at most {} ms", r"([\d.]+) ms beside"),
        ),
    ),
    11: Trial(
        "clients attack",
        "they are cut or answered with an error, at no cost to others",
        (
            Worst("the last cut after {} s", r"(?:cut|last) after ([\d.]+) s"),
            Worst("memory moved by {} MiB", r"moved by \+([\d.]+) MiB"),
        ),
    ),
    12: Trial(
        "the wall clock jumps",
        "no record is lost, no storm of rotations",
        (
            Worst("{} jumps", r"^([\d,]+) jumps", sum),
            Worst("{} records, none lost", r"([\d,]+) records", sum),
        ),
    ),
    13: Trial(
        "the host gives too little: files, CPU, time",
        "archive and exchange come first; clients are refused in words",
        (
            Worst(
                "{} events recorded at the limit of open files, none lost",
                r"([\d,]+) events recorded, none",
                sum,
            ),
            Worst("a stop of the process shows in the lag: {} s", r"peak lag ([\d.]+) s"),
        ),
    ),
    14: Trial(
        "other programs read the archive",
        "each finds what the manifest says",
        (Worst("{} records, equal for all readers", r"([\d,]+) records, all equal", sum),),
    ),
    15: Trial(
        "systemd starts, watches, reloads, stops",
        "a hang is ended by the watchdog, a stop loses nothing",
        (
            Worst("records again {} s after a hang", r"records again ([\d.]+) s"),
            Worst("{} events lost by stops", r"events, ([\d,]+) lost$"),
        ),
    ),
    16: Trial(
        "everything at once, on a virtual clock",
        "all of the above, for every seed",
        (
            Worst("{} seeds, none failed", r"^([\d,]+) seeds, none failed"),
            Worst("{} process lives", r"([\d,]+) process lives"),
        ),
    ),
    17: Trial(
        "hours of load",
        "memory and files stay flat, nothing is dropped",
        (
            Worst("{} events", r"([\d,]+) events", sum),
            Worst("{} dropped", r"events, ([\d,]+) dropped"),
            Worst("memory grew by {} MiB", r"growth [+]?(-?[\d.]+) MiB"),
        ),
    ),
    18: Trial(
        "tokens, certificate, limits and key change under load",
        "no session upstream is lost, and nobody but the clients of removed tokens",
        (
            Worst("{} reloads of everything", r"^([\d,]+) reloads", sum),
            Worst("slowest {} s", r"slowest ([\d.]+) s"),
            Worst("{} missing", r"client, ([\d,]+) missing"),
        ),
    ),
    19: Trial(
        "a part of the recorder fails; nobody reads its log",
        "recording goes on, and the part comes back by itself",
        (
            Worst("{} failures, every part back", r"^([\d,]+) failures", sum),
            Worst("{} events lost in sessions", r"([\d,]+) (?:events )?lost"),
            Worst("slowest stop {} s", r"stopped .*?in ([\d.]+) s"),
        ),
    ),
    20: Trial(
        "`kill -9` of a recorder behind another one",
        "each event is in its archive once, in order; no gap",
        (
            Worst("{} kills", r"^([\d,]+) kills", sum),
            Worst("{} events", r"kills, ([\d,]+) events", sum),
            Worst("{} lost", r"([\d,]+) lost"),
            Worst("{} doubled", r"([\d,]+) doubled"),
        ),
    ),
    21: Trial(
        "a hundred clients want everything that was ever recorded",
        "a live client beside them gets its events; memory has a limit",
        (
            Worst("p99 of the live one {} ms", r"with them ([\d,.]+) ms"),
            Worst("its longest silence {} ms", r"longest silence [\d,.]+ ms, with them ([\d,.]+) ms"),
            Worst("memory grew by {} MiB", r"memory [+-]?([\d,.]+) MiB"),
        ),
    ),
    22: Trial(
        "one of two recorders of a stream is killed, stands still, is stopped, or is cut off",
        "the stream has each event that either received once, and its numbers have no hole",
        (
            Worst("{} faults", r"^([\d,]+) faults", sum),
            Worst("{} events", r"([\d,]+) events", sum),
            Worst("{} missing", r"([\d,]+) missing"),
            Worst("{} doubled", r"([\d,]+) doubled"),
        ),
    ),
    23: Trial(
        "`kill -9` of recorders that follow a NATS stream",
        "each event is in each archive once, in order; no gap; a client that moves has each once",
        (
            Worst("{} kills", r"^([\d,]+) kills", sum),
            Worst("{} events", r"kills, ([\d,]+) events", sum),
            Worst("{} lost", r"([\d,]+) lost"),
            Worst("{} doubled", r"([\d,]+) doubled"),
        ),
    ),
    24: Trial(
        "tiers behind HAProxy and nginx are drained, killed and added",
        "every new client is let in; a follower has every event once",
        (
            Worst("{} new clients", r"^([\d,]+) new clients", sum),
            Worst("{} failed", r"clients, ([\d,]+) failed", sum),
            Worst("{} events", r"([\d,]+) events of", sum),
            Worst("{} missing", r"followers, ([\d,]+) missing", sum),
        ),
    ),
    25: Trial(
        "Kafka brokers are killed, or stand still",
        "the topic has what the archive has, each event once, in order",
        (
            Worst("{} faults", r"^([\d,]+) faults", sum),
            Worst("{} events", r"([\d,]+) events", sum),
            Worst("{} missing", r"([\d,]+) missing"),
            Worst("{} doubled", r"([\d,]+) doubled"),
            Worst("longest time without an acknowledgement {} s", r"without an acknowledgement ([\d.]+) s"),
        ),
    ),
    26: Trial(
        "the servers of a NATS stream are away",
        "what the buffer holds comes later; what it does not hold is counted, and noted in the stream",
        (
            Worst("{} events", r"^([\d,]+) events", sum),
            Worst("{} missing", r"([\d,]+) missing"),
            Worst("{} doubled", r"([\d,]+) doubled"),
        ),
    ),
}
"""The summary: for each trial what is promised, and which of its numbers is the worst."""


def merged(kept: Figures, new: Figures) -> Figures:
    """Let newer figures of a trial's fault take the place of older ones; in the order of the trials."""
    by_fault = {(figure["number"], figure["fault"]): figure for figure in [*kept, *new]}
    return [by_fault[key] for key in sorted(by_fault)]


def summary(figures: Figures) -> str:
    """Return the table that opens the page."""
    rows = ["| trial | what happens | what is promised | the worst that was seen |", "|---|---|---|---|"]
    for number, trial in TRIALS.items():
        own = [figure for figure in figures if figure["number"] == number]
        said = [text for worst in trial.worst if (text := worst.of(own)) is not None]
        words = ", ".join(said) or "not run"
        rows.append(f"| {number or ''} | {trial.fault} | {trial.promise} | {words} |")
    long = sum(figure["form"] == "long" for figure in figures)
    days = sorted({figure["date"] for figure in figures})
    measured = " to ".join(dict.fromkeys([days[0], days[-1]])) if days else "never"
    rows += ["", f"{len(figures)} rows, {long} of them of long forms; measured: {measured}."]
    return "\n".join(rows) + "\n"


def table(figures: Figures) -> str:
    """Return the page's rows, and the machines under them."""
    rows = [
        "| trial | fault | how it is injected | what holds | figure | form | date |",
        "|---|---|---|---|---|---|---|",
    ]
    for figure in figures:
        cells = [str(figure[name]).replace("|", "\\|") for name in COLUMNS]
        rows.append(f"| {figure['number'] or ''} | " + " | ".join(cells) + " |")
    machines = sorted({figure["machine"] for figure in figures})
    return "\n".join([*rows, "", *(f"Machine: {machine}." for machine in machines)]) + "\n"


def page_with(page: str, figures: Figures) -> str:
    """Return the page with this summary and these rows in their places."""
    for name, text in (("summary", summary(figures)), ("figures", table(figures))):
        begin, end = (mark.format(name=name) for mark in _MARKS)
        before, _, rest = page.partition(begin)
        _, found, after = rest.partition(end)
        assert found, f"the page has no place for: {name}"
        page = f"{before}{begin}\n{text}\n{end}{after}"
    return page


def take(new: Figures) -> None:
    """Take figures into docs/reliability.json and the page."""
    figures = merged(json.loads(FIGURES.read_text()), new)
    FIGURES.write_text(json.dumps(figures, indent=1, ensure_ascii=False) + "\n")
    PAGE.write_text(page_with(PAGE.read_text(), figures))


if __name__ == "__main__":
    take([json.loads(line) for line in Path(sys.argv[1]).read_text().splitlines()])
