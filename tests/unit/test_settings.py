"""Settings: where values come from, what is allowed, what contradicts, and what each part gets."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from recorder import log
from recorder.errors import EXIT_CONFIG, ConfigError
from recorder.settings import (
    OPTIONS,
    BarSettings,
    ClientLimits,
    DemandSettings,
    Loaded,
    Settings,
    WorkerSettings,
    ZmqSettings,
    load_settings,
    render_effective,
)
from recorder.settings.kinds import SIZE
from recorder.units import duration_text, read_duration

KEY = "the-exchange-key-4711"
NEVER_ROTATED = (
    "no file is rotated but by SIGUSR1 or as the disk fills: set NDJSON_ROTATE_SECS or NDJSON_MAX_BYTES"
)
ONE_DOES_ALL = (
    "out, since one recorder does it all; or, if another one has that port, name in ROLES only what this one does, "
    "such as ROLES=filtered,ops"
)
NATS = {"SINK": "nats", "NATS_MAX_BYTES": "1GiB", "NATS_MAX_AGE_SECS": "7d"}
"""What SINK=nats requires."""
SAID = {"POLYGON_CLUSTER": "futures", "SINK": "stdout"}
"""What a start without a warning says."""


@pytest.fixture(autouse=True)
def _no_secrets() -> None:
    log.forget_secrets()


@pytest.fixture
def load(tmp_path: Path) -> Callable[..., Loaded]:
    """Load from these variables alone, in an empty folder, with a key."""

    def load(**environ: str) -> Loaded:
        environ.setdefault("POLYGON_API_KEY", KEY)
        return load_settings(environ, tmp_path)

    return load


@pytest.fixture
def refused(tmp_path: Path) -> Callable[..., str]:
    """Return the message with which these variables are refused."""

    def refused(**environ: str) -> str:
        environ.setdefault("POLYGON_API_KEY", KEY)
        with pytest.raises(ConfigError) as caught:
            load_settings(environ, tmp_path)
        assert caught.value.exit_status == EXIT_CONFIG
        return str(caught.value)

    return refused


def write_env(folder: Path, text: str, name: str = ".env") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


# Where values come from


def test_the_command_wins_over_the_environment_over_the_file_over_the_default(tmp_path: Path) -> None:
    """Each variable has one origin, and it is told."""
    path = write_env(
        tmp_path, f"POLYGON_API_KEY={KEY}\nCHANNEL_CAP=1\nREADY_DELAY_MS=1\nREADY_MIN_MESSAGES=1\n"
    )
    environ = {"READY_DELAY_MS": "2", "READY_MIN_MESSAGES": "2"}
    loaded = load_settings(environ, tmp_path, overrides={"READY_MIN_MESSAGES": 3, "LOG_FORMAT": None})
    settings = loaded.settings
    found = [settings[name] for name in ("CHANNEL_CAP", "READY_DELAY_MS", "READY_MIN_MESSAGES")]
    assert found == [1, 2, 3]
    assert loaded.origins["CHANNEL_CAP"] == str(path)
    assert loaded.origins["READY_DELAY_MS"] == "environment"
    assert loaded.origins["READY_MIN_MESSAGES"] == "command"
    assert loaded.origins["LOG_FORMAT"] == "default"


def test_the_process_environment_and_folder_are_the_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without arguments `os.environ` and the working directory are read."""
    write_env(tmp_path, "CHANNEL_CAP=7")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("POLYGON_API_KEY", KEY)
    monkeypatch.delenv("CHANNEL_CAP", raising=False)
    monkeypatch.delenv("ENV_FILE", raising=False)
    loaded = load_settings()
    assert loaded.settings["CHANNEL_CAP"] == 7
    assert loaded.settings.upstreams[0].api_key == KEY


def test_env_file_names_another_file(tmp_path: Path) -> None:
    """It is read instead of `.env`, from the working directory unless it is absolute."""
    write_env(tmp_path, "CHANNEL_CAP=1\nREADY_DELAY_MS=1")
    other = write_env(tmp_path, f"CHANNEL_CAP=2\nPOLYGON_API_KEY={KEY}", "other.env")
    for name in ("other.env", str(other)):
        settings = load_settings({"ENV_FILE": name}, tmp_path).settings
        assert (settings["CHANNEL_CAP"], settings["READY_DELAY_MS"]) == (2, 0)


def test_a_named_file_must_exist_and_the_default_one_need_not(
    load: Callable[..., Loaded], refused: Callable[..., str]
) -> None:
    """A missing `.env` is fine, a missing `ENV_FILE` is an error."""
    assert load().settings["CHANNEL_CAP"] == 1024
    assert refused(ENV_FILE="nowhere.env") == "ENV_FILE='nowhere.env': must be a file that exists"


def test_an_env_file_that_cannot_be_read_is_an_error(tmp_path: Path, refused: Callable[..., str]) -> None:
    """A folder, bytes that are no text, and lines that are no assignment are told, each with its place."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "binary").write_bytes(b"A=\xff\xfe")
    write_env(tmp_path, "CHANNEL_CAP=1\nnot an assignment\n", "torn")
    assert "folder: cannot be read: Is a directory" in refused(ENV_FILE="folder")
    assert "binary: is not UTF-8 text" in refused(ENV_FILE="binary")
    assert "torn: line 2 is not NAME=value" in refused(ENV_FILE="torn")


def test_an_env_file_is_taken_as_it_stands(tmp_path: Path) -> None:
    """Comments, quotes, `export`, byte order mark and Windows line ends are read; `${…}` is not filled in."""
    lines = [
        "\ufeff# mine",
        "export CHANNEL_CAP='5'  # few",
        'NDJSON_DEST="a b.ndjson"',
        "",
        f"POLYGON_API_KEY={KEY}${{HOME}}",
    ]
    write_env(tmp_path, "\r\n".join(lines))
    settings = load_settings({}, tmp_path).settings
    assert (settings["CHANNEL_CAP"], settings.archive.dest) == (5, "a b.ndjson")
    assert settings.upstreams[0].api_key == f"{KEY}${{HOME}}"


def test_empty_counts_as_not_set_except_for_the_address(tmp_path: Path) -> None:
    """An empty variable in the environment leaves the file's value; an empty METRICS_ADDR means no server."""
    write_env(tmp_path, f"POLYGON_API_KEY={KEY}\nCHANNEL_CAP=5\nMETRICS_ADDR=127.0.0.1:1\nBACKOFF_MAX_SECS=")
    loaded = load_settings({"CHANNEL_CAP": " ", "METRICS_ADDR": ""}, tmp_path)
    assert loaded.settings["CHANNEL_CAP"] == 5
    assert loaded.settings["BACKOFF_MAX_SECS"] == 60
    assert loaded.settings.ops is None
    assert loaded.origins["METRICS_ADDR"] == "environment"


def test_an_empty_destination_is_refused(refused: Callable[..., str]) -> None:
    """As a variable that a script forgot to fill in leaves it: the market would go to standard output."""
    words = "NDJSON_DEST='': must not be empty: set the path of a file, or stdout if no file is to be written"
    assert refused(NDJSON_DEST="") == refused(NDJSON_DEST=" ").replace("' '", "''") == words


def test_what_the_command_gives_takes_the_place_of_what_says_the_same(tmp_path: Path) -> None:
    """A topic list of the command does not contradict data types of the environment."""
    environ = {"POLYGON_API_KEY_FILE": "nowhere", "SUBSCRIBE_DATA_TYPES": "T,Q"}
    overrides = {"POLYGON_API_KEY": KEY, "SUBSCRIPTION": ("T.AAPL",)}
    (upstream,) = load_settings(environ, tmp_path, overrides).settings.upstreams
    assert (upstream.api_key, upstream.topics) == (KEY, ("T.AAPL",))


def test_values_of_the_command_are_checked_too(tmp_path: Path) -> None:
    """Whatever their type, bounds hold; a name that is no variable is refused."""
    with pytest.raises(ConfigError) as caught:
        load_settings(
            {}, tmp_path, {"CHANNEL_CAP": 0, "TYPO": 1, "SINK": ("ndjson", "none")}, require_key=False
        )
    assert str(caught.value).splitlines() == [
        "TYPO: is not a variable of this program",
        "CHANNEL_CAP='0': must be a whole number from 1 to 1000000",
        "SINK='ndjson,none': none excludes the others",
    ]


# What is allowed


@pytest.mark.parametrize(
    ("variable", "text", "value"),
    [
        ("EMIT_NDJSON", "YES", True),
        ("EMIT_NDJSON", "on", True),
        ("EMIT_NDJSON", "1", True),
        ("EMIT_NDJSON", "True", True),
        ("EMIT_NDJSON", "off", False),
        ("EMIT_NDJSON", "No", False),
        ("EMIT_NDJSON", "0", False),
        ("EMIT_NDJSON", "FALSE", False),
        ("NDJSON_MAX_BYTES", "1048576", 1048576),
        ("NDJSON_MAX_BYTES", "64MiB", 64 * 2**20),
        ("NDJSON_MAX_BYTES", "64 mib", 64 * 2**20),
        ("NDJSON_MAX_BYTES", "1GB", 10**9),
        ("NDJSON_BUFFER_BYTES", "1.5KiB", 1536),
        ("NDJSON_BUFFER_BYTES", "10B", 10),
        ("NDJSON_MAX_BYTES", "4KiB", 4096),
        ("NDJSON_MAX_BYTES", "64M", 64 * 2**20),
        ("NDJSON_MAX_BYTES", "64MB", 64 * 10**6),
        ("NDJSON_MAX_BYTES", "1G", 2**30),
        ("NDJSON_MAX_BYTES", "1.5t", 3 * 2**39),
        ("NDJSON_RETAIN_BYTES", "1g", 2**30),
        ("CLIENT_MESSAGE_BYTES_MAX", "64k", 65536),
        ("NDJSON_ROTATE_SECS", "3600", 3600),
        ("NDJSON_ROTATE_SECS", "90s", 90),
        ("NDJSON_ROTATE_SECS", "15m", 900),
        ("NDJSON_ROTATE_SECS", "1.5h", 5400),
        ("NDJSON_ROTATE_SECS", "1h30m", 5400),
        ("NDJSON_ROTATE_SECS", "1h 30m", 5400),
        ("NDJSON_RETAIN_SECS", "30d", 30 * 86_400),
        ("NDJSON_RETAIN_SECS", "2w", 14 * 86_400),
        ("READ_TIMEOUT_SECS", "500ms", 0.5),
        ("READ_TIMEOUT_SECS", "1m", 60.0),
        ("BAR_DELAY_MS", "20", 20),
        ("BAR_DELAY_MS", "20ms", 20),
        ("BAR_DELAY_MS", "1.5s", 1500),
        ("MAX_INTERVAL_MS", "1m", 60_000),
        ("RECONNECT_BUCKETS", "100ms, 1,1m", (0.1, 1.0, 60.0)),
        ("BACKOFF_INITIAL_SECS", "0.25", 0.25),
        ("BACKOFF_INITIAL_SECS", ".5", 0.5),
        ("SINK", "NDJSON, stdout", ("ndjson", "stdout")),
        ("ROLES", "ops", ("ops",)),
        ("POLYGON_CLUSTER", "Stocks, crypto", ("stocks", "crypto")),
        ("SUBSCRIPTION", "T.MSFT, Q.MSFT,T:MSFT,", ("T.MSFT", "Q.MSFT")),
        ("SUBSCRIBE_DATA_TYPES", "T,A, AM", ("T", "A", "AM")),
        ("NDJSON_INCLUDE", "T.ES*,*:AAPL", ("T:ES*", "*:AAPL")),
        ("NDJSON_COMPRESSION", "ZSTD", "zstd"),
        ("NDJSON_DEST", "d/{cluster}/{type}.ndjson", "d/{cluster}/{type}.ndjson"),
        ("NDJSON_DEST", "STDOUT", "stdout"),
        ("NDJSON_DEST", "~/{cluster}/a.ndjson", "/home/ada/{cluster}/a.ndjson"),
        ("NDJSON_DEST", "a/~b.ndjson", "a/~b.ndjson"),
        ("AUTH_TOKENS_FILE", "~/tokens", "/home/ada/tokens"),
        ("LOG_LEVEL", "WARNING,polygon_stats=info", {"": "warning", "polygon_stats": "info"}),
        ("LOG_LEVEL", "trace,polygon_stats=off", {"": "debug", "polygon_stats": "critical"}),
        ("LOG_LEVEL", "polygon_events=warn", {"": "info", "polygon_events": "warning"}),
        ("RECONNECT_BUCKETS", ".1, .5,1", (0.1, 0.5, 1.0)),
        ("METRICS_ADDR", "[::1]:0", "[::1]:0"),
        ("POLYGON_WS_URL", "ws://127.0.0.1:8080", "ws://127.0.0.1:8080"),
        ("FIREHOSE_URL", "ws://hub:8767/", "ws://hub:8767/"),
        ("SINK", "zmq,ndjson", ("zmq", "ndjson")),
        ("ROLES", "firehose, filtered,bars", ("firehose", "filtered", "bars")),
        ("ZMQ_ENDPOINT", "ipc:///run/recorder.sock", "ipc:///run/recorder.sock"),
        ("ZMQ_ENDPOINT", "tcp://[::1]:5556", "tcp://[::1]:5556"),
        ("ZMQ_TOPIC_PREFIX", " md. ", "md."),
        ("NATS_URL", "nats://a, tls://[::1]:1", ("nats://a:4222", "tls://[::1]:1")),
        ("NATS_LINGER_MS", "1s", 1000),
        ("KAFKA_BROKERS", "a, [::1]:1, b.c:9093", ("a:9092", "[::1]:1", "b.c:9093")),
        ("KAFKA_SHAPE", "Records", "records"),
        ("KAFKA_OPTIONS", "a.b=c=d ;\n e=f", ("a.b=c=d", "e=f")),
        ("BIND_HOST", "LOCALHOST", "localhost"),
        ("BIND_HOST", "[::1]", "::1"),
        ("BIND_HOST", "0:0::1", "::1"),
        ("FILTERED_PROXY_PORT", "0", 0),
        ("CLIENT_PING_INTERVAL_SECS", "0.5", 0.5),
        (
            "ALLOWED_ORIGINS",
            "https://App.example.com/, HTTP://h:80,https://h:8443,http://[::1]:3000,null,https://app.example.com:443",
            ("https://app.example.com", "http://h", "https://h:8443", "http://[::1]:3000", "null"),
        ),
        ("ALLOWED_HOSTS", "Feed.example.com, 10.0.0.1,[::1],::1", ("feed.example.com", "10.0.0.1", "::1")),
        ("BAR_CONDITIONS", "ALL", "all"),
    ],
)
def test_values_are_read(
    load: Callable[..., Loaded], monkeypatch: pytest.MonkeyPatch, variable: str, text: str, value: object
) -> None:
    """Every spelling that the docs allow, in any case and with spaces around commas; `~` is the home folder."""
    monkeypatch.setenv("HOME", "/home/ada")
    settings = load(**{"NDJSON_DEST": "a.ndjson", variable: text}).settings
    assert settings[variable] == value


@pytest.mark.parametrize(
    ("variable", "text", "words"),
    [
        ("EMIT_NDJSON", "maybe", "must be 1, true, yes or on; or 0, false, no or off"),
        ("NDJSON_MAX_BYTES", "lots", "must be a size such as 1048576, 64MiB, 64M or 1GB, at least 4096"),
        ("NDJSON_MAX_BYTES", "64Mb/s", "must be a size such as 1048576, 64MiB, 64M or 1GB, at least 4096"),
        ("NDJSON_MAX_BYTES", "1h", "must be a size such as 1048576, 64MiB, 64M or 1GB, at least 4096"),
        ("NDJSON_MAX_BYTES", "0", "must be a size such as 1048576, 64MiB, 64M or 1GB, at least 4096"),
        ("NDJSON_MAX_BYTES", "-5", "must be a size such as 1048576, 64MiB, 64M or 1GB, at least 4096"),
        ("NDJSON_MAX_BYTES", "1", "must be a size such as 1048576, 64MiB, 64M or 1GB, at least 4096"),
        ("NDJSON_MAX_BYTES", "1.0001KB", "must be a whole number of bytes"),
        (
            "NDJSON_ROTATE_SECS",
            "0",
            "must be a duration such as 90, 90s, 15m or 1h (without a unit: seconds), from 1s to 365d",
        ),
        ("NDJSON_ROTATE_SECS", "366d", "from 1s to 365d"),
        ("NDJSON_ROTATE_SECS", "1500ms", "must be a whole number of seconds"),
        ("NDJSON_ROTATE_SECS", "1M", "must be a duration such as 90, 90s, 15m or 1h"),
        ("NDJSON_RETAIN_SECS", "30 days", "must be a duration such as 90, 90s, 15m or 1h"),
        ("NDJSON_RETAIN_SECS", "1h1h", "must be a duration such as 90, 90s, 15m or 1h"),
        ("BAR_DELAY_MS", "0.5ms", "must be a whole number of milliseconds"),
        (
            "BAR_DELAY_MS",
            "20us",
            "must be a duration such as 500, 500ms, 2s or 1m (without a unit: milliseconds), from 0s to 1d",
        ),
        ("TIMER_INTERVAL_MS", "2m", "from 1ms to 1m"),
        ("READ_TIMEOUT_SECS", "１２", "must be a duration"),
        ("READ_TIMEOUT_SECS", "1e-999999999", "must be a duration"),
        ("CHANNEL_CAP", "1e3", "must be a whole number from 1 to 1000000"),
        ("CHANNEL_CAP", "１２", "must be a whole number from 1 to 1000000"),
        (
            "READ_TIMEOUT_SECS",
            "nan",
            "15m or 1h (without a unit: seconds), from 10ms to 1d",
        ),
        (
            "READ_TIMEOUT_SECS",
            "inf",
            "15m or 1h (without a unit: seconds), from 10ms to 1d",
        ),
        (
            "READ_TIMEOUT_SECS",
            "1e999",
            "15m or 1h (without a unit: seconds), from 10ms to 1d",
        ),
        (
            "STATS_INTERVAL_SECS",
            "-1",
            "15m or 1h (without a unit: seconds), from 0s to 1d",
        ),
        ("SINK", "kafkas", "kafkas is not known; known are stdout, ndjson, zmq, nats, kafka, none"),
        (
            "SINK",
            ",",
            "must be one or several of stdout, ndjson, zmq, nats, kafka, none, or what an installed package provides",
        ),
        ("SINK", "none,stdout", "none excludes the others"),
        ("NATS_URL", "ws://a", "'ws://a' is not a URL such as nats://127.0.0.1:4222"),
        ("NATS_URL", "nats://a:0", "must have a port from 1 to 65535"),
        ("NATS_STREAM_PREFIX", "a.b", "must be up to 32 of the letters A-Z a-z, digits, _ and -"),
        ("NATS_REPLICAS", "6", "a whole number from 1 to 5"),
        ("KAFKA_BROKERS", "kafka://a", "'kafka://a' is not an address such as 127.0.0.1:9092"),
        ("KAFKA_BROKERS", "a:0", "must have a port from 1 to 65535"),
        ("KAFKA_TOPIC_PREFIX", ".md", "the last one not at either end"),
        ("KAFKA_SHAPE", "lines", "must be frames or records"),
        ("KAFKA_OPTIONS", "linger.ms=5", "linger.ms is KAFKA_LINGER_MS here"),
        (
            "KAFKA_OPTIONS",
            "acks=1",
            "acks must stay as it is: an event that a broker has acknowledged must be",
        ),
        ("KAFKA_OPTIONS", "a=1;a=2", "a is there twice"),
        ("KAFKA_OPTIONS", "debug", "debug is not of the form name=value"),
        ("ROLES", "archive,archive", "names a value twice"),
        ("POLYGON_CLUSTER", "stocks,stocks", "names a value twice"),
        ("POLYGON_CLUSTER", "bonds", "must be one or several of stocks, options, futures, crypto"),
        ("POLYGON_CLUSTER", "futures/cme", "belongs in POLYGON_WS_URL"),
        ("POLYGON_WS_URL", "https://socket.polygon.io", "must be a ws:// or wss:// URL with a host"),
        ("POLYGON_WS_URL", "wss://", "must be a ws:// or wss:// URL with a host"),
        ("POLYGON_WS_URL", "wss://h:99999", "must be a ws:// or wss:// URL with a host"),
        ("POLYGON_WS_URL", "wss://h#***", "must have no user, query or fragment"),
        ("POLYGON_WS_URL", "ws://h:0", "must not have port 0"),
        ("SUBSCRIPTION", "AAPL", "such as T.AAPL"),
        ("SUBSCRIPTION", "T.A*", "whole symbol"),
        ("SUBSCRIPTION", "T:ES*,Q.AAPL", "set SUBSCRIPTION=T.* and NDJSON_INCLUDE=T:ES*"),
        ("SUBSCRIPTION", ",", "must be topics such as"),
        ("SUBSCRIPTION_CRYPTO", "xt.*", "a channel is a code"),
        ("SUBSCRIBE_DATA_TYPES", "T.*", "topics belong in SUBSCRIPTION"),
        ("SUBSCRIBE_DATA_TYPES", "t", "a channel is a code"),
        ("NDJSON_INCLUDE", "T*:AAPL", "a channel is a code"),
        ("NDJSON_INCLUDE", "ES*", "a pattern is a channel and a symbol"),
        ("NDJSON_DEST", "a/{type}/{symbol}.ndjson", "knows the placeholders {cluster} and {type} only"),
        ("NDJSON_DEST", "a{.ndjson", "knows the placeholders"),
        ("NDJSON_DEST", "folder/", "must name a file, not a folder"),
        ("NDJSON_DEST", "..", "must name a file, not a folder"),
        ("NDJSON_DEST", "a\x07b", "must be stdout or the path of a file"),
        ("NDJSON_DEST", "p.ndjson.gz", "NDJSON_COMPRESSION=gzip compresses rotated files and adds .gz"),
        ("NDJSON_DEST", "d/p.ndjson.ZST", "NDJSON_COMPRESSION=zstd compresses rotated files and adds .zst"),
        ("NDJSON_DEST", "p.lock", "must not end with .lock, which other files of the archive do"),
        ("NDJSON_DEST", "p.manifest.ndjson", "must not end with .manifest.ndjson, which other files"),
        ("NDJSON_DEST", "p.rejected.ndjson", "must not end with .rejected.ndjson, which other files"),
        ("NDJSON_DEST", "file:///var/p.ndjson", "must be a path such as /var/p.ndjson, not a URL"),
        ("NDJSON_DEST", "s3://bucket/p.ndjson", "must be a path such as /var/p.ndjson, not a URL"),
        (
            "NDJSON_DEST",
            "~nobody-of-that-name/p.ndjson",
            "names the home folder of a user that does not exist",
        ),
        ("TLS_CERT_FILE", "file:///c.pem", "must be a path such as /var/p.ndjson, not a URL"),
        ("POLYGON_API_KEY_FILE", "a\0b", "must be the path of a file"),
        ("NDJSON_FSYNC", "always", "must be never, rotate or flush"),
        ("METRICS_ADDR", "9898", "must be host:port"),
        ("METRICS_ADDR", "localhost:", "must be host:port"),
        ("METRICS_ADDR", "localhost:65536", "must be host:port"),
        ("METRICS_ADDR", "::1:9898", "must be host:port"),
        ("METRICS_ADDR", "[1::x]:9898", "must be host:port"),
        ("LOG_LEVEL", "loud", "must be debug, info, warning, error or critical, or TARGET=LEVEL"),
        ("LOG_LEVEL", "polygon_nothing=info", "polygon_archive"),
        ("LOG_LEVEL", "=info", "must be debug, info"),
        ("LOG_LEVEL", "info,debug", "sets the level of the rest twice"),
        ("LOG_LEVEL", ",", "must be a level, or a list"),
        ("RECONNECT_BUCKETS", "1,1", "each greater than the one before"),
        ("RECONNECT_BUCKETS", "0,1", "must be positive durations"),
        ("RECONNECT_BUCKETS", "1,1e999", "must be positive durations"),
        ("INTERARRIVAL_BUCKETS", "1,x", "must be positive durations"),
        (
            "FIREHOSE_URL",
            "http://hub:8767",
            "must be a ws:// or wss:// URL with a host, such as ws://127.0.0.1:8767",
        ),
        ("MS_AGGREGATOR_URL", "ws://hub:8768#***", "must have no user, query or fragment"),
        ("ZMQ_ENDPOINT", "127.0.0.1:5556", "must be tcp://host:port or ipc:///path"),
        ("ZMQ_ENDPOINT", "tcp://h:65536", "must be tcp://host:port or ipc:///path"),
        ("ZMQ_ENDPOINT", "ipc://", "must be tcp://host:port or ipc:///path"),
        ("ZMQ_SND_HWM", "0", "must be a whole number from 1 to"),
        ("ZMQ_TOPIC_PREFIX", "a b", "must be printable ASCII without spaces"),
        ("BIND_HOST", "0.0.0", "must be an IP address or a host name, without port"),
        ("BIND_HOST", "localhost:8765", "must be an IP address or a host name, without port"),
        ("BIND_HOST", "a..b", "must be an IP address or a host name, without port"),
        ("FIREHOSE_PORT", "65536", "must be a port from 1 to 65535, or 0 for any free one"),
        ("PROXY_PORT", "-1", "must be a port from 1 to 65535, or 0 for any free one"),
        ("CLIENT_PENDING_BYTES_MAX", "64KiB", "a size such as 1048576, 64MiB, 64M or 1GB, at least 1MiB"),
        (
            "CLIENT_PING_INTERVAL_SECS",
            "0",
            "15m or 1h (without a unit: seconds), from 10ms to 1d",
        ),
        ("ALLOWED_ORIGINS", "*", "'*' is not an origin such as https://app.example.com"),
        ("ALLOWED_ORIGINS", "http://h:0,app.example.com", "'http://h:0' is not an origin"),
        ("ALLOWED_ORIGINS", "https://h/path", "is not an origin"),
        (
            "ALLOWED_HOSTS",
            "feed.example.com:8765",
            "'feed.example.com:8765' is not a host name without a port",
        ),
        ("ALLOWED_HOSTS", "*.example.com", "'*.example.com' is not a host name without a port"),
        ("BAR_CONDITIONS", "none", "must be vendor or all"),
        ("MIN_INTERVAL_MS", "0", "(without a unit: milliseconds), from 1ms to 1d"),
        ("LOG_LEVEL", "polygon_client=info", "polygon_clients or polygon_bars"),
    ],
)
def test_bad_values_are_refused_in_one_line(
    refused: Callable[..., str], variable: str, text: str, words: str
) -> None:
    """The line has the variable, the value given and what is allowed."""
    key = {} if variable != "POLYGON_API_KEY_FILE" else {"POLYGON_API_KEY": ""}
    message = refused(**key, **{variable: text})
    assert message.splitlines()[0].startswith(f"{variable}={text!r}: ")
    assert words in message


def test_all_bad_values_are_told_at_once(tmp_path: Path, refused: Callable[..., str]) -> None:
    """One line each, in the order of the docs, relations among the good ones included; the file is named."""
    write_env(tmp_path, "CHANNEL_CAP=none")
    message = refused(NDJSON_MAX_BYTES="lots", BACKOFF_INITIAL_SECS="100", LOG_FORMAT="xml")
    assert message.splitlines() == [
        "BACKOFF_INITIAL_SECS='100': must be at most BACKOFF_MAX_SECS, which is 60",
        f"CHANNEL_CAP='none' (in {tmp_path / '.env'}): must be a whole number from 1 to 1000000",
        "NDJSON_MAX_BYTES='lots': must be a size such as 1048576, 64MiB, 64M or 1GB, at least 4096",
        "LOG_FORMAT='xml': must be auto, json or console",
    ]


def test_aiohttp_must_have_its_extensions(refused: Callable[..., str]) -> None:
    """Without them aiohttp's weaker parser would read what strangers send, so the start is refused with advice."""
    line = refused(AIOHTTP_NO_EXTENSIONS="1")
    assert line.startswith("AIOHTTP_NO_EXTENSIONS: must not be set")


def test_a_long_or_torn_value_stays_one_short_line(refused: Callable[..., str]) -> None:
    """Line breaks are escaped and the end is cut."""
    (line,) = refused(CHANNEL_CAP="1\n" * 1000).splitlines()
    assert len(line) < 300
    assert "…: must be" in line


@given(st.integers(1, 2**60))
def test_sizes_survive_their_text(count: int) -> None:
    """`read(show(n)) == n`, with the largest unit that loses nothing."""
    assert SIZE.read(SIZE.show(count)) == count


@given(st.integers(0, 10**15))
def test_durations_survive_their_text(millis: int) -> None:
    """`read(text(n)) == n`, to the millisecond."""
    secs = Decimal(millis) / 1000
    assert read_duration(duration_text(secs)) == secs
    assert read_duration(str(millis), "ms") == secs


def test_every_duration_and_size_takes_units() -> None:
    """Whatever ends in _SECS, _MS or is a number of bytes: a unit is read, a bare number is what the name says."""
    for name, declared in OPTIONS.items():
        if name.endswith("_SECS"):
            assert (Settings.of({name: "1m"})[name], Settings.of({name: "60"})[name]) == (60, 60), name
        elif name.endswith("_MS"):
            assert (Settings.of({name: "1s"})[name], Settings.of({name: "1000"})[name]) == (1000, 1000), name
        elif "_BYTES" in name:
            assert (Settings.of({name: "2M"})[name], Settings.of({name: "2097152"})[name]) == (
                2**21,
                2**21,
            ), name
        else:
            assert not any(word in declared.allowed for word in ("a duration", "a size")), name


def test_config_shows_exact_numbers(load: Callable[..., Loaded]) -> None:
    """What is set with a unit shows as the number that the variable's name says, a size as its exact text."""
    loaded = load(
        NDJSON_ROTATE_SECS="1h30m", BAR_DELAY_MS="1.5s", READ_TIMEOUT_SECS="1500ms", NDJSON_MAX_BYTES="64M"
    )
    shown = {name: value for name, value, _ in render_effective(loaded)}
    assert shown["NDJSON_ROTATE_SECS"] == "5400"
    assert shown["BAR_DELAY_MS"] == "1500"
    assert shown["READ_TIMEOUT_SECS"] == "1.5"
    assert shown["NDJSON_MAX_BYTES"] == "64MiB"
    assert loaded.settings.public_dict()["NDJSON_MAX_BYTES"] == 67_108_864


@given(st.sampled_from(sorted(OPTIONS)), st.text(max_size=30))
def test_any_text_is_read_or_refused(variable: str, text: str) -> None:
    """Nothing but ValidationError leaves the model, and a value's own text gives the value again."""
    declared = OPTIONS[variable]
    try:
        value = Settings.of({variable: text.strip()})[variable]
    except ValidationError:
        return
    if not declared.secret and declared.show(value):
        assert Settings.of({variable: declared.show(value)})[variable] == value


# What contradicts, and what has no effect


@pytest.mark.parametrize(
    ("environ", "line"),
    [
        (
            {"BACKOFF_MAX_SECS": "0.5"},
            "BACKOFF_MAX_SECS='0.5': must be at least BACKOFF_INITIAL_SECS, which is 1",
        ),
        (
            {"SUBSCRIPTION": "T.*", "SUBSCRIBE_DATA_TYPES": "T"},
            "SUBSCRIPTION='T.*': must not be set together with SUBSCRIBE_DATA_TYPES",
        ),
        (
            {"HEARTBEAT_INTERVAL_SECS": "60"},
            "HEARTBEAT_INTERVAL_SECS='60': must be below READ_TIMEOUT_SECS, which is 60",
        ),
        (
            {"NDJSON_GZIP": "true", "NDJSON_COMPRESSION": "zstd"},
            "NDJSON_COMPRESSION='zstd': must not be zstd while NDJSON_GZIP is true",
        ),
        (
            {"POLYGON_WS_URL": "wss://h/stocks", "POLYGON_CLUSTER": "crypto"},
            "POLYGON_CLUSTER='crypto': must be stocks, which the path of POLYGON_WS_URL names; "
            "a URL without it serves every cluster",
        ),
        (
            {"SINK": "stdout,ndjson"},
            "SINK='stdout,ndjson': has two sinks that write to standard output; "
            "NDJSON_DEST must be a file then",
        ),
        (
            {"SINK": "ndjson", "NDJSON_SPLIT_PER_TYPE": "true"},
            "NDJSON_SPLIT_PER_TYPE='true': must be false while NDJSON_DEST is stdout",
        ),
        (
            {"POLYGON_API_KEY_FILE": "key"},
            "POLYGON_API_KEY=***: must not be set together with POLYGON_API_KEY_FILE",
        ),
        (
            {"FIREHOSE_URL": "ws://h/stocks", "POLYGON_CLUSTER": "crypto"},
            "POLYGON_CLUSTER='crypto': must be stocks, which the path of FIREHOSE_URL names; "
            "a URL without it serves every cluster",
        ),
        (
            {"FIREHOSE_PORT": "1", "PROXY_PORT": "2"},
            "PROXY_PORT='2': is the older name of FIREHOSE_PORT, which is 1",
        ),
        (
            {"AGGREGATOR_PORT": "0", "MS_AGGREGATOR_PORT": "2"},
            "MS_AGGREGATOR_PORT='2': is the older name of AGGREGATOR_PORT, which is 0",
        ),
        (
            {"BIND_HOST": "0.0.0.0"},  # noqa: S104 - nothing listens
            "BIND_HOST='0.0.0.0': is reached by other machines, so clients need tokens that are not the exchange's key: "
            "set AUTH_TOKENS or AUTH_TOKENS_FILE",
        ),
        (
            {"METRICS_ADDR": ":9898", "ROLES": "archive,ops"},
            "METRICS_ADDR=':9898': is reached by other machines, so requests need a token: set AUTH_TOKENS or "
            "AUTH_TOKENS_FILE and give Prometheus one of them (authorization: credentials_file), or listen on 127.0.0.1",
        ),
        ({"TLS_CERT_FILE": "c.pem"}, "TLS_CERT_FILE='c.pem': needs TLS_KEY_FILE too"),
        ({"TLS_KEY_FILE": "k.pem"}, "TLS_KEY_FILE='k.pem': needs TLS_CERT_FILE too"),
        (
            {"CLIENTS_MAX": "10", "CLIENTS_PER_TOKEN_MAX": "11"},
            "CLIENTS_PER_TOKEN_MAX='11': must be at most CLIENTS_MAX, which is 10",
        ),
        (
            {"MIN_INTERVAL_MS": "2000000", "MAX_INTERVAL_MS": "1000001"},
            "MIN_INTERVAL_MS='2000000': must be at most MAX_INTERVAL_MS, which is 1000001",
        ),
        (
            {"MS_AGGREGATOR_URL": "ws://h:8768", "ROLES": "archive,firehose,ops"},
            "MS_AGGREGATOR_URL='ws://h:8768': needs a server that passes bars on: ROLES must name bars or filtered",
        ),
        (
            {"FIREHOSE_PORT": "8765"},
            "FIREHOSE_PORT='8765': must not have the port of FILTERED_PROXY_PORT, which is 127.0.0.1:8765",
        ),
        (
            {"MS_AGGREGATOR_PORT": "9898"},
            "MS_AGGREGATOR_PORT='9898': must not have the port of METRICS_ADDR, which is 127.0.0.1:9898",
        ),
        (
            {"METRICS_ADDR": "localhost:8768"},
            "METRICS_ADDR='localhost:8768': must not have the port of AGGREGATOR_PORT, which is 127.0.0.1:8768",
        ),
        (
            {"METRICS_ADDR": ":8767", "AUTH_TOKENS": "prometheus:t"},
            "METRICS_ADDR=':8767': must not have the port of FIREHOSE_PORT, which is 127.0.0.1:8767",
        ),
        (
            {"SINK": "zmq", "ZMQ_BIND": "true", "ZMQ_ENDPOINT": "tcp://*:9898"},
            "ZMQ_ENDPOINT='tcp://*:9898': must not have the port of METRICS_ADDR, which is 127.0.0.1:9898",
        ),
        (
            {"SINK": "zmq", "ZMQ_ENDPOINT": "tcp://127.0.0.1:*"},
            "ZMQ_ENDPOINT='tcp://127.0.0.1:*': is an address to bind; "
            "without ZMQ_BIND=true it must be one to connect to",
        ),
        (
            {"SINK": "nats", "NATS_MAX_AGE_SECS": "7d"},
            "NATS_MAX_BYTES: must be set, as in NATS_MAX_BYTES=100GiB: without a limit a stream fills the servers' disks",
        ),
        (
            {**NATS, "NATS_PER_SYMBOL": "A,XL2,Q"},
            "NATS_PER_SYMBOL='A,XL2,Q': must not name XL2, Q: these events come faster than each can be "
            "stored as a message; the stream of the cluster has them",
        ),
        ({**NATS, "NATS_USER": "me"}, "NATS_USER='me': needs NATS_PASSWORD_FILE too"),
        ({**NATS, "NATS_TLS_KEY_FILE": "k"}, "NATS_TLS_KEY_FILE='k': needs NATS_TLS_CERT_FILE too"),
        (
            {**NATS, "NATS_TOKEN_FILE": "t", "NATS_CREDS_FILE": "c"},
            "NATS_TOKEN_FILE='t': must not be set together with NATS_CREDS_FILE",
        ),
        (
            {"FIREHOSE_URL": "ws://localhost:8767"},
            "FIREHOSE_URL='ws://localhost:8767': must be another recorder: "
            f"FIREHOSE_PORT says that this one listens there. Leave FIREHOSE_URL {ONE_DOES_ALL}",
        ),
        (
            {"MS_AGGREGATOR_URL": "ws://127.0.0.1", "AGGREGATOR_PORT": "80"},
            "MS_AGGREGATOR_URL='ws://127.0.0.1': must be another recorder: "
            f"AGGREGATOR_PORT says that this one listens there. Leave MS_AGGREGATOR_URL {ONE_DOES_ALL}",
        ),
    ],
)
def test_contradictions_are_refused(refused: Callable[..., str], environ: dict[str, str], line: str) -> None:
    """Values that are allowed each but not together; the variable that was set is the one that is told."""
    assert refused(**environ) == line


def test_what_agrees_is_allowed(load: Callable[..., Loaded]) -> None:
    """Equal backoff bounds, no heartbeat, gzip said twice, the URL's own cluster."""
    settings = load(
        BACKOFF_INITIAL_SECS="60",
        HEARTBEAT_INTERVAL_SECS="0",
        READ_TIMEOUT_SECS="0.5",
        NDJSON_GZIP="true",
        NDJSON_COMPRESSION="gzip",
        POLYGON_WS_URL="wss://h/futures/cme",
        POLYGON_CLUSTER="futures",
    ).settings
    assert settings.upstreams[0].heartbeat_interval_secs == 0
    assert settings.archive.compression == "gzip"


@pytest.mark.parametrize(
    "environ",
    [
        {"FIREHOSE_PORT": "1", "PROXY_PORT": "1"},
        {
            "FIREHOSE_PORT": "0",
            "FILTERED_PROXY_PORT": "0",
            "AGGREGATOR_PORT": "0",
            "METRICS_ADDR": "127.0.0.1:0",
        },
        {"METRICS_ADDR": "127.0.0.2:8765"},
        {"METRICS_ADDR": "0.0.0.0:9898", "AUTH_TOKENS": "prometheus:t"},
        {"METRICS_ADDR": "[::]:9898", "AUTH_TOKENS_FILE": "tokens", "ROLES": "archive,ops"},
        {"METRICS_ADDR": "localhost:9898"},
        {"METRICS_ADDR": ":9898", "ROLES": "archive"},
        {"METRICS_ADDR": "127.0.0.1:8765", "ROLES": "archive,bars,ops"},
        {"METRICS_ADDR": "127.0.0.1:8765", "ROLES": "filtered"},
        {"ZMQ_ENDPOINT": "tcp://127.0.0.1:9898", "SINK": "zmq"},
        {"ZMQ_ENDPOINT": "tcp://*:*", "ZMQ_BIND": "true", "SINK": "zmq"},
        {"ZMQ_ENDPOINT": "ipc:///run/zmq", "ZMQ_BIND": "true", "SINK": "zmq"},
        {"BIND_HOST": "::", "AUTH_TOKENS": "alice:a", "METRICS_ADDR": "127.0.0.1:1"},
        {"BIND_HOST": "feed.example.com", "AUTH_TOKENS_FILE": "tokens"},
        {"BIND_HOST": "10.0.0.1", "ROLES": "archive,ops"},
        {"BIND_HOST": "127.0.0.2"},
        {"BIND_HOST": "::1"},
        {"TLS_CERT_FILE": "c.pem", "TLS_KEY_FILE": "k.pem"},
        {"CLIENTS_MAX": "5", "CLIENTS_PER_TOKEN_MAX": "5"},
        {"MIN_INTERVAL_MS": "100", "MAX_INTERVAL_MS": "100"},
        {"MS_AGGREGATOR_URL": "ws://h:8768", "ROLES": "filtered"},
        {"FIREHOSE_URL": "ws://127.0.0.1:8767", "ROLES": "filtered,bars"},
        {"FIREHOSE_URL": "ws://hub:8767", "BIND_HOST": "::", "AUTH_TOKENS": "a"},
    ],
)
def test_servers_that_can_stand_together_are_allowed(
    load: Callable[..., Loaded], environ: dict[str, str]
) -> None:
    """Any free port, other interfaces, roles that are left out, other machines."""
    assert load(**SAID | environ).warnings == ()


def test_a_bad_value_does_not_contradict(refused: Callable[..., str]) -> None:
    """What cannot be read is told once, and not compared by the default in its place."""
    assert refused(BACKOFF_MAX_SECS="soon", BACKOFF_INITIAL_SECS="100").count("\n") == 0


@pytest.mark.parametrize(
    ("environ", "warning"),
    [
        (
            {"NDJSON_FREE": "1", "POLYGON_S3": "1", "FIREHOSE_TOKEN": "1"},
            "FIREHOSE_TOKEN, NDJSON_FREE, POLYGON_S3 (environment) are not read by this program; "
            "FOREIGN_NAMES silences this",
        ),
        ({"NDJSON_FREE": "1", "NDJSON_DST": "1", "RUST_LOG": "1", "FOREIGN_NAMES": "*"}, None),
        (
            {"RUST_LOG": "warn"},
            "RUST_LOG (environment) is not read by this program: "
            "LOG_LEVEL sets the levels, as in LOG_LEVEL=warning,polygon_events=info",
        ),
        ({"RUST_LOG": "warn", "LOG_LEVEL": "info"}, None),
        (
            {"PROXY_STOCKS_PORT": "8765"},
            "PROXY_STOCKS_PORT (environment) is not read by this program: FILTERED_PROXY_PORT is the port",
        ),
        ({"ZMQ_SUB_ENDPOINT": "tcp://127.0.0.1:5556"}, None),
        (
            {"SUBSCRIPTION_CRYPTO": "XT.*"},
            "SUBSCRIPTION_CRYPTO has no effect: POLYGON_CLUSTER does not name crypto",
        ),
        (
            {"SERVE_WORKERS": "2", "ROLES": "archive,ops"},
            "SERVE_WORKERS has no effect: ROLES names no server",
        ),
        (
            {"SERVE_WORKER_PENDING_BYTES_MAX": "2MiB"},
            "SERVE_WORKER_PENDING_BYTES_MAX has no effect: SERVE_WORKERS is 0",
        ),
        (
            {"DATA_TIMEOUT_SECS": "30", "SESSION_CALENDAR": "off"},
            "DATA_TIMEOUT_SECS has no effect: SESSION_CALENDAR is off",
        ),
        ({"DATA_TIMEOUT_SECS": "30"}, None),
        ({"NDJSON_DEST": "a.ndjson"}, "NDJSON_DEST has no effect: SINK does not name ndjson"),
        (
            {"SINK": "ndjson", "NDJSON_DEST": "stdout", "NDJSON_MAX_BYTES": "1MB"},
            "NDJSON_MAX_BYTES has no effect: NDJSON_DEST is stdout",
        ),
        (
            {
                "SINK": "ndjson",
                "NDJSON_DEST": "a.ndjson",
                "NDJSON_PRESSURE": "sample",
                "NDJSON_MIN_FREE_BYTES": "0",
            },
            "NDJSON_PRESSURE has no effect: NDJSON_MIN_FREE_BYTES is 0",
        ),
        ({"SINK": "ndjson", "NDJSON_DEST": "stdout", "NDJSON_GZIP": "0"}, None),
        (
            {"SINK": "ndjson", "NDJSON_DEST": "a.ndjson", "NDJSON_GZIP": "true"},
            f"NDJSON_GZIP is for rotated files, and {NEVER_ROTATED}",
        ),
        (
            {"SINK": "ndjson", "NDJSON_DEST": "a.ndjson", "NDJSON_COMPRESSION": "zstd"},
            f"NDJSON_COMPRESSION is for rotated files, and {NEVER_ROTATED}",
        ),
        (
            {"SINK": "ndjson", "NDJSON_DEST": "a.ndjson", "NDJSON_RETAIN_SECS": "60"},
            f"NDJSON_RETAIN_SECS is for rotated files, and {NEVER_ROTATED}",
        ),
        (
            {"SINK": "ndjson", "NDJSON_DEST": "a.ndjson", "NDJSON_GZIP": "1", "NDJSON_ROTATE_SECS": "60"},
            None,
        ),
        (
            {"FIREHOSE_URL": "ws://h:1", "POLYGON_WS_URL": "wss://socket.polygon.io"},
            "POLYGON_WS_URL has no effect: FIREHOSE_URL is the source",
        ),
        (
            {"FIREHOSE_URL": "ws://h:1", "SUBSCRIPTION": "T.*"},
            "SUBSCRIPTION has no effect: FIREHOSE_URL is the source, which sends all it has",
        ),
        (
            {"FIREHOSE_URL": "ws://h:1", "SUBSCRIBE_ON_DEMAND": "1"},
            "SUBSCRIBE_ON_DEMAND has no effect: FIREHOSE_URL is the source, which sends all it has",
        ),
        (
            {"UNSUBSCRIBE_DELAY_SECS": "5"},
            "UNSUBSCRIBE_DELAY_SECS has no effect: SUBSCRIBE_ON_DEMAND is false",
        ),
        (
            {"SUBSCRIBE_ON_DEMAND": "1", "ROLES": "archive,firehose"},
            "SUBSCRIBE_ON_DEMAND has no effect: ROLES names neither filtered nor bars",
        ),
        (
            {"MS_AGGREGATOR_URL": "ws://h:1", "BAR_DELAY_MS": "5"},
            "BAR_DELAY_MS has no effect: MS_AGGREGATOR_URL makes the bars",
        ),
        ({"ZMQ_BIND": "true"}, "ZMQ_BIND has no effect: SINK does not name zmq"),
        ({"NATS_REPLICAS": "3"}, "NATS_REPLICAS has no effect: SINK does not name nats"),
        ({"KAFKA_SHAPE": "records"}, "KAFKA_SHAPE has no effect: SINK does not name kafka"),
        (
            {"SINK": "kafka", "KAFKA_PARTITIONS": "9"},
            "KAFKA_PARTITIONS has no effect: KAFKA_SHAPE is frames, which one partition holds",
        ),
        (
            {"NDJSON_SAMPLE_BY": "all"},
            "NDJSON_SAMPLE_BY has no effect: NDJSON_SAMPLE_QUOTES is 1",
        ),
        (
            {"NDJSON_CHANNEL_CAP": "2048"},
            "NDJSON_CHANNEL_CAP counts no messages: it is an older limit, in blocks of up to 1 MiB; leave it out, and set "
            "NDJSON_BUFFER_BYTES, which limits what may wait in bytes",
        ),
        ({"LOG_DIR": "/var/log", "PATH": "/bin", "SINKS": "?", "READ_ONLY": "1", "METRICS_PORT": "1"}, None),
        ({"PORT": "80", "HOST": "h", "SSL_CERT_FILE": "c", "LEVEL": "1", "CLUSTER": "prod-1"}, None),
        ({"AUTH_TOKEN": "theirs", "AUTH_TOKENS": "ours"}, None),
    ],
)
def test_warnings(load: Callable[..., Loaded], environ: dict[str, str], warning: str | None) -> None:
    """Unread names with our prefixes, former names and settings without effect are told; no others."""
    warnings = load(**SAID | environ).warnings
    assert warnings == ((warning,) if warning else ())


@pytest.mark.parametrize(
    ("environ", "warning"),
    [
        (
            {},
            "the cluster is futures and the topics are T.*, because POLYGON_CLUSTER is not set: "
            "set POLYGON_CLUSTER=stocks, or what you mean",
        ),
        ({"POLYGON_CLUSTER": "futures"}, ""),
        ({"POLYGON_WS_URL": "wss://socket.polygon.io/stocks"}, ""),
        ({"SUBSCRIBE_DATA_TYPES": "T,A"}, "the topics are T.*, A.*, because POLYGON_CLUSTER is not set"),
    ],
)
def test_a_cluster_that_nobody_chose_is_told(
    load: Callable[..., Loaded], environ: dict[str, str], warning: str
) -> None:
    """Which one, with which topics, and why; not where a variable or the URL names it."""
    warnings = load(SINK="stdout", **environ).warnings
    assert len(warnings) == bool(warning)
    assert warning in "".join(warnings)


@pytest.mark.parametrize(
    ("environ", "warning"),
    [
        (
            {},
            "no file is written: SINK is not set, so events go to standard output as log lines; set SINK=ndjson",
        ),
        ({"SINK": "stdout"}, ""),
        ({"SINK": "none"}, ""),
        ({"ROLES": "filtered,ops"}, ""),
        ({"SINK": "ndjson"}, "no file is written: NDJSON_DEST is not set, so records go to standard output"),
        (
            {"EMIT_NDJSON": "1"},
            "no file is written: NDJSON_DEST is not set, so records go to standard output",
        ),
        ({"SINK": "ndjson", "NDJSON_DEST": "stdout"}, ""),
        ({"SINK": "ndjson", "NDJSON_DEST": "a.ndjson"}, ""),
        (
            {"LOG_LEVEL": "warn"},
            "nothing is recorded: LOG_LEVEL=warning leaves out the log lines of SINK=stdout",
        ),
        ({"LOG_LEVEL": "info,polygon_events=error"}, "nothing is recorded: "),
        ({"LOG_LEVEL": "warn,polygon_events=info", "SINK": "stdout"}, ""),
        (
            {"LOG_LEVEL": "warn", "SINK": "stdout,ndjson", "NDJSON_DEST": "a.ndjson"},
            "SINK=stdout writes nothing: LOG_LEVEL=warning leaves out the log lines",
        ),
    ],
)
def test_records_that_reach_no_file_are_told(
    load: Callable[..., Loaded], environ: dict[str, str], warning: str
) -> None:
    """Where a default decides it, or a level; not where somebody has said so."""
    warnings = load(POLYGON_CLUSTER="stocks", **environ).warnings
    assert len(warnings) == bool(warning)
    assert warning in "".join(warnings)


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("NDJSON_ROTATE_SEC", "NDJSON_ROTATE_SECS"),
        ("NDJOSN_DEST", "NDJSON_DEST"),
        ("ndjson_dest", "NDJSON_DEST"),
        ("ROTATE_SECS", "NDJSON_ROTATE_SECS or ACCESS_LOG_ROTATE_SECS"),
        ("NDJSON_ROTATE", "NDJSON_ROTATE_SECS"),
        ("COMPRESSION", "NDJSON_COMPRESSION"),
        ("CLUSTER", "POLYGON_CLUSTER"),
        ("API_KEY_FILE", "POLYGON_API_KEY_FILE"),
        ("POLYGON_KEY", "POLYGON_API_KEY"),
        ("LOG_LEVELS", "LOG_LEVEL"),
        ("CLIENT_MAX", "CLIENTS_MAX"),
        ("ZMQ_BIN", "ZMQ_BIND"),
        ("CLIENT_SUBSCRIPTION_MAX", "CLIENT_SUBSCRIPTIONS_MAX"),
    ],
)
def test_a_slip_ends_the_start(refused: Callable[..., str], tmp_path: Path, name: str, meant: str) -> None:
    """In the environment and in the file; the line names what is meant, and what to do if it is another program's."""
    words = f"is not a variable of this program; did you mean {meant}? If another program reads it, set FOREIGN_NAMES={name}"
    assert refused(**{name: "x"}) == f"{name} (environment) {words}"
    path = write_env(tmp_path, f"{name}=x\n")
    assert refused() == f"{name} ({path}) {words}"
    assert load_settings({"POLYGON_API_KEY": KEY, "FOREIGN_NAMES": name}, tmp_path)


def test_several_variables_may_be_meant(refused: Callable[..., str]) -> None:
    """All that have the words of the name, three at most."""
    assert "did you mean READ_TIMEOUT_SECS or DATA_TIMEOUT_SECS or CLIENT_AUTH_TIMEOUT_SECS?" in refused(
        TIMEOUT_SECS="1"
    )


def test_other_names_in_the_file_are_one_warning(tmp_path: Path) -> None:
    """`.env` is often shared with other programs; a name that is nearly ours is a slip there even without a prefix."""
    names = [f"OTHER_{number}" for number in range(10, 20)]
    text = "".join(f"{name}=x\n" for name in [*names, "DATABASE_URL"])
    path = write_env(tmp_path, f"POLYGON_API_KEY={KEY}\nPOLYGON_CLUSTER=stocks\nSINK=none\n{text}")
    assert load_settings({}, tmp_path).warnings == (
        f"DATABASE_URL, {', '.join(names[:9])} and 1 more ({path}) are not read by this program; "
        "FOREIGN_NAMES silences this",
    )
    write_env(tmp_path, f"POLYGON_API_KEY={KEY}\nSINKS=none\nROLE=ops\n")
    with pytest.raises(ConfigError) as caught:
        load_settings({}, tmp_path)
    assert [line.split()[0] for line in str(caught.value).splitlines()] == ["ROLE", "SINKS"]


def test_a_key_under_the_name_of_another_program_is_told(tmp_path: Path) -> None:
    """Nobody has to guess why the key that is there is missing."""
    with pytest.raises(ConfigError) as caught:
        load_settings({"MASSIVE_API_KEY": KEY, **SAID}, tmp_path)
    assert str(caught.value).splitlines()[1:] == [
        "MASSIVE_API_KEY (environment) is not read by this program: POLYGON_API_KEY is the key"
    ]


# The key


def test_a_key_is_required_to_connect_only(tmp_path: Path) -> None:
    """`recorder config` and the like work without."""
    with pytest.raises(ConfigError, match="POLYGON_API_KEY: must be set, or POLYGON_API_KEY_FILE"):
        load_settings({}, tmp_path)
    assert load_settings({}, tmp_path, require_key=False).settings.upstreams[0].api_key == ""


def test_the_key_may_stand_in_a_file(tmp_path: Path) -> None:
    """Space around it is left out, a relative path starts at the working directory, the origin is told."""
    (tmp_path / "key").write_text(f"\n{KEY}\n")
    loaded = load_settings({"POLYGON_API_KEY_FILE": "key"}, tmp_path)
    assert loaded.settings.upstreams[0].api_key == KEY
    assert loaded.origins["POLYGON_API_KEY"] == "POLYGON_API_KEY_FILE"
    assert log.mask(KEY) == "***"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "cannot be read: No such file or directory"),
        (b" \n", "names a file that holds no key"),
        (b"one\ntwo\n", "names a file that must hold one key and nothing else"),
        (b"\xff\xfe", "names a file that must hold one key and nothing else"),
    ],
)
def test_a_bad_key_file_is_an_error_where_the_key_is_needed(
    tmp_path: Path, content: bytes | None, words: str
) -> None:
    """Elsewhere it is a warning."""
    if content is not None:
        (tmp_path / "key").write_bytes(content)
    environ = {"POLYGON_API_KEY_FILE": "key", **SAID}
    line = f"POLYGON_API_KEY_FILE='key': {words}"
    with pytest.raises(ConfigError) as caught:
        load_settings(environ, tmp_path)
    assert str(caught.value) == line
    loaded = load_settings(environ, tmp_path, require_key=False)
    assert loaded.warnings == (line,)


def test_the_key_is_never_shown(load: Callable[..., Loaded], refused: Callable[..., str]) -> None:
    """Not in a repr, the effective values, the manifest's settings, or an error, even as another's value."""
    loaded = load()
    settings = loaded.settings
    shown = [
        repr(loaded),
        repr(settings),
        str(settings),
        repr(settings.upstreams),
        str(settings.public_dict()),
    ]
    assert not [text for text in shown if KEY in text]
    assert "POLYGON_API_KEY" not in settings.public_dict()
    assert ("POLYGON_API_KEY", "***", "environment") in render_effective(loaded)
    assert (
        refused(POLYGON_API_KEY="my bad key 4711")
        == "POLYGON_API_KEY=***: must be printable ASCII without spaces"
    )
    assert KEY not in refused(SUBSCRIPTION=KEY)
    assert KEY[:5] not in refused(SUBSCRIPTION="x" * 190 + KEY)
    assert refused(POLYGON_WS_URL="wss://me:hidden@h?token=hidden").startswith(
        "POLYGON_WS_URL='wss://***@h?***': must have no user"
    )


# Client tokens


def test_client_tokens_are_separated_by_commas_or_lines(load: Callable[..., Loaded]) -> None:
    """The part gets the entries as they were given."""
    entries = ("alice:a", "b-token", "carl:sha256:" + "0f" * 32, "dora:a:b")
    loaded = load(AUTH_TOKENS=" alice:a, b-token\n" + entries[2] + " ,\n\n" + entries[3])
    assert loaded.settings.servers.tokens == entries
    assert load().settings.servers.tokens == ()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("alice:one,spa ce", "entry 2: a token must be printable ASCII without spaces"),
        ("alice:", "entry 1: a token must be printable ASCII without spaces"),
        ("a/b:c", "entry 1: a name must be 1 to 64 of the letters A-Z a-z, digits and . _ @ -"),
        (":c", "entry 1: a name must be 1 to 64 of the letters A-Z a-z, digits and . _ @ -"),
        ("alice:sha256:beef", "entry 1: sha256: must be followed by 64 hexadecimal digits"),
        ("sha256:beef", "entry 1: sha256: must be followed by 64 hexadecimal digits"),
        ("alice:one,bob:two,alice:three", "entry 3: the name alice is taken"),
        ("bob:,al ice:x", "entry 1: a token must be printable ASCII without spaces; entry 2: a name must be"),
        (
            ",",
            "must be name:token, token or name:sha256:HEX, 1 to 1000 of them, separated by commas or lines",
        ),
        (",".join(f"t{n}" for n in range(1001)), "must be name:token, token or name:sha256:HEX, 1 to 1000"),
    ],
)
def test_bad_client_tokens_are_told_by_their_place(
    refused: Callable[..., str], text: str, words: str
) -> None:
    """In one line, without what they are."""
    assert refused(AUTH_TOKENS=text).startswith(f"AUTH_TOKENS=***: {words}")


def test_client_tokens_are_never_shown(load: Callable[..., Loaded]) -> None:
    """Not in a repr, the effective values, the manifest's settings or a log; names are no secret."""
    loaded = load(AUTH_TOKENS="alice:token-4711,4712-token")
    settings = loaded.settings
    shown = [repr(loaded), str(settings), repr(settings.servers), str(settings.public_dict())]
    assert not [text for text in shown if "4711" in text or "4712" in text]
    assert ("AUTH_TOKENS", "***", "environment") in render_effective(loaded)
    assert log.mask("alice token-4711 4712-token") == "alice *** ***"


# What each part gets


@pytest.mark.parametrize(
    ("url", "upstream"),
    [
        ("wss://socket.polygon.io", "wss://socket.polygon.io/stocks"),
        ("wss://socket.polygon.io/", "wss://socket.polygon.io/stocks"),
        ("ws://127.0.0.1:8080/feed", "ws://127.0.0.1:8080/feed/stocks"),
        ("wss://h/stocks", "wss://h/stocks"),
        ("wss://h/feed/stocks", "wss://h/feed/stocks"),
        ("wss://[::1]:80", "wss://[::1]:80/stocks"),
    ],
)
def test_the_cluster_is_appended_unless_the_path_names_it(
    load: Callable[..., Loaded], url: str, upstream: str
) -> None:
    """Base URLs, also below a path, and complete ones."""
    settings = load(POLYGON_WS_URL=url, POLYGON_CLUSTER="stocks").settings
    assert [section.url for section in settings.upstreams] == [upstream]


@pytest.mark.parametrize(("path", "cluster"), [("stocks", "stocks"), ("futures/cme", "futures")])
def test_a_url_that_names_a_cluster_chooses_it(load: Callable[..., Loaded], path: str, cluster: str) -> None:
    """POLYGON_CLUSTER need not be set then; the origin is told."""
    loaded = load(POLYGON_WS_URL=f"wss://h/{path}")
    (upstream,) = loaded.settings.upstreams
    assert (upstream.cluster, upstream.url) == (cluster, f"wss://h/{path}")
    assert ("POLYGON_CLUSTER", cluster, "POLYGON_WS_URL") in render_effective(loaded)


def test_a_firehose_is_the_source_instead_of_the_exchange(load: Callable[..., Loaded]) -> None:
    """All it has on each cluster's path, the key as the token; without it, the exchange's topics are asked for."""
    tier = load(FIREHOSE_URL="ws://hub:8767/", POLYGON_CLUSTER="stocks,crypto", SUBSCRIPTION="T.*").settings
    assert [
        (section.url, section.topics, section.firehose, section.api_key) for section in tier.upstreams
    ] == [
        ("ws://hub:8767/stocks", ("*",), True, KEY),
        ("ws://hub:8767/crypto", ("*",), True, KEY),
    ]
    assert [section.firehose for section in load().settings.upstreams] == [False]
    loaded = load(FIREHOSE_URL="ws://hub:8767/futures/cme")
    assert [section.url for section in loaded.settings.upstreams] == ["ws://hub:8767/futures/cme"]
    assert ("POLYGON_CLUSTER", "futures", "FIREHOSE_URL") in render_effective(
        load(FIREHOSE_URL="ws://hub:8767/futures")
    )


def test_each_cluster_has_its_connection_and_its_topics(load: Callable[..., Loaded]) -> None:
    """Its own list comes first, then the common one, else its own trade channel."""
    clusters = {"POLYGON_CLUSTER": "stocks,crypto,forex,indices"}
    by_default = load(**clusters).settings.upstreams
    assert [section.topics for section in by_default] == [("T.*",), ("XT.*",), ("C.*",), ("V.*",)]
    assert [section.url for section in by_default][:2] == [
        "wss://socket.polygon.io/stocks",
        "wss://socket.polygon.io/crypto",
    ]
    common = load(**clusters, SUBSCRIPTION="T:AAPL,Q.*", SUBSCRIPTION_CRYPTO="XQ.*").settings.upstreams
    assert [section.topics for section in common][:2] == [("T.AAPL", "Q.*"), ("XQ.*",)]
    short = load(**clusters, SUBSCRIBE_DATA_TYPES="T,AM", SUBSCRIPTION_CRYPTO="XQ.*").settings.upstreams
    assert [section.topics for section in short][:2] == [("T.*", "AM.*"), ("XQ.*",)]


def test_the_heartbeat_follows_a_short_read_timeout(load: Callable[..., Loaded]) -> None:
    """Unless it is set itself, so that READ_TIMEOUT_SECS alone never makes the two contradict."""
    loaded = load(READ_TIMEOUT_SECS="10")
    assert loaded.settings.upstreams[0].heartbeat_interval_secs == 5
    assert ("HEARTBEAT_INTERVAL_SECS", "5", "READ_TIMEOUT_SECS") in render_effective(loaded)
    assert load(READ_TIMEOUT_SECS="100").settings.upstreams[0].heartbeat_interval_secs == 30


@pytest.mark.parametrize(
    ("environ", "sinks"),
    [
        ({}, ("stdout",)),
        ({"EMIT_NDJSON": "1"}, ("ndjson",)),
        ({"EMIT_NDJSON": "1", "SINK": "stdout"}, ("stdout",)),
        ({"SINK": "ndjson,stdout", "NDJSON_DEST": "a.ndjson"}, ("ndjson", "stdout")),
        ({"SINK": "none"}, ()),
        ({"SINK": "stdout,zmq"}, ("stdout", "zmq")),
        ({"SINK": "stdout", "ROLES": "ops"}, ()),
    ],
)
def test_the_sinks_that_run(
    load: Callable[..., Loaded], environ: dict[str, str], sinks: tuple[str, ...]
) -> None:
    """SINK decides where it is set; EMIT_NDJSON where it is not; none without the role."""
    assert load(**environ).settings.sinks == sinks


def test_the_archive_gets_its_section(load: Callable[..., Loaded]) -> None:
    """NDJSON_GZIP means gzip, NDJSON_NO_REOPEN turns reopening off, limits that are not set are None."""
    settings = load(
        SINK="ndjson", NDJSON_DEST="a.ndjson", NDJSON_GZIP="on", NDJSON_NO_REOPEN="on", NDJSON_INCLUDE="T:ES*"
    ).settings
    archive = settings.archive
    assert (archive.compression, archive.reopen, archive.max_bytes, archive.fsync) == (
        "gzip",
        False,
        None,
        "rotate",
    )
    assert archive.buffer_bytes == 256 * 2**20
    assert not archive.to_stdout
    assert settings.record.include == ("T:ES*",)
    assert settings.record.sample_quotes == 1


def test_the_servers_get_their_section(load: Callable[..., Loaded]) -> None:
    """By default all three, on this machine alone; a port is None where its role is left out."""
    servers = load().settings.servers
    assert (servers.host, servers.firehose_port, servers.filtered_port, servers.bars_port) == (
        "127.0.0.1",
        8767,
        8765,
        8768,
    )
    assert servers.enabled
    assert servers.limits == ClientLimits(
        clients_max=10_000,
        clients_per_token_max=None,
        pending_bytes_max=16 * 2**20,
        message_bytes_max=64 * 2**10,
        subscriptions_max=10_000,
        requests_per_sec_max=50,
        auth_timeout_secs=10,
        ping_interval_secs=20,
    )
    assert (servers.compression, servers.allowed_origins, servers.allowed_hosts) == (False, (), ())
    assert (servers.tls_cert_file, servers.tls_key_file, servers.tokens_file) == (None, None, None)

    one = load(
        ROLES="filtered",
        FILTERED_PROXY_PORT="0",
        ALLOWED_HOSTS="h",
        ALLOWED_ORIGINS="http://h",
        WS_COMPRESSION="on",
    ).settings.servers
    assert (one.firehose_port, one.filtered_port, one.bars_port, one.enabled) == (None, 0, None, True)
    assert (one.compression, one.allowed_origins, one.allowed_hosts) == (True, ("http://h",), ("h",))
    assert not load(ROLES="archive,ops").settings.servers.enabled


def test_an_older_name_of_a_port_counts_where_the_newer_is_not_set(
    load: Callable[..., Loaded], tmp_path: Path
) -> None:
    """The origin is told; what the command gives wins over either name."""
    loaded = load(PROXY_PORT="1", MS_AGGREGATOR_PORT="0")
    assert (loaded.settings.servers.firehose_port, loaded.settings.servers.bars_port) == (1, 0)
    assert ("FIREHOSE_PORT", "1", "PROXY_PORT") in render_effective(loaded)
    command = load_settings({"PROXY_PORT": "1"}, tmp_path, {"FIREHOSE_PORT": 2}, require_key=False)
    assert command.settings.servers.firehose_port == 2


def test_the_memory_that_bars_had_of_their_own_counts_by_its_older_names(load: Callable[..., Loaded]) -> None:
    """What was set for it is memory of events now, and how far back bars are made."""
    settings = load(REPLAY_BUFFER_BYTES="512MiB", REPLAY_BUFFER_SECS="5m").settings
    assert settings.servers.resume_bytes == 512 * 2**20
    assert settings.bars.past_max_secs == 300


def test_the_bars_get_their_section(load: Callable[..., Loaded]) -> None:
    """The settings say which trades count, which lengths exist, what is kept, and who makes the bars."""
    assert load().settings.bars == BarSettings(
        conditions="vendor",
        min_interval_ms=1,
        max_interval_ms=60_000,
        delay_ms=20,
        timer_interval_ms=10,
        past_max_secs=86_400,
        aggregator_url=None,
    )
    assert load(MS_AGGREGATOR_URL="ws://h:8768").settings.bars.aggregator_url == "ws://h:8768"


def test_a_nats_url_with_a_password_is_refused_and_not_shown(refused: Callable[..., str]) -> None:
    """Passwords are in files; one in a URL would be logged."""
    message = refused(NATS_URL="nats://me:pass-word@a")
    assert "must have no user: that is NATS_USER and NATS_PASSWORD_FILE" in message
    assert "pass-word" not in message


def test_a_password_among_the_options_of_kafka_is_refused_and_not_shown(refused: Callable[..., str]) -> None:
    """Passwords are in a file; the settings stand in the manifest and in `/status`."""
    message = refused(KAFKA_OPTIONS="sasl.username=me; sasl.password=pass-word")
    assert "sasl.password belongs in the file that KAFKA_OPTIONS_FILE names" in message
    assert "pass-word" not in message


def test_the_zmq_sink_gets_its_section(load: Callable[..., Loaded]) -> None:
    """It connects by default, and shares the archive's limit in bytes."""
    assert load(NDJSON_BUFFER_BYTES="1MiB").settings.zmq == ZmqSettings(
        endpoint="tcp://127.0.0.1:5556",
        bind=False,
        channel_cap=None,
        snd_hwm=None,
        warn_interval_secs=5,
        topic_prefix="",
        buffer_bytes=2**20,
    )


@pytest.mark.parametrize(
    ("environ", "enabled"),
    [
        ({}, False),
        ({"SUBSCRIBE_ON_DEMAND": "on"}, True),
        ({"SUBSCRIBE_ON_DEMAND": "on", "ROLES": "bars"}, True),
        ({"SUBSCRIBE_ON_DEMAND": "on", "ROLES": "firehose"}, False),
        ({"SUBSCRIBE_ON_DEMAND": "on", "FIREHOSE_URL": "ws://h:1"}, False),
    ],
)
def test_topics_are_subscribed_on_demand_where_somebody_can_demand(
    load: Callable[..., Loaded], environ: dict[str, str], enabled: bool
) -> None:
    """Clients of the filtered or bars server, of an exchange."""
    assert load(**environ).settings.demand == DemandSettings(enabled=enabled, release_delay_secs=30)


def test_the_ops_server_gets_its_section(load: Callable[..., Loaded]) -> None:
    """Host and port apart, or None without the role."""
    ops = load(METRICS_ADDR="[::1]:0", READY_DELAY_MS="5").settings.ops
    assert ops is not None
    assert (ops.host, ops.port, ops.ready_min_messages, ops.ready_delay_ms) == ("::1", 0, 1, 5)
    assert load(ROLES="archive").settings.ops is None


def test_the_log_gets_its_section(load: Callable[..., Loaded]) -> None:
    """Levels by target, and the form."""
    section = load(LOG_LEVEL="polygon_events=error", LOG_FORMAT="json").settings.log
    assert section.levels == {"": "info", "polygon_events": "error"}
    assert section.format == "json"


def test_workers_are_there_where_something_is_served(load: Callable[..., Loaded]) -> None:
    """None by default, as many as asked for, and none without a server."""
    assert load().settings.workers == WorkerSettings(count=0, pending_bytes_max=64 * 2**20)
    asked = load(SERVE_WORKERS="3", SERVE_WORKER_PENDING_BYTES_MAX="2MiB").settings.workers
    assert asked == WorkerSettings(count=3, pending_bytes_max=2 * 2**20)
    assert load(SERVE_WORKERS="3", ROLES="archive,ops").settings.workers.count == 0


def test_public_settings_are_effective_and_plain(load: Callable[..., Loaded]) -> None:
    """Every variable but the secret ones, what is implied included, in types that JSON has."""
    public = load(EMIT_NDJSON="1").settings.public_dict()
    assert public["SINK"] == ["ndjson"]
    assert public["NDJSON_MAX_BYTES"] is None
    assert set(OPTIONS) - set(public) == {"POLYGON_API_KEY", "AUTH_TOKENS"}


def test_settings_do_not_change(load: Callable[..., Loaded]) -> None:
    """A part cannot alter what another one sees."""
    with pytest.raises(ValidationError, match="frozen"):
        load().settings.archive.channel_cap = 5  # type: ignore[misc]
