"""Faults: what a simulated exchange does wrong on purpose, by name, exactly when and as often as it is told.

`name:option=value,option=value`. Two options belong to every fault:

- `after=1000` or `after=5s`: events or time until it strikes. Faults of the data count the events sent on one
  connection and the time since its first subscription, and strike in front of the next data frame. The others count
  the events of the whole cluster, and the time since the simulator listens.
- `times=3`: how often it strikes, all connections together; 0 is always. Faults of the data strike once unless told
  otherwise, faults of a handshake always.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import ClassVar, Final, Protocol, TypeVar

from recorder.errors import ConfigError
from recorder.polygon.careful import split_elements
from recorder.polygon.control import AUTH_FAILED, MAX_CONNECTIONS, NO_ACCESS
from recorder.polygon.rows import Status
from recorder.simulator.fault_options import Options, split_options

_BIG_FRAME_BYTES: Final = 10 * 1024 * 1024


class Victim(Protocol):
    """The connection that a fault strikes."""

    def send_broken(self, payload: bytes) -> None:
        """Send a frame that no event comes from."""

    def stall(self, secs: float, *, pings: bool) -> None:
        """Send no data for `secs` (0: for good), and pongs only if `pings`."""

    def drop(self) -> None:
        """End the TCP connection without a close frame."""

    def reset(self) -> None:
        """End the TCP connection with RST; what is pending is lost."""

    def close(self, code: int, reason: str) -> None:
        """Send a close frame, then end."""

    def cut(self, payload: bytes) -> None:
        """Send the first half of a frame, then end the TCP connection."""

    def dismiss(self, status: Status) -> None:
        """Send the client a status, then close."""


class Fault:
    """One fault with its trigger. `times_left` is None where there is no end to it."""

    name: ClassVar[str]
    times_default: ClassVar[int] = 0

    def __init__(self, options: Options) -> None:
        self.after_events, self.after_secs = options.after()
        self.times_left: int | None = options.number("times", self.times_default) or None
        self.struck = 0
        self.configure(options)
        options.finish()

    def configure(self, options: Options) -> None:
        """Take the options that only this fault has."""

    def is_due(self, events: int, secs: float) -> bool:
        """Return whether it strikes now, after this many events and seconds."""
        return self.times_left != 0 and events >= self.after_events and secs >= self.after_secs

    def count(self) -> None:
        """Note that it strikes."""
        self.struck += 1
        if self.times_left is not None:
            self.times_left -= 1

    def __repr__(self) -> str:
        return f"{type(self).__name__}(struck={self.struck}, times_left={self.times_left})"


class NoGreeting(Fault):
    """The exchange accepts the connection and says nothing."""

    name = "no-greeting"


class RefusedKey(Fault):
    """The exchange answers the key with a refusal."""

    refusal: ClassVar[Status]
    drops: ClassVar[bool] = False
    """Whether the connection then ends without a close frame."""


class RefuseAuth(RefusedKey):
    """The key is refused, and the connection dropped without a close frame."""

    name = "refuse-auth"
    refusal = AUTH_FAILED
    drops = True


class NoAccess(RefusedKey):
    """The key is good, but its plan does not include the cluster."""

    name = "no-access"
    refusal = NO_ACCESS


class NoAcks(Fault):
    """Topics are subscribed, data flows, nothing is acknowledged."""

    name = "no-acks"


class SlowAcks(Fault):
    """A request for topics takes `delay` (2 s)."""

    name = "slow-acks"
    delay_secs: float

    def configure(self, options: Options) -> None:
        self.delay_secs = options.secs("delay", 2.0)


class NotAuthorized(Fault):
    """Some topics are not in the plan: `topics=Q+AM.*` (channels or whole topics)."""

    name = "not-authorized"
    topics: tuple[str, ...]

    def configure(self, options: Options) -> None:
        self.topics = options.words("topics")

    def concerns(self, topic: str) -> bool:
        """Return whether a topic is one of them."""
        return topic in self.topics or topic.partition(".")[0] in self.topics


class DataFault(Fault):
    """A fault that strikes in front of a data frame."""

    times_default = 1

    def strike(self, victim: Victim, payload: bytes) -> bytes | None:
        """Strike. Return what is sent instead of the frame; None if nothing can be sent any more.

        Whatever is returned, its good events are those of `payload`, in their order.
        """
        raise NotImplementedError


class MaxConnections(DataFault):
    """A twin with the same key takes over. Without `after` it is the answer to the key."""

    name = "max-connections"

    @property
    def answers_key(self) -> bool:
        """Whether it strikes when the key is presented."""
        return not (self.after_events or self.after_secs)

    def strike(self, victim: Victim, payload: bytes) -> bytes | None:
        victim.dismiss(MAX_CONNECTIONS)
        return None


class Stall(DataFault):
    """No data for `for=5s` (without it, for good); with `pings=no` no pongs either."""

    name = "stall"
    secs: float
    pings: bool

    def configure(self, options: Options) -> None:
        self.secs = options.secs("for", 0.0)
        self.pings = options.flag("pings", default=True)

    def strike(self, victim: Victim, payload: bytes) -> bytes | None:
        victim.stall(self.secs, pings=self.pings)
        return None


class Close(DataFault):
    """The connection ends with `code=1001`; 1006 is an end without a close frame."""

    name = "close"
    code: int

    def configure(self, options: Options) -> None:
        self.code = options.number("code", 1006)
        if not 1000 <= self.code <= 4999:
            raise options.error("code must be from 1000 to 4999")

    def strike(self, victim: Victim, payload: bytes) -> bytes | None:
        if self.code == 1006:
            victim.drop()
        else:
            victim.close(self.code, "simulated fault")
        return None


class Reset(DataFault):
    """The connection ends with RST."""

    name = "reset"

    def strike(self, victim: Victim, payload: bytes) -> bytes | None:
        victim.reset()
        return None


class Cut(DataFault):
    """The connection ends in the middle of a frame."""

    name = "cut"

    def strike(self, victim: Victim, payload: bytes) -> bytes | None:
        victim.cut(payload)
        return None


class Garbage(DataFault):
    """A frame that is not JSON comes in between."""

    name = "garbage"

    def strike(self, victim: Victim, payload: bytes) -> bytes | None:
        victim.send_broken(b'502 Bad Gateway {"ev":"T","sym":"GARBAGE"')
        return payload


class NotArray(DataFault):
    """A frame that is an object, not an array, comes in between."""

    name = "not-array"

    def strike(self, victim: Victim, payload: bytes) -> bytes | None:
        victim.send_broken(b'{"ev":"T","sym":"NOTARRAY","p":1.00,"s":1,"t":1790000000000}')
        return payload


class BigFrame(DataFault):
    """A frame of `bytes` (10 MiB) with one event of the symbol BIG comes in between."""

    name = "big-frame"
    size: int

    def configure(self, options: Options) -> None:
        self.size = options.number("bytes", _BIG_FRAME_BYTES)

    def strike(self, victim: Victim, payload: bytes) -> bytes | None:
        begin, end = b'[{"ev":"T","sym":"BIG","p":1.00,"s":1,"t":1790000000000,"padding":"', b'"}]'
        victim.send_broken(begin + b"x" * (self.size - len(begin) - len(end)) + end)
        return payload


class BadElement(DataFault):
    """A frame has one broken element among its good ones."""

    name = "bad-element"

    def strike(self, victim: Victim, payload: bytes) -> bytes | None:
        return insert_element(payload, b'{"ev":"T","sym":"BROKEN","p":}')


class StatusInData(DataFault):
    """A frame has a status among its events."""

    name = "status-in-data"

    def strike(self, victim: Victim, payload: bytes) -> bytes | None:
        return insert_element(
            payload, b'{"ev":"status","status":"success","message":"a status among events"}'
        )


class Burst(Fault):
    """The market is `factor` (10) times as fast for `for` (60 s)."""

    name = "burst"
    times_default = 1
    factor: int
    secs: float

    def configure(self, options: Options) -> None:
        self.factor = options.number("factor", 10)
        self.secs = options.secs("for", 60.0)
        if not self.factor:
            raise options.error("factor must be at least 1")


FAULTS: Final[dict[str, Callable[[Options], Fault]]] = {
    fault.name: fault
    for fault in (
        NoGreeting,
        RefuseAuth,
        NoAccess,
        MaxConnections,
        NotAuthorized,
        SlowAcks,
        NoAcks,
        Stall,
        Close,
        Reset,
        Cut,
        Garbage,
        NotArray,
        BigFrame,
        BadElement,
        StatusInData,
        Burst,
    )
}
"""Every fault by its name."""

F = TypeVar("F", bound=Fault)


def parse_fault(text: str) -> Fault:
    """Read `stall:after=1000,for=5s`. Raise `ConfigError` that names the known faults, or the wrong option."""
    name, _, rest = text.partition(":")
    make = FAULTS.get(name.strip())
    if make is None:
        raise ConfigError(f"fault {text!r}: there is no such fault; known are {', '.join(FAULTS)}")
    return make(Options(text, split_options(text, rest)))


def of_kind(faults: Iterable[Fault], kind: type[F]) -> list[F]:
    """Return the faults of one kind, in order."""
    return [fault for fault in faults if isinstance(fault, kind)]


def insert_element(payload: bytes, element: bytes) -> bytes:
    """Return the frame with a further element behind its first one; the others keep their bytes and order."""
    first, *rest = split_elements(payload)
    return b"[" + b",".join([first, element, *rest]) + b"]"
