"""`recorder run`."""

from __future__ import annotations

import sys

import click

from recorder import log, native
from recorder.app import run_forever
from recorder.settings import Loaded, load_settings

config_log = log.get_logger("polygon_config")


@click.command("run")
def command() -> None:
    """Follow the clusters of POLYGON_CLUSTER and record until stopped.

    SIGTERM and SIGINT drain and stop, SIGHUP reopens the files, SIGUSR1 rotates them.
    Exit status 0: stopped on request; 1: failed; 78: a person must change the settings, the key or the location.
    """
    loaded = load_settings()
    _set_up_logs(loaded)
    native.choose(loaded.settings.native)
    sys.exit(run_forever(loaded.settings))


def _set_up_logs(loaded: Loaded) -> None:
    settings = loaded.settings
    log.configure(settings.log.levels, settings.log.format)
    for warning in loaded.warnings:
        config_log.warning(warning)
