"""A recorder behind another one, without sockets: its feed reads the other's firehose, and may be cut anywhere."""

from __future__ import annotations

from typing import Any

from fakes import batch_of
from resuming import CLUSTERS, Follower, Recorder

from recorder.bus import Border, SessionClosed, SessionOpened
from recorder.polygon.careful import is_status_only
from recorder.sources.exchange.gathering import Gathering
from recorder.sources.exchange.marks import Marks


class TierFeed(Follower):
    """The connection of a tier to the recorder that it follows, for one cluster; what came is on the tier's bus."""

    def __init__(self, upstream: Recorder, tier: Recorder, cluster: str) -> None:
        super().__init__(upstream, "firehose", "*", cluster=cluster)
        self.tier = tier
        self.marks = Marks()
        self.answers: list[tuple[bool, str]] = []
        """Of each connection that asked for what it had missed, whether that came, and why not."""
        self.frames: list[bytes] = []
        """All data frames that were passed on."""
        self._gathering = Gathering()
        self._is_open = False
        self._asked = False

    def link(self) -> None:
        """Connect, and ask for what came since."""
        self.marks.begin()
        self._asked = bool(self.marks.after)
        wishes = {"after": self.marks.after, "partial": True} if self._asked else {}
        self.connect(each=True, **wishes)

    def read(self, bytes_max: int | None = None) -> None:
        """Read what has come, and pass on what is whole, as a connection does."""
        frames = [payload for opcode, payload in self.transport.take(bytes_max) if opcode == 0x1]
        for part in self.marks.take(frames, b""):
            if not part.after:
                self._deliver()
            self._gathering.add(part.frames, 1, b"", part.after)
            if not part.after:
                self._deliver()
        self._deliver()
        if not self._is_open and not self.marks.is_catching_up:
            self._is_open = True
            resumed = self.marks.count if self.marks.recovered else None
            self.marks.opened()
            if self._asked:
                self.answers.append((self.marks.recovered, self.marks.reason))
            self.tier.bus.announce(SessionOpened(self.cluster, self.tier.clock.wall_ns(), resumed))

    def unlink(self, bytes_max: int = 0) -> None:
        """Lose the connection, after so many bytes of what is on its way."""
        if self.client is None:
            return
        self.read(bytes_max)
        self.client.ended()
        self.recorder.resumes.forget(self.recorder.ports[self.port], self.client)
        self.client = None
        if self._is_open:
            self._is_open = False
            now_ns = self.tier.clock.wall_ns()
            self.tier.bus.announce(SessionClosed(self.cluster, now_ns, "disconnected", now_ns))

    def _deliver(self) -> None:
        frames, _, _, marks = self._gathering.take()
        if frames:
            self.frames += [frame for frame in frames if not is_status_only(frame)]
            batch = batch_of(*frames, cluster=self.cluster, received_ns=self.tier.clock.wall_ns())
            batch.marks = marks
            self.tier.bus.publish(batch)
            assert not self.tier.bus.failures
        elif marks:
            self.tier.bus.pass_border(Border(self.cluster, marks[-1].after))


class Tier(Recorder):
    """A recorder that follows another one, each cluster on a connection of its own."""

    def __init__(self, upstream: Recorder, epoch: str, bytes_max: int = 2**20) -> None:
        super().__init__(bytes_max, upstream.clock, epoch)
        self.upstream = upstream
        self.feeds = {cluster: TierFeed(upstream, self, cluster) for cluster in CLUSTERS}
        for feed in self.feeds.values():
            feed.link()
            feed.read()

    def catch_up(self) -> None:
        """Read all that the recorders before this one have."""
        if isinstance(self.upstream, Tier):
            self.upstream.catch_up()
        for feed in self.feeds.values():
            for _ in range(10_000):
                if feed.is_cut:
                    feed.unlink(2**30)
                    feed.link()
                has_moved = self.upstream.resumes.step()
                if feed.client is not None:
                    self.upstream.resumes.tell([feed.client])
                if not has_moved and not feed.transport.written:
                    break
                feed.read()

    def stream(self, *where: Any) -> list[bytes]:
        """Return what a client must get: what one of the first recorder gets."""
        return self.upstream.stream(*where)
