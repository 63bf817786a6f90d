"""HEALTHCHECK of the image: does /health of METRICS_ADDR answer 200? Standard library only, so that it costs little."""

from __future__ import annotations

import http.client
import os
import sys

DEFAULT_ADDRESS = "127.0.0.1:9898"
TIMEOUT_SECS = 4
"""Less than the image's HEALTHCHECK gives, so that the reason is told."""
_EVERY_INTERFACE = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - nothing is bound here


def reach(address: str) -> tuple[str, int]:
    """Return the host and port at which the server of METRICS_ADDR is reached from inside the container."""
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    return _EVERY_INTERFACE.get(host, host), int(port)


def main() -> None:
    """Exit 0 if it works, or there is nothing to ask; 1 with the reason if not."""
    address = os.environ.get("METRICS_ADDR", DEFAULT_ADDRESS).strip()
    if not address:
        return  # no server is wanted, so there is nobody who could say that all is not well
    try:
        connection = http.client.HTTPConnection(*reach(address), timeout=TIMEOUT_SECS)
        connection.request("GET", "/health")
        status = connection.getresponse().status
    except (OSError, ValueError, http.client.HTTPException) as error:
        sys.exit(f"{address}: {error}")
    if status != http.HTTPStatus.OK:
        sys.exit(f"{address}: /health answers {status}")


if __name__ == "__main__":
    main()
