"""What a build does besides packing: it compiles, and it lets the links of the README lead somewhere.

What makes the recorder faster is compiled where a C compiler and Python's headers are. Where they are not, the wheel is
pure Python: it does the same, slower. `RECORDER_NATIVE=no` compiles nothing, `RECORDER_NATIVE=yes` fails the build where
something cannot be compiled; unset, the build says what is missing and goes on. What is compiled stands beside the
package's modules, for wheels and editable installs alike.

`README_BASE_URL` is the address at which a browser shows the repository's files. The README within wheel and sdist then
links there; without it, links are relative, as in the repository.
"""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import shutil
import subprocess
import sysconfig
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final, NamedTuple

from hatchling.builders.hooks.plugin.interface import BuildHookInterface
from hatchling.metadata.plugin.interface import MetadataHookInterface

WISHES: Final = ("", "no", "yes")
"""What `RECORDER_NATIVE` may be."""
PICTURES: Final = (".gif", ".jpg", ".png", ".svg", ".webp")
_FENCED: Final = re.compile(r"(^ *```.*?^ *```$)", re.DOTALL | re.MULTILINE)
_TARGET: Final = re.compile(r"(?<=\]\()(?![a-z]+:|#)[^)\s]+(?=\))")


class Artefact(NamedTuple):
    """An extension module that the package can do without."""

    path: str
    """Where it stands in the project, without the suffix that names Python and machine."""
    compile: Callable[[Path, Path], str]
    """Makes the second path from the sources below the first; returns why it could not, `""` where it could."""


def compile_native(root: Path, made: Path) -> str:
    """Compile native/module.c."""
    return no_tools() or compile_c("native/module.c", root / "native" / "module.c", made, "-Wall", "-Wextra")


def compile_windows(root: Path, made: Path) -> str:
    """Have mypyc make C of recorder/bars/windows.py, and compile that under a name of its own.

    It stands beside the module that it is made of, and says in `SOURCE` of which text it was made.
    """
    if problem := no_tools():
        return problem
    try:
        from mypyc.build import mypycify
    except ImportError as error:
        return f"mypyc cannot be imported: {error} (pip install mypy setuptools)"
    text = (root / "recorder" / "bars" / "windows.py").read_bytes()
    source = f'\n\nSOURCE: Final = "{hashlib.sha256(text).hexdigest()}"\n'
    before = Path.cwd()
    with TemporaryDirectory() as folder:
        (Path(folder) / "_windows.py").write_bytes(text + source.encode())
        os.chdir(folder)  # mypyc names a module by where it stands from here
        try:
            options = ["--ignore-missing-imports", "--follow-imports=skip", "_windows.py"]
            [extension] = mypycify(options, target_dir="c")
            includes = [f"-I{each}" for each in extension.include_dirs]
            return compile_c("recorder/bars/windows.py", Path(extension.sources[0]), made, "-w", *includes)
        except SystemExit as error:
            return f"mypyc refuses recorder/bars/windows.py: {error}"
        finally:
            os.chdir(before)


def no_tools() -> str:
    """Return what is missing to compile anything; `""` where all is there."""
    headers = Path(sysconfig.get_path("include"))
    compiler = os.environ.get("CC") or "cc"
    if not (headers / "Python.h").exists():
        return f"{headers}/Python.h does not exist (Debian: python3-dev)"
    if shutil.which(shlex.split(compiler)[0]) is None:
        return f"there is no C compiler: {compiler} (Debian: gcc libc6-dev)"
    return ""


def compile_c(name: str, source: Path, made: Path, *options: str) -> str:
    """Compile by one command, without options that bind it to this very processor; return why it could not."""
    # -g0 and no -march: the same bytes from any folder, for any machine of the kind that the wheel names.
    flags = ["-std=c11", "-O3", "-g0", "-DNDEBUG", "-shared", "-fPIC", f"-I{sysconfig.get_path('include')}"]
    compiler = shlex.split(os.environ.get("CC") or "cc")
    command = [*compiler, *flags, *options, str(source), "-o", str(made)]
    done = subprocess.run(command, capture_output=True, text=True)  # noqa: S603  the builder's own compiler
    if done.returncode:
        errors = [line for line in done.stderr.splitlines() if "error" in line] or [done.stderr[-300:]]
        return f"{name} does not compile: {errors[0]} (Debian: gcc libc6-dev python3-dev)"
    return ""


ARTEFACTS: Final = (
    Artefact("recorder/_native", compile_native),
    Artefact("recorder/bars/_windows", compile_windows),
)


class NativeHook(BuildHookInterface[Any]):
    """Adds to the wheel what could be compiled."""

    def dependencies(self) -> list[str]:
        """Return what the build needs besides: mypyc, where something can be compiled and may be."""
        return [] if _wish() == "no" or no_tools() else ["mypy>=1.16", "setuptools>=65"]

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile each artefact, or say why the wheel goes without it."""
        wish = _wish()
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


class ReadmeHook(MetadataHookInterface):
    """Makes the README the description of the package; with `README_BASE_URL` its links lead into the repository."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Set the description and, where the repository has an address, what can be found there."""
        text = Path(self.root, "README.md").read_text(encoding="utf-8")
        base = os.environ.get("README_BASE_URL", "").strip().rstrip("/")
        if base:
            if not re.fullmatch(r"https?://[^/\s]+\S*", base):
                raise ValueError(
                    f"README_BASE_URL={base} is no address such as https://HOST/OWNER/NAME/blob/v1.0.0"
                )
            text = absolute_links(text, base)
            metadata["urls"] = {
                "Source": base,
                "Documentation": f"{base}/docs/README.md",
                "Changelog": f"{base}/CHANGELOG.md",
            }
        metadata["readme"] = {"content-type": "text/markdown", "text": text}


def absolute_links(text: str, base: str) -> str:
    """Return Markdown whose links to files of the repository begin with `base`; code stays as it is.

    A picture must be the file itself, not the page that shows it. Forges have that under the same address with `raw`
    instead of `blob` (GitHub, GitLab) or `src` (Forgejo, Gitea).
    """
    files = re.sub(r"/(?:blob|src)/", "/raw/", base + "/", count=1).rstrip("/")

    def target(found: re.Match[str]) -> str:
        return f"{files if found[0].lower().endswith(PICTURES) else base}/{found[0]}"

    parts = _FENCED.split(text)
    return "".join(part if part.lstrip().startswith("```") else _TARGET.sub(target, part) for part in parts)


def _wish() -> str:
    return os.environ.get("RECORDER_NATIVE", "").strip().lower()
