"""What `make dist` has built, as somebody gets it who has nothing else: installed in an empty virtual environment, and run.

`python tests/first_run.py FILE…` does so with each wheel and sdist, and says what works.
"""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import venv
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from commands import Running, clean_environment, get
from release import VERSION
from waiting import eventually_sync

_PURE: Final = "-py3-none-any.whl"
_IS_NATIVE: Final = "from importlib.util import find_spec; print(find_spec('recorder._native') is not None)"


class FirstRun:
    """An environment of its own, in a folder of its own, with the recorder and what it needs."""

    def __init__(self, folder: Path) -> None:
        self._environment = folder / "environment"
        self._work = folder / "work"
        self._work.mkdir()
        venv.create(self._environment, with_pip=True)

    def install(self, package: Path) -> str:
        """Install a wheel or an sdist; return which code works. Raise AssertionError where it is not what its name says."""
        options = ("--quiet", "--disable-pip-version-check")
        self._call("python", "-m", "pip", "install", *options, str(package), inherit=True)
        assert self._call("recorder", "--version") == f"recorder, version {VERSION}\n"
        page = self._environment / "share/man/man1/recorder.1"
        assert f'"recorder {VERSION}"' in page.read_text(encoding="utf-8")
        is_native = self._call("python", "-I", "-c", _IS_NATIVE) == "True\n"
        if package.suffix == ".whl":
            assert is_native is not package.name.endswith(_PURE), f"{package.name}: native code: {is_native}"
        return "native code" if is_native else "Python alone"

    def demo(self) -> str:
        """Run the demo until /ready answers 200, stop it as Ctrl-C does, and verify its archive; return its last words."""
        demo = Running([self._program("recorder"), "demo", "--free-ports"], clean_environment(), self._work)
        try:
            address = eventually_sync(
                lambda: re.search(r"http://(\S+)/ready", "\n".join(demo.out)), "addresses"
            )[1]
            eventually_sync(lambda: get(address, "/ready")[0] == 200, "READY", every_secs=0.05)
            assert demo.stop(signal.SIGINT) == 0, demo.lines
        finally:
            demo.kill()
        [done] = [line for line in demo.out if line.startswith("Done: ")]
        self._call("recorder", "verify", "data")
        return done

    def _program(self, name: str) -> str:
        return str(self._environment / "bin" / name)

    def _call(self, name: str, *arguments: str, inherit: bool = False) -> str:
        """Run a program of the environment; return what it prints. With `inherit`, variables of this machine count."""
        done = subprocess.run(
            [self._program(name), *arguments],
            cwd=self._work,
            env=None if inherit else clean_environment(),
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, f"{name} {arguments}: {done.stdout[-2000:]}{done.stderr[-2000:]}"
        return done.stdout


def main() -> None:
    """Try each file that the command line names."""
    for name in sys.argv[1:]:
        package = Path(name).resolve()
        with TemporaryDirectory(prefix="first-run-") as folder:
            tried = FirstRun(Path(folder))
            code = tried.install(package)
            sys.stdout.write(f"{package.name} works, with {code}. {tried.demo()}\n")


if __name__ == "__main__":
    main()
