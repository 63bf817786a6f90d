"""`recorder replay`: archives go through the servers once more, as if they were live."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from recorder import log, loop
from recorder.addresses import is_loopback
from recorder.app import App
from recorder.archive.recording import Recording, open_recordings
from recorder.clock import SystemClock
from recorder.errors import ArchiveError, ConfigError
from recorder.polygon.clusters import CLUSTERS
from recorder.polygon.topics import WILDCARD, Pattern
from recorder.settings import OPTIONS, Settings, load_settings
from recorder.sources.replay.options import PASS_BYTES_MAX, PlayOptions
from recorder.sources.replay.player import Player
from recorder.sources.replay.reader import Choice, ReplayReader, Span
from recorder.words import moment_text, size_text

TOKEN: Final = "replay-token"  # noqa: S105 - where clients of this machine need no other one
PROBLEMS_MAX: Final = 5
"""Of what is wrong with archives, so many lines are printed."""
_KEPT_GROUPS: Final = ("Servers", "Operation")
"""Of the settings of a recorder, those of its servers hold for a replay, too."""
_KEPT: Final = ("POLYGON_API_KEY", "ROLES")
"""What else does."""
_FREE_PORTS: Final = {
    "METRICS_ADDR": "127.0.0.1:0",
    "FIREHOSE_PORT": "0",
    "FILTERED_PROXY_PORT": "0",
    "AGGREGATOR_PORT": "0",
}


@dataclass(frozen=True, slots=True)
class ReplayOptions:
    """The options of the command."""

    paths: tuple[Path, ...]
    play: PlayOptions
    start_ms: int = 0
    end_ms: int = 1 << 62
    duration_ms: int | None = None
    """How much from the first record on; in the place of `start_ms` and `end_ms`."""
    patterns: tuple[Pattern, ...] = ()
    """What is played; empty: everything."""
    key: str | None = None
    free_ports: bool = False
    skips_damaged: bool = False
    """Whether archives are played of which something is missing or damaged."""


def run_replay(options: ReplayOptions, say: Callable[[str], None]) -> int:
    """Play until the end, or a signal. Return the exit status. Raise RecorderError."""
    recordings, options = _open(options, say)
    settings = _settings(options, recordings)
    log.configure(settings.log.levels, settings.log.format)
    clusters = settings.clusters
    # Reading waits at half of what a client may leave unread, and what follows must have room.
    pass_bytes_max = min(PASS_BYTES_MAX, settings.servers.limits.pending_bytes_max // 4)
    play = replace(options.play, pass_bytes_max=pass_bytes_max)
    span = Span(options.start_ms, options.end_ms, _choice(options.patterns), finds_times=play.shifts)

    def skipped(error: ArchiveError) -> None:
        say(f"problem: {error}; the file is played as far as it can be read")

    async def run() -> int:
        clock = SystemClock()
        reader = ReplayReader(recordings, span, skipped if options.skips_damaged else None)
        try:
            player = Player(reader, clusters, play, clock)
            app = App(settings, clock, player=player)
            status = await app.run(started=lambda: _introduce(app, recordings, say))
        finally:
            reader.close()
        if options.patterns and player.ended and not any(feed.frames_received for feed in app.feed_stats):
            topics = ", ".join(map(_asked, options.patterns))
            raise ArchiveError(f"--topics {topics}: {_names(options)}: nothing of it was recorded then")
        return status

    return loop.run(run())


def _asked(pattern: Pattern) -> str:
    """Return a pattern as topics are asked for."""
    return f"{pattern.channel}.{pattern.symbol}"


def _names(options: ReplayOptions) -> str:
    return ", ".join(map(str, options.paths))


def _open(options: ReplayOptions, say: Callable[[str], None]) -> tuple[list[Recording], ReplayOptions]:
    """Return the archives, and from when to when they are played.

    Raise ArchiveError where one cannot be played, or has nothing of what is asked for.
    """
    recordings = [recording for path in options.paths for recording in open_recordings(path)]
    problems = _problems(recordings)
    if problems and not options.skips_damaged:
        folders = " ".join(dict.fromkeys(str(recording.manifest.parent) for recording in recordings))
        hint = f"--skip-damaged plays what is there; `recorder verify {folders}` says more"
        raise ArchiveError("\n".join([*problems, hint]))
    for problem in problems:
        say(f"problem: {problem}")
    segments = [segment for recording in recordings for segment in recording.segments]
    names = _names(options)
    if not segments:
        raise ArchiveError(f"{names}: there are no records")
    first = min(segment.first_ingest_ms for segment in segments)
    if options.duration_ms is not None:
        options = replace(options, end_ms=first + options.duration_ms)
    inside = [segment for segment in segments if segment.may_have(options.start_ms, options.end_ms)]
    if not inside:
        last = max(max(segment.last_ingest_ms, segment.first_ingest_ms) for segment in segments)
        raise ArchiveError(
            f"{names}: nothing was recorded then; the records are from {moment_text(first)} to {moment_text(last)}"
        )
    channels = {channel for segment in inside for channel in segment.counts}
    is_sealed = all(segment.counts for segment in inside)
    for pattern in options.patterns:
        if is_sealed and pattern.channel not in (WILDCARD, *channels):
            raise ArchiveError(
                f"--topics {_asked(pattern)}: {names} has none of it; it has {', '.join(sorted(channels))}"
            )
    return recordings, options


def _problems(recordings: Sequence[Recording]) -> list[str]:
    """Return what is wrong with the archives: the first of it, and how much more there is."""
    problems = [
        f"{recording.manifest.parent}: {problem}"
        for recording in recordings
        for problem in recording.problems
    ]
    more = len(problems) - PROBLEMS_MAX
    return [*problems[:PROBLEMS_MAX], f"and {more:,} more like these"] if more > 0 else problems


def _settings(options: ReplayOptions, recordings: Sequence[Recording]) -> Settings:
    """Return the settings of a recorder that follows the archives' clusters, records nothing and serves all ports."""
    loaded = load_settings(require_key=False).settings
    kept = {
        name: loaded[name] for name in loaded.given if OPTIONS[name].group in _KEPT_GROUPS or name in _KEPT
    }
    clusters = _clusters(options, recordings)
    settings = Settings.of(
        {
            **kept,
            "POLYGON_API_KEY": options.key or loaded.api_key or TOKEN,
            "POLYGON_CLUSTER": tuple(clusters),
            "SINK": ("none",),
            "SESSION_CALENDAR": "off",
            "ALLOW_SHIFTED": options.play.shifts or _is_shifted(recordings),
            "STATS_INTERVAL_SECS": 0.0,
            **(_FREE_PORTS if options.free_ports else {}),
        },
        frozenset((*kept, "POLYGON_CLUSTER", "SINK")),
    )
    servers = settings.servers
    has_tokens = bool(servers.tokens or servers.tokens_file or options.key or loaded.api_key)
    if not has_tokens and not is_loopback(servers.host):
        raise ConfigError("AUTH_TOKENS: must be set, or --key: other machines can reach this replay")
    if not servers.enabled:
        raise ConfigError("ROLES: must have one of firehose, filtered and bars: a replay is for clients")
    if options.key:
        servers = servers.model_copy(update={"tokens": (), "tokens_file": None})
    return settings.model_copy(update={"servers": servers, "source": "replay"})


def _clusters(options: ReplayOptions, recordings: Sequence[Recording]) -> list[str]:
    """Return the clusters of the archives. Raise ArchiveError where there is none, or one that nobody knows."""
    found: set[str] = set()
    for recording in recordings:
        found |= recording.clusters(start_ms=options.start_ms, end_ms=options.end_ms)
    names = _names(options)
    unknown = sorted(found - CLUSTERS.keys())
    if unknown:
        raise ArchiveError(f"{names}: this version does not know the cluster {', '.join(unknown)}")
    if not found:
        raise ArchiveError(f"{names}: nothing was recorded then; --from and --to name the time")
    return sorted(found)


def _choice(patterns: Sequence[Pattern]) -> Choice | None:
    if not patterns:
        return None

    def is_chosen(channel: str, symbol: str) -> bool:
        return any(pattern.matches(channel, symbol) for pattern in patterns)

    return is_chosen


def _is_shifted(recordings: Sequence[Recording]) -> bool:
    """Return whether events may not have happened when they say: clients are told so."""
    return any(recording.is_shifted for recording in recordings)


def _introduce(app: App, recordings: Sequence[Recording], say: Callable[[str], None]) -> None:
    segments = [segment for recording in recordings for segment in recording.segments]
    first = min(segment.first_ingest_ms for segment in segments)
    size = size_text(sum(segment.size_bytes for segment in segments))
    clusters = ", ".join(app.settings.clusters)
    say(f"Replaying {size} of {clusters}, recorded from {moment_text(first)} on; Ctrl-C ends.")
    if _is_shifted(recordings):
        say(
            "  Recorded from a replay with shifted times: its events did not happen when they say. Clients are told so."
        )
    if app.serving is not None:
        addresses = "   ".join(f"{name} ws://{address}" for name, address in app.serving.addresses.items())
        servers = app.settings.servers
        own = not (servers.tokens or servers.tokens_file) and app.settings.api_key == TOKEN
        say(f"  {addresses}" + (f"   (the token is {TOKEN})" if own else ""))
    if app.ops is not None:
        say(f"  look http://{app.ops.address}/   control http://{app.ops.address}/replay")
