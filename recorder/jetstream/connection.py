"""One connection to a NATS server, and the one home of nats-py. It never reconnects: a new one takes its place."""

from __future__ import annotations

import asyncio
import os
import random
import ssl
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, NamedTuple

import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg

from recorder import log
from recorder.errors import ConfigError, RecorderError
from recorder.plugins import installing
from recorder.settings.nats import NatsSettings

CONNECT_SECS: Final = 2
"""How long one server may take for each step of a connection."""
_CLOSE_SECS: Final = 0.5
_PING_SECS: Final = 10
_PENDING_BYTES_MAX: Final = 64 * 2**20
"""More than the sink ever has under way: nats-py waits past it, without an end."""
_SECRET_BYTES_MAX: Final = 64 * 1024
_REFUSALS: Final = ("authorization violation", "authentication expired", "authentication revoked")
"""What servers say to credentials that they do not take."""


class Delivery(NamedTuple):
    """A message, as it comes."""

    content: bytes
    headers: Mapping[str, str]
    reply: str
    """The subject to which its sender wants an answer; empty where it wants none."""


Receive = Callable[[Delivery], None]
"""Called on the loop with each message."""
Unsubscribe = Callable[[], Awaitable[None]]
"""Ends a subscription."""


class NatsUnreachable(RecorderError):
    """No server takes a connection, or the connection ended."""


class NatsRefused(ConfigError):
    """The servers refuse the credentials, or what is demanded of them cannot be had; somebody must change something."""


class NoResponders(RecorderError):
    """Nobody at the servers answers for a subject now."""


class NoAnswer(RecorderError):
    """A request was not answered in time, over a connection that may be as good as any."""


class _StrictClient(Client):
    """nats-py goes on in the clear where a server offers no TLS; this one does not, when TLS is wanted."""

    wants_tls = False

    async def _process_info(self, info: dict[str, Any], initial_connection: bool = False) -> None:
        if initial_connection and self.wants_tls and not info.get("tls_required"):
            # Before the credentials are sent.
            raise NatsRefused(
                "the server does not demand TLS, so the connection could be read: "
                "configure TLS at the server, or leave out tls:// and NATS_TLS_CA_FILE"
            )
        await super()._process_info(info, initial_connection)


class Connection:
    """Requests, messages and answers over one connection; `failure` says why it is of no use any more."""

    def __init__(self, failed: Callable[[], None]) -> None:
        """`failed` is called on the loop once `failure` is set."""
        self.failure = ""
        self.server = ""
        """URL of the server."""
        self.version = ""
        self.has_jetstream = False
        self._failed = failed
        self._client = _StrictClient()
        self._last_error: Exception | None = None
        self._is_open = False

    @classmethod
    async def to_any(cls, settings: NatsSettings, name: str, failed: Callable[[], None]) -> Connection:
        """Return a connection to a server that takes one; `name` is what the servers call it.

        The servers are tried in an order by chance: one that is cut off from the others takes connections, too, and is of
        no use; the next attempt should not begin with the same one.

        :raises NatsRefused: a server refuses the credentials, and no other one takes them.
        :raises NatsUnreachable: none answers.
        """
        options = _options_of(settings)
        refusal: NatsRefused | None = None
        problems: list[str] = []
        for url in random.sample(settings.urls, len(settings.urls)):
            connection = cls(failed)
            try:
                await connection._open(url, name, settings.wants_tls, options)
            except NatsRefused as error:
                refusal = error
            except NatsUnreachable as error:
                problems.append(str(error))
            else:
                return connection
        if refusal is not None:
            raise refusal
        raise NatsUnreachable(f"no NATS server can be reached: {'; '.join(problems)}")

    async def _open(self, url: str, name: str, wants_tls: bool, options: Mapping[str, Any]) -> None:
        client = self._client
        client.wants_tls = wants_tls
        try:
            await client.connect(
                [url],
                name=name,
                error_cb=self._on_error,
                closed_cb=self._on_closed,
                allow_reconnect=False,
                max_reconnect_attempts=1,
                reconnect_time_wait=0,
                connect_timeout=CONNECT_SECS,
                ping_interval=_PING_SECS,
                max_outstanding_pings=2,
                pending_size=_PENDING_BYTES_MAX,
                **options,
            )
        except NatsRefused:
            await self.close()
            raise
        except Exception as error:  # of nats-py, the system, TLS, or of what signs with the credentials
            await self.close()
            problem = self._last_error if isinstance(error, nats.errors.NoServersError) else error
            raise _ours(url, problem or error) from error
        except BaseException:
            await self.close()
            raise
        info = client._server_info
        self.server = url
        self.version = str(info.get("version", ""))
        self.has_jetstream = bool(info.get("jetstream"))
        self._is_open = True

    @property
    def max_payload_bytes(self) -> int:
        """The largest message that the server takes, headers included."""
        return self._client.max_payload

    def new_inbox(self) -> str:
        """Return a subject that is nobody else's."""
        return self._client.new_inbox()

    async def subscribe(self, subject: str, receive: Receive) -> Unsubscribe:
        """Have each message of a subject handed over, in order; return what ends that."""

        async def hand_over(message: Msg) -> None:
            receive(Delivery(message.data, message.headers or {}, message.reply))

        try:
            subscription = await self._client.subscribe(subject, cb=hand_over)
        except (nats.errors.Error, OSError) as error:
            raise _ours(self.server, error) from error

        async def unsubscribe() -> None:
            with suppress(nats.errors.Error, OSError):  # the connection has ended
                await subscription.unsubscribe()

        return unsubscribe

    async def publish(self, subject: str, content: bytes, reply: str, headers: dict[str, str]) -> None:
        """Hand a message to the socket; never waits for the server.

        :raises NatsUnreachable: the connection has ended.
        """
        try:
            await self._client.publish(subject, content, reply, headers)
        except (nats.errors.Error, OSError) as error:
            raise _ours(self.server, error) from error

    async def request(self, subject: str, content: bytes, timeout_secs: float) -> bytes:
        """Return the answer to a request.

        :raises NoResponders: nobody is there to answer.
        :raises NoAnswer: no answer came in time.
        :raises NatsUnreachable: the connection has ended.
        """
        try:
            answer = await self._client.request(subject, content, timeout=timeout_secs)
        except nats.errors.NoRespondersError as error:
            raise NoResponders(f"nobody at {self.server} answers for {subject}") from error
        except TimeoutError as error:
            raise NoAnswer(f"{self.server} has not answered within {timeout_secs:g} s") from error
        except (nats.errors.Error, OSError) as error:
            raise _ours(self.server, error) from error
        return answer.data

    def fail(self, reason: str) -> None:
        """Let the connection be of no use any more."""
        if not self.failure:
            self.failure = reason
            self._failed()

    async def close(self) -> None:
        """Drop the connection, with all that has not left yet: what is not acknowledged is sent on the next one."""
        self._is_open = False
        client = self._client
        client._pending, client._pending_data_size = [], 0
        writer = getattr(client._transport, "_io_writer", None)
        if writer is not None:
            writer.transport.abort()
        with suppress(Exception):  # it is of no use any more, however it ends
            async with asyncio.timeout(_CLOSE_SECS):
                await client.close()

    async def _on_error(self, error: Exception) -> None:
        self._last_error = error
        if self._is_open:
            self.fail(f"{self.server}: {_words(error)}")

    async def _on_closed(self) -> None:
        if self._is_open:
            error = self._client.last_error
            self.fail(f"{self.server}: {_words(error) if error else 'it has closed the connection'}")

    def __repr__(self) -> str:
        return f"Connection({self.server}, failure={self.failure!r})"


def _ours(url: str, error: BaseException) -> NatsUnreachable | NatsRefused:
    """Return an error of nats-py, of the system or of TLS as one of ours, without anything secret in it."""
    words = _words(error)
    if any(word in words.lower() for word in _REFUSALS):
        return NatsRefused(
            f"{url} refuses the credentials ({words}): see NATS_USER, NATS_PASSWORD_FILE, NATS_TOKEN_FILE, "
            "NATS_CREDS_FILE"
        )
    if isinstance(error, ssl.SSLCertVerificationError):
        return NatsRefused(
            f"{url} cannot be trusted: {error.verify_message}; name who vouches for it in NATS_TLS_CA_FILE"
        )
    if isinstance(error, TimeoutError):
        return NatsUnreachable(f"{url} does not answer")
    return NatsUnreachable(f"{url}: {words}")


def _words(error: BaseException) -> str:
    """Return an error in words."""
    if isinstance(error, nats.errors.UnexpectedEOF):
        return "the connection has ended"
    if isinstance(error, OSError) and not isinstance(error, ssl.SSLError) and error.errno and error.errno > 0:
        return os.strerror(error.errno)
    text = str(error).removeprefix("nats: ").strip("'")
    return log.mask(text or type(error).__name__)


def _options_of(settings: NatsSettings) -> dict[str, Any]:
    """Return what nats-py is to know of credentials and TLS; the files are read each time.

    :raises ConfigError: a file cannot be used.
    """
    options: dict[str, Any] = {}
    if settings.user is not None:
        assert settings.password_file is not None
        options["user"] = settings.user
        options["password"] = _secret(settings.password_file, "NATS_PASSWORD_FILE")
    if settings.token_file is not None:
        options["token"] = _secret(settings.token_file, "NATS_TOKEN_FILE")
    if settings.creds_file is not None:
        options |= _signing(settings.creds_file)
    if settings.wants_tls:
        options["tls"] = _tls(settings)
    return options


def _signing(file: str) -> dict[str, Any]:
    """Return the option for a file of credentials: JWT and NKey, or the seed of an NKey."""
    try:
        import nkeys  # noqa: F401
    except ModuleNotFoundError as error:
        raise ConfigError(f"NATS_CREDS_FILE needs nkeys: {installing('nkeys')}") from error
    text = _text_of(file, "NATS_CREDS_FILE")
    if "BEGIN NATS USER JWT" in text and "BEGIN USER NKEY SEED" in text:
        return {"user_credentials": file}
    if text.strip().startswith("SU") and len(text.split()) == 1:
        return {"nkeys_seed": file}
    raise ConfigError(
        f"NATS_CREDS_FILE: {file} holds neither credentials as nsc writes them nor the seed of an NKey"
    )


def _secret(file: str, variable: str) -> str:
    """Return the secret that a file holds; it is masked in every log from here on."""
    text = _text_of(file, variable).strip()
    if not text or not text.isprintable():
        raise ConfigError(f"{variable}: {file} must hold one line, and nothing else")
    log.register_secret(text)
    return text


def _text_of(file: str, variable: str) -> str:
    try:
        with Path(file).open("rb") as stream:
            return stream.read(_SECRET_BYTES_MAX).decode("utf-8", "replace")
    except OSError as error:
        raise ConfigError(f"{variable}: {file} cannot be read: {error.strerror}") from error


def _tls(settings: NatsSettings) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=settings.tls_ca_file)
        if settings.tls_cert_file is not None:
            context.load_cert_chain(settings.tls_cert_file, settings.tls_key_file)
    except (OSError, ssl.SSLError) as error:
        files = (settings.tls_ca_file, settings.tls_cert_file, settings.tls_key_file)
        named = ", ".join(file for file in files if file)
        raise ConfigError(
            f"NATS_TLS_CA_FILE, NATS_TLS_CERT_FILE, NATS_TLS_KEY_FILE: {named} cannot be used: {error.strerror or error}"
        ) from error
    return context
