"""Asks the ops server of a recorder. Whatever goes wrong is `NoAnswer`, in words that say what to do."""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncIterator
from typing import Final, TypeVar
from urllib.parse import urlsplit

import aiohttp
import msgspec

from recorder.descriptors import own_socket
from recorder.errors import RecorderError
from recorder.ops.status_schema import SCHEMA_VERSION
from recorder.version import VERSION

_CONNECT_SECS: Final = 5.0
SILENCE_SECS: Final = 15.0
"""A recorder sends a snapshot each second; one that says nothing for so long does not answer."""
_ANSWER_BYTES_MAX: Final = 32 * 1024 * 1024

T = TypeVar("T")


class NoAnswer(RecorderError):
    """A recorder cannot be asked; the words say why, and what to do."""


def asking(silence_secs: float = SILENCE_SECS) -> aiohttp.ClientSession:
    """Return what asks. A recorder that says nothing for `silence_secs` does not answer."""
    connect_secs = min(_CONNECT_SECS, silence_secs)
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(socket_factory=own_socket),
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=connect_secs, sock_read=silence_secs),
        headers={"User-Agent": f"polygon-recorder/{VERSION}"},
        cookie_jar=aiohttp.DummyCookieJar(),
    )


async def ask(http: aiohttp.ClientSession, url: str, kind: type[T], token: str | None = None) -> T:
    """Return what `/status` says at this moment, as far as `kind` has fields for it. Raise NoAnswer."""
    async with get(http, url, "status", token) as answer:
        data = bytearray()
        async for part in answer.content.iter_any():
            data += part
            if len(data) > _ANSWER_BYTES_MAX:
                raise NoAnswer(
                    f"{shown_url(url)} is not the ops server of a recorder: its answer does not end"
                )
    return decode(bytes(data), kind, url)


async def events(http: aiohttp.ClientSession, url: str) -> AsyncIterator[tuple[str, bytes]]:
    """Yield name and data of what a recorder sends each second, until that ends. Raise NoAnswer."""
    async with get(http, url, "events") as answer:
        waiting = b""
        async for part in answer.content.iter_any():
            waiting += part
            *whole, waiting = waiting.split(b"\n\n")
            if len(waiting) > _ANSWER_BYTES_MAX:
                raise NoAnswer(f"{shown_url(url)} is not the ops server of a recorder: an event does not end")
            for event in whole:
                fields = dict(line.split(b": ", 1) for line in event.split(b"\n") if b": " in line)
                yield fields.get(b"event", b"").decode("ascii", "replace"), fields.get(b"data", b"")


@contextlib.asynccontextmanager
async def get(
    http: aiohttp.ClientSession, url: str, path: str, token: str | None = None
) -> AsyncIterator[aiohttp.ClientResponse]:
    """Ask for a path. What goes wrong, also while the answer is read, is NoAnswer.

    `token` is the recorder's own that asks, empty if it has none; None: the address may have one.
    """
    shown = shown_url(url)
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    try:
        # Wherever the other side might lead us, it is no recorder that we were told of.
        async with http.get(f"{url.rstrip('/')}/{path}", headers=headers, allow_redirects=False) as answer:
            if answer.status != 200:
                raise NoAnswer(_refusal(shown, answer.status, answer.reason or "", token))
            yield answer
    except aiohttp.ClientConnectorError as error:
        # asyncio's own text says only that the call failed.
        number = error.os_error.errno or 0
        why = os.strerror(number) if number > 0 else str(error.os_error)
        raise NoAnswer(
            f"{shown} cannot be reached: {why}. Is the recorder running, with METRICS_ADDR there?"
        ) from error
    except TimeoutError as error:
        raise NoAnswer(f"{shown} does not answer") from error
    except (aiohttp.ClientError, OSError, ValueError) as error:
        raise NoAnswer(f"{shown}: {str(error) or type(error).__name__}") from error


def decode(data: bytes, kind: type[T], url: str) -> T:
    """Return what a recorder has sent. Raise NoAnswer where it is nothing of that kind."""
    try:
        return msgspec.json.decode(data, type=kind)
    except msgspec.MsgspecError as error:
        raise NoAnswer(_misfit(data, url, error)) from error


def shown_url(url: str) -> str:
    """Return an address without user and password."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def _refusal(shown: str, status: int, words: str, token: str | None) -> str:
    wanted = {
        None: "it wants a token: give it as http://any:TOKEN@host:port",
        "": "it wants a token, and AUTH_TOKENS has none here that is not a hash",
    }
    hints = {
        401: wanted.get(token, "it does not know the first token of AUTH_TOKENS here"),
        403: "this user may not",
        404: "is that a recorder's METRICS_ADDR?",
        421: "it listens for this machine alone: ask it as localhost",
        503: "as many follow it as may; `recorder top --once` asks for one snapshot",
    }
    return f"{shown} answered {status} {words}: {hints.get(status, 'is that a recorder?')}"


class _Version(msgspec.Struct):
    schema_version: int
    version: str


def _misfit(data: bytes, url: str, error: msgspec.MsgspecError) -> str:
    with contextlib.suppress(msgspec.MsgspecError):
        other = msgspec.json.decode(data, type=_Version)
        if other.schema_version != SCHEMA_VERSION or other.version != VERSION:
            return (
                f"{shown_url(url)} is of version {other.version}, this program of {VERSION}, and they do not understand "
                "each other: use the program that belongs to the recorder"
            )
    return f"{shown_url(url)} is not the ops server of a recorder: {error}"
