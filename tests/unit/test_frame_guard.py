"""The rules for clients' frames, and the connections that are pending."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.frames import Frame, Opcode

from recorder.servers import frame_guard
from recorder.servers.frame_guard import FRAGMENTS_MAX, FrameRules, PendingConnections

SIZES = st.sampled_from([0, 1, 125, 126, 127, 300, 65_535, 65_536])


def client_frame(size: int, opcode: Opcode = Opcode.TEXT, *, fin: bool = True, mask: bool = True) -> bytes:
    return Frame(opcode, b"\x01" * size, fin).serialize(mask=mask)


@given(st.lists(SIZES, min_size=1, max_size=6), st.data())
def test_good_frames_pass_however_they_are_cut(sizes: list[int], data: st.DataObject) -> None:
    """Frames of every length are followed through reads that end anywhere; an unmasked one behind them is found."""
    stream = b"".join(map(client_frame, sizes))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    rules = FrameRules()
    for begin, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        assert rules.broken_by(stream[begin:end]) is None
    assert rules.broken_by(client_frame(5, mask=False)) == (
        1002,
        "frames of clients must be masked",
        "protocol_error",
    )


def test_a_message_has_at_most_so_many_fragments() -> None:
    """The last allowed one passes, one more does not; pings in between and new messages do not count."""
    first, more, last = (
        client_frame(1, Opcode.TEXT, fin=False),
        client_frame(0, Opcode.CONT, fin=False),
        client_frame(0, Opcode.CONT),
    )
    ping = client_frame(4, Opcode.PING)
    rules = FrameRules()
    for _ in range(2):
        assert rules.broken_by(first + (more + ping) * (FRAGMENTS_MAX - 2) + last) is None
    assert rules.broken_by(first + more * (FRAGMENTS_MAX - 2)) is None
    assert rules.broken_by(more) == (1008, "a message in too many fragments", "too_many_fragments")


def test_pending_connections_are_counted_by_address(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each address has a number of places of its own; a place is free again once a client leaves."""
    monkeypatch.setattr(frame_guard, "PENDING_PER_ADDRESS_MAX", 2)
    refused: Counter[str] = Counter()
    pending = PendingConnections(refused)
    assert [pending.enter("a") for _ in range(3)] == [True, True, False]
    assert pending.enter("b")
    assert refused == {"address": 1}
    pending.leave("a")
    assert pending.enter("a")
    for address in "aab":
        pending.leave(address)
    assert repr(pending) == "PendingConnections(0)"
