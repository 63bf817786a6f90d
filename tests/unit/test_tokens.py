"""Client tokens, and the delay for clients that guess them."""

from __future__ import annotations

from collections.abc import Callable
from hashlib import sha256
from hmac import compare_digest
from pathlib import Path

import pytest
from fakes import FakeClock
from hypothesis import given
from hypothesis import strategies as st

from recorder import log
from recorder.errors import EXIT_CONFIG, ConfigError
from recorder.servers.tokens import (
    ADDRESSES_MAX,
    DELAY_SECS_MAX,
    FILE_BYTES_MAX,
    FORGET_SECS,
    Guard,
    Tokens,
    plain_token,
)
from recorder.settings import ServersSettings, Settings
from recorder.settings.keys import TOKENS_MAX

SECRET = "s3cret-of-alice"
HEX = sha256(SECRET.encode()).hexdigest()


@pytest.fixture(autouse=True)
def _no_secrets() -> None:
    log.forget_secrets()


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str | bytes], str]:
    """Write a file of tokens; return its path."""

    def write(content: str | bytes) -> str:
        path = tmp_path / "tokens"
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return str(path)

    return write


def servers(tokens: tuple[str, ...] = (), file: str | None = None) -> ServersSettings:
    return Settings.of().servers.model_copy(update={"tokens": tokens, "tokens_file": file})


def refusal(*arguments: object) -> str:
    with pytest.raises(ConfigError) as caught:
        Tokens(*arguments)  # type: ignore[arg-type]
    assert caught.value.exit_status == EXIT_CONFIG
    return str(caught.value)


# Tokens


@pytest.mark.parametrize("entry", [f"alice:{SECRET}", f"alice:sha256:{HEX}", f"alice:sha256:{HEX.upper()}"])
def test_a_token_gives_its_name(entry: str) -> None:
    """Plain or known by its hash; nothing else is accepted, the hash, an empty text and odd ones included."""
    tokens = Tokens([entry, "bob:another"])
    assert tokens.check(SECRET) == "alice"
    assert tokens.check("another") == "bob"
    for wrong in (
        "",
        SECRET[:-1],
        f"{SECRET} ",
        SECRET.upper(),
        HEX,
        entry,
        "alice",
        "\ud800",
        "ä" * 100_000,
    ):
        assert tokens.check(wrong) is None


def test_a_token_without_a_name_is_called_by_its_place() -> None:
    """Whether it is plain or a hash; a colon begins the token of a name."""
    tokens = Tokens(["one", "bob:two:with:colons", f"sha256:{HEX}"])
    assert [tokens.check(token) for token in ("one", "two:with:colons", SECRET)] == [
        "token-1",
        "bob",
        "token-3",
    ]


@given(st.lists(st.text("abcXYZ019-_:/+=.", min_size=1, max_size=20), min_size=1, max_size=20, unique=True))
def test_every_token_is_found_under_its_own_name(texts: list[str]) -> None:
    """However many there are, and whatever is in them."""
    plain = [text for text in texts if not text.startswith("sha256:")]
    tokens = Tokens([f"name-{place}:{text}" for place, text in enumerate(plain)] + ["last:,"])
    assert [tokens.check(text) for text in plain] == [f"name-{place}" for place in range(len(plain))]


@pytest.mark.parametrize("token", ["first-token", "last-token", "no-token"])
def test_every_token_is_compared_whichever_is_given(monkeypatch: pytest.MonkeyPatch, token: str) -> None:
    """The time of an answer tells neither whether a token was near nor which one it was."""
    tokens = Tokens(["first-token", *(f"token-number-{number}" for number in range(8)), "last-token"])
    compared: list[tuple[int, int]] = []

    def compare(one: bytes, other: bytes) -> bool:
        compared.append((len(one), len(other)))
        return compare_digest(one, other)

    monkeypatch.setattr("recorder.servers.tokens.compare_digest", compare)
    tokens.check(token)
    assert compared == [(32, 32)] * 10


def test_a_file_holds_one_entry_a_line(write: Callable[[str | bytes], str]) -> None:
    """Comments, empty lines, a byte order mark and Windows line ends do not matter; the numbers continue."""
    file = write(f"\ufeff# ours\r\n\r\n  alice:sha256:{HEX}  \r\n#old:token\r\nunnamed")
    tokens = Tokens(["bob:b"], file)
    assert len(tokens) == 3
    assert [tokens.check(token) for token in ("b", SECRET, "unnamed")] == ["bob", "alice", "token-3"]
    assert tokens.check("token") is None


def test_entries_that_cannot_be_used_are_told_at_once(write: Callable[[str | bytes], str]) -> None:
    """One line each, with its place; no token is shown."""
    content = (
        f"alice:{SECRET}\n\na name:{SECRET}\nbob:\ncarl:sha256:12\nalice:x1\ndora:{SECRET}\nemil:ä\n".encode()
    )
    file = write(content + b"\xff\xfe")
    message = refusal(["alice-2:ok", "spa ce"], file)
    place = f"AUTH_TOKENS_FILE: {file}"
    ascii_only = "a token must be printable ASCII without spaces"
    assert message.splitlines() == [
        f"AUTH_TOKENS: entry 2: {ascii_only}",
        f"{place}:3: a name must be 1 to 64 of the letters A-Z a-z, digits and . _ @ -",
        f"{place}:4: {ascii_only}",
        f"{place}:5: sha256: must be followed by 64 hexadecimal digits",
        f"{place}:6: the name alice is taken",
        f"{place}:7: dora has the same token as alice",
        f"{place}:8: {ascii_only}",
        f"{place}:9: {ascii_only}",
    ]


def test_a_file_that_cannot_be_read_is_an_error(tmp_path: Path, write: Callable[[str | bytes], str]) -> None:
    """Missing, a folder, empty, or too large to be one."""
    missing = str(tmp_path / "nowhere")
    assert refusal([], missing) == f"AUTH_TOKENS_FILE: {missing}: cannot be read: No such file or directory"
    assert refusal([], str(tmp_path)).endswith("cannot be read: Is a directory")
    file = write("# none yet\n")
    assert refusal([], file) == f"AUTH_TOKENS_FILE: {file}: holds no token, so no client could ever connect"
    assert f"is larger than {FILE_BYTES_MAX} bytes" in refusal([], write(b"#" * (FILE_BYTES_MAX + 1)))


def test_tokens_are_limited_in_number(write: Callable[[str | bytes], str]) -> None:
    """The line that is one too many is told, once."""
    lines = [f"sha256:{number:064x}" for number in range(TOKENS_MAX + 2)]
    assert len(Tokens([], write("\n".join(lines[:TOKENS_MAX])))) == TOKENS_MAX
    file = write("\n".join(lines))
    assert refusal([], file) == (
        f"AUTH_TOKENS_FILE: {file}:{TOKENS_MAX + 1}: is one too many; {TOKENS_MAX} tokens are allowed"
    )


def test_the_key_is_the_token_where_no_other_is_set(write: Callable[[str | bytes], str]) -> None:
    """With tokens from either place, the key is not a token."""
    assert Tokens.from_settings(servers(), "the-key:with,odd").check("the-key:with,odd") == "api-key"
    for section in (servers(("alice:a",)), servers(file=write("alice:a"))):
        tokens = Tokens.from_settings(section, "the-key")
        assert tokens.check("a") == "alice"
        assert tokens.check("the-key") is None


def test_without_any_token_there_is_no_server() -> None:
    """An empty key is no token that an empty request could match."""
    with pytest.raises(ConfigError, match="AUTH_TOKENS: must be set if there is no POLYGON_API_KEY"):
        Tokens.from_settings(servers(), "")


def test_tokens_are_masked_in_logs_and_shown_nowhere(write: Callable[[str | bytes], str]) -> None:
    """Good or not; the names are not secret."""
    tokens = Tokens([f"alice:{SECRET}"], write("bob:in-the-file"))
    assert log.mask(f"alice sent {SECRET}, bob in-the-file") == "alice sent ***, bob ***"
    assert repr(tokens) == "Tokens(2)"
    refusal(["no name:bad-token-4711"])
    assert log.mask("bad-token-4711") == "***"


# The guard


def test_each_failure_makes_the_next_answer_wait_longer() -> None:
    """The first is free, then 0.5 s and twice as long each time, up to the limit; others do not wait."""
    guard = Guard(FakeClock())
    delays = []
    for _ in range(100):
        guard.failed("192.0.2.1")
        delays.append(guard.delay_secs("192.0.2.1"))
    assert delays[:7] == [0, 0.5, 1, 2, 4, 8, DELAY_SECS_MAX]
    assert set(delays[7:]) == {DELAY_SECS_MAX}
    assert guard.delay_secs("192.0.2.2") == 0


def test_the_time_since_the_last_failure_counts() -> None:
    """Who comes back later waits only for the rest."""
    clock = FakeClock()
    guard = Guard(clock)
    for _ in range(3):
        guard.failed("192.0.2.1")
    clock.advance(0.75)
    assert guard.delay_secs("192.0.2.1") == 0.25
    clock.advance(1)
    assert guard.delay_secs("192.0.2.1") == 0
    guard.failed("192.0.2.1")
    assert guard.delay_secs("192.0.2.1") == 2


def test_failures_are_forgotten_after_a_while() -> None:
    """The address starts over and takes no memory."""
    clock = FakeClock()
    guard = Guard(clock)
    for _ in range(9):
        guard.failed("192.0.2.1")
    clock.advance(FORGET_SECS)
    assert guard.delay_secs("192.0.2.1") == 0
    guard.failed("192.0.2.2")
    assert len(guard) == 1
    guard.failed("192.0.2.1")
    assert guard.delay_secs("192.0.2.1") == 0


def test_the_addresses_remembered_are_bounded() -> None:
    """The one whose last failure is oldest goes first; an address that keeps failing stays."""
    clock = FakeClock()
    guard = Guard(clock)
    for _ in range(5):
        guard.failed("192.0.2.1")
    for number in range(2 * ADDRESSES_MAX):
        if number % 1000 == 0:
            guard.failed("192.0.2.1")
        guard.failed(f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}")
    assert len(guard) == ADDRESSES_MAX
    assert guard.delay_secs("192.0.2.1") == DELAY_SECS_MAX
    assert repr(guard) == f"Guard({ADDRESSES_MAX} addresses)"


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("2001:db8:1:2::1", "2001:db8:1:2:ffff::9", True),
        ("2001:db8:1:2::1", "2001:db8:1:3::1", False),
        ("::ffff:192.0.2.1", "192.0.2.1", True),
        ("::ffff:192.0.2.1", "::ffff:192.0.2.2", False),
        ("192.0.2.1", "192.0.2.2", False),
        ("unknown", "unknown", True),
    ],
)
def test_one_host_is_one_address(one: str, other: str, same: bool) -> None:
    """A host has a whole IPv6 /64 to change its address in; IPv4 in IPv6 is IPv4."""
    guard = Guard(FakeClock())
    guard.failed(one)
    guard.failed(one)
    assert (guard.delay_secs(other) > 0) is same


@pytest.mark.parametrize(
    ("entries", "lines", "token"),
    [
        (("prometheus:t0ken", "b:other"), None, "t0ken"),
        (("t0ken",), None, "t0ken"),
        ((f"a:sha256:{HEX}", f"sha256:{HEX}", "b:t0ken"), None, "t0ken"),
        ((f"a:sha256:{HEX}",), "# ours\n\nb:t0ken\n", "t0ken"),
        ((f"a:sha256:{HEX}",), None, ""),
    ],
)
def test_a_token_in_plain_text_is_found(
    write: Callable[[str | bytes], str], entries: tuple[str, ...], lines: str | None, token: str
) -> None:
    """The first one of the list, then of the file; of hashes none can be told."""
    file = write(lines) if lines is not None else None
    servers = Settings.of().servers.model_copy(update={"tokens": entries, "tokens_file": file})
    assert plain_token(servers) == token
