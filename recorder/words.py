"""How sizes, times, and texts that came from outside are shown to people."""

from __future__ import annotations

from datetime import UTC, datetime


def printable(text: str) -> str:
    """Return a text that steers no terminal and breaks no line: what cannot be printed becomes a question mark."""
    return "".join([character if character.isprintable() else "?" for character in text])


def shortened(text: str, chars_max: int) -> str:
    """Return a text of which no more than its first `chars_max` characters are left."""
    return text if len(text) <= chars_max else f"{text[:chars_max]}…"


def size_text(size_bytes: float) -> str:
    """Return a size as people read it: `12.3 MiB`."""
    if size_bytes < 1024:
        return f"{size_bytes:.0f} bytes"
    for unit in ("KiB", "MiB"):
        size_bytes /= 1024
        if size_bytes < 1024:
            return f"{size_bytes:.1f} {unit}"
    return f"{size_bytes / 1024:.1f} GiB"


def moment_text(at_ms: int) -> str:
    """Return a time, given in Unix ms, as people read it: `2026-11-21T14:30:00.000Z`."""
    text = datetime.fromtimestamp(at_ms / 1000, UTC).isoformat(timespec="milliseconds")
    return text.replace("+00:00", "Z")


def read_moment(text: str) -> int:
    """Read a time, Unix ms or ISO 8601, UTC unless it says otherwise. Return Unix ms. Raise ValueError for anything else."""
    at_ms = int(text) if text.isascii() and text.isdecimal() and 8 < len(text) < 20 else 0
    try:
        # What is too far away for a date is no time either.
        found = datetime.fromtimestamp(at_ms / 1000, UTC) if at_ms else datetime.fromisoformat(text)
    except (ValueError, OverflowError):
        raise ValueError(f"{text!r} must be Unix ms, or a time such as 2026-11-21T14:30:00Z") from None
    return at_ms or int((found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp() * 1000)
