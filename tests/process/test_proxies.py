"""proxy/nginx.conf and docs/proxies.md tell the truth: nginx in front of a real recorder, and clients behind it."""

from __future__ import annotations

import base64
import json
import socket
import ssl
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
from certificates import self_signed
from commands import KEY, free_port, live_settings, running, simulating
from proxies import CONFIGURATIONS, nginx, replaced
from tools import tool
from websockets.exceptions import InvalidStatus
from websockets.sync.client import ClientConnection, connect

HOST: Final = "feed.example.com"
"""The name in the configurations; the docs tell to replace it."""


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
    text = (CONFIGURATIONS / "nginx.conf").read_text()
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
