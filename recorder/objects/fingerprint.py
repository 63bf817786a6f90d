"""What tells the content of an object from any other: its size, its SHA-256, and the ETags that stores make of it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Final, NamedTuple

PART_BYTES: Final = 8 << 20
"""What is longer is sent in parts of this size; a part is in memory as a whole."""
_PARTS_MAX: Final = 9_000
"""S3 takes 10,000 parts of an object at most."""


def part_bytes(size_bytes: int) -> int:
    """Return the size of the parts in which an object of this size is sent."""
    parts = -(-size_bytes // PART_BYTES)
    return PART_BYTES * -(-parts // _PARTS_MAX) if parts else PART_BYTES


class Fingerprint(NamedTuple):
    """The content of an object."""

    bytes: int
    sha256: str
    """In hex."""
    etag: str
    """What S3 calls it, where it computes the ETag from the content: it does not where it encrypts with keys of KMS."""


def fingerprint_of(blocks: Iterable[bytes], size_bytes: int) -> Fingerprint:
    """Return the fingerprint of what is in the blocks; `size_bytes` is how much that is to be, hence how it is sent."""
    whole = hashlib.sha256()
    parts: list[bytes] = []
    part, in_part, limit = _md5(), 0, part_bytes(size_bytes)
    total = 0
    for block in blocks:
        whole.update(block)
        total += len(block)
        view = memoryview(block)
        while view:
            taken = view[: limit - in_part]
            part.update(taken)
            in_part += len(taken)
            view = view[len(taken) :]
            if in_part == limit:
                parts.append(part.digest())
                part, in_part = _md5(), 0
    if in_part or not parts:
        parts.append(part.digest())
    etag = parts[0].hex() if len(parts) == 1 else f"{_md5(b''.join(parts)).hexdigest()}-{len(parts)}"
    return Fingerprint(total, whole.hexdigest(), etag)


def _md5(data: bytes = b"") -> hashlib._Hash:
    # S3 computes ETags so. Nothing depends on its strength: SHA-256 is what the content is held against.
    return hashlib.md5(data, usedforsecurity=False)
