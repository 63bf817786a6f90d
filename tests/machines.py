"""A machine with a real systemd: a container of systemd-nspawn on this machine's /usr, with the recorder installed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import pytest
from tools import tool
from waiting import eventually_sync

PROJECT: Final = Path(__file__).resolve().parents[1]
UNITS: Final = PROJECT / "systemd"
EXCHANGE_PORT: Final = 8775
_HIERARCHIES: Final = (Path("/sys/fs/cgroup/unified"), Path("/sys/fs/cgroup/systemd"))
"""Where systemd puts its groups with cgroup v1; with v2 there is one hierarchy for all, above them."""
_NAMES: Final = "passwd: files\ngroup: files\nhosts: files\n"
_EXCHANGE: Final = """\
[Service]
Type=exec
ExecStart=/opt/recorder/.venv/bin/recorder simulate {arguments}
LogsDirectory=exchange
KillMode=mixed
"""


class Machine:
    """A machine with its own network once it is booted; its files lie under `root`, and this machine's /usr is its own.

    With `installed`, /opt/recorder is a checkout with its .venv; Python and packages are the test's, mounted under
    /opt, for no home folder is within reach of a hardened service. Without, nothing of ours is there, and what is written
    to /usr lies under `usr`.
    """

    def __init__(self, root: Path, installed: bool = True) -> None:
        self.root = root
        self.usr = root / "written/usr"
        self._installed = installed
        self._cgroups: list[Path] = []
        self._leader = 0
        self._nspawn: subprocess.Popen[bytes] | None = None

    def boot(self) -> None:
        """Start it, and wait until it has started all it starts."""
        arguments = [*self._arguments(), "--boot", "--private-network"]
        if self._installed:
            arguments += [
                f"--bind-ro={sys.base_prefix}:/opt/python",
                f"--bind-ro={sysconfig.get_path('purelib')}:/opt/recorder/packages",
                f"--bind-ro={PROJECT / 'recorder'}:/opt/recorder/source/recorder",
                f"--bind-ro={UNITS}:/opt/recorder/systemd",
            ]
        prefix: list[str] = []
        if not Path("/run/systemd/system").exists():
            # Nobody gives out control groups here: take one, so that machines do not share theirs.
            hierarchies = [path for path in _HIERARCHIES if path.is_dir()] or [_HIERARCHIES[0].parent]
            self._cgroups = [path / f"recorder-test-{os.getpid()}-{id(self)}" for path in hierarchies]
            for cgroup in self._cgroups:
                cgroup.mkdir()
                prefix += ["sh", "-c", 'echo $$ > "$0/cgroup.procs"; exec "$@"', str(cgroup)]
        console = self.root.parent / "console"
        with console.open("w") as output:
            self._nspawn = subprocess.Popen(
                [*prefix, *arguments], stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
            )
        children = Path(f"/proc/{self._nspawn.pid}/task/{self._nspawn.pid}/children")

        def leader() -> int:
            assert self._nspawn is not None
            if self._nspawn.poll() is not None:
                self._refused(console.read_text())
            with suppress(FileNotFoundError):  # a process that ends while it is looked at
                for pid in children.read_text().split():
                    if Path(f"/proc/{pid}/comm").read_text() == "systemd\n":
                        return int(pid)
            return 0

        self._leader = eventually_sync(leader, "the machine's first process")
        eventually_sync(
            lambda: (
                self.run("systemctl", "is-system-running", status=None).strip() in ("running", "degraded")
            ),
            "a machine that runs",
        )
        self.run("ldconfig")

    def _arguments(self) -> list[str]:
        command = [tool("systemd-nspawn"), "--quiet", f"--directory={self.root}", "--console=pipe"]
        if not Path("/run/systemd/system").exists():
            command += ["--register=no", "--keep-unit"]
        return [*command, "--bind-ro=/usr" if self._installed else "--overlay=/usr:+/written/usr:/usr"]

    def fetch(self, folder: str, script: str) -> None:
        """Run commands there that need the network of this machine, before it is booted and has its own."""
        # The way of this machine to its packages.
        pip = [f"--setenv={name}={value}" for name, value in os.environ.items() if name.startswith("PIP_")]
        options = [f"--machine=fetch-{os.getpid()}", "--bind-ro=/etc/ssl", f"--chdir={folder}", *pip]
        self.write("/etc/nsswitch.conf", "hosts: files dns\n")
        result = subprocess.run(
            [*self._arguments(), *options, "/bin/sh", "-euc", script],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=100,
        )
        assert result.returncode == 0, f"{script}: {result.stdout[-2000:]}{result.stderr[-2000:]}"
        self.write("/etc/nsswitch.conf", _NAMES)

    @staticmethod
    def _refused(words: str) -> None:
        pytest.skip(f"no container can be started here: {words}")

    def lay(self) -> None:
        """Lay out its files."""
        root = self.root
        for name in ("usr", "etc/systemd/system", "etc/ld.so.conf.d", "etc/ssl", "root", "opt", "var", "tmp"):
            (root / name).mkdir(parents=True)
        for name in ("bin", "sbin", "lib", "lib64"):
            (root / name).symlink_to(f"usr/{name}")
        shutil.copy("/usr/lib/os-release", root / "etc/os-release")
        shutil.copytree("/etc/ld.so.conf.d", root / "etc/ld.so.conf.d", dirs_exist_ok=True)
        self.write("/etc/ld.so.conf", "/opt/python/lib\ninclude /etc/ld.so.conf.d/*.conf\n")
        self.write("/etc/passwd", "root:x:0:0:root:/root:/bin/sh\n")
        self.write("/etc/group", "root:x:0:\n")
        self.write("/etc/nsswitch.conf", _NAMES)
        # A machine that knows its id is not on its first boot, and enables nothing of its own accord.
        self.write("/etc/machine-id", "0123456789abcdef0123456789abcdef\n")
        if self._installed:
            self._install()
        else:
            self.usr.mkdir(parents=True)

    def _install(self) -> None:
        root = self.root
        (root / "etc/recorder").mkdir()
        python = f"python{sys.version_info.major}.{sys.version_info.minor}"
        venv = "/opt/recorder/.venv"
        self.write(f"{venv}/pyvenv.cfg", "home = /opt/python/bin\ninclude-system-site-packages = false\n")
        self.write(
            f"{venv}/lib/{python}/site-packages/recorder.pth",
            "/opt/recorder/source\n/opt/recorder/packages\n",
        )
        self.write(
            f"{venv}/bin/recorder", f"#!{venv}/bin/python\nfrom recorder.cli import main\n\nmain()\n", 0o755
        )
        (root / venv[1:] / "bin/python").symlink_to(f"/opt/python/bin/{python}")

    def write(self, path: str, text: str, mode: int = 0o644) -> None:
        """Write a file of the machine."""
        there = self.root / path.lstrip("/")
        there.parent.mkdir(parents=True, exist_ok=True)
        there.write_text(text)
        there.chmod(mode)

    def run(self, *command: str, status: int | None = 0) -> str:
        """Run a command there; return what it prints. `status` is what it must end with; None: anything."""
        result = subprocess.run(
            [tool("nsenter"), f"--target={self._leader}", "--all", "--", *command],
            capture_output=True,
            text=True,
            timeout=100,
        )
        assert status is None or result.returncode == status, f"{command}: {result.stdout}{result.stderr}"
        return result.stdout

    def show(self, unit: str, name: str) -> str:
        """Return a property of a unit."""
        return self.run("systemctl", "show", "--property", name, "--value", unit).strip()

    def journal(self, unit: str) -> str:
        """Return what a unit, and systemd about it, has logged."""
        return self.run("journalctl", "--no-pager", "--output=cat", "--unit", unit)

    def start_exchange(self, *arguments: str) -> Path:
        """Start a simulator at `EXCHANGE_PORT`; return its log of what it sends."""
        log = "/var/log/exchange/sent.ndjson"
        fixed = f"--cluster stocks --port {EXCHANGE_PORT} --log {log}"
        self.write(
            "/etc/systemd/system/exchange.service", _EXCHANGE.format(arguments=" ".join([fixed, *arguments]))
        )
        self.run("systemctl", "daemon-reload")
        self.run("systemctl", "start", "exchange")
        return self.root / log[1:]

    def manual(self, name: str) -> str:
        """Return where `man` finds a page."""
        tool("man")
        shutil.copy("/etc/manpath.config", self.root / "etc")
        return self.run("realpath", self.run("man", "--where", name).strip()).strip()

    def completed(self, script: str) -> list[str]:
        """Return what bash offers for `recorder ver`, by a script for its completion."""
        asked = "COMP_WORDS=(recorder ver) COMP_CWORD=1; _recorder_completion recorder ver recorder"
        return self.run("bash", "-euc", f'. {script}; {asked}; echo "${{COMPREPLY[@]}}"').split()

    def power_off(self) -> None:
        """Stop it and take away what it leaves in this machine."""
        if self._nspawn is not None:
            if self._leader and self._nspawn.poll() is None:
                self.run("systemctl", "poweroff", status=None)
            try:
                self._nspawn.wait(60)
            except subprocess.TimeoutExpired:
                self._nspawn.kill()
                self._nspawn.wait()
        for cgroup in self._cgroups:
            for folder, _, _ in os.walk(cgroup, topdown=False):
                Path(folder).rmdir()


@contextmanager
def machine(folder: Path) -> Iterator[Machine]:
    """Yield a booted machine whose files lie in `folder`, with the recorder installed."""
    with bare_machine(folder, installed=True) as made:
        made.boot()
        yield made


@contextmanager
def bare_machine(folder: Path, installed: bool = False) -> Iterator[Machine]:
    """Yield a machine that is not booted yet, and has nothing of ours unless `installed`."""
    if os.geteuid() != 0:
        Machine._refused("systemd-nspawn needs root")
    (folder / "root").mkdir()
    made = Machine(folder / "root", installed)
    try:
        made.lay()
        yield made
    finally:
        made.power_off()
