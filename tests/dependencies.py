"""What the recorder is run with: `make sbom` writes build/sbom.cdx.json, in CycloneDX, and docs/dependencies.md from it.

The packages are those of container/requirements.txt that the program imports, with the sinks for ZMQ, NATS and Kafka, as
the image can have them and the Debian package has them; what only builds it is left out.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import venv
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from packaging.utils import canonicalize_name

ROOT: Final = Path(__file__).parents[1]
PAGE: Final = ROOT / "docs" / "dependencies.md"
ACCEPTED: Final = frozenset(
    {"Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "ISC", "MIT", "MPL-2.0", "PSF-2.0", "Python-2.0"}
)
"""Licences under which the recorder may be handed on with what it needs, by their SPDX names.

All but MPL-2.0 ask for their text to be kept, which each package does. MPL-2.0 asks for the source of its own files, too,
which the package index has.
"""
NAMED_OTHERWISE: Final = {
    "Apache Software License": "Apache-2.0",
    "BSD License": "BSD-3-Clause",
    "MIT License": "MIT",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
}
"""What packages without an SPDX name call their licence."""
_ENTRY: Final = re.compile(r"^(\S+)==(\S+) .*\n(?: .*\n)*", re.MULTILINE)
_HEAD: Final = """\
# Dependencies

<!-- Written by `make sbom`. -->

What the recorder imports, with the sinks for ZMQ, NATS and Kafka, in the versions that the image and the Debian package
are made of (`container/requirements.txt`), and under which licence each stands. Each package brings the text of its
licence, in the `*.dist-info` folder beside it. The recorder itself is under the [MIT licence](../LICENSE); its live page
contains uPlot ([MIT](../recorder/ops/page/uPlot.LICENSE)).

`make sbom` writes the same as a software bill of materials in CycloneDX, `build/sbom.cdx.json`, for programs that look for
known weaknesses. It fails where a package comes under a licence that has not been accepted (`tests/dependencies.py`).

| package | version | licence |
|---|---|---|
"""


def locked() -> dict[str, tuple[str, str]]:
    """Return version and whole entry of each package that the lock file has and the program imports."""
    text = (ROOT / "container" / "requirements.txt").read_text(encoding="utf-8")
    entries = {found[1]: (found[2], found[0]) for found in _ENTRY.finditer(text)}
    wanted_by = {
        name: set(re.findall(r"# +(?:via )?([\w-]+)", entry)) for name, (_, entry) in entries.items()
    }
    imported = {"polygon-recorder"}
    while more := {name for name, by in wanted_by.items() if by & imported} - imported:
        imported |= more
    return {name: entry for name, entry in entries.items() if name in imported}


def licence_of(component: Mapping[str, Any]) -> str:
    """Return the licence of a component as an SPDX expression. Raise ValueError for one that is not accepted."""
    named = [
        one["expression"] if "expression" in one else one["license"].get("id") or one["license"]["name"]
        for one in component.get("licenses", ())
    ]
    words = {name.rpartition(" :: ")[2] for name in named}
    spdx = sorted({NAMED_OTHERWISE.get(name, name) for name in words})
    parts = {part for name in spdx for part in re.split(r" AND | OR |[()]", name)} - {""}
    if not parts or not parts <= ACCEPTED:
        raise ValueError(
            f"{component['name']} {component['version']} is under {', '.join(spdx) or 'no licence'}: whether it may be"
            " handed on with the recorder is for a person to decide, in tests/dependencies.py"
        )
    return ", ".join(spdx)


def render_markdown(bill: Mapping[str, Any]) -> str:
    """Return the text of docs/dependencies.md, from a bill of materials in CycloneDX."""
    rows = sorted(
        (canonicalize_name(part["name"]), part["version"], licence_of(part)) for part in bill["components"]
    )
    return _HEAD + "".join(f"| {name} | {version} | {licence} |\n" for name, version, licence in rows)


def make_bill(folder: Path, target: Path) -> None:
    """Install what the lock file has for the program, in `folder`, and nothing else; write the bill of it to `target`."""
    environment = folder / "environment"
    venv.create(environment, clear=True)
    requirements = folder / "requirements.txt"
    requirements.write_text("".join(entry for _, entry in locked().values()), encoding="utf-8")
    options = (
        "--quiet",
        "--disable-pip-version-check",
        "--require-hashes",
        "--no-deps",
        "--only-binary",
        ":all:",
    )
    python = str(environment / "bin" / "python")
    call = (
        sys.executable,
        "-m",
        "pip",
        "--python",
        python,
        "install",
        *options,
        "--requirement",
        str(requirements),
    )
    subprocess.run(call, check=True)
    maker = (
        str(Path(sys.executable).with_name("cyclonedx-py")),
        "environment",
        "--pyproject",
        "pyproject.toml",
    )
    options = ("--output-reproducible", "--output-format", "JSON", "--output-file", str(target))
    subprocess.run([*maker, *options, python], cwd=ROOT, check=True)


def main() -> None:
    """Write the bill and the page."""
    target = ROOT / "build" / "sbom.cdx.json"
    folder = ROOT / "build" / "sbom"
    folder.mkdir(parents=True, exist_ok=True)
    make_bill(folder, target)
    PAGE.write_text(render_markdown(json.loads(target.read_bytes())), encoding="utf-8")
    sys.stdout.write(f"{target.relative_to(ROOT)} and {PAGE.relative_to(ROOT)} are written\n")


if __name__ == "__main__":
    main()
