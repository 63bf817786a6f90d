"""Settings that are read again: what a running recorder takes of them, and what waits for a restart."""

from __future__ import annotations

from pathlib import Path

import pytest

from recorder.errors import ConfigError
from recorder.settings import Settings, SettingsSource, load_settings
from recorder.settings.changes import RELOADED, differing, merged


def test_what_needs_no_restart_is_taken_and_nothing_else() -> None:
    """The topics stay, the limits do not."""
    old = Settings.of({"SUBSCRIPTION": "T.*", "CLIENTS_MAX": "5", "AUTH_TOKENS": "a:b"})
    new = Settings.of({"SUBSCRIPTION": "Q.*", "CLIENTS_MAX": "6", "AUTH_TOKENS": "a:c"})
    made = merged(old, new)
    assert made.topics == old.topics
    assert made.servers.limits.clients_max == made["CLIENTS_MAX"] == 6
    assert made.servers.tokens == ("a:c",)
    assert set(differing(old, made)) == {"CLIENTS_MAX", "AUTH_TOKENS"}
    assert differing(made, new) == ["SUBSCRIPTION"]


def test_every_variable_that_needs_no_restart_is_taken() -> None:
    """Each of them alone."""
    values = {
        "ALLOWED_HOSTS": "a.example.com",
        "ALLOWED_ORIGINS": "https://a.example.com",
        "AUTH_TOKENS": "a:b",
        "AUTH_TOKENS_FILE": "/tokens",
        "POLYGON_API_KEY": "another",
        "POLYGON_API_KEY_FILE": "/key",
        "TLS_CERT_FILE": "/cert",
        "TLS_KEY_FILE": "/key",
    }
    for name in RELOADED:
        old = Settings.of({"TLS_CERT_FILE": "/old", "TLS_KEY_FILE": "/old"})
        value = values.get(name, str(int(old[name] or 0) + 2048) if name not in values else "")
        new = Settings.of({"TLS_CERT_FILE": "/old", "TLS_KEY_FILE": "/old", name: value})
        assert merged(old, new)[name] == new[name] != old[name], name


def test_tls_as_such_waits_for_a_restart() -> None:
    """A port cannot be `ws` now and `wss` then."""
    old = Settings.of()
    new = Settings.of({"TLS_CERT_FILE": "/cert", "TLS_KEY_FILE": "/key"})
    assert merged(old, new).servers.tls_cert_file is None
    assert differing(merged(old, new), new) == ["TLS_CERT_FILE", "TLS_KEY_FILE"]


def test_clusters_that_the_firehose_offered_are_no_change(tmp_path: Path) -> None:
    """Nobody has set them, so nothing waits for a restart; clusters that were named and no longer are do."""
    read = load_settings({"FIREHOSE_URL": "ws://h:1", "POLYGON_API_KEY": "a-key"}, tmp_path).settings
    running = read.with_clusters(("crypto", "stocks"))
    assert differing(merged(running, read), read) == []
    given = {"FIREHOSE_URL": "ws://h:1", "POLYGON_API_KEY": "a-key", "POLYGON_CLUSTER": "stocks"}
    named = load_settings(given, tmp_path).settings
    assert differing(named, read) == differing(running, named) == ["POLYGON_CLUSTER"]


def test_a_key_that_is_gone_leaves_the_old_one() -> None:
    """The exchange is not left for a file that somebody emptied."""
    assert merged(Settings.of({"POLYGON_API_KEY": "old"}), Settings.of()).api_key == "old"


def test_old_and_new_may_not_contradict_each_other() -> None:
    """A recorder that other machines reach keeps its tokens, also if the new settings would not let them in."""
    old = Settings.of({"BIND_HOST": "192.0.2.1", "AUTH_TOKENS": "a:b"})
    with pytest.raises(ConfigError, match="BIND_HOST: is reached by other machines"):
        merged(old, Settings.of())


def test_what_the_environment_repeats_counts_as_the_files(tmp_path: Path) -> None:
    """A service manager reads the file into the environment, where nothing changes; the file still counts."""
    file = tmp_path / "recorder.env"
    file.write_text("CLIENTS_MAX=5\nCLIENT_SUBSCRIPTIONS_MAX=5\n")
    environ = {
        "ENV_FILE": str(file),
        "POLYGON_API_KEY": "a-key",
        "CLIENTS_MAX": "5",
        "CLIENT_SUBSCRIPTIONS_MAX": "7",
    }
    source = SettingsSource(environ, tmp_path)
    assert source.load().settings["CLIENTS_MAX"] == 5
    file.write_text("CLIENTS_MAX=6\nCLIENT_SUBSCRIPTIONS_MAX=6\n")
    limits = source.load().settings.servers.limits
    assert (limits.clients_max, limits.subscriptions_max) == (6, 7)


def test_a_file_that_is_gone_is_no_empty_one(tmp_path: Path) -> None:
    """Its settings would all fall back to defaults."""
    (tmp_path / ".env").write_text("CLIENTS_MAX=5\n")
    source = SettingsSource({}, tmp_path)
    (tmp_path / ".env").unlink()
    with pytest.raises(ConfigError, match="is gone"):
        source.load(require_key=False)
    assert SettingsSource({}, tmp_path).load(require_key=False).settings["CLIENTS_MAX"] == 10_000
