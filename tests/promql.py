"""PURE. What queries of Prometheus name: metrics, and the labels that each selector asks for."""

from __future__ import annotations

import re
from typing import Final

from ops_parts import observe

from recorder.ops.metrics import Exposition
from recorder.ops.metrics_table import METRICS

_WORDS: Final = frozenset({"and", "or", "unless", "offset", "bool"})
_NAME: Final = r"[a-zA-Z_:][\w:]*"


def metrics_of(query: str) -> set[str]:
    """Return the names of the metrics in a query."""
    text = re.sub(r'"[^"]*"', '""', query)
    text = re.sub(r"\{[^}]*\}|\[[^]]*\]", " ", text)
    text = re.sub(r"\b(by|without|on|ignoring|group_left|group_right)\s*\([^)]*\)", " ", text)
    text = re.sub(r"\boffset\s+\w+|\b\d[\w.]*", " ", text)
    return set(re.findall(rf"\b({_NAME})\b(?!\s*\()", text)) - _WORDS


def selectors_of(query: str) -> list[tuple[str, str]]:
    """Return each metric of a query with what is in its braces."""
    return re.findall(rf"\b({_NAME})\{{([^}}]*)\}}", query)


def known_metrics() -> set[str]:
    """Return the names of all series that a recorder can have, and `up`, which Prometheus adds."""
    found = {"up"}
    for definition in (one for group in METRICS.values() for one in group):
        suffixes = ("_bucket", "_sum", "_count") if definition.kind == "histogram" else ("",)
        found |= {definition.name + suffix for suffix in suffixes}
    text = Exposition(observe("stocks")).render("")[0].decode()
    return found | set(re.findall(r"^((?:process|python)_\w+)", text, re.MULTILINE))
