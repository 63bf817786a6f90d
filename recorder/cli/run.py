"""`recorder run`."""

from __future__ import annotations

import sys
import traceback
from typing import TYPE_CHECKING, Final

import click

from recorder.cli import Command
from recorder.errors import EXIT_CONFIG, EXIT_FAILURE, RecorderError

if TYPE_CHECKING:
    from recorder.log import Logger
    from recorder.settings import LogSettings

_CHANGE_IT: Final = (
    "somebody must change something: a restart alone ends the same way, and systemd does not try; "
    "`recorder check` shows all that is in the way"
)
_TRY_AGAIN: Final = "a service manager starts the recorder again, which repairs the archive if that is due"
_DEFECT: Final = "a defect ended the recorder"
_REPORT_IT: Final = "report `error`; a service manager starts the recorder again, which repairs the archive"


@click.command("run", cls=Command)
def command() -> None:
    """Follow the clusters of POLYGON_CLUSTER and record until stopped.

    SIGTERM and SIGINT drain and stop, SIGHUP reopens the files and takes what changes without a restart, SIGUSR1 rotates
    the files. Exit status 0: stopped on request; 1: failed; 78: a person must change the settings, the key or the location.
    """
    from recorder.log import get_logger, mask
    from recorder.settings import SettingsError

    log = get_logger("polygon_config")
    try:
        status = _run(log)
    except RecorderError as error:
        if isinstance(error, SettingsError):
            _set_up_log(error.log_settings)
        log.critical(
            "fatal",
            message=mask(str(error)),
            exit_status=error.exit_status,
            advice=_CHANGE_IT if error.exit_status == EXIT_CONFIG else _TRY_AGAIN,
        )
        raise
    except Exception as error:
        report = "".join(traceback.format_exception(error))
        log.critical("fatal", message=_DEFECT, exit_status=EXIT_FAILURE, advice=_REPORT_IT, error=report)
        raise
    sys.exit(status)


def _run(log: Logger) -> int:
    from recorder import native
    from recorder.app import run_forever
    from recorder.settings import SettingsSource

    source = SettingsSource()
    loaded = source.load()
    settings = loaded.settings
    _set_up_log(settings.log)
    for warning in loaded.warnings:
        log.warning("settings_warning", message=warning)
    native.choose(settings.native)
    return run_forever(settings, source)


def _set_up_log(settings: LogSettings) -> None:
    from recorder import log

    log.configure(settings.levels, settings.format)
