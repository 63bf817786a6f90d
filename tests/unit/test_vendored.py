"""uPlot, as it lies in the page's folder, is what its authors published."""

from __future__ import annotations

import base64
import hashlib
import tarfile
from pathlib import Path

import pytest
from client.programs import make_installation, run_installer
from tools import tool

PAGE = Path(__file__).parents[2] / "recorder" / "ops" / "page"
VERSION = "1.6.32"
INTEGRITY = "sha512-KIMVnG68zvu5XXUbC4LQEPnhwOxBuLyW1AHtpm6IKTXImkbLgkMy+jabjLgSLMasNuGGzQm/ep3tOkyTxpiQIw=="
"""Of the package, as the npm registry states it."""
FILES = {
    "uPlot.iife.min.js": (
        "package/dist/uPlot.iife.min.js",
        "19c8d4c6ad88929a79f4ae49d6f7161566dfd0ba3d15cc495e974f787eb78f1f",
    ),
    "uPlot.min.css": (
        "package/dist/uPlot.min.css",
        "df630c6a8d6f8eeaff264b50f73ce5b114f646ffd9a0bb74f049b0a00135fa04",
    ),
    "uPlot.LICENSE": (
        "package/LICENSE",
        "8f989229699b4fe2f1a0432d0e9edc338a8a911e250e2d1b01ecd770a5f5b1bd",
    ),
}
"""Name here to name in the package, and the SHA-256 of both."""


@pytest.mark.parametrize("name", FILES)
def test_the_files_are_those_of_the_version(name: str) -> None:
    """No byte differs from what was taken out of the package; the page names the version."""
    assert hashlib.sha256((PAGE / name).read_bytes()).hexdigest() == FILES[name][1]
    assert f"uPlot {VERSION}" in (PAGE / "index.html").read_text()
    assert f"(v{VERSION})" in (PAGE / "uPlot.iife.min.js").read_text()[:100]
    assert "MIT License" in (PAGE / "uPlot.LICENSE").read_text()


def test_the_checksums_are_those_of_the_package(pytestconfig: pytest.Config) -> None:
    """The package that npm gives has the stated integrity, and these very files in it."""
    npm = tool("npm")

    def install(folder: Path) -> None:
        run_installer(npm, "pack", f"uplot@{VERSION}", "--silent", cwd=folder)

    folder = make_installation(pytestconfig).folder("uplot", [Path(__file__)], install)
    archive = folder / f"uplot-{VERSION}.tgz"
    digest = hashlib.sha512(archive.read_bytes()).digest()
    assert f"sha512-{base64.b64encode(digest).decode()}" == INTEGRITY
    with tarfile.open(archive) as package:
        for name, (path, _) in FILES.items():
            member = package.extractfile(path)
            assert member is not None
            assert member.read() == (PAGE / name).read_bytes()
