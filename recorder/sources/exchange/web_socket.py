"""WebSockets to an exchange: how they are opened and closed, and what is said of their end."""

from __future__ import annotations

import asyncio
import errno
import os
import ssl
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Final

import aiohttp
from aiohttp import WSMsgType
from aiohttp.client import ClientWebSocketResponse

from recorder.descriptors import own_socket
from recorder.errors import (
    ConfigError,
    ConnectFailed,
    Disconnected,
    ServerDisconnect,
    TlsFailed,
    Untrusted,
    UpstreamError,
)
from recorder.polygon.clusters import clusters_in
from recorder.sources.exchange.front import Front
from recorder.version import VERSION

if TYPE_CHECKING:
    from aiohttp.http_websocket import WSMessageNoDecodeText

    Message = aiohttp.WSMessage | WSMessageNoDecodeText

CONNECT_TIMEOUT_SECS: Final = 15.0
CLOSE_TIMEOUT_SECS: Final = 2.0
FRAME_BYTES_MAX: Final = 64 * 1024 * 1024
"""A larger frame ends the connection; the vendor's are some kilobytes."""
_SIGNED_BY_NOBODY: Final = frozenset({18, 19, 20, 21})
"""OpenSSL's X509_V_ERR_…: self-signed, or an issuer that is not known here."""
_NO_TLS: Final = frozenset(
    {"WRONG_VERSION_NUMBER", "HTTP_REQUEST", "PACKET_LENGTH_TOO_LONG", "RECORD_LAYER_FAILURE"}
)
"""OpenSSL's reasons where what came back is no TLS at all."""


class WebSocket(ClientWebSocketResponse[bool]):
    """aiohttp's WebSocket, with a reader of ours before aiohttp's, and with its transport.

    Both hang on names that aiohttp keeps to itself. Where a later aiohttp has others, `front` and `transport` are None:
    then aiohttp reads by itself, and reading cannot be paused.
    """

    front: Front | None = None
    """The reader in front of aiohttp's, from the first byte on."""

    # aiohttp keeps its reader under this name, and then installs what it finds there.
    @property
    def _parser(self) -> Any:
        return self.front

    @_parser.setter
    def _parser(self, reader: Any) -> None:
        # aiohttp refuses a frame of exactly `max_msg_size`, too.
        self.front = Front(reader, FRAME_BYTES_MAX - 1) if reader is not None else None

    @property
    def transport(self) -> asyncio.Transport | None:
        """What carries it."""
        response = getattr(self, "_response", None)
        connection = response.connection if response is not None else None
        return connection.transport if connection is not None else None

    async def receive(self, timeout: float | None = None) -> Any:  # noqa: ASYNC109  (the name is aiohttp's)
        """Receive a message of those that `front` does not take."""
        message = await super().receive(timeout)
        if self.front is not None:
            self.front.received()
        return message


def http_session(ca_file: str | None = None) -> aiohttp.ClientSession:
    """Return what WebSockets are opened with. To be closed by the caller.

    `ca_file` (PEM) names whom to trust instead of those that the machine trusts. Raise `ConfigError` if it cannot be used.
    """
    trusted: ssl.SSLContext | bool = True
    if ca_file is not None:
        try:
            trusted = ssl.create_default_context(cafile=ca_file)
        except OSError as error:  # which ssl.SSLError is, too
            words = "has no certificate in PEM form" if isinstance(error, ssl.SSLError) else error.strerror
            raise ConfigError(f"{ca_file}: {words}") from error
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(socket_factory=own_socket, ssl=trusted),
        headers={"User-Agent": f"polygon-recorder/{VERSION}"},
        timeout=aiohttp.ClientTimeout(total=None),
        ws_response_class=WebSocket,  # type: ignore[arg-type]  # aiohttp's hint knows decoded text only
    )


async def open_web_socket(http: aiohttp.ClientSession, url: str) -> WebSocket:
    """Ask for a WebSocket whose pings are answered here and whose text stays bytes; no deflate is offered.

    `http` is an `http_session`.

    :raises ConnectFailed: there is none; `TlsFailed` if there will be none until somebody changes something.
    """
    try:
        async with asyncio.timeout(CONNECT_TIMEOUT_SECS):
            socket = await http.ws_connect(
                url,
                autoping=False,
                max_msg_size=FRAME_BYTES_MAX,
                decode_text=False,
                timeout=aiohttp.ClientWSTimeout(ws_close=CLOSE_TIMEOUT_SECS),
            )
    except TimeoutError as error:
        raise ConnectFailed(f"{url}: no connection within {CONNECT_TIMEOUT_SECS:g} s") from error
    except aiohttp.WSServerHandshakeError as error:
        if error.status == HTTPStatus.BAD_REQUEST:  # so do some servers that speak TLS answer to what is none
            await _require_no_tls(http, url, error)
        clusters = clusters_in(error.headers)
        advice = (
            f"it is a recorder with the clusters {', '.join(clusters)}: name one of them in POLYGON_CLUSTER, or in the path"
            if clusters
            else "is the address right?"
        )
        raise ConnectFailed(
            f"{url}: the server answered {error.status} instead of a WebSocket; {advice}"
        ) from error
    except aiohttp.ClientConnectorCertificateError as error:
        raise _distrust(url, error.certificate_error) from error
    except aiohttp.ClientConnectorSSLError as error:
        if getattr(error.os_error, "reason", "") in _NO_TLS:
            raise TlsFailed(f"{url}: this port speaks no TLS; its address begins with ws://") from error
        raise ConnectFailed(f"{url}: TLS failed: {error}") from error
    except aiohttp.ClientConnectorError as error:
        raise ConnectFailed(f"{url}: {_why(error.os_error)}") from error
    except (aiohttp.ClientError, OSError, ValueError) as error:
        await _require_no_tls(http, url, error)
        raise ConnectFailed(f"{url}: {error}") from error
    assert isinstance(socket, WebSocket)
    return socket


def _distrust(url: str, error: Exception) -> TlsFailed:
    """Return the error that says why a certificate is not trusted."""
    why = getattr(error, "verify_message", "") or str(error)
    kind = Untrusted if getattr(error, "verify_code", 0) in _SIGNED_BY_NOBODY else TlsFailed
    return kind(f"{url}: the certificate of the server is not trusted: {why}")


async def _require_no_tls(http: aiohttp.ClientSession, url: str, error: Exception) -> None:
    """Raise TlsFailed if an address without TLS has failed, by `error`, because TLS is spoken there."""
    if not url.startswith("ws://"):
        return
    try:
        async with asyncio.timeout(CLOSE_TIMEOUT_SECS):
            # Nothing is believed of what comes, so its certificate may be any.
            async with http.get(f"https{url.removeprefix('ws')}", ssl=False, allow_redirects=False):
                pass
    except (TimeoutError, aiohttp.ClientError, OSError, ValueError):
        return
    raise TlsFailed(f"{url}: this port speaks TLS; its address begins with wss://") from error


async def close_web_socket(socket: WebSocket) -> None:
    """Close politely, but never wait long for the other side."""
    try:
        async with asyncio.timeout(CLOSE_TIMEOUT_SECS):
            await socket.close()
    except (TimeoutError, aiohttp.ClientError, OSError):
        return


def disconnected(socket: WebSocket, message: Message) -> UpstreamError:
    """Say how a connection ended that ended without a status, by the last message of its WebSocket."""
    if message.type is WSMsgType.ERROR:
        return Disconnected(f"not WebSocket any more: {message.data}")
    code = socket.close_code
    if message.type is WSMsgType.CLOSE:
        words = f"closed by the other side with {code}"
        if message.extra:
            words += f" ({message.extra})"
        return ServerDisconnect(words) if code == 1008 else Disconnected(words)
    error = socket.exception()
    return Disconnected("the connection was cut without a close frame" + (f": {error}" if error else ""))


def _why(error: OSError) -> str:
    """Put in words why there is no connection."""
    if error.errno == errno.ECONNREFUSED:
        return f"{os.strerror(error.errno)}: nothing listens there"
    if error.errno is not None and error.errno > 0:
        return os.strerror(error.errno)  # asyncio's own text says only that the call failed
    # The peer that hangs up in the TLS handshake leaves an error without a word.
    return error.strerror or str(error) or "the connection was closed in the handshake"
