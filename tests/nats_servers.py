"""NATS servers for tests, real ones; and a client of the tests' own, which reads the streams without the recorder's code."""

from __future__ import annotations

import itertools
import json
import socket
import ssl
import struct
from base64 import b64decode
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import zstandard
from commands import Running, free_port
from networks import Network
from server_processes import ServerProcess, all_of, kept
from tools import tool
from waiting import eventually_sync

from recorder.settings import NatsSettings


class NatsServer(ServerProcess):
    """One `nats-server` on loopback, with JetStream in a folder of its own; it can be killed, stopped, started again."""

    def __init__(
        self,
        folder: Path,
        extra: str = "",
        *,
        jetstream: bool = True,
        place: Network | None = None,
        **auth: str,
    ) -> None:
        """`extra` is more of its configuration. `auth` is what the tests' own client shows. `place` is where it runs."""
        super().__init__(folder / "nats.log")
        self.program = tool("nats-server")
        self.port = free_port()
        self.host = place.address if place is not None else "127.0.0.1"
        self._prefix = place.prefix if place is not None else ()
        self.url = f"nats://{self.host}:{self.port}"
        self.auth = auth
        self._has_jetstream = jetstream
        folder.mkdir(parents=True, exist_ok=True)
        self._config = folder / "nats.conf"
        store = f'jetstream {{ store_dir: "{folder / "store"}" }}\n' if jetstream else ""
        self._config.write_text(f"listen: {self.host}:{self.port}\n{store}{extra}\n")

    def command(self) -> list[str]:
        """Return what it is started with."""
        return [*self._prefix, self.program, "-c", str(self._config)]

    def wait(self) -> None:
        """Return once it answers; as one of several, once they have elected a leader."""
        eventually_sync(self._answers, "an answer of the NATS server", every_secs=0.02)

    def _answers(self) -> bool:
        self.assert_runs()
        try:
            with Asking(self) as asking:
                return not self._has_jetstream or "error" not in asking.ask("$JS.API.INFO")
        except (OSError, EOFError):
            return False


@cache
def shared_server() -> NatsServer:
    """Return the server of this process's tests that do it no harm; each has a stream of its own."""
    return kept(NatsServer).start()


@contextmanager
def serving(folder: Path, extra: str = "", **kinds: Any) -> Iterator[NatsServer]:
    """Yield a server that runs."""
    with all_of([NatsServer(folder, extra, **kinds)]) as (server,):
        yield server


@contextmanager
def clustered(folder: Path, count: int, places: Sequence[Network] = ()) -> Iterator[list[NatsServer]]:
    """Yield servers that are one cluster, with an elected leader; of a single one, the server.

    `places` are where they run, each in a network of its own.
    """
    ports = [free_port() for _ in range(count)]
    hosts = [place.address for place in places] or ["127.0.0.1"] * count
    routes = ", ".join(f"nats://{host}:{port}" for host, port in zip(hosts, ports, strict=True))
    servers = [
        NatsServer(
            folder / f"n{number}",
            f"server_name: n{number}\ncluster {{ name: c, listen: {host}:{port}, routes: [{routes}] }}"
            if count > 1
            else "",
            place=places[number] if places else None,
        )
        for number, (host, port) in enumerate(zip(hosts, ports, strict=True))
    ]
    with all_of(servers):
        yield servers


class Asking:
    """A connection of the NATS protocol that asks one thing after another."""

    def __init__(self, server: NatsServer, timeout_secs: float = 10) -> None:
        address = server.host, server.port
        self._socket: socket.socket = socket.create_connection(address, timeout_secs)
        self._stream = self._socket.makefile("rb", buffering=0)
        self._numbers = itertools.count(1)
        try:
            self._shake_hands(server.auth)
        except BaseException:
            self.__exit__()
            raise

    def _shake_hands(self, auth: dict[str, str]) -> None:
        if json.loads(self._line().partition(b" ")[2]).get("tls_required"):
            context = ssl.create_default_context()
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            self._socket = context.wrap_socket(self._socket)
        self._stream = self._socket.makefile("rb")
        options = {"verbose": False, "headers": True, "no_responders": True, **auth}
        self._send(f"CONNECT {json.dumps(options)}\r\nSUB answers.* 1\r\nPING\r\n".encode())
        while (line := self._line()) != b"PONG":
            if line.startswith(b"-ERR"):
                raise EOFError(line.decode())

    def __enter__(self) -> Asking:
        return self

    def __exit__(self, *failure: object) -> None:
        self._stream.close()
        self._socket.close()

    def ask(self, subject: str, request: object = None) -> dict[str, Any]:
        """Return the answer to a request, which is JSON."""
        content = b"" if request is None else json.dumps(request).encode()
        self.say(subject, content, f"answers.{next(self._numbers)}")
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        while True:
            words = self._line().split()
            if words[0] == b"PING":
                self._send(b"PONG\r\n")
            elif words[0] in (b"MSG", b"HMSG"):
                data = self._stream.read(int(words[-1]) + 2)[:-2]
                if words[0] == b"HMSG":
                    return {"error": {"description": data.decode()}}
                found: dict[str, Any] = json.loads(data)
                return found

    def say(self, subject: str, content: bytes, reply: str = "") -> None:
        """Publish a message."""
        self._send(f"PUB {subject} {reply} {len(content)}\r\n".encode() + content + b"\r\n")

    def append(self, subject: str, headers: dict[str, str], content: bytes) -> dict[str, Any]:
        """Publish a message with headers; return the answer."""
        head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        block = f"NATS/1.0\r\n{head}\r\n".encode()
        reply = f"answers.{next(self._numbers)}"
        sizes = f"{len(block)} {len(block) + len(content)}"
        self._send(f"HPUB {subject} {reply} {sizes}\r\n".encode() + block + content + b"\r\n")
        return self._answer()

    def _line(self) -> bytes:
        line = self._stream.readline()
        if not line:
            raise EOFError("the server has closed the connection")
        return line.rstrip(b"\r\n")

    def _send(self, data: bytes) -> None:
        self._socket.sendall(data)


@dataclass(slots=True)
class Read:
    """A message of a stream."""

    seq: int
    headers: dict[str, str]
    frames: list[bytes]

    @property
    def events(self) -> list[bytes]:
        """Each event, as `json` writes it."""
        return [json.dumps(event).encode() for frame in self.frames for event in json.loads(frame)]


def messages_of(server: NatsServer, stream: str = "MD_STOCKS") -> list[Read]:
    """Return all messages of a stream, in order."""
    found = []
    with Asking(server) as asking:
        # Of several servers, those that have just elected a leader do not answer everything at once.
        state = eventually_sync(
            lambda: asking.ask(f"$JS.API.STREAM.INFO.{stream}").get("state"), f"the state of {stream}"
        )
        for seq in range(state["first_seq"], state["last_seq"] + 1):
            wanted = {"seq": seq}
            message = eventually_sync(
                lambda wanted=wanted: asking.ask(f"$JS.API.STREAM.MSG.GET.{stream}", wanted).get("message"),
                f"message {seq} of {stream}",
            )
            lines = b64decode(message["hdrs"]).decode().split("\r\n")[1:]
            headers = dict(line.split(": ", 1) for line in lines if line)
            assert headers["Format"] == "frames-zstd-1"
            found.append(Read(seq, headers, _frames_in(b64decode(message["data"]))))
    return found


def contents_of(server: NatsServer, stream: str, subject: str) -> list[bytes]:
    """Return the contents of all messages of a stream that a reader gets who asks for a subject, wildcards included."""
    found: list[bytes] = []
    seq = 1
    with Asking(server) as asking:
        while True:
            wanted = {"seq": seq, "next_by_subj": subject}
            message = asking.ask(f"$JS.API.STREAM.MSG.GET.{stream}", wanted).get("message")
            if message is None:
                return found
            found.append(b64decode(message["data"]))
            seq = message["seq"] + 1


def _frames_in(content: bytes) -> list[bytes]:
    plain = zstandard.ZstdDecompressor().decompress(content)
    (count,) = struct.unpack_from("!I", plain)
    place, frames = 4 + 4 * count, []
    for size in struct.unpack_from(f"!{count}I", plain, 4):
        frames.append(plain[place : place + size])
        place += size
    assert place == len(plain)
    return frames


def proven(messages: list[Read], first: int = 1) -> list[bytes]:
    """Return the events of all messages, having proven by their numbers that none is missing and none comes twice."""
    events: list[bytes] = []
    for message in messages:
        assert int(message.headers["First"]) == first + len(events), message.headers
        found = message.events
        assert int(message.headers["Events"]) == len(found)
        events += found
    return events


def nats_settings(server: NatsServer, **changes: Any) -> NatsSettings:
    """Return settings of a sink for a server."""
    values: dict[str, Any] = {
        "urls": (server.url,),
        "max_bytes": 2**30,
        "max_age_secs": 3600,
        "buffer_bytes": 2**26,
    }
    return NatsSettings(**{**values, **changes})


def nats_variables(server: NatsServer, **variables: str) -> dict[str, str]:
    """Return the variables of a recorder with that sink, for a server."""
    return {
        "SINK": "ndjson,nats",
        "NATS_URL": server.url,
        "NATS_MAX_BYTES": "1GiB",
        "NATS_MAX_AGE_SECS": "1h",
        **variables,
    }


def stored(recorder: Running) -> float:
    """Return how many events are acknowledged."""
    return recorder.metric("polygon_nats_sent_total")


def recorded(folder: Path) -> list[bytes]:
    """Return the events of an archive, as `json` writes them."""
    lines = (folder / "polygon.ndjson").read_bytes().splitlines()
    return [json.dumps(json.loads(line)["payload"]).encode() for line in lines]
