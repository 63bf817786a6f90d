"""From events to the bytes that clients get: framed once, written to each client of an audience as they are."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from recorder import frames
from recorder.polygon.rows import array_of
from recorder.servers.client import Client
from recorder.servers.stats import ServerStats


def deliver(clients: Iterable[Client], fragments: Sequence[bytes], stats: ServerStats) -> None:
    """Send events, given as fragments, to clients: one array, or several where it would be too large."""
    deliver_payloads(clients, arrays(fragments), len(fragments), stats)


def deliver_payloads(
    clients: Iterable[Client],
    payloads: Sequence[bytes],
    events_count: int,
    stats: ServerStats,
    wire: bytes = b"",
) -> None:
    """Send whole frames to clients, in one write each; deflated, once for all, to those that agreed on it.

    `wire` is all of the frames as they are sent undeflated, where somebody has that already. A client to which this is
    not possible is disconnected, alone.
    """
    plain = wire
    deflated: dict[int, bytes] = {}
    served = 0
    size = 0
    for client in clients:
        try:
            bits = client.window_bits
            if bits:
                data = deflated.get(bits, b"")
                if not data:
                    data = deflated[bits] = b"".join(
                        [frames.compressed_frame(payload, bits) for payload in payloads]
                    )
            else:
                if not plain:
                    plain = b"".join(
                        [part for payload in payloads for part in (frames.header(len(payload)), payload)]
                    )
                data = plain
            if not client.write(data, events_count):
                continue
        except Exception as error:  # the defect of one connection must not cost the others their events
            client.fail(error)
            continue
        served += 1
        size += len(data)
    stats.events_delivered += served * events_count
    stats.frames_delivered += served * len(payloads)
    stats.bytes_delivered += size


def joined(plain_frames: Sequence[bytes]) -> list[bytes]:
    """Return the array of all events of arrays without white space; nothing if there are none, or it would be too large."""
    inner = [frame[1:-1] for frame in plain_frames if len(frame) > 2]
    if not inner or sum(map(len, inner)) + len(inner) + 1 > frames.PAYLOAD_BYTES_MAX:
        return []
    inner[0] = b"[" + inner[0]
    inner[-1] += b"]"
    return [b",".join(inner)]


def arrays(fragments: Sequence[bytes]) -> list[bytes]:
    """Return JSON arrays of objects, given as fragments (`rows.fragment_of`), in order, each small enough for every client.

    An object that is too large by itself is an array of its own all the same: nothing is left out.
    """
    everything = array_of(fragments)
    if len(everything) <= frames.PAYLOAD_BYTES_MAX:
        return [everything]
    found: list[bytes] = []
    part: list[bytes] = []
    size = 1
    for fragment in fragments:
        if part and size + len(fragment) + 1 > frames.PAYLOAD_BYTES_MAX:
            found.append(array_of(part))
            part, size = [], 1
        part.append(fragment)
        size += len(fragment) + 1
    return [*found, array_of(part)]
