"""The rules that decide which clients may connect and stay; others take their place while clients are connected."""

from __future__ import annotations

from dataclasses import dataclass

from recorder.access_log.book import AccessBook
from recorder.clock import Clock
from recorder.servers.admission import Admission, OwnAdmission
from recorder.servers.tls import Pem, Tls
from recorder.servers.tokens import Guard, Tokens
from recorder.settings import ServersSettings


@dataclass(frozen=True, slots=True)
class Rules:
    """All that a running server can be given anew: tokens, certificate, and of the settings limits, origins and hosts."""

    tokens: Tokens
    servers: ServersSettings
    pem: Pem | None

    @classmethod
    def read(cls, servers: ServersSettings, api_key: str) -> Rules:
        """Return the rules of the settings, with what their files hold. Raise ConfigError where a file cannot be used."""
        pem = Pem.read(servers.tls_cert_file, servers.tls_key_file)
        return cls(Tokens.from_settings(servers, api_key), servers, pem)


class Access:
    """The rules that are in use, the delay of wrong guesses, how many clients there are, and the book of who is let in."""

    def __init__(
        self, rules: Rules, guard: Guard, admission: Admission, book: AccessBook | None = None
    ) -> None:
        """`book` is None where no access log is written. Raise ConfigError where the certificate cannot be used."""
        self.rules = rules
        self.guard = guard
        self.admission = admission
        self.book = book
        self.tls = Tls(rules.pem)

    @classmethod
    def of_this_process(cls, rules: Rules, clock: Clock, book: AccessBook | None = None) -> Access:
        """Return the access to ports that no other process serves."""
        return cls(rules, Guard(clock), OwnAdmission(rules.servers.limits), book)

    def change(self, rules: Rules) -> None:
        """Use other rules from now on. Raise ConfigError, and keep the former, if the certificate cannot be used."""
        self.tls.change(rules.pem)
        self.admission.change(rules.servers.limits)
        self.rules = rules

    def __repr__(self) -> str:
        return f"Access({self.rules.tokens!r}, {self.tls!r})"
