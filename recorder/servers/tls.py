"""TLS of the servers: certificate and key to a context, and what is wrong with them in words."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Final

from recorder.errors import ConfigError

_WRONG_KEY: Final = ("KEY_VALUES_MISMATCH", "KEY_TYPE_MISMATCH", "NO_CERTIFICATE_ASSIGNED")
"""OpenSSL's reasons for a key of another certificate; the last means another algorithm."""


def make_context(cert_file: str | None, key_file: str | None) -> ssl.SSLContext | None:
    """Return the server's context for a certificate chain and its key (PEM); None, which means no TLS, if none is named.

    Raise ConfigError that names the variable and the file.
    """
    if cert_file is None or key_file is None:
        return None
    _require_readable("TLS_CERT_FILE", cert_file)
    _require_readable("TLS_KEY_FILE", key_file)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    _require_certificate(cert_file)
    try:
        context.load_cert_chain(cert_file, key_file, password=_refuse_password)
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


class _EncryptedKeyError(Exception):
    """The key asks for a password, and nobody is there to type one."""


def _refuse_password() -> str:
    raise _EncryptedKeyError


def _require_readable(variable: str, file: str) -> None:
    try:
        with Path(file).open("rb") as stream:
            stream.read(1)
    except OSError as error:
        raise ConfigError(f"{variable}: {file}: cannot be read: {error.strerror}") from error


def _require_certificate(file: str) -> None:
    """OpenSSL does not say which of two files it dislikes, so the certificate is first read alone."""
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_verify_locations(file)
    except ssl.SSLError as error:
        raise ConfigError(f"TLS_CERT_FILE: {file}: holds no certificate (PEM)") from error
