"""The build hook: compiles what makes the recorder faster, where a C compiler and Python's headers are.

Where they are not, the wheel is pure Python: it does the same, slower. `RECORDER_NATIVE=no` compiles nothing,
`RECORDER_NATIVE=yes` fails the build where something cannot be compiled; unset, the build says what is missing and
goes on. What is compiled stands beside the package's modules, for wheels and editable installs alike.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sysconfig
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NamedTuple

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

WISHES: Final = ("", "no", "yes")
"""What `RECORDER_NATIVE` may be."""


class Artefact(NamedTuple):
    """An extension module that the package can do without."""

    path: str
    """Where it stands in the project, without the suffix that names Python and machine."""
    compile: Callable[[Path, Path], str]
    """Makes the second path from the sources below the first; returns why it could not, `""` where it could."""


def compile_native(root: Path, made: Path) -> str:
    """Compile native/module.c by one command, without options that bind it to this very processor."""
    headers = Path(sysconfig.get_path("include"))
    compiler = os.environ.get("CC") or "cc"
    # -g0 and no -march: the same bytes from any folder, for any machine of the kind that the wheel names.
    flags = ["-std=c11", "-O3", "-g0", "-DNDEBUG", "-Wall", "-Wextra", "-shared", "-fPIC", f"-I{headers}"]
    if not (headers / "Python.h").exists():
        return f"{headers}/Python.h does not exist (Debian: python3-dev)"
    command = [*shlex.split(compiler), *flags, str(root / "native" / "module.c"), "-o", str(made)]
    try:
        done = subprocess.run(command, capture_output=True, text=True)  # noqa: S603  the builder's own compiler
    except OSError as error:
        return f"there is no C compiler: {compiler}: {error.strerror} (Debian: gcc libc6-dev)"
    if done.returncode:
        errors = [line for line in done.stderr.splitlines() if "error" in line] or [done.stderr[-300:]]
        return f"native/module.c does not compile: {errors[0]} (Debian: gcc libc6-dev python3-dev)"
    return ""


ARTEFACTS: Final = (Artefact("recorder/_native", compile_native),)


class NativeHook(BuildHookInterface[Any]):
    """Adds to the wheel what could be compiled."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile each artefact, or say why the wheel goes without it."""
        wish = os.environ.get("RECORDER_NATIVE", "").strip().lower()
        if wish not in WISHES:
            self.app.abort(f"RECORDER_NATIVE={wish} is neither no nor yes")
        for artefact in ARTEFACTS:
            made = Path(self.root, artefact.path + str(sysconfig.get_config_var("EXT_SUFFIX")))
            # One that an earlier build left fits neither other sources nor RECORDER_NATIVE=no. A process that has
            # it in use keeps it: what is compiled is a new file.
            made.unlink(missing_ok=True)
            if wish == "no":
                continue
            problem = artefact.compile(Path(self.root), made)
            if problem and wish == "yes":
                self.app.abort(f"RECORDER_NATIVE=yes, and {artefact.path} cannot be compiled: {problem}")
            if problem:
                self.app.display_warning(
                    f"The recorder goes without {artefact.path}, hence slower: {problem}"
                )
                continue
            build_data["pure_python"] = False
            build_data["infer_tag"] = True
            build_data["artifacts"].append(f"/{made.relative_to(self.root)}")
