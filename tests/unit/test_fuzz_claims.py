"""The claims of `make fuzz`, over its seeds and small changes of them: a short form that needs no fuzzer."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fuzz.claims import CLAIMS, seeds_of


@st.composite
def changed_seeds(draw: st.DrawFn, claim: str) -> bytes:
    """A seed of which some parts are cut out, doubled, or replaced."""
    data = draw(st.sampled_from(list(seeds_of(claim))))
    for _ in range(draw(st.integers(0, 4))):
        begin = draw(st.integers(0, len(data)))
        end = draw(st.integers(begin, min(len(data), begin + 12)))
        part = draw(
            st.binary(max_size=4) | st.sampled_from([b"", b'"', b"{", b"}", b"[", b"]", b",", b"\\", b"\n"])
        )
        data = data[:begin] + part + data[end if draw(st.booleans()) else begin :]
    return data


@pytest.mark.parametrize("claim", CLAIMS)
def test_the_claims_stand_on_changed_seeds(claim: str) -> None:
    """No change of a good frame, request or file makes the code raise or say what is not so."""
    if claim in ("scanning", "cutting"):
        pytest.importorskip("recorder._native", reason="native code was not built")

    @settings(max_examples=200, deadline=None)
    @given(changed_seeds(claim))
    def stands(data: bytes) -> None:
        CLAIMS[claim](data)

    for seed in seeds_of(claim):
        CLAIMS[claim](seed)
    stands()


def test_the_claims_can_fall(monkeypatch: pytest.MonkeyPatch) -> None:
    """A decoder that loses an event is found."""
    monkeypatch.setattr("recorder.polygon.events.Decoder._add", lambda self, headers, events: None)
    with pytest.raises(AssertionError):
        CLAIMS["decoding"](next(seeds_of("decoding")))
