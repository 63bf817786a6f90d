"""How sizes, and texts that came from outside, are shown."""

from __future__ import annotations

import pytest

from recorder.words import printable, shortened, size_text


@pytest.mark.parametrize(
    ("size_bytes", "text"),
    [
        (0, "0 bytes"),
        (1023, "1023 bytes"),
        (1024, "1.0 KiB"),
        (12_897_485, "12.3 MiB"),
        (2**30, "1.0 GiB"),
        (2**41, "2048.0 GiB"),
    ],
)
def test_sizes(size_bytes: int, text: str) -> None:
    """The unit that leaves less than 1024 of it; the largest is GiB."""
    assert size_text(size_bytes) == text


def test_a_text_from_outside_steers_no_terminal() -> None:
    """Escapes and line breaks become question marks, letters of any script stay."""
    assert printable("\x1b[31mrot\n\u202e grün") == "?[31mrot?? grün"


def test_a_long_text_is_cut() -> None:
    """Not before it is too long."""
    assert shortened("abc", 3) == "abc"
    assert shortened("abcd", 3) == "abc…"
