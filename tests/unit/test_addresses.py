"""Hosts and ports as text."""

from __future__ import annotations

import pytest

from recorder.addresses import from_here, host_in, is_loopback, joined, split


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:9898", ("127.0.0.1", 9898)),
        ("localhost:0", ("localhost", 0)),
        ("[::1]:9898", ("::1", 9898)),
        (":9898", ("0.0.0.0", 9898)),  # noqa: S104 - the address is compared, not bound
    ],
)
def test_addresses_are_split_and_joined(text: str, address: tuple[str, int]) -> None:
    """IPv6 is in brackets; no host means every IPv4 address."""
    assert split(text) == address
    assert split(joined(*address)) == address


@pytest.mark.parametrize(
    "text", ["", "9898", "host:", "host:65536", "::1:9898", "[1::x]:1", "a b:1", "[::1:1"]
)
def test_what_is_no_address_is_refused(text: str) -> None:
    """Host and port are needed, or the port alone."""
    with pytest.raises(ValueError, match=r"\S"):
        split(text)


@pytest.mark.parametrize(
    ("header", "host"),
    [("Feed.example.com:8765", "feed.example.com"), ("[::1]:80", "::1"), ("10.0.0.1", "10.0.0.1"), ("", "")],
)
def test_the_host_in_a_header(header: str, host: str) -> None:
    """Lower case, without port and brackets."""
    assert host_in(header) == host


@pytest.mark.parametrize(
    ("host", "loopback", "here"),
    [
        ("127.0.0.2", True, "127.0.0.2"),
        ("LOCALHOST", True, "LOCALHOST"),
        ("0.0.0.0", False, "127.0.0.1"),  # noqa: S104 - nothing is bound
        ("::", False, "::1"),
        ("feed.example.com", False, "feed.example.com"),
    ],
)
def test_who_reaches_a_host(host: str, loopback: bool, here: str) -> None:
    """Only this machine, or others too; and how this machine reaches what listens everywhere."""
    assert is_loopback(host) == loopback
    assert from_here(host) == here
