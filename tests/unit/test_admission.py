"""How many clients there may be: each port by itself, each token by itself, and never too few after some have left."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st
from serving import LIMITS

from recorder.servers.admission import OwnAdmission, Places
from recorder.settings import ClientLimits


def limits(clients_max: int, per_token: int | None = None) -> ClientLimits:
    """Return limits."""
    return ClientLimits.model_construct(
        **{**LIMITS, "clients_max": clients_max, "clients_per_token_max": per_token}
    )


def test_each_port_has_as_many_places_as_the_setting_says() -> None:
    """One more is told so; it has to leave like the others, and then there is room again."""
    places = Places(limits(2))
    assert [places.enter("filtered") for _ in range(3)] == [True, True, False]
    assert places.enter("bars")
    places.leave("filtered", "")
    places.leave("filtered", "")
    assert places.enter("filtered")


def test_each_token_has_places_of_its_own() -> None:
    """CLIENTS_PER_TOKEN_MAX counts the token at one port; without it every client is admitted."""
    places = Places(limits(10, per_token=1))
    assert [places.admit("filtered", name) for name in ("me", "you", "me")] == [True, True, False]
    assert places.admit("bars", "me")
    assert all(Places(limits(10)).admit("filtered", "me") for _ in range(20))


@given(st.lists(st.tuples(st.sampled_from(["filtered", "bars"]), st.sampled_from(["", "me", "you"]))))
def test_nothing_is_left_of_who_is_gone(clients: list[tuple[str, str]]) -> None:
    """Whether they leave one by one or with their worker."""
    one_by_one, at_once = Places(limits(1)), Places(limits(1))
    taken: Counter[tuple[str, str]] = Counter()
    for port, name in clients:
        for places in (one_by_one, at_once):
            places.enter(port)
            if name:
                places.admit(port, name)
        taken[port, ""] += 1
        if name:
            taken[port, name] += 1
    for port, name in clients:
        one_by_one.leave(port, name)
    at_once.forget(taken)
    assert not one_by_one.taken
    assert not at_once.taken


async def test_own_clients_are_counted_without_asking_anybody() -> None:
    """With SERVE_WORKERS=0 the answer is there at once."""
    admission = OwnAdmission(limits(1, per_token=1))
    assert await admission.enter("bars")
    assert not await admission.enter("bars")
    assert await admission.admit("bars", "me")
    assert not await admission.admit("bars", "me")
    admission.leave("bars", "me")
    admission.leave("bars", "me")
    assert await admission.enter("bars")
