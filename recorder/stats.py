"""Counters and gauges that declare themselves: each is one field of the part that counts.

    @dataclass(slots=True)
    class ServerStats:
        port: str = label("port", "`firehose`, `filtered` or `bars`.")
        requests: int = counter("polygon_server_requests_total", "Messages of clients.")

The field is a plain slot that holds a plain integer; the part adds to it and knows no more. From the declaration are
made: the metric and its sample, the field of `/status` and of its schema, the rows of docs/metrics.md and
docs/status.md, and the sum over workers.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields
from typing import Any, Final, Literal, TypeVar

RECENT_MAX: Final = 20
"""Gaps, drops and segments that are kept for display; the manifest has all of them."""

AT: Final = "Unix ms"
BYTES: Final = "bytes"
EVENTS: Final = "events"
SECS: Final = "s"
"""Units, as the schema of `/status` names them."""

T = TypeVar("T")

Kind = Literal["counter", "gauge", "histogram"]
Adding = Literal["sum", "max", "newest"]
"""How the values of several processes become one. `newest` is the greatest of all, also of those that have ended."""


@dataclass(frozen=True, slots=True)
class Metric:
    """How a field is exported to Prometheus."""

    kind: Kind
    name: str
    help: str
    by: str = ""
    """The label that tells the entries of a mapping apart; empty for a number."""
    values: tuple[str, ...] = ()
    """Values of that label that have a sample before anything was counted.

    Prometheus sees no increase in a series that begins at 1.
    """
    where: tuple[tuple[str, str], ...] = ()
    """Labels with a fixed value, where several fields are samples of one metric."""
    convert: Callable[[Any], float] | None = None
    """Makes the sample of a field that is not the number itself."""


@dataclass(frozen=True, slots=True)
class Declaration:
    """What a field of a stats class says of itself."""

    about: str
    """Its meaning, as `/status` and its docs word it."""
    unit: str = ""
    metric: Metric | None = None
    """None: not in `/metrics`."""
    shown: bool = True
    """Whether `/status` has it."""
    label: str = ""
    """The label that the field is, in the metrics of its class; empty where it is not a label."""
    over_workers: Adding | None = "sum"
    """None: they do not."""


_KEY: Final = "declaration"


def label(name: str, about: str, *, default: Any = MISSING, shown: bool = True) -> Any:
    """Declare the field that tells the objects of a stats class apart; `name` is the label of their metrics."""
    declared = Declaration(about, shown=shown, label=name, over_workers=None)
    return field(default=default, metadata={_KEY: declared})


def counter(
    name: str,
    text: str,
    *,
    about: str = "",
    unit: str = "",
    default: float = 0,
    by: str = "",
    values: Sequence[str] = (),
    where: Mapping[str, str] | None = None,
    shown: bool = True,
) -> Any:
    """Declare a count that only grows.

    `text` is the help of the metric; `/status` says `about` where that is another sentence. With `by`, the field is a
    `Counter`, and `by` is the label of its keys.
    """
    metric = Metric("counter", name, text, by, tuple(values), tuple((where or {}).items()))
    declared = {_KEY: Declaration(about or text, unit, metric, shown)}
    return (
        field(default_factory=Counter, metadata=declared) if by else field(default=default, metadata=declared)
    )


def gauge(
    name: str,
    text: str,
    *,
    about: str = "",
    unit: str = "",
    default: Any = 0,
    by: str = "",
    shown: bool = True,
    over_workers: Adding | None = "sum",
    convert: Callable[[Any], float] | None = None,
) -> Any:
    """Declare a value that rises and falls. None as the value means that there is no sample.

    With `by`, the field is a mapping, and `by` is the label of its keys. A process that ended has no part in the value
    over all workers.
    """
    metric = Metric("gauge", name, text, by, convert=convert)
    declared = {_KEY: Declaration(about or text, unit, metric, shown, over_workers=over_workers)}
    return field(default_factory=dict, metadata=declared) if by else field(default=default, metadata=declared)


def histogram(name: str, text: str, bounds: Sequence[float] = ()) -> Any:
    """Declare a distribution of observations; the class makes it in `__post_init__` where `bounds` are not given."""
    declared = {_KEY: Declaration(text, metric=Metric("histogram", name, text), shown=False)}
    if not bounds:
        return field(init=False, metadata=declared)
    return field(default_factory=lambda: Histogram(tuple(bounds)), metadata=declared)


def shown(about: str, *, unit: str = "", default: Any = MISSING, over_workers: Adding | None = None) -> Any:
    """Declare a field that `/status` has and `/metrics` has not; without `default` it has to be given."""
    return field(default=default, metadata={_KEY: Declaration(about, unit, over_workers=over_workers)})


def declarations(kind: type) -> Mapping[str, Declaration]:
    """Return what the fields of a stats class declare, by field; fields that declare nothing are left out."""
    return {each.name: each.metadata[_KEY] for each in fields(kind) if _KEY in each.metadata}


def add_up(total: T, parts: Sequence[T], *, ended: bool = False) -> None:
    """Set the declared fields of `total` to what the values of `parts` are together; labels stay as they are.

    `ended`: the parts are of processes that have ended, so what they say of the present is left out.
    """
    for name, declared in declarations(type(total)).items():
        metric, adding = declared.metric, declared.over_workers
        outlives = adding == "newest" or (metric is not None and metric.kind != "gauge")
        if adding is None or (ended and not outlives):
            continue
        values = [getattr(part, name) for part in parts]
        if adding != "sum":
            setattr(total, name, max(values))
        elif metric is not None and metric.kind == "histogram":
            setattr(total, name, Histogram.sum_of(values))
        elif metric is not None and metric.by:
            setattr(total, name, sum(map(Counter, values), Counter()))
        else:
            setattr(total, name, sum(values))


def with_newest(recent: tuple[T, ...], entry: T) -> tuple[T, ...]:
    """Return the last `RECENT_MAX` entries. It is a new tuple each time: other threads may be reading the old one."""
    return (*recent[-(RECENT_MAX - 1) :], entry)


@dataclass(slots=True)
class Histogram:
    """Counts of observations by upper bound, as Prometheus understands them; the last count is `+Inf`."""

    bounds: tuple[float, ...]
    counts: list[int] = field(default_factory=list)
    sum: float = 0.0

    def __post_init__(self) -> None:
        self.counts = self.counts or [0] * (len(self.bounds) + 1)

    @classmethod
    def sum_of(cls, parts: Sequence[Histogram]) -> Histogram:
        """Return all observations of `parts`, which have the same bounds."""
        counts = [sum(column) for column in zip(*(part.counts for part in parts), strict=True)]
        return cls(parts[0].bounds, counts, sum(part.sum for part in parts))

    def observe(self, value: float, times: int = 1) -> None:
        """Count `value`, `times` over."""
        self.counts[bisect_left(self.bounds, value)] += times
        self.sum += value * times

    @property
    def count(self) -> int:
        """The number of observations."""
        return sum(self.counts)

    def cumulative(self) -> Iterable[tuple[str, int]]:
        """Yield `(upper bound, observations up to it)`, rising, the last bound being `+Inf`."""
        total = 0
        for bound, count in zip((*map(str, self.bounds), "+Inf"), self.counts, strict=True):
            total += count
            yield bound, total

    def __repr__(self) -> str:
        return f"Histogram(count={self.count}, sum={self.sum:.6f})"
