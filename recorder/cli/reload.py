"""`recorder reload`."""

from __future__ import annotations

import sys

import click

from recorder.errors import EXIT_FAILURE, EXIT_OK, RecorderError


@click.command("reload")
@click.option(
    "--pid",
    type=click.IntRange(min=1),
    help="Of this process; default: of the recorder that runs with the settings that hold here.",
)
def command(pid: int | None) -> None:
    """Have a running recorder reopen its files and take what changed, and say what it took.

    It sends SIGHUP, and waits for a minute at most. The key is taken from its file (POLYGON_API_KEY_FILE), like
    everything else. Exit status 0: everything is as the files say, but for what a restart alone takes, which is named;
    1: something was refused, or the recorder did not answer, and the message says what to do.
    """
    from recorder.reload_answer import reload_of

    pid = pid or _found()
    answer = reload_of(pid)
    click.echo(f"the recorder with pid {pid} has reloaded")
    for line in answer.lines:
        click.echo(line)
    sys.exit(EXIT_OK if answer.is_whole else EXIT_FAILURE)


def _found() -> int:
    """Return the pid of the recorder that runs with the settings that hold here. Raise `RecorderError`."""
    from recorder import log, loop
    from recorder.checks.running import archive_of, find_recorder, is_here
    from recorder.errors import ConfigError
    from recorder.settings import load_settings

    log.configure({"": "critical"})
    try:
        settings = load_settings(require_key=False).settings
    except ConfigError as error:
        raise ConfigError(f"{error}\ncorrect it, or name the recorder with --pid") from error
    recorder = loop.run(find_recorder(archive_of(settings), settings))
    if recorder is None:
        raise RecorderError("no recorder runs with these settings on this machine: name it with --pid")
    if not is_here(recorder.pid):
        raise RecorderError(
            f"{recorder} answers at METRICS_ADDR, and is none of this machine's processes: reload it where it runs"
        )
    return recorder.pid
