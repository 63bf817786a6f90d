"""The text of `docs/status.md`, made from the schema of the snapshot."""

from __future__ import annotations

from typing import Any, Final

import msgspec
from release import VERSION

from recorder.ops.live import FOLLOWERS_MAX, READ_SECS, RETRY_MS
from recorder.ops.rates import HISTORY_SECS
from recorder.ops.status_schema import History, Snapshot
from recorder.ops.symbols import WATCH_SECS

_HEAD: Final = f"""# Status

What `/status` on `METRICS_ADDR` answers, as JSON, and what the [live page](operations.md#the-live-page) and
`recorder top` show. This file is made from its schema by `make docs`; `recorder schema status` prints the JSON Schema.
A field may be added at any time; `schema_version` rises when one goes or means something else. Counts begin at the
start of the process.

`/events` sends the same as server-sent events, once a second:

```text
{{events_sample}}
```

- `snapshot` has what `/status` has, on one line, each second, which is also the heartbeat. It is built once for all
  followers, and only while there are any. A follower that is slow misses some, and gets the newest; one that takes
  nothing for {READ_SECS:.0f} s is cut.
- `history` comes once, first: the rates of the last {HISTORY_SECS} seconds by cluster ([below](#history)).
- A stream cannot be resumed: a request with `Last-Event-ID` gets the present. `retry` asks for {RETRY_MS / 1000:.0f} s
  before a new attempt.
- `/events?symbols` and `/status?find=AAP` show symbols, too: those with most events, and those whose name contains the
  text, in whatever case. Symbols are followed while somebody looks and for {WATCH_SECS:.0f} s after; the first answer
  may be empty. Nothing is followed, and no event is looked at for it, while nobody does.
- {FOLLOWERS_MAX} may follow at once; one more gets 503, and can ask `/status`.
"""
_SAMPLE: Final = f"""retry: {RETRY_MS}
event: history
data: {{"at":1795237802000,"feeds":{{"stocks":{{"frames":[52.0],"events":[4987.0],"bytes":[630000.0]}}}}}}

id: 21ba01be-6e38-40ee-aa5a-dbf89b79a18d:1
event: snapshot
data: {{"schema_version":1,"version":"{VERSION}",…}}
"""


def render_markdown() -> str:
    """Return the text of docs/status.md."""
    parts = [_HEAD.replace("{events_sample}", _SAMPLE.rstrip())]
    for kind in (Snapshot, History):
        schema = msgspec.json.schema(kind)
        definitions: dict[str, Any] = schema["$defs"]
        parts.extend(_section(name, definitions[name]) for name in _in_order(kind.__name__, definitions))
    return "\n".join(parts)


def _in_order(name: str, definitions: dict[str, Any]) -> list[str]:
    """Return a definition's name and those of what it is made of, as they come."""
    found = {name: None}
    for field in definitions[name]["properties"].values():
        for inner in _references(field):
            found.update(dict.fromkeys(_in_order(inner, definitions)))
    return list(found)


def _section(name: str, definition: dict[str, Any]) -> str:
    rows = [
        f"| `{field}` | {_kind(about)} | {_unit(about)} | {about['description']} |"
        for field, about in definition["properties"].items()
    ]
    table = "\n".join(["| field | type | unit | meaning |", "|---|---|---|---|", *rows])
    return f"## {name}\n\n{definition['description']}\n\n{table}\n"


def _references(about: dict[str, Any]) -> list[str]:
    inner = [about, *about.get("anyOf", []), about.get("items", {}), about.get("additionalProperties", {})]
    return [part["$ref"].rpartition("/")[2] for part in inner if "$ref" in part]


def _unit(about: dict[str, Any]) -> str:
    inner = [about, *about.get("anyOf", [])]
    return str(next((part["unit"] for part in inner if "unit" in part), ""))


def _kind(about: dict[str, Any]) -> str:
    if "anyOf" in about:
        return " or ".join(map(_kind, about["anyOf"]))
    if "$ref" in about:
        name = about["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    match about["type"]:
        case "array":
            return f"list of {_kind(about['items'])}"
        case "object":
            return f"object of {_kind(about['additionalProperties'])}"
        case kind:
            return str(kind)
