"""The Prometheus side: a collector that reads the parts when it is asked, and the text that it makes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, choose_encoder, generate_latest
from prometheus_client.registry import Collector as CollectorInterface

from recorder.ops.metrics_table import METRICS, Definition, Sample
from recorder.ops.observed import Observed
from recorder.ops.scrape import Scrape
from recorder.stats import Histogram

Family = CounterMetricFamily | GaugeMetricFamily | HistogramMetricFamily


class Collector(CollectorInterface):
    """Makes the samples of all metrics of the table. It holds no state of its own."""

    def __init__(self, observed: Observed) -> None:
        self._observed = observed

    def describe(self) -> Iterator[Family]:
        """Yield all metrics without samples, so that the registry knows every name."""
        for definitions in METRICS.values():
            for definition in definitions:
                yield _family(definition, ())

    def collect(self) -> Iterator[Family]:
        """Yield all metrics that have samples now. Call it in the event loop's thread."""
        scrape = Scrape(self._observed)
        for definitions in METRICS.values():
            for definition in definitions:
                family = _family(definition, definition.read(scrape))
                if family.samples:
                    yield family


def _family(definition: Definition, samples: Iterable[Sample]) -> Family:
    name, text, labels = definition.name, definition.help, definition.labels
    if definition.kind == "histogram":
        histograms = HistogramMetricFamily(name, text, labels=labels)
        for values, value in samples:
            if isinstance(value, Histogram):
                # OpenMetrics wants bounds as canonical floats: `1.0`, never `1`.
                buckets = [
                    (bound if bound == "+Inf" else repr(float(bound)), count)
                    for bound, count in value.cumulative()
                ]
                histograms.add_metric(values, buckets, value.sum)
        return histograms
    numbers = (CounterMetricFamily if definition.kind == "counter" else GaugeMetricFamily)(
        name, text, labels=labels
    )
    for values, value in samples:
        if not isinstance(value, Histogram):
            numbers.add_metric(values, value)
    return numbers


class Exposition:
    """The registry of this process's metrics, and its text."""

    def __init__(self, observed: Observed) -> None:
        self.registry = CollectorRegistry()
        self.registry.register(Collector(observed))
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        GCCollector(registry=self.registry)

    def render(self, accept: str) -> tuple[bytes, str]:
        """Return the text and its content type, in the format that the `Accept` header asks for."""
        try:
            encode, content_type = choose_encoder(accept)
        except (TypeError, ValueError):  # a version that is no version
            encode, content_type = generate_latest, CONTENT_TYPE_PLAIN_0_0_4
        return encode(self.registry), content_type
