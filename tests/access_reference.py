"""The text of docs/access-log.md, with the fields of a line as the code declares them."""

from __future__ import annotations

from typing import Final

import msgspec

from recorder.access_log.record import SCHEMA_VERSION, AccessRecord

_HEAD: Final = """\
# The access log

<!-- Made from the code by `make docs`; its words are in tests/access_reference.py. -->

Market data is licensed, and whoever passes it on has to say who received what. With `ACCESS_LOG_DEST` the recorder
writes that down: a file of its own, apart from the log of messages and from the archive.

```sh
ACCESS_LOG_DEST=/var/log/recorder/access.jsonl
ACCESS_LOG_RETAIN_SECS=730d   # unset: files are kept
```

The unit of systemd makes `/var/log/recorder`. Every client of the three servers is in the log, also behind
`SERVE_WORKERS`. A recorder of another machine that takes the firehose (`FIREHOSE_URL`) is one client here: it has an
access log of its own for the clients that it serves. Sinks, ZMQ among them, are no clients and are not in it.

## Who received what

```sh
recorder audit /var/log/recorder/access*.jsonl*
recorder audit --day 2026-01-30 --token acme /var/log/recorder/access*.jsonl*
recorder audit --csv /var/log/recorder/access*.jsonl* > january.csv
```

There is a row for each day (UTC) and token: connections, time connected, events, bytes, where from, which topics. The
command reads plain and compressed files in any order, and counts no line twice. It says on standard error what is
missing, and its exit status is 1 then. `--json` and `--csv` have every topic and address; the table has the first.

## What a line says

A client gets a line when its token is accepted, one each `ACCESS_LOG_INTERVAL_SECS`, and one when its connection ends.
Each line counts from where the one before ended, so that sums over lines are sums over time. At midnight (UTC) every line
ends, and the first of the new day names all topics again: the lines of a day say by themselves who received what.
Connections without a good token receive nothing and are not in it; the log of messages has them.
"""
_TAIL: Final = """\

`recorder schema access` prints this as JSON Schema. A version of the schema stays until a field goes or means something
else.

**Tokens** are never in it. A token has the name that `AUTH_TOKENS` or the file gives it (`name:token`), and its
fingerprint, which `printf %s TOKEN | sha256sum` begins with. Give tokens names: `token-3` is only a place in a list.

**Events** are those that were sent, each counted once for every client, as in `polygon_server_events_total`. The firehose
of a recorder that neither records nor filters (`ROLES=firehose,ops`) passes frames on unread: its events are null, and
`bytes` says how much it was.

## How sure it is

- Lines are handed to the operating system at once, so that a kill of the recorder loses what was sent within
  `ACCESS_LOG_INTERVAL_SECS` and no line: the connection has no `left`, which `recorder audit` says. A power cut loses 5 s
  more. A line that was torn by it is one that `recorder audit` names as unreadable.
- A file that cannot be written ends nothing and holds up nobody. Up to 16 MiB of lines wait in memory, the file is tried
  again each second, and `/status`, the live page and the log of messages warn meanwhile. What comes beyond that is
  lost, counted (`polygon_access_log_dropped_total`), and logged as an error. `seq` shows where, and `recorder audit` says
  how many lines.
- At the start, a file that cannot be opened, or that another recorder writes to, ends the recorder with status 78.
- What the recorder has written to a connection counts as sent, whether or not the client has read it.

## Rotation

A new file begins each day (`ACCESS_LOG_ROTATE_SECS`, aligned to UTC) and at `ACCESS_LOG_MAX_BYTES` if that is set. The
file before becomes `access.20260130T000000000Z.jsonl`, stamped with the time of its first line, and is compressed
(`ACCESS_LOG_COMPRESSION`). `ACCESS_LOG_RETAIN_SECS` and `ACCESS_LOG_RETAIN_BYTES` delete the oldest. With workers, lines
of the last moment of a day may stand in the file of the next one: the day of a line is that of `begun`, not of its file.

To use logrotate instead, set `ACCESS_LOG_ROTATE_SECS=0` and reload the recorder (SIGHUP) in `postrotate`. Nothing is lost
without the signal either, because the recorder notices that its file was moved.

With jq, the bytes of each token on one day:

```sh
jq -n '[inputs | select(.begun[:10] == "2026-01-30")] | group_by(.token)[]
       | {token: .[0].token, bytes: (map(.bytes) | add)}' /var/log/recorder/access.jsonl
```
"""


def render_markdown() -> str:
    """Return the text of docs/access-log.md."""
    fields = msgspec.json.schema(AccessRecord)["$defs"]["AccessRecord"]["properties"]
    rows = [f"| `{name}` | {about['description']} |" for name, about in fields.items()]
    version = f"\nA line is a JSON object with these fields, of schema version {SCHEMA_VERSION}:\n"
    return "\n".join([_HEAD + version, "| field | meaning |", "|---|---|", *rows]) + "\n" + _TAIL
