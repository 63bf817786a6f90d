"""The text of docs/channels.md, made from the tables of channels and clusters."""

from __future__ import annotations

from typing import Final

from recorder.polygon.channels import CHANNELS
from recorder.polygon.clusters import CLUSTERS

_HEAD: Final = """\
# Clusters and channels

<!-- Made from the tables of channels and clusters by `make docs`. -->

A cluster is one upstream endpoint of the vendor. A channel is a kind of data, the `ev` code of its events. A channel
that is not listed here is recorded all the same: under its lower-case code, with symbol and time from the fields `sym`,
`pair` or `T` and `t`, `e` or `s`.
"""


def render_markdown() -> str:
    """Return the text of docs/channels.md."""
    lines = [
        _HEAD,
        "## Clusters",
        "",
        "| cluster | followed by default | channels | symbols begin with | market hours | a `delayed` feed is late by |",
        "|---|---|---|---|---|---|",
    ]
    for cluster in CLUSTERS.values():
        channels = " ".join(f"`{code}`" for code in cluster.channels)
        prefix = f"`{cluster.prefix}`" if cluster.prefix_sent else ""
        late = f"{cluster.delay_secs / 60:g} minutes"
        lines.append(
            f"| {cluster.name} | `{cluster.main.code}.*` | {channels} | {prefix} | {cluster.hours} | {late} |"
        )
    lines += [
        "",
        "## Channels",
        "",
        "| channel | kind | word in file names | symbol | time |",
        "|---|---|---|---|---|",
    ]
    for channel in CHANNELS.values():
        times = " ".join(f"`{field}`" for field in channel.time_fields)
        lines.append(
            f"| `{channel.code}` | {channel.kind} | `{channel.word}` | `{channel.symbol_field}` | {times} |"
        )
    return "\n".join([*lines, ""])
