"""A ClickHouse server for tests: the real engine (chDB) on a folder, behind the HTTP interface of a server.

What tables, types, deduplication, partitions and projections do is ClickHouse's own; so is what a kill leaves on the disk.
Of the interface it has what the documentation says of parameters, headers, status codes and error codes, for one client at a
time. Faults come over the same port: POST /fault with a JSON object takes the place of those before.

As a command: `python tests/clickhouse_server.py FOLDER PORT [--password WORD]`.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from waiting import eventually_sync

USER = "recorder"
_NO_SETTINGS = {"database", "query", "wait_end_of_query", "user", "password"}
_STATUS = {"81": 404, "60": 404, "516": 403, "497": 403, "241": 500, "252": 500, "243": 500, "36": 400}
"""HTTP status by code, where it is not 500, as the server's HTTPHandler has them."""


@dataclass
class Faults:
    """What goes wrong with inserts: each the first `times` of them, then it goes well again."""

    kind: str = ""
    times: int = 0
    path: str = ""
    """A file that is made when the fault strikes, so that whoever waits for it may act."""

    def strikes(self, kind: str) -> bool:
        if self.kind != kind or self.times <= 0:
            return False
        self.times -= 1
        if self.path:
            Path(self.path).touch()
        return True


class Endpoint:
    """Passes statements on to the engine."""

    def __init__(self, folder: Path, password: str) -> None:
        from chdb import session

        self._session = session.Session(str(folder))
        self._password = password
        self._faults = Faults()
        self._inserts: list[dict[str, Any]] = []

    def answer_of(self, statement: str) -> tuple[str, bytes]:
        """Return the code of an error, or nothing, and the answer."""
        try:
            return "", self._session.query(statement, "TSV").bytes()
        except Exception as error:
            text = str(error)
            found = re.search(r"Code: (\d+)\.", text)
            return found[1] if found else "1002", text.encode()

    async def __call__(self, request: Any) -> Any:
        from aiohttp import web

        if request.path == "/fault":
            self._faults = Faults(**await request.json())
            return web.json_response({})
        if request.path == "/inserts":
            return web.json_response(self._inserts)
        body = await request.read()
        if self._password and (
            request.headers.get("X-ClickHouse-User"),
            request.headers.get("X-ClickHouse-Key"),
        ) != (USER, self._password):
            return self._failure(
                "516",
                b"Code: 516. DB::Exception: Authentication failed: password is incorrect. (AUTHENTICATION_FAILED)",
            )
        settings = {
            key: value
            for key, value in request.query.items()
            if key not in _NO_SETTINGS and not key.startswith("param_")
        }
        database = request.query.get("database", "default")
        code, text = self.answer_of(f"USE `{database}`")
        if code:
            return self._failure(code, text)
        query = request.query.get("query", "")
        if not query:
            return await self._ask(body.decode(), request.query, settings)
        return await self._insert(request, query, settings, body)

    async def _ask(self, query: str, params: Any, settings: dict[str, str]) -> Any:
        from aiohttp import web

        if self._faults.strikes("half an answer"):
            return web.Response(body=b'{"meta": [], "data": [{"last": 1')
        for name, value in params.items():
            if name.startswith("param_"):
                query = re.sub(
                    rf"\{{{name.removeprefix('param_')}:(\w+)\}}",
                    lambda match, value=value: f"CAST('{value}' AS {match[1]})",
                    query,
                )
        form = re.search(r" FORMAT (\w+)$", query)
        if form:
            query = f"{query[: form.start()]} {_settings(settings)}{form[0]}"
        code, answer = self.answer_of(query)
        return self._failure(code, answer) if code else web.Response(body=answer)

    async def _insert(self, request: Any, query: str, settings: dict[str, str], body: bytes) -> Any:
        from aiohttp import web

        faults = self._faults
        if faults.strikes("cut"):
            request.transport.abort()
            return web.Response()
        for kind, code, text in (
            (
                "too many parts",
                "252",
                "Too many parts (3000). Merges are processing significantly slower than inserts",
            ),
            ("no memory", "241", "(total) memory limit exceeded: would use 8.00 GiB"),
            ("disk full", "243", "Cannot reserve 1.00 MiB, not enough space"),
        ):
            if faults.strikes(kind):
                return self._failure(code, f"Code: {code}. DB::Exception: {text}.".encode())
        if faults.strikes("accepted and forgotten"):
            # The token is noted, the rows are not kept: as a kill between the two leaves it.
            return web.Response()
        with tempfile.NamedTemporaryFile(suffix=".rows") as file:
            file.write(body)
            file.flush()
            insert, form = query.rsplit(" FORMAT ", 1)
            if faults.strikes("killed before"):
                os.kill(os.getpid(), signal.SIGKILL)
            code, answer = self.answer_of(
                f"{insert} FROM INFILE '{file.name}' {_settings(settings)} FORMAT {form}"
            )
        self._inserts.append(
            {
                "query": query,
                "token": settings.get("insert_deduplication_token"),
                "bytes": len(body),
                "code": code,
            }
        )
        if faults.strikes("killed behind"):
            os.kill(os.getpid(), signal.SIGKILL)
        if faults.strikes("answer lost"):
            request.transport.abort()
            return web.Response()
        if faults.strikes("error amid the answer"):
            return web.Response(
                status=200, body=b"Code: 210. DB::Exception: I/O error: Broken pipe. (NETWORK_ERROR)"
            )
        if faults.strikes("hangs behind"):
            await asyncio.sleep(3600)
        return self._failure(code, answer) if code else web.Response(body=answer)

    @staticmethod
    def _failure(code: str, text: bytes) -> Any:
        from aiohttp import web

        return web.Response(
            status=_STATUS.get(code, 500), headers={"X-ClickHouse-Exception-Code": code}, body=text
        )


def _settings(settings: dict[str, str]) -> str:
    if not settings:
        return ""
    given = ", ".join(
        f"{name} = {value if value.isdigit() else repr(value)}" for name, value in settings.items()
    )
    return f"SETTINGS {given}"


@dataclass
class ClickHouse:
    """The server as a process that can be killed and started again on the same folder and port."""

    folder: Path
    port: int
    password: str = ""
    prefix: tuple[str, ...] = ()
    """A command that starts it, such as taskset."""
    process: subprocess.Popen[bytes] | None = field(default=None, init=False)

    def start(self) -> ClickHouse:
        self.folder.mkdir(parents=True, exist_ok=True)
        command = [*self.prefix, sys.executable, __file__, str(self.folder), str(self.port)]
        if self.password:
            command += ["--password", self.password]
        self.process = subprocess.Popen(command, start_new_session=True)
        eventually_sync(self._is_up, "the server listens", every_secs=0.05)
        return self

    def _is_up(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, "the server has ended"
        try:
            self._get("/inserts")
        except OSError:
            return False
        return True

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        if not self.is_dead():
            self.kill()

    def is_dead(self) -> bool:
        assert self.process is not None
        return self.process.poll() is not None

    def fault(self, kind: str, times: int = 1, path: Path | None = None) -> None:
        """Let something go wrong with the next inserts."""
        body = json.dumps({"kind": kind, "times": times, "path": str(path or "")}).encode()
        with urllib.request.urlopen(f"{self.url}/fault", body, timeout=30):
            pass

    def inserts(self) -> list[dict[str, Any]]:
        """Return the inserts that have reached the engine."""
        found: list[dict[str, Any]] = json.loads(self._get("/inserts"))
        return found

    def ask(self, query: str, database: str = "default") -> list[Any]:
        """Return rows, each a list. Raise `RuntimeError` with what the server says."""
        params = urlencode({"database": database})
        headers = {"X-ClickHouse-User": USER, "X-ClickHouse-Key": self.password}
        is_question = query.lstrip().upper().startswith(("SELECT", "SHOW", "DESCRIBE"))
        data = (query + (" FORMAT JSONCompactEachRow" if is_question else "")).encode()
        request = urllib.request.Request(f"{self.url}/?{params}", data, headers)
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return [json.loads(line) for line in answer.read().splitlines()] if is_question else []
        except urllib.error.HTTPError as error:
            raise RuntimeError(error.read().decode()) from error

    def _get(self, path: str) -> bytes:
        with urllib.request.urlopen(self.url + path, timeout=30) as answer:
            found: bytes = answer.read()
            return found


def main() -> None:
    from aiohttp import web

    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("port", type=int)
    parser.add_argument("--password", default="")
    options = parser.parse_args()
    app = web.Application(client_max_size=1 << 30)
    app.router.add_route("*", "/{path:.*}", Endpoint(options.folder, options.password))
    with contextlib.suppress(KeyboardInterrupt):
        web.run_app(app, host="127.0.0.1", port=options.port, print=lambda *_: None, access_log=None)


if __name__ == "__main__":
    main()
