"""`recorder check` from settings to exit status."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import click
from rich.console import Console

from recorder import log, loop
from recorder.checks.findings import Finding, Level, failure
from recorder.checks.report import as_json, as_lines, print_table
from recorder.checks.running import find_recorder
from recorder.checks.scene import Scene
from recorder.checks.table import run_all
from recorder.clock import SystemClock
from recorder.errors import EXIT_CONFIG, EXIT_FAILURE, EXIT_OK, ConfigError, RecorderError
from recorder.settings import load_settings
from recorder.sources.exchange.offer import with_clusters

_ASK_SECS: Final = 2.0
"""For the recorder that FIREHOSE_URL names, to say which clusters it offers."""


@dataclass(frozen=True, slots=True)
class CheckOptions:
    """The options of the command."""

    offline: bool
    connect_anyway: bool
    sample_secs: float
    json: bool


def run_check(options: CheckOptions, out: Console) -> int:
    """Check, print the report, return the exit status."""
    # Its findings are all that is to be said; the parts that it uses would say the same in other words.
    log.configure({"": "critical"})
    try:
        loaded = load_settings()
    except ConfigError as error:
        advice = "correct it: nothing else was looked at, since `recorder run` would end here with status 78"
        findings = [failure("settings", line, advice) for line in str(error).splitlines()]
        _print(findings, EXIT_CONFIG, options, out, writes_files=True)
        return EXIT_CONFIG
    settings, findings = loaded.settings, []
    if not options.offline:
        try:
            settings = loop.run(with_clusters(settings, _ASK_SECS))
        except RecorderError as error:
            findings = [failure("exchange", str(error), "see whether that recorder runs, and its address")]
    scene = Scene(
        settings,
        loaded.warnings,
        SystemClock(),
        options.offline,
        options.connect_anyway,
        options.sample_secs,
    )
    errors = Console(stderr=True)
    if errors.is_terminal:
        with errors.status("checking…"):
            findings += loop.run(_check(scene, errors.print))
    else:
        findings += loop.run(_check(scene, lambda text: click.echo(text, err=True)))
    failed = any(finding.level is Level.FAILURE for finding in findings)
    status = EXIT_FAILURE if failed else EXIT_OK
    _print(findings, status, options, out, writes_files=scene.names is not None)
    return status


async def _check(scene: Scene, say: Callable[[str], None]) -> list[Finding]:
    scene.say = say
    scene.recorder = await find_recorder(scene.names, scene.settings)
    return await run_all(scene)


def _print(
    findings: list[Finding], status: int, options: CheckOptions, out: Console, *, writes_files: bool
) -> None:
    if options.json:
        click.echo(as_json(findings, status))
    elif sys.stdout.isatty():
        print_table(findings, out, writes_files=writes_files)
    else:
        click.echo(as_lines(findings, writes_files=writes_files))
