"""Certificates that nobody vouches for, as openssl makes them."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tools import tool


def self_signed(folder: Path, name: str, days: int = 30) -> tuple[Path, Path]:
    """Make a certificate of localhost that is valid for `days`, and its key; return both files."""
    certificate, key = folder / f"{name}.pem", folder / f"{name}.key"
    subprocess.run(
        [
            *(tool("openssl"), "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"),
            *("-days", str(days), "-nodes", "-subj", "/CN=localhost"),
            *("-keyout", str(key), "-out", str(certificate)),
        ],
        check=True,
        capture_output=True,
    )
    return certificate, key
