"""`recorder clickhouse`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from recorder.cli import ArchivePath, Command, Duration, Moment
from recorder.errors import ConfigError

if TYPE_CHECKING:
    from yarl import URL

    from recorder.clickhouse.sending import Options, Sent
    from recorder.clickhouse.server import Server

_WAIT: float = 300.0


def _read_url(context: click.Context, parameter: click.Parameter, text: str | None) -> URL | None:
    from yarl import URL

    if text is None:
        return None
    try:
        url = URL(text)
    except ValueError as error:
        raise click.BadParameter(f"{text!r} is not a URL: {error}") from error
    if url.scheme not in ("http", "https") or not url.host:
        raise click.BadParameter(
            f"{text!r} must be like http://127.0.0.1:8123/market, where market is the database"
        )
    if url.password is not None:
        raise click.BadParameter(
            "other users of the machine can see a password in it; --password-file or CLICKHOUSE_PASSWORD has it"
        )
    if "/" in url.path.strip("/") or url.query:
        raise click.BadParameter(
            f"{text!r} may have the name of a database after the address, and nothing else"
        )
    return url


@click.command("clickhouse", cls=Command)
@click.argument("path", type=ArchivePath(), required=False)
@click.argument("url", callback=_read_url, required=False)
@click.option("--follow", is_flag=True, help="Send new records as they are recorded, until stopped.")
@click.option("--create", is_flag=True, help="Create tables that are missing.")
@click.option("--print-ddl", is_flag=True, help="Print the statements that create the tables, and exit.")
@click.option(
    "--user",
    envvar="CLICKHOUSE_USER",
    default=None,
    help="Default: the user in the URL, or `default`.",
    show_envvar=True,
)
@click.option(
    "--password-file",
    type=click.Path(exists=True, dir_okay=False, readable=True, path_type=Path),
    default=None,
    help="File with the password. Default: CLICKHOUSE_PASSWORD, or none.",
)
@click.option(
    "--cafile",
    "ca_file",
    type=click.Path(exists=True, dir_okay=False, readable=True),
    default=None,
    help="PEM file of the certificate to trust, or of the CA that signed it, for https://.",
)
@click.option(
    "--interval",
    "interval_secs",
    type=Duration(1, 3600),
    default="10s",
    show_default=True,
    help="With --follow: how long rows may wait before they are sent.",
)
@click.option(
    "--wait",
    "wait_secs",
    type=Duration(0),
    default=None,
    help="How long to wait for an unreachable server. Default: 5m; no limit with --follow.",
)
@click.option(
    "--from", "from_ms", type=Moment(), default=0, help="Leave out records received before this time."
)
@click.option("--skip-damaged", is_flag=True, help="Leave out damaged and missing files, and end with 4.")
@click.option("--json", "as_json", is_flag=True, help="Print a summary as JSON.")
def command(
    path: Path | None,
    url: URL | None,
    follow: bool,
    create: bool,
    print_ddl: bool,
    user: str | None,
    password_file: Path | None,
    ca_file: str | None,
    interval_secs: float,
    wait_secs: float | None,
    from_ms: int,
    skip_damaged: bool,
    as_json: bool,
) -> None:
    """Send an archive to a ClickHouse server: a table for each kind of file, each record once.

    PATH is a folder, a manifest, or an active file, whose recorder may be running, or the URL of a bucket. URL is the
    server's HTTP interface and a database, as http://127.0.0.1:8123/market. What the tables have is where the next
    start goes on. Exit status 0: all that was there is sent; 1: the server was away for too long, or something could
    not be read; 2: there is no archive; 3: the archive is damaged; 4: sent, less what was damaged, or deleted before
    it was sent; 78: the server refuses, or a table has other columns.
    """
    if print_ddl:
        from recorder.clickhouse import schema

        statements = [*(schema.create(table) for table in schema.TABLES), schema.create_lost()]
        click.echo(";\n\n".join(statements) + ";")
        return
    from recorder.objects.path import ObjectPath

    if path is None or url is None:
        raise click.UsageError("PATH and URL: both must be named")
    if follow and isinstance(path, ObjectPath):
        raise click.UsageError(
            "--follow: nobody records into a bucket; send it without, as often as you like"
        )
    from recorder.clickhouse.sending import Options
    from recorder.clickhouse.server import Server

    options = Options(
        path,
        follows=follow,
        creates=create,
        interval_secs=interval_secs,
        wait_secs=wait_secs if wait_secs is not None or follow else _WAIT,
        from_ms=from_ms,
        skips_damaged=skip_damaged,
    )
    server = Server(
        url.with_user(None).with_path("/"),
        url.path.strip("/") or "default",
        user=user or url.user or "default",
        password=_password(password_file),
        ca_file=ca_file,
    )
    sent = _send(options, server)
    _print(sent, as_json=as_json)
    sys.exit(sent.exit_status)


def _password(file: Path | None) -> str:
    import os

    from recorder.log import register_secret

    if file is None:
        password = os.environ.get("CLICKHOUSE_PASSWORD", "")
    else:
        try:
            password = file.read_text().strip("\r\n")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"--password-file {file}: {error}") from error
    if not password.isprintable():
        raise ConfigError(
            f"{file or 'CLICKHOUSE_PASSWORD'}: a password is one line, without control characters"
        )
    if password:
        register_secret(password)
    return password


def _send(options: Options, server: Server) -> Sent:
    import asyncio
    import signal

    from rich.console import Console

    from recorder import loop, progress
    from recorder.clickhouse.sending import Sending

    async def main() -> Sent:
        stopping = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stopping.set)
        sending = Sending(options, server, stopping)
        with progress.bar("sending", Console(stderr=True)) as report:
            return await sending.run(None if options.follows else report)

    return loop.run(main())


def _print(sent: Sent, *, as_json: bool) -> None:
    from recorder.words import printable

    if as_json:
        click.echo(sent.as_json())
    else:
        for table, rows in sent.rows.items():
            click.echo(f"{table}: {rows:,} rows")
        click.echo(f"{sent.server}: {sum(sent.rows.values()):,} rows in {sent.inserts:,} inserts")
    for note in sent.notes:
        click.echo(f"note: {printable(note)}", err=True)
    for text in sent.damaged:
        click.echo(f"left out: {printable(text)}", err=True)
    if sent.lost:
        click.echo(
            f"lost: {sent.lost:,} records were gone before they were sent; the table `lost` has where",
            err=True,
        )
    if sent.failure:
        click.echo(f"recorder: {printable(sent.failure)}", err=True)
