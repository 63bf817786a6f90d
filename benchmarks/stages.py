"""Programs that serve clients, each between a feed and connected clients that wait for its first byte."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from socket import socket
from threading import Thread
from typing import Final

from commands import Running
from waiting import eventually_sync

from benchmarks import handshakes, harness
from benchmarks.harness import PROGRAM_CPU, Broken, Program
from benchmarks.native import Native
from benchmarks.peers.daemon import Daemon, installed
from benchmarks.peers.option import Peer

EVERYTHING: Final = ("*",)
Topics = Sequence[str]
Audience = Sequence[Topics]
"""What each client asks for."""
_NCHAN_MODULE: Final = Path("/usr/lib/nginx/modules/ngx_nchan_module.so")
_DAY_SECS: Final = "86400"


@dataclass
class Stage:
    """A program and its sockets: what feeds it, what it feeds."""

    program: Running | Program | None
    """None: there is nothing between feed and client."""
    feed: socket
    clients: list[socket]


Server = Callable[[Path, Audience], AbstractContextManager[Stage]]


@contextmanager
def _recorder(folder: Path, audience: Audience, port_name: str) -> Iterator[Stage]:
    # A ping would be a byte that nobody counts on.
    quiet = {"HEARTBEAT_INTERVAL_SECS": "0", "CLIENT_PING_INTERVAL_SECS": _DAY_SECS}
    with (
        handshakes.listening() as listener,
        harness.recorder(handshakes.port_of(listener), folder, ROLES=f"{port_name},ops", **quiet) as recorder,
    ):
        feed = handshakes.followed(listener)
        port = int(recorder.port_of(port_name))
        yield Stage(recorder, feed, [handshakes.subscribed(port, topics) for topics in audience])


recorder_firehose: Server = partial(_recorder, port_name="firehose")
recorder_filtered: Server = partial(_recorder, port_name="filtered")


@contextmanager
def websockets_broadcast(_folder: Path, audience: Audience) -> Iterator[Stage]:
    """Yield a server made with `websockets`; every client gets everything."""
    with handshakes.listening() as listener:
        feeds: list[socket] = []
        exchange = Thread(target=lambda: feeds.append(handshakes.followed(listener)))
        exchange.start()
        program = Program(
            "benchmarks.peers.websockets_broadcast", str(handshakes.port_of(listener)), cpu=PROGRAM_CPU
        )
        with program:
            exchange.join()
            port = program.ask()["port"]
            clients = [handshakes.connected(port, "/") for _ in audience]
            eventually_sync(lambda: program.ask()["clients"] == len(clients), "all are connected", 60, 0.05)
            yield Stage(program, feeds[0], clients)


def peer(given: Peer) -> Server:
    """Return the server that a peer is; it follows an exchange, and its clients say what the exchange's would say."""

    @contextmanager
    def stage(folder: Path, audience: Audience) -> Iterator[Stage]:
        port = handshakes.free_port()
        with handshakes.listening() as listener, ThreadPoolExecutor(1) as pool:
            # It may connect before it listens, or after.
            feed = pool.submit(handshakes.followed, listener)
            program = given.started(folder, handshakes.port_of(listener), port, folder / "peer.out")
            with program:
                clients = [handshakes.subscribed(port, topics) for topics in audience]
                yield Stage(program, feed.result(), clients)

    return stage


@contextmanager
def nchan(folder: Path, audience: Audience) -> Iterator[Stage]:
    """Yield nginx with nchan, one worker; it is published to over WebSocket, and every client gets everything."""
    nginx = installed("nginx", "nginx, libnginx-mod-nchan")
    if not _NCHAN_MODULE.exists():
        raise Broken("not installed: nchan (Debian: libnginx-mod-nchan)")
    port = handshakes.free_port()
    configuration = folder / "nginx.conf"
    configuration.write_text(f"""
load_module {_NCHAN_MODULE};
daemon off;
worker_processes 1;
worker_rlimit_nofile 8192;
pid {folder}/nginx.pid;
error_log stderr error;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    nchan_max_reserved_memory 1024M;
    server {{
        listen 127.0.0.1:{port};
        location = /publish {{
            nchan_publisher websocket;
            nchan_channel_id stocks;
            nchan_message_buffer_length 2000;
        }}
        location = /subscribe {{
            nchan_subscriber websocket;
            nchan_channel_id stocks;
            nchan_subscriber_first_message newest;
        }}
    }}
}}
""")
    with Daemon("nginx", nginx, "-p", str(folder), "-c", str(configuration), folder=folder) as program:
        feed = handshakes.connected(port, "/publish")
        yield Stage(program, feed, [handshakes.connected(port, "/subscribe") for _ in audience])


@contextmanager
def nats(folder: Path, audience: Audience) -> Iterator[Stage]:
    """Yield a NATS server whose subscribers come over WebSocket: a subject a topic, published to over TCP."""
    server = installed("nats-server", "nats-server")
    port, websocket_port = handshakes.free_port(), handshakes.free_port()
    configuration = folder / "nats.conf"
    configuration.write_text(f"""
listen: "127.0.0.1:{port}"
websocket {{ listen: "127.0.0.1:{websocket_port}", no_tls: true, compression: false }}
ping_interval: "{_DAY_SECS}s"
max_connections: 10000
""")
    with Daemon("nats-server", server, "-c", str(configuration), folder=folder) as program:
        feed = handshakes.nats_publisher(port)
        wires = [
            handshakes.nats_subscriber(websocket_port, [">"] if topics == EVERYTHING else topics)
            for topics in audience
        ]
        for wire in wires:
            if (ping := wire.read_message()) != b"PING\r\n":
                raise Broken(f"nats-server says {ping!r}")
        yield Stage(program, feed, [wire.ready() for wire in wires])


@contextmanager
def bare_loop(_folder: Path, audience: Audience) -> Iterator[Stage]:
    """Yield the loop in C that writes what it reads to everybody."""
    feed, upstream = handshakes.pair()
    pairs = [handshakes.pair() for _ in audience]
    with Native("relay", sockets=[upstream, *(far for _, far in pairs)], cpu=PROGRAM_CPU) as program:
        yield Stage(program, feed, [near for near, _ in pairs])


@contextmanager
def nothing_between(_folder: Path, audience: Audience) -> Iterator[Stage]:
    """Yield a feed that is the only client's own."""
    assert len(audience) == 1
    feed, client = handshakes.pair()
    yield Stage(None, feed, [client])
