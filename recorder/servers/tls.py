"""TLS of the servers: certificate and key to a context, what is wrong with them in words, and a new one for an old one."""

from __future__ import annotations

import os
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import msgspec

from recorder.errors import ConfigError

_WRONG_KEY: Final = ("KEY_VALUES_MISMATCH", "KEY_TYPE_MISMATCH", "NO_CERTIFICATE_ASSIGNED")
"""OpenSSL's reasons for a key of another certificate; the last means another algorithm."""
FILE_BYTES_MAX: Final = 2**20


class Pem(msgspec.Struct, frozen=True):
    """A certificate chain and its key, as they were read from their files.

    All processes use the same bytes, whatever becomes of the files meanwhile.
    """

    cert_file: str
    key_file: str
    chain: bytes
    key: bytes

    @classmethod
    def read(cls, cert_file: str | None, key_file: str | None) -> Pem | None:
        """Return what the two files hold; None, which means no TLS, if none is named.

        Raise ConfigError that names the variable and the file.
        """
        if cert_file is None or key_file is None:
            return None
        chain = _content("TLS_CERT_FILE", cert_file)
        return cls(cert_file, key_file, chain, _content("TLS_KEY_FILE", key_file))

    def __repr__(self) -> str:
        return f"Pem({self.cert_file!r})"


def make_context(pem: Pem) -> ssl.SSLContext:
    """Return the server's context for a certificate chain and its key.

    Raise ConfigError that names the variable and the file.
    """
    cert_file, key_file = pem.cert_file, pem.key_file
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    with _as_file(pem.chain) as chain_path, _as_file(pem.key) as key_path:
        _require_certificate(cert_file, chain_path)
        try:
            context.load_cert_chain(chain_path, key_path, password=_refuse_password)
        except ssl.SSLError as error:
            if error.reason in _WRONG_KEY:
                raise ConfigError(f"TLS_KEY_FILE: {key_file}: is not the key of {cert_file}") from error
            if error.reason:
                why = error.reason.replace("_", " ").lower()
                raise ConfigError(f"TLS_CERT_FILE: {cert_file}: OpenSSL refuses it: {why}") from error
            raise ConfigError(f"TLS_KEY_FILE: {key_file}: holds no private key (PEM)") from error
        except _EncryptedKeyError as error:
            raise ConfigError(
                f"TLS_KEY_FILE: {key_file}: is encrypted; decrypt it (openssl pkey) and guard it by its mode"
            ) from error
    return context


class Tls:
    """The TLS of listeners. Each handshake uses the certificate that is in use when it begins."""

    def __init__(self, pem: Pem | None) -> None:
        """Raise ConfigError where the certificate or its key cannot be used; None means no TLS, for good."""
        self.listening = make_context(pem) if pem is not None else None
        """What listeners are given: it stays, and lets `_choose` choose the context of each handshake."""
        self._pem = pem
        self._current = self.listening
        if self.listening is not None:
            self.listening.sni_callback = self._choose

    def change(self, pem: Pem | None) -> None:
        """Use another certificate from the next handshake on.

        Raise ConfigError, and keep the former, if it cannot be used.
        """
        if pem is not None and pem != self._pem and self.listening is not None:
            self._current = make_context(pem)
            self._pem = pem

    def _choose(self, connection: ssl.SSLObject, name: str | None, context: ssl.SSLContext) -> None:
        """Set the context of a handshake. OpenSSL asks also for a client that names no server."""
        if self._current is not None:
            connection.context = self._current

    def __repr__(self) -> str:
        return f"Tls({self._pem!r})"


class _EncryptedKeyError(Exception):
    """The key asks for a password, and nobody is there to type one."""


def _refuse_password() -> str:
    raise _EncryptedKeyError


def _content(variable: str, file: str) -> bytes:
    try:
        with Path(file).open("rb") as stream:
            content = stream.read(FILE_BYTES_MAX + 1)
    except OSError as error:
        raise ConfigError(f"{variable}: {file}: cannot be read: {error.strerror}") from error
    if len(content) > FILE_BYTES_MAX:
        raise ConfigError(f"{variable}: {file}: is larger than {FILE_BYTES_MAX} bytes")
    return content


@contextmanager
def _as_file(content: bytes) -> Iterator[str]:
    """Yield a path at which OpenSSL, which reads a key from files alone, finds the content; it is on no disk."""
    descriptor = os.memfd_create("pem")
    with open(descriptor, "wb") as stream:
        stream.write(content)
        stream.flush()
        yield f"/proc/self/fd/{descriptor}"


def _require_certificate(file: str, path: str) -> None:
    """OpenSSL does not say which of two files it dislikes, so the certificate is first read alone."""
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_verify_locations(path)
    except ssl.SSLError as error:
        raise ConfigError(f"TLS_CERT_FILE: {file}: holds no certificate (PEM)") from error
