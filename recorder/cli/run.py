"""`recorder run`."""

from __future__ import annotations

import sys

import click

from recorder.cli import Command


@click.command("run", cls=Command)
def command() -> None:
    """Follow the clusters of POLYGON_CLUSTER and record until stopped.

    SIGTERM and SIGINT drain and stop, SIGHUP reopens the files, SIGUSR1 rotates them.
    Exit status 0: stopped on request; 1: failed; 78: a person must change the settings, the key or the location.
    """
    from recorder import log, native
    from recorder.app import run_forever
    from recorder.settings import load_settings

    loaded = load_settings()
    settings = loaded.settings
    log.configure(settings.log.levels, settings.log.format)
    config_log = log.get_logger("polygon_config")
    for warning in loaded.warnings:
        config_log.warning("settings_warning", message=warning)
    native.choose(settings.native)
    sys.exit(run_forever(settings))
