"""The build hook: native code where it can be compiled, a pure wheel and a reason where it cannot, an error on demand."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path
from typing import Final

import pytest
from checkouts import clone_into
from tools import tool

EXTENSION: Final = f"recorder/_native{sysconfig.get_config_var('EXT_SUFFIX')}"
WINDOWS: Final = f"recorder/bars/_windows{sysconfig.get_config_var('EXT_SUFFIX')}"
NO_COMPILER: Final = "there is no C compiler: /nowhere/cc (Debian: gcc libc6-dev)"


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A checkout without anything that was built."""
    folder = tmp_path / "clone"
    clone_into(folder)
    return folder


def build(clone: Path, target: str = "wheel", status: int = 0, **variables: str) -> str:
    """Build as pip does; return what is printed."""
    environment = {name: value for name, value in os.environ.items() if name not in {"CC", "RECORDER_NATIVE"}}
    result = subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "--target", target],
        cwd=clone,
        env={**environment, **variables},
        capture_output=True,
        text=True,
        timeout=100,
    )
    output = result.stdout + result.stderr
    assert result.returncode == status, output
    return output


def wheel_of(clone: Path) -> tuple[str, list[str]]:
    """Return the tag of the wheel that was built, and what it holds."""
    [path] = (clone / "dist").glob("*.whl")
    with zipfile.ZipFile(path) as wheel:
        return path.stem.split("-", 2)[2], wheel.namelist()


def test_with_a_compiler_the_wheel_has_the_extension(clone: Path) -> None:
    """It is bound to this Python and this kind of machine, and the extension in it works. Its README links as told."""
    tool("cc")
    build(clone, RECORDER_NATIVE="yes", README_BASE_URL="https://forge.example/o/r/blob/v1")
    tag, names = wheel_of(clone)
    assert tag.startswith(f"cp{sys.version_info.major}{sys.version_info.minor}-")
    assert {EXTENSION, "recorder/_native.pyi", WINDOWS, "recorder/bars/windows.py"} <= set(names)
    unpacked = clone / "unpacked"
    shutil.unpack_archive(next((clone / "dist").glob("*.whl")), unpacked, "zip")
    described = next(unpacked.glob("*.dist-info/METADATA")).read_text(encoding="utf-8")
    assert "\nProject-URL: Changelog, https://forge.example/o/r/blob/v1/CHANGELOG.md\n" in described
    assert "](https://forge.example/o/r/raw/v1/docs/images/page-light.png)" in described
    code = "from recorder import _native; print(_native.__file__, _native.index(b'\\x81\\x00', 9))"
    done = subprocess.run(
        [sys.executable, "-I", "-c", f"import sys; sys.path.insert(0, {str(unpacked)!r}); {code}"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == f"{unpacked / EXTENSION} (2, 0, 1, 0, 0)"
    code = "from recorder.bars.kinds import PYTHON, compiled; print(compiled().windows is not PYTHON.windows)"
    done = subprocess.run(
        [sys.executable, "-I", "-c", f"import sys; sys.path.insert(0, {str(unpacked)!r}); {code}"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "True"


@pytest.fixture
def without_mypyc(clone: Path) -> dict[str, str]:
    """The variables of a build that has no mypyc, and is quick for that."""
    (clone / "mypyc").mkdir()
    (clone / "mypyc" / "__init__.py").write_text("raise ImportError('not here')\n")
    return {"PYTHONPATH": "."}


def test_windows_are_not_compiled_without_mypyc(clone: Path, without_mypyc: dict[str, str]) -> None:
    """The wheel goes without them, and says what to install; all else is compiled."""
    tool("cc")
    output = build(clone, **without_mypyc)
    assert (
        "goes without recorder/bars/_windows, hence slower: mypyc cannot be imported: not here"
        in " ".join(output.split())
    )
    _, names = wheel_of(clone)
    assert EXTENSION in names
    assert WINDOWS not in names


def test_a_build_asks_for_mypyc_where_it_can_compile(clone: Path) -> None:
    """A machine without a compiler downloads nothing for it, nor does one on which native code is not wanted."""
    tool("cc")
    code = "from hatchling.build import get_requires_for_build_wheel as needed; print(needed())"
    for variables, is_asked in (
        ({}, True),
        ({"CC": "/nowhere/cc"}, False),
        ({"RECORDER_NATIVE": "no"}, False),
    ):
        environment = {
            name: value for name, value in os.environ.items() if name not in {"CC", "RECORDER_NATIVE"}
        }
        done = subprocess.run(
            [sys.executable, "-c", code],
            cwd=clone,
            env={**environment, **variables},
            capture_output=True,
            text=True,
            check=True,
        )
        assert ("mypy" in done.stdout) is is_asked


def test_an_editable_install_has_it_beside_the_modules(clone: Path, without_mypyc: dict[str, str]) -> None:
    """Where an import from the checkout finds it."""
    tool("cc")
    build(clone, target="wheel:editable", **without_mypyc)
    assert (clone / EXTENSION).is_file()


def test_without_a_compiler_the_wheel_is_pure_and_says_why(clone: Path) -> None:
    """Also where an earlier build left an extension: it would be of other sources."""
    (clone / EXTENSION).write_bytes(b"of an earlier build")
    output = build(clone, CC="/nowhere/cc")
    assert NO_COMPILER in " ".join(output.split())
    tag, names = wheel_of(clone)
    assert tag == "py3-none-any"
    assert not [name for name in names if name.endswith(".so")]


def test_no_means_no(clone: Path) -> None:
    """Nothing is compiled, nothing is said of it."""
    output = build(clone, RECORDER_NATIVE="no")
    assert "slower" not in output
    assert wheel_of(clone)[0] == "py3-none-any"
    assert not list((clone / "recorder").glob("*.so"))


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        (
            {"RECORDER_NATIVE": "yes", "CC": "/nowhere/cc"},
            f"RECORDER_NATIVE=yes, and recorder/_native cannot be compiled: {NO_COMPILER}",
        ),
        ({"RECORDER_NATIVE": "maybe"}, "RECORDER_NATIVE=maybe is neither no nor yes"),
    ],
    ids=["no compiler", "odd wish"],
)
def test_what_cannot_be_built_as_wished_is_an_error(
    clone: Path, variables: dict[str, str], words: str
) -> None:
    """The build fails, says which and why, and leaves no wheel."""
    assert words in " ".join(build(clone, status=1, **variables).split())
    assert not list(clone.glob("dist/*.whl"))


def test_sources_that_do_not_compile_are_named(clone: Path, without_mypyc: dict[str, str]) -> None:
    """The compiler's own error is in the reason."""
    tool("cc")
    (clone / "native/module.c").write_text("#error not this one\n")
    output = " ".join(build(clone, **without_mypyc).split())
    assert "native/module.c does not compile:" in output
    assert "not this one" in output


def test_the_sdist_has_the_sources(clone: Path) -> None:
    """And the hook, so that a wheel can be built from it; nothing that was compiled here."""
    (clone / EXTENSION).write_bytes(b"of an earlier build")
    build(clone, target="sdist")
    [path] = (clone / "dist").glob("*.tar.gz")
    with tarfile.open(path) as sdist:
        names = {name.partition("/")[2] for name in sdist.getnames()}
    assert {
        "hatch_build.py",
        "native/module.c",
        "native/records.h",
        "native/scan.h",
        "recorder/_native.pyi",
    } <= names
    assert EXTENSION not in names
