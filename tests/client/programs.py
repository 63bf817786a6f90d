"""Clients that others wrote, as programs under one roof: started, told what to subscribe to, and listened to.

A program is told one JSON object a line, `{"subscribe": ["T.AAPL"]}` or `{"unsubscribe": …}`; the end of its input is
the end of it. It tells, a line each: `{"frame": text}`, a frame as it came, or `{"model": {…}}`, what the client made of
an event; `{"closed": code, "reason": …}` for the end of a connection; `{"failed": why}` when it gives up for good. A page
does the same over HTTP, and may tell `{"shown": text}`, what it has put up.
"""

from __future__ import annotations

import fcntl
import functools
import hashlib
import json
import os
import queue
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import IO, Any, Protocol
from urllib.parse import urlencode

import msgspec
import pytest
from browser import chromium
from tools import tool
from waiting import eventually_sync

HERE = Path(__file__).parent
INSTALL_SECS = 90
"""Less than a test may take."""
_RAW_ELEMENTS = msgspec.json.Decoder(list[msgspec.Raw])
_CACHE_KEY = "clients"

Command = Mapping[str, Sequence[str]]
"""An action and its topics."""


class Told:
    """What a client has told so far."""

    def __init__(self) -> None:
        self.raw: list[bytes] = []
        """Each event's own bytes, in order; statuses left out. Empty for a client that shows only models."""
        self.models: list[dict[str, Any]] = []
        """What the client made of each event, in order. Empty for a client that shows frames."""
        self.topics: list[str] = []
        """The topic of each event, in order."""
        self.closes: list[int] = []
        """The close codes that the client was given, in order."""
        self.failure = ""
        """Why the client gave up; empty as long as it has not."""
        self.shown: list[str] = []
        """What a page has shown, in order."""

    def take(self, line: dict[str, Any]) -> None:
        """Take what the client tells."""
        match line:
            case {"frame": frame}:
                for element in _RAW_ELEMENTS.decode(frame):
                    event = json.loads(bytes(element))
                    if event["ev"] != "status":
                        self.raw.append(bytes(element))
                        self.topics.append(f"{event['ev']}.{event['sym']}")
            case {"model": model}:
                self.models.append(model)
                self.topics.append(f"{model['event_type']}.{symbol_of(model)}")
            case {"closed": code}:
                self.closes.append(code)
            case {"failed": why}:
                self.failure = why or "no reason"
            case {"shown": text}:
                self.shown.append(text)
            case _:
                raise AssertionError(f"a client tells what nobody understands: {line}")

    def wait_until(self, fact: Callable[[Told], Any], what: str) -> None:
        """Wait until the fact holds; fail at once when the client has given up."""

        def found() -> bool:
            if fact(self):
                return True
            assert not self.failure, f"the client gave up: {self.failure}"
            return False

        eventually_sync(found, what, deadline_secs=45)


def symbol_of(model: dict[str, Any]) -> str:
    """Return the symbol of an event, whatever the vendor's models call it."""
    return next(str(model[name]) for name in ("symbol", "pair", "ticker") if model.get(name))


class Program:
    """A client that runs."""

    def __init__(self, told: Told, send: Callable[[Command], None]) -> None:
        self.told = told
        self._send = send

    def subscribe(self, *topics: str) -> None:
        """Ask for topics."""
        self._send({"subscribe": topics})

    def unsubscribe(self, *topics: str) -> None:
        """Unsubscribe from topics."""
        self._send({"unsubscribe": topics})


class CannotInstallError(Exception):
    """A package manager could not get what it needs; the text says why."""


class Installation:
    """Packages in the test cache, installed once for all workers and all later sessions.

    Where they cannot be had, the test skips with the reason; the installation is not tried again in this process.
    """

    def __init__(self, cache: Path) -> None:
        self._cache = cache

    def folder(self, name: str, sources: Sequence[Path], install: Callable[[Path], None]) -> Path:
        """Return the folder that `install` has filled from these sources; equal sources, equal folder."""
        digest = hashlib.sha256(b"\0".join(source.read_bytes() for source in sources)).hexdigest()[:12]
        folder = self._cache / f"{name}-{digest}"
        if name not in _cannot_install:
            try:
                self._fill(folder, name, install)
                return folder
            except CannotInstallError as error:
                _cannot_install[name] = str(error)
        pytest.skip(_cannot_install[name])

    def _fill(self, folder: Path, name: str, install: Callable[[Path], None]) -> None:
        with open(self._cache / f"{name}.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            done = folder / ".installed"
            if not done.exists():
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir()
                install(folder)
                done.touch()


_cannot_install: dict[str, str] = {}


def run_installer(*command: str, cwd: Path, **variables: str) -> None:
    """Run a package manager. Raise CannotInstallError."""
    environment = {**os.environ, **variables}
    try:
        subprocess.run(
            command,
            cwd=cwd,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=INSTALL_SECS,
            check=True,
        )
    except subprocess.TimeoutExpired as error:
        raise CannotInstallError(f"{' '.join(command[:3])}: not done after {INSTALL_SECS} s") from error
    except subprocess.CalledProcessError as error:
        raise CannotInstallError(f"{' '.join(command[:3])}: {error.stdout.strip()[-400:]}") from error


def make_installation(config: pytest.Config) -> Installation:
    """Return the installation of this checkout; it lies in pytest's cache."""
    assert config.cache is not None
    return Installation(config.cache.mkdir(_CACHE_KEY))


def javascript_packages(installation: Installation) -> Path:
    """Return the `node_modules` with the vendor's JavaScript clients, as the lock file pins them."""
    manifests = [HERE / "js" / "package.json", HERE / "js" / "package-lock.json"]
    npm = tool("npm")

    def install(folder: Path) -> None:
        for manifest in manifests:
            shutil.copy(manifest, folder)
        run_installer(
            npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error", cwd=folder
        )

    return installation.folder("js", manifests, install) / "node_modules"


def polygon_python(installation: Installation) -> str:
    """Return the interpreter of the venv that has `polygon-api-client`."""
    requirements = HERE / "python" / "polygon-requirements.txt"

    def install(folder: Path) -> None:
        run_installer(sys.executable, "-m", "venv", ".", cwd=folder)
        pip = ("bin/python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-compile")
        run_installer(*pip, "--requirement", str(requirements), cwd=folder)

    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    return str(installation.folder(f"polygon-{version}", [requirements], install) / "bin" / "python")


def go_program(installation: Installation) -> str:
    """Return the compiled Go client."""
    return compiled_go(installation, "go", HERE / "go")


def compiled_go(installation: Installation, name: str, folder: Path) -> str:
    """Return the program that Go makes of a folder."""
    sources = [folder / file for file in ("main.go", "go.mod", "go.sum")]
    go = tool("go")

    def install(folder: Path) -> None:
        for source in sources:
            shutil.copy(source, folder)
        # Unoptimised: that a machine compiles Go's own library for the first time takes longer than all runs.
        quick = ("-gcflags=all=-N -l", "-ldflags=-s -w")
        variables = {"GOFLAGS": "-mod=readonly -buildvcs=false"}
        run_installer(go, "build", *quick, "-o", "program", ".", cwd=folder, **variables)

    return str(installation.folder(name, sources, install) / "program")


class Kind(Protocol):
    """A client as its users have it, ready to be run as often as a test wants."""

    name: str
    recorder_settings: dict[str, str]
    """What the recorder must allow for this client."""

    def running(
        self, cwd: Path, address: str, token: str, market: str = "stocks"
    ) -> AbstractContextManager[Program]:
        """Run it against a recorder; end it at the end."""


class Installed:
    """A client that is a process."""

    def __init__(self, name: str, command: Callable[[Path], list[str]]) -> None:
        """`command` gives what is run in a folder; address, token and market are appended."""
        self.name = name
        self.recorder_settings: dict[str, str] = {}
        self._command = command

    @contextmanager
    def running(self, cwd: Path, address: str, token: str, market: str = "stocks") -> Iterator[Program]:
        """Run it against a recorder; end it at the end."""
        told = Told()
        # `websockets` waits some seconds before it connects again; its own variables make that short.
        waits = dict.fromkeys(("WEBSOCKETS_BACKOFF_INITIAL_DELAY", "WEBSOCKETS_BACKOFF_MIN_DELAY"), "0.1")
        environment = {**os.environ, **waits}
        with subprocess.Popen(
            [*self._command(cwd), address, token, market],
            cwd=cwd,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        ) as process:
            assert process.stdin is not None
            assert process.stdout is not None

            def listen(lines: Iterable[str]) -> None:
                for line in lines:
                    told.take(json.loads(line))

            def send(command: Command, stdin: IO[str] = process.stdin) -> None:
                stdin.write(json.dumps(command) + "\n")

            listener = threading.Thread(target=listen, args=(process.stdout,), daemon=True)
            listener.start()
            try:
                yield Program(told, send)
            finally:
                process.stdin.close()
                try:
                    process.wait(15)
                except subprocess.TimeoutExpired:
                    process.kill()
                listener.join(15)


class PageServer(ThreadingHTTPServer):
    """Serves a page to a browser from `localhost`, hands it commands, and takes what it tells."""

    daemon_threads = True

    def __init__(self, page: bytes) -> None:
        super().__init__(("127.0.0.1", 0), _PageRequest)
        self.page = page
        self.told = Told()
        self.commands: queue.Queue[Command] = queue.Queue()

    @property
    def origin(self) -> str:
        """The page's origin; it is not the recorder's."""
        return f"http://localhost:{self.server_port}"


class _PageRequest(BaseHTTPRequestHandler):
    server: PageServer
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:  # the name is http.server's
        path = self.path.partition("?")[0]
        if path == "/":
            self._answer(200, self.server.page, "text/html; charset=utf-8")
        elif path == "/commands":
            self._answer(200, json.dumps(self._next_commands()).encode(), "application/json")
        else:
            self._answer(404, b"", "text/plain")

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.told.take(json.loads(body))
        self._answer(204, b"", "text/plain")

    def _next_commands(self) -> list[Command]:
        try:
            return [self.server.commands.get(timeout=5)]
        except queue.Empty:
            return []

    def _answer(self, status: int, body: bytes, kind: str) -> None:
        with suppress(ConnectionError):  # the browser is being closed
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    def log_message(self, *arguments: Any) -> None:
        """Say nothing."""


@contextmanager
def serving_page(page: bytes) -> Iterator[PageServer]:
    """Serve a page."""
    with PageServer(page) as server:
        thread = threading.Thread(target=functools.partial(server.serve_forever, 0.05), daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join(15)


class Browser:
    """A page in a browser. Its server stands before the recorder starts, so that the recorder can allow its origin."""

    name = "a page in Chromium"

    def __init__(self, server: PageServer) -> None:
        self.recorder_settings = {"ALLOWED_ORIGINS": server.origin}
        self._server = server

    @contextmanager
    def running(self, cwd: Path, address: str, token: str, market: str = "stocks") -> Iterator[Program]:
        """Show the page; close the browser at the end."""
        where = urlencode({"url": f"ws://{address}/{market}", "token": token})
        with chromium(cwd / "chromium", f"{self._server.origin}/?{where}"):
            yield Program(self._server.told, self._server.commands.put)


def make_kind(name: str, installation: Installation) -> Kind:
    """Return one of the clients that are programs, installed."""
    here = HERE / "python"
    match name:
        case "massive for Python":
            return Installed(name, lambda _: [sys.executable, str(here / "official.py"), "massive"])
        case "polygon-api-client for Python":
            python = polygon_python(installation)
            return Installed(name, lambda _: [python, str(here / "official.py"), "polygon"])
        case "websockets for Python":
            return Installed(name, lambda _: [sys.executable, str(here / "by_hand.py")])
        case "gorilla for Go":
            program = go_program(installation)
            return Installed(name, lambda _: [program])
    package = name.removesuffix(" for JavaScript")
    packages = javascript_packages(installation)
    node = tool("node")

    def command(cwd: Path) -> list[str]:
        # Node looks for packages beside the script.
        script = shutil.copy(HERE / "js" / "official.mjs", cwd)
        if not (cwd / "node_modules").exists():
            (cwd / "node_modules").symlink_to(packages)
        return [node, str(script), package]

    return Installed(name, command)
