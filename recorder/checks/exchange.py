"""Checks of the source: connects, authenticates and subscribes as the recorder does, and measures the data."""

from __future__ import annotations

import asyncio
import platform
import socket
from contextlib import suppress
from functools import partial
from typing import Final
from urllib.parse import urlsplit

from recorder.archive.policy import Selection
from recorder.bus import Bus
from recorder.checks.findings import Finding, failure, ok, skipped, warning
from recorder.checks.meter import Meter
from recorder.checks.running import find_recorder
from recorder.checks.scene import Rate, Scene, in_thread
from recorder.checks.sockets import connected_to
from recorder.errors import (
    ConnectFailed,
    KeyRefused,
    MaxConnections,
    NotAuthorized,
    StepTimeout,
    TlsFailed,
    Untrusted,
    UpstreamError,
)
from recorder.ledger import Ledger
from recorder.log import mask
from recorder.polygon.client import ClientSession, Step, listed
from recorder.polygon.topics import parse_pattern
from recorder.settings import UpstreamSettings
from recorder.settings.model import EXCHANGE
from recorder.sinks.stage import Stage
from recorder.sources.exchange.connection import Connection
from recorder.sources.exchange.context import FeedContext
from recorder.sources.exchange.marks import Resumed
from recorder.sources.exchange.web_socket import http_session
from recorder.sources.stats import FeedStats
from recorder.version import VERSION

SETTLE_SECS: Final = 7.0
"""For connecting, authenticating and the acknowledgements."""
_LOOK_SECS: Final = 0.05
_LOOK_UP_SECS: Final = 1.0
"""For the names of the exchange's hosts, before they are needed."""
_FRESH_SECS: Final = 60.0
_DELAYED_SECS: Final = (480.0, 1200.0)
"""The vendor's delayed data is 10 or 15 minutes old."""
_PORTS: Final = {"ws": 80, "wss": 443}


class Probe:
    """One connection to one cluster, whose data goes to a meter."""

    def __init__(self, scene: Scene, upstream: UpstreamSettings) -> None:
        settings = scene.settings
        self.upstream = upstream
        self.meter = Meter()
        self.stats = FeedStats(upstream.cluster, settings.reconnect_buckets, settings.interarrival_buckets)
        bus = Bus()
        record = settings.record
        selection = Selection(
            [parse_pattern(text) for text in record.include],
            record.sample_quotes,
            by_symbol=record.samples_by_symbol,
        )
        bus.stage = Stage(selection, Ledger(), platform.node(), VERSION)
        bus.attach(self.meter)
        self.connection = Connection(
            FeedContext(upstream, bus, self.stats, scene.clock),
            topics=upstream.topics,
            session_opened=Resumed,
            pong_received=lambda _: None,
            data_timeout_secs=0.0,
        )
        self.accepted = False
        """Whether the key was."""
        self.error: UpstreamError | None = None
        """How the connection ended by itself."""
        self.sampled_secs = 0.0

    @property
    def session(self) -> ClientSession:
        """What was asked for, and answered."""
        return self.connection.session

    async def run(self, sample_secs: float) -> None:
        """Connect, settle, and let data come for `secs`."""
        async with http_session() as http:
            task = asyncio.create_task(self.connection.run(http))
            try:
                await self._settle(task)
                if self._is_accepted and not task.done() and sample_secs:
                    await self._sample(task, sample_secs)
            finally:
                self.accepted = self.accepted or self._is_accepted
                task.cancel()
                with suppress(asyncio.CancelledError, UpstreamError):
                    await task
            if task.done() and not task.cancelled() and isinstance(task.exception(), UpstreamError):
                self.error = task.exception()  # type: ignore[assignment]

    async def _settle(self, task: asyncio.Task[None]) -> None:
        deadline = asyncio.get_running_loop().time() + SETTLE_SECS
        while not (task.done() or self._settled) and asyncio.get_running_loop().time() < deadline:
            await asyncio.wait([task], timeout=_LOOK_SECS)
            self.accepted = self.accepted or self._is_accepted

    async def _sample(self, task: asyncio.Task[None], secs: float) -> None:
        self.meter.records = self.meter.bytes = 0
        loop = asyncio.get_running_loop()
        began = loop.time()
        await asyncio.wait([task], timeout=secs)
        self.sampled_secs = loop.time() - began

    @property
    def _is_accepted(self) -> bool:
        return self.session.step in (Step.SUBSCRIBING, Step.STREAMING)

    @property
    def _settled(self) -> bool:
        """Whether every topic has its answer. A refusal names no topic, but there is one for each."""
        waiting = len(self.session.unacknowledged)
        return self._is_accepted and waiting <= self.session.not_authorized


async def check_exchange(scene: Scene) -> list[Finding]:
    """Every cluster at once; the rates are added up."""
    upstreams = scene.settings.upstreams
    if scene.settings.source != EXCHANGE:
        return [skipped("exchange", f"SOURCE is {scene.settings.source}")]
    if scene.offline:
        return [skipped("exchange", "--offline: key and topics were not tried")]
    found: list[Finding] = []
    probes: list[Probe] = []
    for upstream in upstreams:
        away = _stay_away(scene, upstream)
        if away is not None:
            found.append(away)
        else:
            probes.append(Probe(scene, upstream))
    if probes and not upstreams[0].firehose:
        clusters = ", ".join(probe.upstream.cluster for probe in probes)
        scene.say(
            f"connecting to {urlsplit(upstreams[0].url).netloc} ({clusters}): a program elsewhere that uses this key "
            "for them loses its connection; --offline leaves this out"
        )
    await asyncio.gather(_watch(scene), *(probe.run(scene.sample_secs) for probe in probes))
    for probe in probes:
        found += _judge(probe)
    if scene.rate is None:
        scene.rate = _rate_of(scene, probes)
    return found


async def find_strangers(scene: Scene) -> dict[str, str]:
    """Return which programs of this machine are connected to the exchange, by the cluster that they may follow."""
    if scene.offline or scene.settings.source != EXCHANGE:
        return {}
    upstreams = scene.settings.upstreams
    told = await asyncio.gather(*(_stranger(upstream.url) for upstream in upstreams))
    return {upstream.cluster: text for upstream, text in zip(upstreams, told, strict=True) if text}


async def _stranger(url: str) -> str:
    parts = urlsplit(url)
    port = parts.port or _PORTS[parts.scheme]
    try:
        async with asyncio.timeout(_LOOK_UP_SECS):
            places = await asyncio.get_running_loop().getaddrinfo(
                parts.hostname, port, type=socket.SOCK_STREAM
            )
    except (OSError, TimeoutError):
        return ""  # connecting will say it better
    owners = await in_thread(partial(connected_to, {str(place[4][0]) for place in places}, port))
    if not owners:
        return ""
    return f"{owners[0] or 'a program'} is connected to {parts.netloc} already"


def _stay_away(scene: Scene, upstream: UpstreamSettings) -> Finding | None:
    """Leave a cluster alone where a connection could end another program's: one is allowed per cluster and key."""
    if scene.connect_anyway or upstream.firehose:
        return None
    cluster, recorder = upstream.cluster, scene.recorder
    feed = recorder.feed(cluster) if recorder is not None else None
    if feed is not None:
        text = (
            f"{recorder} follows it: {feed['reason'] or feed['state']}, {feed['topics_acknowledged']} of "
            f"{feed['topics_wanted']} topics acknowledged; not connected to, which would end its connection"
        )
        if feed["reason"]:
            return warning(cluster, text, "see its log and /ready")
        return ok(cluster, text)
    advice = "stop it and check again, or, if it uses another key, give --connect"
    if recorder is not None and recorder.status is None:
        return skipped(cluster, f"not connected to: {recorder} holds the archive, and may follow it", advice)
    if cluster in scene.strangers:
        return skipped(
            cluster, f"not connected to: {scene.strangers[cluster]}, perhaps with this key", advice
        )
    return None


async def _watch(scene: Scene) -> None:
    """Measure what the recorder that runs writes, as long as a sample takes."""
    recorder, ops = scene.recorder, scene.settings.ops
    if recorder is None or ops is None or not scene.sample_secs:
        return
    recorder = await find_recorder(scene.names, scene.settings)
    before = recorder.bytes_written if recorder is not None else None
    began_ns = scene.clock.monotonic_ns()
    await scene.clock.sleep(scene.sample_secs)
    recorder = await find_recorder(scene.names, scene.settings)
    after = recorder.bytes_written if recorder is not None else None
    secs = (scene.clock.monotonic_ns() - began_ns) / 1e9
    if before is not None and after is not None and after > before:
        scene.rate = Rate((after - before) / secs, None, f"written by {recorder} for {secs:.0f} s just now")


def _judge(probe: Probe) -> list[Finding]:
    cluster, error = probe.upstream.cluster, probe.error
    if not probe.accepted:
        return [_refused(probe)]
    found = [ok(cluster, f"key accepted by {urlsplit(probe.upstream.url).netloc}"), _judge_topics(probe)]
    if isinstance(error, MaxConnections):
        found.append(_twin(cluster, error))
    elif error is not None and not isinstance(error, (NotAuthorized, StepTimeout)):
        text = f"the connection ended while it was tried: {mask(str(error))}"
        found.append(warning(cluster, text, "check again; if it lasts, ask the vendor"))
    elif probe.sampled_secs:
        found.append(_judge_data(probe))
    return found


def _refused(probe: Probe) -> Finding:
    """Return why the key was not accepted."""
    cluster, error = probe.upstream.cluster, probe.error
    words = (
        mask(str(error)) if error is not None else f"still {probe.session.step.value} after {SETTLE_SECS:g} s"
    )
    match error:
        case MaxConnections():
            return _twin(cluster, error)
        case KeyRefused() if probe.upstream.firehose:
            advice = "POLYGON_API_KEY must be one of the AUTH_TOKENS of the recorder at FIREHOSE_URL"
            return failure(cluster, f"token refused: {words}", advice)
        case KeyRefused():
            advice = "check POLYGON_API_KEY, and that its plan has WebSockets and this cluster in real time"
            return failure(cluster, f"key refused: {words}", advice)
        case Untrusted():
            advice = "let SSL_CERT_FILE in the environment name a PEM file with the CA that signed it"
            return failure(cluster, f"no connection: {words}", advice)
        case TlsFailed():
            return failure(
                cluster, f"no connection: {words}", f"check {probe.upstream.url} and its certificate"
            )
        case ConnectFailed():
            advice = f"check {probe.upstream.url}, this machine's network, name server, firewall and proxy"
            return failure(cluster, f"no connection: {words}", advice)
        case _:
            return failure(cluster, words, "check again; if it lasts, ask the vendor")


def _twin(cluster: str, error: MaxConnections) -> Finding:
    return failure(
        cluster,
        f"too many connections: {mask(str(error))}",
        "another program uses this key; the two would end each other's connection. Stop it, or point it at this "
        "recorder",
    )


def _judge_topics(probe: Probe) -> Finding:
    cluster, session = probe.upstream.cluster, probe.session
    missing, wanted = session.unacknowledged, len(session.topics)
    if not missing:
        return ok(
            cluster,
            f"all {wanted} topics acknowledged"
            if wanted > 1
            else f"{next(iter(session.topics))} acknowledged",
        )
    if session.not_authorized:
        text, advice = (
            "not authorised",
            "the plan of this key does not include them: leave them out, or extend it",
        )
    else:
        text, advice = "not acknowledged", "they may not exist: check their spelling in SUBSCRIPTION"
    text = f"{len(missing)} of {wanted} topics {text}: {listed(missing)}"
    if len(missing) == wanted:
        return failure(cluster, text, advice)
    return warning(cluster, text, advice)


def _judge_data(probe: Probe) -> Finding:
    cluster, meter, secs = probe.upstream.cluster, probe.meter, probe.sampled_secs
    age_secs = meter.age_secs
    if age_secs is None:
        return skipped(
            cluster,
            f"no data within {secs:.0f} s, so neither its rate nor whether it is in real time is known",
            "check again while the market is open",
        )
    rate = f"{meter.records / secs:,.0f} records a second, {meter.bytes / secs / 1e6:,.2f} MB/s as lines"
    figures = {
        "records_per_sec": round(meter.records / secs, 1),
        "bytes_per_sec": round(meter.bytes / secs),
        "age_secs": round(age_secs, 3),
    }
    if abs(age_secs) < _FRESH_SECS:
        return ok(cluster, f"{rate}; in real time ({age_secs:.2f} s old)", **figures)
    if _DELAYED_SECS[0] <= age_secs <= _DELAYED_SECS[1]:
        text = f"{rate}; delayed by {age_secs / 60:.0f} minutes"
        if (urlsplit(probe.upstream.url).hostname or "").startswith("delayed."):
            return ok(cluster, text, **figures)
        return warning(cluster, text, "if you need real time, extend the plan of this key", **figures)
    return warning(
        cluster,
        f"{rate}; but its events are {age_secs:,.0f} s old",
        "this machine's clock is wrong, or the feed is a replay",
        **figures,
    )


def _rate_of(scene: Scene, probes: list[Probe]) -> Rate | None:
    """Add up what came. A cluster that was not sampled would make the sum a lie."""
    sampled = [probe for probe in probes if probe.meter.records and probe.sampled_secs]
    if not sampled or len(sampled) < len(scene.settings.upstreams):
        return None
    total = sum(probe.meter.bytes / probe.sampled_secs for probe in sampled)
    shares = [probe.meter.kept_share(scene.settings.archive.compression) for probe in sampled]
    known = [share for share in shares if share is not None]
    secs = max(probe.sampled_secs for probe in sampled)
    return Rate(total, max(known, default=None), f"measured for {secs:.0f} s just now")
