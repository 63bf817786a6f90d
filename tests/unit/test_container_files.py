"""What the image is made of fits the project: the lock file, the Python, the health check."""

from __future__ import annotations

import re
import runpy
import tomllib
from pathlib import Path
from typing import Final

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT: Final = Path(__file__).parents[2]
PROJECT: Final = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
LOCK: Final = (ROOT / "container" / "requirements.txt").read_text(encoding="utf-8")
DOCKERFILE: Final = (ROOT / "Dockerfile").read_text(encoding="utf-8")


def locked() -> dict[str, str]:
    """Return the version of each package of the lock file."""
    return {
        canonicalize_name(name): version
        for name, version in re.findall(r"^(\S+?)==(\S+)", LOCK, re.MULTILINE)
    }


def needed() -> list[Requirement]:
    """Return what the project requires: to run, with the extras that the image offers, and to be built."""
    project = PROJECT["project"]
    offered = re.findall(r"package='\.\[(\w+)\]'", DOCKERFILE)
    extras = [text for name in offered for text in project["optional-dependencies"][name]]
    return [
        Requirement(text)
        for text in [*project["dependencies"], *extras, *PROJECT["build-system"]["requires"]]
    ]


@pytest.mark.parametrize("requirement", needed(), ids=str)
def test_the_lock_has_what_the_project_needs(requirement: Requirement) -> None:
    """In a version that is allowed; after a change of pyproject.toml run `make lock`."""
    assert requirement.specifier.contains(locked()[canonicalize_name(requirement.name)])


def test_every_package_is_locked_by_hash() -> None:
    """No line names a package without a hash, and none says where packages come from."""
    entries = re.split(r"\n(?=\S)", LOCK.partition("make lock\n")[2].strip())
    assert len(entries) == len(locked())
    assert all("--hash=sha256:" in entry for entry in entries)
    assert "://" not in LOCK
    assert "--index" not in LOCK


def test_what_was_compiled_here_is_not_in_the_image() -> None:
    """It may be of another Python; the build hook compiles there what the image needs."""
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert ignored.index("!recorder") < ignored.index("**/*.so")
    copied = set(re.findall(r"^COPY (?!--)(.+) \S+$", DOCKERFILE, re.MULTILINE))
    needed = {name.partition("/")[0] for names in copied for name in names.split()}
    assert needed >= {"hatch_build.py", "man", "native"}
    assert {f"!{name}" for name in needed} <= set(ignored)


def test_one_python_is_meant_everywhere() -> None:
    """The image's Python is the one that the packages are locked for, and one that the project allows."""
    [image] = re.findall(r"^ARG BASE=(?:\S+/)?python:([\d.]+)-slim-bookworm$", DOCKERFILE, re.MULTILINE)
    [lock] = re.findall(r"--python-version ([\d.]+) ", (ROOT / "Makefile").read_text(encoding="utf-8"))
    assert image == lock
    assert Requirement(f"python{PROJECT['project']['requires-python']}").specifier.contains(image)


@pytest.mark.parametrize(
    ("address", "reached"),
    [
        ("127.0.0.1:9898", ("127.0.0.1", 9898)),
        ("0.0.0.0:9899", ("127.0.0.1", 9899)),
        (":9898", ("127.0.0.1", 9898)),
        ("[::1]:9898", ("::1", 9898)),
        ("[::]:9898", ("::1", 9898)),
        ("recorder:9898", ("recorder", 9898)),
    ],
)
def test_the_health_check_knows_where_to_ask(address: str, reached: tuple[str, int]) -> None:
    """Every form of METRICS_ADDR leads to an address that can be connected to from inside."""
    assert runpy.run_path(str(ROOT / "container" / "healthcheck.py"))["reach"](address) == reached
