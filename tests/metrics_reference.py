"""The text of docs/metrics.md, made from the table of metrics."""

from __future__ import annotations

from typing import Final

from recorder.ledger import CHANNELS_MAX, OTHER
from recorder.ops.metrics_table import METRICS
from recorder.ops.scrape import NO_CHANNEL

_HEAD: Final = f"""# Metrics

What `/metrics` on `METRICS_ADDR` serves: the Prometheus text format, or OpenMetrics where the request asks
for it. The parts keep plain integers, which are read at each scrape. This file is made by `make docs` from what the
parts declare; see `recorder/stats.py`.

- `feed` is the cluster.
- `channel` is the event's `ev` code; `{NO_CHANNEL}` is what could not be read, `{OTHER}` are codes that
  are no plain word or come after the first {CHANNELS_MAX}.
- `state` is `received`, `recorded`, `filtered`, `sampled_out`, `rejected`, `dropped` or `pending`.
- `port` is `firehose`, `filtered` or `bars`: the server that clients connect to.
- What has the label `sink` has a sample for each sink that runs; the archive's metrics exist only where
  files are written, those of servers and bars where these are served.

Beside them stand the usual `process_*`, `python_gc_*` and `python_info` of prometheus_client.
"""


def render_markdown() -> str:
    """Return the text of docs/metrics.md."""
    parts = [_HEAD]
    for title, definitions in METRICS.items():
        rows = "\n".join(
            f"| `{definition.name}` | {definition.kind} "
            f"| {' '.join(f'`{label}`' for label in definition.labels)} | {definition.help} |"
            for definition in definitions
        )
        parts.append(f"## {title}\n\n| metric | type | labels | meaning |\n|---|---|---|---|\n{rows}\n")
    return "\n".join(parts)
