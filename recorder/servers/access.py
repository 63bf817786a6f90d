"""The rules that decide whether a client may stay."""

from __future__ import annotations

from dataclasses import dataclass

from recorder.clock import Clock
from recorder.servers.admission import Admission, OwnAdmission
from recorder.servers.tokens import Guard, Tokens
from recorder.settings import ClientLimits


@dataclass(frozen=True, slots=True)
class Access:
    """The tokens that are good, the delay of wrong guesses, and how many clients there may be."""

    tokens: Tokens
    guard: Guard
    admission: Admission

    @classmethod
    def of_this_process(cls, tokens: Tokens, limits: ClientLimits, clock: Clock) -> Access:
        """Return the access to ports that no other process serves."""
        return cls(tokens, Guard(clock), OwnAdmission(limits))
