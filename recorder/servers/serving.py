"""All ports together: made from the settings, started, looked after, and closed as one."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from typing import Final

from recorder.bars import BarMaker
from recorder.bus import Consumer
from recorder.clock import Clock
from recorder.log import get_logger
from recorder.part import Part, Work
from recorder.servers.access import Access, Rules
from recorder.servers.bars import BarSource
from recorder.servers.demand import OnDemandTopics
from recorder.servers.filtered import TopicPort
from recorder.servers.firehose import Firehose
from recorder.servers.hub import Hub
from recorder.servers.manners.last_values import LastValues
from recorder.servers.manners.pacer import Pacer
from recorder.servers.means import Means
from recorder.servers.past.hotlog import HotLog
from recorder.servers.past.resumes import Resumes
from recorder.servers.relay import BarRelay
from recorder.servers.stats import ClientStats, ServerStats
from recorder.settings import BarSettings, DemandSettings, ServersSettings
from recorder.sources.source import TopicSink

log = get_logger("polygon_clients")


DISMISS_GRACE_SECS: Final = 10.0
"""How long a client that is dismissed has to read what is pending."""
_DISMISS_STEP_SECS: Final = 0.02
"""The shortest wait between two; where they follow each other faster, several are closed in a turn."""


class Serving:
    """The ports of this recorder, each a consumer of the bus of its own.

    `start` raises ConfigError where an address cannot be used.
    """

    def __init__(
        self,
        settings: ServersSettings,
        bar_settings: BarSettings,
        demand_settings: DemandSettings,
        topics: Mapping[str, Iterable[str]],
        sources: dict[str, TopicSink],
        access: Access,
        clock: Clock,
        log: HotLog,
    ) -> None:
        """`topics`: what is subscribed upstream in any case, by cluster. Whoever feeds the ports feeds the log before."""
        self.resumes = Resumes(log, clock)
        self.pacer = Pacer(clock)
        self._values = LastValues(
            topics, log, clock, settings.snapshot_values_max, from_start=settings.snapshot_from_start
        )
        self._access = access
        self._book = access.book
        clusters = tuple(topics)
        topics_max = settings.limits.subscriptions_max
        self.demand: OnDemandTopics | None = None
        fixed = {cluster: frozenset(held) for cluster, held in topics.items()}
        if demand_settings.enabled:
            self.demand = OnDemandTopics(demand_settings, sources, fixed, clock)
        self.bars: BarSource | None = None
        self.relay: BarRelay | None = None
        wants_bars = settings.bars_port is not None
        if wants_bars and bar_settings.aggregator_url is None:
            self.bars = BarSource(clusters, bar_settings, clock, log, self.resumes.cold)
            for cluster, source in sources.items():
                self.bars.connect(cluster, source)
        elif bar_settings.aggregator_url is not None:
            self.relay = BarRelay((bar_settings.min_interval_ms, bar_settings.max_interval_ms))
        bars = self.bars or self.relay
        self.stats: list[ServerStats] = []
        self.hubs: dict[str, Hub] = {}
        self._filters = settings.filtered_port is not None or wants_bars
        self.consumers: list[Consumer] = [self._values] if self._filters else []
        """What to attach to the bus, in this order: the ports, then the bars, so that a client gets the events of a
        batch before the bars that they close."""
        for name, number in (
            ("firehose", settings.firehose_port),
            ("filtered", settings.filtered_port),
            ("bars", settings.bars_port),
        ):
            if number is None:
                continue
            stats = ServerStats(name)
            port: Firehose | TopicPort
            if name == "firehose":
                port = Firehose(stats, topics_max, sources, clock)
            else:
                port = TopicPort(
                    name,
                    fixed,
                    stats,
                    topics_max,
                    bars,
                    self.demand,
                    bars_only=name == "bars",
                    default_cluster=settings.default_cluster,
                )
                port.offer(Means(log, clock, self.pacer, self._values))
            self.stats.append(stats)
            self.consumers.append(port)
            self.hubs[name] = Hub(port, number, settings, clusters, access, stats, self.resumes)
        if self.bars is not None:
            self.consumers.append(self.bars)
        self._dismissal: asyncio.Task[None] | None = None

    @property
    def makers(self) -> dict[str, BarMaker]:
        """The bar maker of each cluster, for readers of its figures."""
        return self.bars.makers if self.bars is not None else {}

    def clients(self, clients_max: int) -> list[ClientStats]:
        """Return up to `clients_max` clients of each port; those that leave most unread are chosen first."""
        return [client for hub in self.hubs.values() for client in hub.describe(clients_max)]

    @property
    def addresses(self) -> dict[str, str]:
        """Where each port listens."""
        return {name: hub.address for name, hub in self.hubs.items()}

    @property
    def parts(self) -> list[Part]:
        """What has to live: each port, and what lets time pass for bars and for topics on demand."""
        parts: list[Part] = [
            *self.hubs.values(),
            Work("resume", self.resumes.run),
        ]
        if self._filters:
            parts += [Work("pacer", self.pacer.run), Work("last values", self._values.run)]
        if self.bars is not None:
            parts.append(Work("bar timer", self.bars.run))
        if self.demand is not None:
            parts.append(Work("topics on demand", self.demand.run))
        if self._book is not None:
            parts.append(Work("access log intervals", self._book.run))
        return parts

    def change(self, rules: Rules) -> None:
        """Use other rules from now on: clients whose token is gone are closed with 1008, all others stay.

        Raise ConfigError, and change nothing, if the certificate cannot be used.
        """
        self._access.change(rules)
        for hub in self.hubs.values():
            removed = hub.rules_changed()
            if removed:
                log.info("clients_dismissed", port=hub.name, clients=removed)

    def refuse(self, *, new: bool) -> None:
        """Answer new clients with 503 from now on; or, where `new` is false, take them again, and dismiss nobody."""
        for hub in self.hubs.values():
            hub.refuses_new = new
        if not new and self._dismissal is not None:
            self._dismissal.cancel()

    def dismiss(self, secs: float) -> None:
        """Begin to close every client with 1012, the last of them in `secs`; what is pending goes out before."""
        self._dismissal = asyncio.create_task(self._dismiss(secs), name="dismissal")

    async def _dismiss(self, secs: float) -> None:
        loop = asyncio.get_running_loop()
        begun = loop.time()
        clients = [client for hub in self.hubs.values() for client in hub.clients]
        for place, client in enumerate(clients):
            wait_secs = begun + secs * place / len(clients) - loop.time()
            if wait_secs > 0:
                await asyncio.sleep(max(wait_secs, _DISMISS_STEP_SECS))
            client.close(1012, "restarting", "shutdown", DISMISS_GRACE_SECS)

    async def start(self, *, listen: bool = True) -> None:
        """Listen on every port, or be ready to adopt connections."""
        for hub in self.hubs.values():
            await hub.open(listen=listen)

    async def run(self) -> None:
        """Work until cancelled."""
        async with asyncio.TaskGroup() as group:
            for part in self.parts:
                group.create_task(part.run())

    async def close(self, timeout_secs: float) -> None:
        """Let what is pending go out, tell every client 1012, and stop listening."""
        if self.bars is not None:
            for cluster in self.bars.makers:
                self.bars.hand_on(cluster)
        self.pacer.flush()
        deadline_ns = int((asyncio.get_running_loop().time() + timeout_secs) * 1e9)
        await asyncio.gather(*(hub.close(deadline_ns) for hub in self.hubs.values()))

    def __repr__(self) -> str:
        return f"Serving({list(self.hubs.values())!r})"
