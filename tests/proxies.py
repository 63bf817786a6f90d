"""nginx and HAProxy with the configurations of proxy/, and the tiers of the docs behind them."""

from __future__ import annotations

import re
import socket
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from checkouts import PROJECT
from commands import KEY, free_port
from tools import tool
from waiting import eventually_sync

OPERATIONS: Final = (PROJECT / "docs" / "operations.md").read_text()
CONFIGURATIONS: Final = PROJECT / "proxy"
_PORTS: Final = ("8765", "8767", "8768", "8865", "8868", "9898", "9899", "9900")
_DEFAULTS: Final = {
    "METRICS_ADDR": "127.0.0.1:9898",
    "FIREHOSE_PORT": "8767",
    "FILTERED_PROXY_PORT": "8765",
    "AGGREGATOR_PORT": "8768",
}


@contextmanager
def daemon(folder: Path, port: int, *command: str) -> Iterator[None]:
    """Run a proxy in the foreground until it listens; end it at the end."""
    told = folder / "proxy.log"
    with told.open("w") as log:
        process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=subprocess.STDOUT)

    def listens() -> bool:
        assert process.poll() is None, told.read_text()
        with socket.socket() as sock:
            return sock.connect_ex(("127.0.0.1", port)) == 0

    try:
        eventually_sync(listens, f"{command[0]} on port {port}")
        yield
    finally:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(10)
        process.kill()
        process.wait()


def replaced(text: str, places: Mapping[str, object]) -> str:
    """Return a configuration with what a machine's owner changes; each place must be there."""
    for old, new in places.items():
        assert old in text, old
        text = text.replace(old, str(new))
    return text


@contextmanager
def nginx(folder: Path, port: int, configuration: str) -> Iterator[None]:
    """Run nginx with one file of its conf.d, inside what Debian's own nginx.conf has around it."""
    folder.mkdir()
    (folder / "site.conf").write_text(configuration)
    kept = "".join(f"{part}_temp_path {folder}/{part};\n" for part in ("proxy", "fastcgi", "uwsgi", "scgi"))
    (folder / "nginx.conf").write_text(
        f"daemon off; user root; worker_processes 1; pid {folder}/pid; error_log stderr;\n"
        f"events {{ worker_connections 768; }}\n"
        f"http {{ access_log off; client_body_temp_path {folder}/body;\n{kept}include {folder}/site.conf; }}\n"
    )
    with daemon(
        folder, port, tool("nginx"), "-p", str(folder), "-e", "stderr", "-c", str(folder / "nginx.conf")
    ):
        yield


@contextmanager
def haproxy(folder: Path, port: int, configuration: str) -> Iterator[None]:
    """Run HAProxy in the foreground."""
    folder.mkdir()
    (folder / "haproxy.cfg").write_text(configuration)
    with daemon(folder, port, tool("haproxy"), "-db", "-f", str(folder / "haproxy.cfg")):
        yield


def tier_settings(section: str) -> list[dict[str, str]]:
    """Return the settings files of a section of docs/operations.md."""
    body = re.split(rf"^### {re.escape(section)}\n", OPERATIONS, flags=re.MULTILINE)[1]
    blocks = re.findall(
        r"^```ini\n(.*?)^```$", re.split(r"^#{2,3} ", body, flags=re.MULTILINE)[0], re.DOTALL | re.MULTILINE
    )
    return [dict(line.split("=", 1) for line in block.splitlines() if "=" in line) for block in blocks]


class OneMachine:
    """The recorders of "On one machine", with free ports instead of those of the docs."""

    def __init__(self) -> None:
        self.ports = {name: free_port() for name in _PORTS}
        self.first, *self.tiers = map(self._here, tier_settings("On one machine"))

    def _here(self, given: dict[str, str]) -> dict[str, str]:
        """The same settings with the ports of this test; what is not set has the port that is its default."""
        found = {**_DEFAULTS, **given}
        for name, value in found.items():
            found[name] = self._moved(value)
        return {**found, "POLYGON_API_KEY": KEY, "LOG_FORMAT": "json", "SESSION_CALENDAR": "off"}

    def _moved(self, value: str) -> str:
        for port, free in self.ports.items():
            value = re.sub(rf"(^|:){port}$", rf"\g<1>{free}", value)
        return value

    def addresses(self, *ports: str) -> dict[str, object]:
        """Return where each of these addresses of a configuration is here."""
        return {f"127.0.0.1:{port}": f"127.0.0.1:{self.ports[port]}" for port in ports}
