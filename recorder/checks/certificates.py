"""From when until when a certificate is valid: the one field of X.509 that is needed, read by hand.

The standard library shows it of verified peers only. Structure: RFC 5280, 4.1; encoding: X.690 (DER).
"""

from __future__ import annotations

import re
import ssl
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, NamedTuple

_PEM: Final = re.compile(r"-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----", re.DOTALL)
_VERSION_TAG: Final = 0xA0
_UTC_TIME_TAG: Final = 0x17
_BEFORE_VALIDITY: Final = 3
"""Serial number, algorithm and issuer."""
_CENTURY_BORDER: Final = 50
"""Two digits of a year from here on are of the 20th century (RFC 5280, 4.1.2.5.1)."""


class CertificateError(Exception):
    """A file that no certificate can be read from."""


class _Element(NamedTuple):
    tag: int
    content: bytes
    rest: bytes


def validity_of(file: Path) -> tuple[datetime, datetime]:
    """Return the first and the last moment at which the first certificate of a PEM file is valid.

    Raise CertificateError.
    """
    try:
        match = _PEM.search(file.read_text(encoding="ascii", errors="replace"))
        if match is None:
            raise CertificateError(f"{file} holds no certificate (PEM)")
        certificate = _element(ssl.PEM_cert_to_DER_cert(match[0]))
        fields = _element(certificate.content).content
        if fields and fields[0] == _VERSION_TAG:
            fields = _element(fields).rest
        for _ in range(_BEFORE_VALIDITY):
            fields = _element(fields).rest
        begins = _element(_element(fields).content)
        return _moment(begins), _moment(_element(begins.rest))
    except (OSError, ValueError, IndexError) as error:
        raise CertificateError(f"{file}: its validity cannot be read: {error}") from error


def _element(data: bytes) -> _Element:
    length, begin = data[1], 2
    if length & 0x80:
        begin += length & 0x7F
        length = int.from_bytes(data[2:begin], "big")
    return _Element(data[0], data[begin : begin + length], data[begin + length :])


def _moment(element: _Element) -> datetime:
    text = element.content.decode("ascii")
    if element.tag == _UTC_TIME_TAG:
        text = ("19" if int(text[:2]) >= _CENTURY_BORDER else "20") + text
    return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC)
