"""proxy/ and docs/proxies.md tell the truth: nginx and HAProxy in front of real recorders, and clients behind them."""

from __future__ import annotations

import base64
import json
import re
import socket
import ssl
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import pytest
from certificates import self_signed
from checkouts import PROJECT
from commands import KEY, Running, free_port, live_settings, running, simulating
from tools import tool
from waiting import eventually_sync
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

HOST: Final = "feed.example.com"
"""The name in the configurations; the docs tell to replace it."""
OPERATIONS: Final = (PROJECT / "docs" / "operations.md").read_text()


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


class Gate:
    """The proxy as clients see it: a port, and a certificate to trust."""

    def __init__(self, port: int, certificate: Path) -> None:
        self.port = port
        self._trust = ssl.create_default_context(cafile=str(certificate))
        self._trust.check_hostname = False  # the certificate of the test is of localhost
        # This client reads in one thread and writes in another, which OpenSSL does not stand while a server of TLS 1.3 sends
        # what follows its handshake: some connections would break off.
        self._trust.maximum_version = ssl.TLSVersion.TLSv1_2

    def connect(self, path: str, **options: Any) -> ClientConnection:
        """Open a WebSocket over TLS under the name that the configuration has."""
        sock = socket.create_connection(("127.0.0.1", self.port), timeout=20)
        return connect(f"wss://{HOST}{path}", sock=sock, ssl=self._trust, **options)

    def get(self, path: str, password: str = "") -> tuple[int, str]:
        """Ask over HTTPS; return status and body."""
        request = urllib.request.Request(f"https://127.0.0.1:{self.port}{path}", headers={"Host": HOST})
        if password:
            pair = base64.b64encode(f"operator:{password}".encode()).decode()
            request.add_header("Authorization", f"Basic {pair}")
        try:
            with urllib.request.urlopen(request, timeout=20, context=self._trust) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()


def subscribed(client: ClientConnection, topics: str) -> None:
    """Speak the vendor's protocol until the topics are acknowledged."""
    assert "Connected" in str(client.recv(timeout=20))
    client.send(json.dumps({"action": "auth", "params": KEY}))
    assert "auth_success" in str(client.recv(timeout=20))
    client.send(json.dumps({"action": "subscribe", "params": topics}))
    assert "subscribed to" in str(client.recv(timeout=20))


def first_event(client: ClientConnection) -> str:
    """Return the channel of the next event."""
    found: str = json.loads(client.recv(timeout=20))[0]["ev"]
    return found


@pytest.fixture
def exchange_port(tmp_path: Path) -> Iterator[int]:
    """The port of a simulated exchange."""
    with simulating("--cluster", "stocks", "--symbols", "20", "--rate", "500", cwd=tmp_path) as port:
        yield port


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[Path, Path]:
    """A certificate and its key."""
    return self_signed(tmp_path, "proxy")


def test_nginx_serves_every_port_and_the_page(
    tmp_path: Path, exchange_port: int, certificate: tuple[Path, Path]
) -> None:
    """Clients over TLS on all three paths, the page behind a password; without the Host line it is 421."""
    settings = live_settings(exchange_port, tmp_path / "archive", ALLOWED_HOSTS=HOST)
    text = (PROJECT / "proxy" / "nginx.conf").read_text()
    password = subprocess.run(
        [tool("openssl"), "passwd", "-6", "a-password"], capture_output=True, text=True, check=True
    )
    (tmp_path / "htpasswd").write_text(f"operator:{password.stdout}")
    with running("run", cwd=tmp_path, **settings) as recorder:
        recorder.wait_for("subscribed")
        gate, bad_gate = Gate(free_port(), certificate[0]), Gate(free_port(), certificate[0])
        places = {
            "127.0.0.1:8765": recorder.address_of("filtered"),
            "127.0.0.1:8767": recorder.address_of("firehose"),
            "127.0.0.1:8768": recorder.address_of("bars"),
            "127.0.0.1:9898": recorder.address,
            "/etc/letsencrypt/live/feed.example.com/fullchain.pem": certificate[0],
            "/etc/letsencrypt/live/feed.example.com/privkey.pem": certificate[1],
            "/etc/nginx/recorder.htpasswd": tmp_path / "htpasswd",
            "listen 443 ssl": f"listen 127.0.0.1:{gate.port} ssl",
        }
        good = replaced(text, places)
        without_host = replaced(
            good,
            {
                "proxy_set_header Host $host;": "",
                f"127.0.0.1:{gate.port} ssl": f"127.0.0.1:{bad_gate.port} ssl",
            },
        )
        with nginx(tmp_path / "good", gate.port, good), nginx(tmp_path / "bad", bad_gate.port, without_host):
            with gate.connect("/stocks") as client:
                subscribed(client, "T.*")
                assert first_event(client) == "T"
            with gate.connect("/firehose/stocks") as client:
                subscribed(client, "*")
                assert first_event(client) in {"T", "Q"}
            with gate.connect("/bars/stocks") as client:
                subscribed(client, "100Ms.*")
                assert first_event(client) == "MB"
            with gate.connect("/stocks", origin=f"https://{HOST}"):
                pass  # a page of the proxy's own name may connect
            with pytest.raises(InvalidStatus) as foreign:
                gate.connect("/stocks", origin="https://elsewhere.example")
            assert foreign.value.response.status_code == 403

            assert gate.get("/live/")[0] == 401
            assert gate.get("/live/", "a-password")[0] == 200
            assert "polygon_events_total" in gate.get("/live/metrics", "a-password")[1]

            with pytest.raises(InvalidStatus) as unnamed:
                bad_gate.connect("/stocks")
            assert unnamed.value.response.status_code == 421
            assert b"ALLOWED_HOSTS" in (unnamed.value.response.body or b"")


def tier_settings(section: str) -> list[dict[str, str]]:
    """Return the settings files of a section of docs/operations.md."""
    body = re.split(rf"^### {re.escape(section)}\n", OPERATIONS, flags=re.MULTILINE)[1]
    blocks = re.findall(
        r"^```ini\n(.*?)^```$", re.split(r"^#{2,3} ", body, flags=re.MULTILINE)[0], re.DOTALL | re.MULTILINE
    )
    return [dict(line.split("=", 1) for line in block.splitlines() if "=" in line) for block in blocks]


def test_haproxy_spreads_clients_over_two_tiers_on_one_machine(
    tmp_path: Path, exchange_port: int, certificate: tuple[Path, Path]
) -> None:
    """The settings of the docs, on free ports: each tier gets a client; when one stops, its client finds the other."""
    first, *tiers = tier_settings("On one machine")
    assert len(tiers) == 2
    ports = {name: free_port() for name in ("8765", "8767", "8768", "8865", "8868", "9898", "9899", "9900")}

    def here(given: dict[str, str]) -> dict[str, str]:
        """The same settings with the ports of this test; what is not set has the port that is its default."""
        defaults = {
            "METRICS_ADDR": "127.0.0.1:9898",
            "FIREHOSE_PORT": "8767",
            "FILTERED_PROXY_PORT": "8765",
            "AGGREGATOR_PORT": "8768",
        }
        found = {**defaults, **given}
        for name, value in found.items():
            for port, free in ports.items():
                value = re.sub(rf"(^|:){port}$", rf"\g<1>{free}", value)
            found[name] = value
        return {**found, "POLYGON_API_KEY": KEY, "LOG_FORMAT": "json", "SESSION_CALENDAR": "off"}

    exchange = {
        "POLYGON_WS_URL": f"ws://127.0.0.1:{exchange_port}",
        "NDJSON_DEST": str(tmp_path / "archive" / "polygon.ndjson"),
        "NDJSON_MIN_FREE_BYTES": "0",
    }
    whole = tmp_path / "whole.pem"
    whole.write_text(certificate[0].read_text() + certificate[1].read_text())
    gate = Gate(free_port(), certificate[0])
    text = replaced(
        (PROJECT / "proxy" / "haproxy.cfg").read_text(),
        {
            "127.0.0.1:8765": f"127.0.0.1:{ports['8765']}",
            "127.0.0.1:8865": f"127.0.0.1:{ports['8865']}",
            "/etc/haproxy/feed.example.com.pem": whole,
            "bind :443": f"bind 127.0.0.1:{gate.port}",
        },
    )
    with ExitStack() as stack:
        source = stack.enter_context(running("run", cwd=tmp_path, **{**here(first), **exchange}))
        source.wait_for("subscribed")
        recorders = [stack.enter_context(running("run", cwd=tmp_path, **here(tier))) for tier in tiers]
        for recorder in recorders:
            recorder.wait_for("subscribed")
        assert len({one.address for one in (source, *recorders)}) == 3
        stack.enter_context(haproxy(tmp_path / "haproxy", gate.port, text))
        clients = [stack.enter_context(gate.connect("/stocks")) for _ in range(2)]
        for client in clients:
            subscribed(client, "T.*")
            assert first_event(client) == "T"
        assert [clients_of(recorder) for recorder in recorders] == [1, 1]

        assert recorders[0].stop() == 0
        later_ms = (time.time() + 1) * 1000
        closed = [client for client in clients if ends(client, later_ms)]
        assert len(closed) == 1
        again = stack.enter_context(eventually_sync(lambda: reconnected(gate), "the other tier"))
        subscribed(again, "T.*")
        assert first_event(again) == "T"
        assert clients_of(recorders[1]) == 2


def clients_of(recorder: Running) -> float:
    """Return how many clients the filtered port has."""
    return recorder.metric('polygon_server_clients{port="filtered"}')


def ends(client: ClientConnection, after_ms: float) -> bool:
    """Return whether a connection was closed because its tier stops; one that goes on brings later events."""
    try:
        while json.loads(client.recv(timeout=20))[0]["t"] < after_ms:
            pass
    except ConnectionClosed as closed:
        return closed.rcvd is not None and closed.rcvd.code == 1012
    return False


def reconnected(gate: Gate) -> ClientConnection | None:
    """Connect, or return None while HAProxy still believes in the tier that is gone."""
    try:
        return gate.connect("/stocks")
    except (InvalidStatus, OSError):
        return None
