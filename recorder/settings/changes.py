"""What a running recorder takes of settings that were read again, and what waits for a restart."""

from __future__ import annotations

from typing import Final

from recorder.errors import ConfigError
from recorder.settings.model import VARIABLES, Settings
from recorder.settings.option import options_of
from recorder.settings.relations import contradictions
from recorder.settings.sections import ClientLimits

_FIELDS: Final = {
    "AUTH_TOKENS": "tokens",
    "AUTH_TOKENS_FILE": "tokens_file",
    "TLS_CERT_FILE": "tls_cert_file",
    "TLS_KEY_FILE": "tls_key_file",
    "ALLOWED_ORIGINS": "allowed_origins",
    "ALLOWED_HOSTS": "allowed_hosts",
    **{declared.variable: "limits" for declared in options_of(ClientLimits)},
}
"""Variable to the field of the servers' section that it sets."""
_KEYS: Final = ("POLYGON_API_KEY", "POLYGON_API_KEY_FILE")
RELOADED: Final = frozenset((*_FIELDS, *_KEYS))
"""The variables that need no restart. TLS as such does: a port cannot be `ws` now and `wss` then."""


def merged(old: Settings, new: Settings) -> Settings:
    """Return the old settings with what a running recorder takes of the new ones.

    Where the new ones have no key, the old one stays. Raise ConfigError where the old and the new contradict each other.
    """
    fields = set(_FIELDS.values())
    taken = set(RELOADED)
    if (old.servers.tls_cert_file is None) is not (new.servers.tls_cert_file is None):
        fields -= {"tls_cert_file", "tls_key_file"}
        taken -= {"TLS_CERT_FILE", "TLS_KEY_FILE"}
    servers = old.servers.model_copy(update={field: getattr(new.servers, field) for field in fields})
    made = old.model_copy(
        update={
            "servers": servers,
            "api_key": "",
            "api_key_file": new.api_key_file,
            "effective": {name: (new if name in taken else old)[name] for name in VARIABLES},
            "given": frozenset(name for name in VARIABLES if (new if name in taken else old).is_set(name)),
        }
    )
    problems = [f"{found.variables[0]}: {found.words}" for found in contradictions(made)]
    if problems:
        raise ConfigError("\n".join(problems))
    key = new.api_key or old.api_key
    return made.model_copy(update={"api_key": key, "effective": {**made.effective, "POLYGON_API_KEY": key}})


def differing(old: Settings, new: Settings) -> list[str]:
    """Return the variables that have not the same value."""
    names = [name for name in VARIABLES if old[name] != new[name]]
    if not (new.clusters or old.is_set("POLYGON_CLUSTER")):
        # Nobody names the clusters: the old ones are what the firehose offered at the start.
        names = [name for name in names if name != "POLYGON_CLUSTER"]
    return names
