"""The firehose: every upstream frame, untouched and in order, to every client that authenticated and subscribed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final, NamedTuple

from recorder import frames
from recorder.bus import Batch, Mark, SessionChange, Watermark
from recorder.clock import Clock
from recorder.polygon.careful import is_status_only, split_elements
from recorder.polygon.control import acknowledgement, encode_position, nothing_remark
from recorder.polygon.manner import PLAIN, Manner, Slow
from recorder.polygon.rows import Status, fragment_of
from recorder.polygon.server import Policy, Subscribe, Verdict
from recorder.servers.client import Client
from recorder.servers.delivery import arrays, deliver_payloads
from recorder.servers.port import KeyCheck, Where
from recorder.servers.stats import ServerStats
from recorder.servers.subscriptions import EVERYTHING
from recorder.sources.source import TopicSink

FIREHOSE: Final = "firehose"
"""The name of the port."""
_AS_IT_CAME: Final = (
    "this port passes every frame on as it came, and closes clients that are slow; take the filtered port"
)
_DOES_NOT_FILTER: Final = nothing_remark("this port does not filter; subscribe to * for every event")


class FirehosePolicy:
    """`*`, or a request without topics, is all there is; other topics are acknowledged and ignored, and told so."""

    repeats_are_acknowledged = True
    everything = EVERYTHING

    def __init__(self, refuse_key: KeyCheck, topics_max: int) -> None:
        self.refuse_key = refuse_key
        self.topics_max = topics_max

    def check(self, topic: str) -> Verdict:
        """Hold `*` alone."""
        if topic == EVERYTHING:
            return Verdict(held=True, answer=acknowledgement("subscribed", topic))
        answer = acknowledgement("subscribed", topic)
        return Verdict(held=False, answer=Status(answer.status, answer.message + _DOES_NOT_FILTER))

    def amend_refusal(self, topic: str) -> str:
        """Return that there are no bars here."""
        return "this port has no bars"

    def manner_refusals(self, topics: Sequence[str], manner: Manner) -> list[str]:
        """Return that there is one manner here."""
        return [f"{word} is not to be had here: {_AS_IT_CAME}" for word in manner.words]


class _Question(NamedTuple):
    """A ping of another recorder that waits for its answer."""

    payload: bytes
    asked_ns: int
    clusters: set[str]
    """Those whose exchange has not answered yet."""


class Firehose:
    """The port 8767. `/` speaks the firehose's dialect and carries every cluster, a cluster's path the vendor's.

    Another recorder that is a client asks how far time has come by a ping with the payload `frames.TIME_PING`. A pong of
    ours proves no more than that our own stream has been read; what the exchange sent may still be on its way to us. So
    such a ping is answered once the exchange has answered one that we sent after it came, behind all that came before.

    A recorder that wants a position behind each read gets each read by itself where a batch has several, and the position
    in the same turn of the loop.
    """

    name = FIREHOSE

    def __init__(
        self, stats: ServerStats, topics_max: int, sources: Mapping[str, TopicSink], clock: Clock
    ) -> None:
        """`sources` know how far time has come in each cluster."""
        self._stats = stats
        self.topics_max = topics_max
        self._sources = sources
        self._clock = clock
        self._questions: dict[Client, _Question] = {}
        """The last ping of each recorder that asks for the time; answering it answers those before."""
        self._of_cluster: dict[str, dict[Client, None]] = {}
        """Subscribed clients by the path that they came on; `""` is every cluster."""
        self._marked: dict[str, dict[Client, None]] = {}
        """Those among them that want a position behind each read."""

    def policy(self, cluster: str, refuse_key: KeyCheck) -> Policy:
        """Every client may have everything."""
        return FirehosePolicy(refuse_key, self.topics_max)

    def greets(self, cluster: str) -> bool:
        """The vendor's clients, on a cluster's path, wait for a greeting."""
        return bool(cluster)

    def subscribe(
        self,
        client: Client,
        topics: tuple[str, ...],
        wish: Subscribe | None = None,
        *,
        amend: bool = False,
        manner: Manner = PLAIN,
    ) -> None:
        """Add a client."""
        self._of_cluster.setdefault(client.cluster, {})[client] = None
        if client.wants_marks:
            self._marked.setdefault(client.cluster, {})[client] = None

    def bars_closed_ms(self, client: Client) -> dict[str, int]:
        """There are no bars here."""
        return {}

    def unsubscribe(self, client: Client, topics: tuple[str, ...]) -> None:
        """Remove a client."""
        self.forget(client)

    async def prepare(self, manner: Manner) -> None:
        """There is one manner here."""

    def when_slow(self, client: Client, slow: Slow) -> None:
        """Close it all the same."""

    def past(self, client: Client, topics: tuple[str, ...], held: Iterable[str]) -> FirehosePast:
        """Every frame of the client's clusters."""
        return FirehosePast(client, self._stats)

    def ping(self, client: Client, payload: bytes) -> None:
        """Answer at once, or, where the time is asked for, once it is known."""
        clusters = {client.cluster} if client.cluster else set(self._sources)
        is_subscribed = client in self._of_cluster.get(client.cluster, {})
        if not (payload.startswith(frames.TIME_PING) and is_subscribed and clusters <= self._sources.keys()):
            client.pong(payload)
            return
        self._questions[client] = _Question(payload, self._clock.monotonic_ns(), clusters)
        for cluster in clusters:
            self._sources[cluster].ask_time()

    def advance(self, watermark: Watermark) -> None:
        """Answer those that have waited for this."""
        for client, question in list(self._questions.items()):
            if watermark.until_ns >= question.asked_ns:
                question.clusters.discard(watermark.cluster)
            if not question.clusters:
                del self._questions[client]
                client.pong(question.payload)

    def forget(self, client: Client) -> None:
        """Remove a client."""
        self._questions.pop(client, None)
        self._of_cluster.get(client.cluster, {}).pop(client, None)
        self._marked.get(client.cluster, {}).pop(client, None)

    def accept(self, batch: Batch) -> None:
        """Pass all data frames of a batch on, joined into one write a client."""
        everywhere = self._of_cluster.get("", {})
        here = self._of_cluster.get(batch.cluster, {})
        if not everywhere and not here:
            return
        marked = self._marked.get(batch.cluster)
        if not marked:
            _deliver([*everywhere, *here], batch, self._stats)
        elif _is_one_read(batch):
            _deliver([*everywhere, *here], batch, self._stats)
            _mark(marked, batch.marks[0])
        else:
            _deliver([*everywhere, *(client for client in here if client not in marked)], batch, self._stats)
            _deliver_reads(list(marked), batch, self._stats)

    def is_awaited(self) -> bool:
        """Whether a client is subscribed."""
        return any(self._of_cluster.values())

    def session_changed(self, change: SessionChange) -> None:
        """A gap is a pause; the client sees that nothing comes."""

    def __repr__(self) -> str:
        return f"Firehose({sum(map(len, self._of_cluster.values()))} subscribed)"


class FirehosePast:
    """The frames that one client has missed."""

    def __init__(self, client: Client, stats: ServerStats) -> None:
        self._client = client
        self._stats = stats

    def send(self, batch: Batch, where: Where) -> int:
        """Send all data frames of a batch; return how many there are."""
        if self._client.cluster not in ("", batch.cluster):
            return 0
        count = _deliver([self._client], batch, self._stats)
        if self._client.wants_marks and batch.marks:
            _mark([self._client], batch.marks[-1])
        return count

    def drop(self, topics: Iterable[str]) -> None:
        """There is one topic, and nothing left without it."""

    def release(self, topics: Iterable[str], where: Where) -> None:
        """There is one topic, which no other can overlap."""


def _deliver(clients: Sequence[Client], batch: Batch, stats: ServerStats) -> int:
    """Send all data frames of a batch, as they came; return how many there are."""
    payloads = batch.data_frames
    if not (payloads and clients):
        return len(payloads)
    small = _all_small(payloads)
    wire = batch.wire if small is batch.frames else b""
    # Count events only if another consumer has decoded the batch already; the firehose itself does not need that.
    deliver_payloads(clients, small, batch.events_known, stats, wire)
    return len(payloads)


def _is_one_read(batch: Batch) -> bool:
    """Return whether a batch is one read of the recorder that has the connection to the exchange."""
    return len(batch.marks) == 1 and batch.marks[0].frames == len(batch.frames)


def _deliver_reads(clients: Sequence[Client], batch: Batch, stats: ServerStats) -> None:
    """Send the data frames of a batch read by read, each with its position behind it."""
    begin = 0
    has_statuses = bool(batch.statuses)
    for mark in (*batch.marks, None):
        read = batch.frames[begin : mark.frames if mark is not None else len(batch.frames)]
        begin += len(read)
        payloads = [frame for frame in read if not is_status_only(frame)] if has_statuses else read
        if payloads:
            deliver_payloads(clients, _all_small(payloads), 0, stats)
        if mark is not None:
            _mark(clients, mark)


def _mark(clients: Iterable[Client], mark: Mark) -> None:
    """Send clients the position behind what they have just been sent."""
    told = encode_position(mark.after, each=True)
    for client in clients:
        try:
            client.say(told)
        except Exception as error:  # the defect of one connection must not cost the others their position
            client.fail(error)


def _all_small(payloads: Sequence[bytes]) -> Sequence[bytes]:
    """Return the frames, those that are too large for some client in parts."""
    if max(map(len, payloads)) <= frames.PAYLOAD_BYTES_MAX:
        return payloads
    return [part for payload in payloads for part in _small(payload)]


def _small(payload: bytes) -> Sequence[bytes]:
    """Split a frame that is larger than every client takes, at the borders of its events."""
    if len(payload) <= frames.PAYLOAD_BYTES_MAX:
        return [payload]
    elements = list(split_elements(payload))
    if not all(element.startswith(b"{") for element in elements):
        return [payload]  # not ours to mend
    return arrays(list(map(fragment_of, elements)))
