"""The Dockerfile built by buildah, and the image run as a container engine runs it: PID 1, not root, read-only.

No registry is within reach of the tests, so the image that the Dockerfile begins with has a stand-in: this machine's
/usr, with the Python that runs the tests in the place of /usr/local. Everything else is as in any build.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import pytest
from commands import Running
from tools import tool
from waiting import eventually_sync

PROJECT: Final = Path(__file__).resolve().parents[1]
SECRETS: Final = "/run/secrets"
_BASE: Final = "localhost/stand-in"
_MOUNTED: Final = {"/usr": "/usr", "/usr/local": sys.base_prefix, "/etc/ssl": "/etc/ssl"}
"""What of this machine is in for the content of the first image, by where it is there."""
_FOLDERS: Final = ("usr", "etc/ssl", "root", "tmp", "var/tmp", "proc", "dev", "run/secrets")
_RUN: Final = """\
root=$1 volume=$2 secrets=$3 user=$4 folder=$5
shift 5
mount --bind "$root" "$root"
{mounts}
mount --rbind /dev "$root/dev"
mount -t proc proc "$root/proc"
mount --bind "$volume" "$root$folder"
mount --bind --options ro "$secrets" "$root{secrets}"
mount --options remount,bind,ro "$root"
exec chroot "$root" setpriv --reuid "${{user%:*}}" --regid "${{user#*:}}" --clear-groups --no-new-privs \\
  --bounding-set=-all --inh-caps=-all env --ignore-environment --chdir "$folder" "$@"
"""
"""What a container engine does: own mounts, a root that cannot be written, one volume, secrets, no privilege."""


class Images:
    """The images of one test, in a storage of its own."""

    def __init__(self, folder: Path) -> None:
        self._options = (f"--root={folder / 'storage'}", f"--runroot={folder / 'run'}")
        self._volumes = [f"--volume={here}:{there}:ro" for there, here in _MOUNTED.items()]

    def buildah(self, *arguments: str, status: int = 0) -> str:
        """Run buildah; return what it prints, the errors too if it should fail."""
        result = subprocess.run(
            [tool("buildah"), *self._options, *arguments],
            env={**os.environ, "STORAGE_DRIVER": "vfs", "BUILDAH_ISOLATION": "chroot"},
            capture_output=True,
            text=True,
            timeout=200,
        )
        assert result.returncode == status, f"{arguments}: {result.stdout[-3000:]}{result.stderr[-3000:]}"
        return result.stderr if status else result.stdout

    def make_base(self) -> None:
        """Make a stand-in for the image that the Dockerfile names."""
        container = self.buildah("from", "scratch").strip()
        root = Path(self.buildah("mount", container).strip())
        for name in _FOLDERS:
            (root / name).mkdir(parents=True, exist_ok=True)
        for name in ("bin", "sbin", "lib", "lib64"):
            (root / name).symlink_to(f"usr/{name}")
        (root / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\n")
        (root / "etc/group").write_text("root:x:0:\n")
        # The way of this machine to its packages, which is no matter of the Dockerfile.
        pip = [f"--env={name}={value}" for name, value in os.environ.items() if name.startswith("PIP_")]
        path = ":".join(
            f"{prefix}/{folder}" for prefix in ("/usr/local", "/usr") for folder in ("bin", "sbin")
        )
        libraries = "LD_LIBRARY_PATH=/usr/local/lib"
        self.buildah("config", f"--env=PATH={path}", f"--env={libraries}", *pip, container)
        self.buildah("commit", "--quiet", container, _BASE)
        self.buildah("rm", container)

    def build(self, name: str, *arguments: str, status: int = 0) -> str:
        """Build the Dockerfile; return what buildah prints. Steps that were built before are taken from there."""
        return self.buildah(
            "build",
            "--format=docker",
            "--layers",
            "--pull-never",
            f"--build-arg=BASE={_BASE}",
            *self._volumes,
            *arguments,
            f"--tag={name}",
            str(PROJECT),
            status=status,
        )

    def configuration(self, name: str) -> dict[str, Any]:
        """Return what an image says of how it is run."""
        found: dict[str, Any] = json.loads(self.buildah("inspect", "--type=image", name))["Docker"]["config"]
        return found

    def run_in(self, name: str, *command: str) -> str:
        """Run a command in a new container of an image, as its user; return what it prints."""
        container = self.buildah("from", "--pull-never", name).strip()
        try:
            return self.buildah("run", *self._volumes, container, "--", *command)
        finally:
            self.buildah("rm", container)

    @contextmanager
    def running(
        self, name: str, volume: Path, secrets: Path, prefix: tuple[str, ...], **variables: str
    ) -> Iterator[Container]:
        """Yield a container that runs what the image says, with these variables besides the image's own.

        `prefix` stands before the command that makes it: that of a network.
        """
        container = self.buildah("from", "--pull-never", name).strip()
        root = Path(self.buildah("mount", container).strip())
        mounts = "\n".join(
            f'mount --bind --options ro "{here}" "$root{there}"' for there, here in _MOUNTED.items()
        )
        configuration = self.configuration(name)
        environment = [*configuration["Env"], *(f"{key}={value}" for key, value in variables.items())]
        command = Running(
            [
                *prefix,
                *(tool("unshare"), "--mount", "--pid", "--fork", "--kill-child"),
                *("sh", "-euc", _RUN.format(mounts=mounts, secrets=SECRETS), "sh"),
                *(str(root), str(volume), str(secrets)),
                *(configuration["User"], configuration["WorkingDir"]),
                *environment,
                *(configuration["Entrypoint"] + configuration["Cmd"]),
            ],
            {"PATH": os.environ["PATH"]},
            volume,
        )
        try:
            yield Container(command, root, environment, configuration)
        finally:
            command.kill()  # and the container with it
            self.buildah("rm", container)

    def remove(self) -> None:
        """Take away all that was built."""
        self.buildah("rm", "--all")
        self.buildah("rmi", "--all", "--force")


class Container:
    """A container that runs."""

    def __init__(
        self, command: Running, root: Path, environment: Sequence[str], configuration: dict[str, Any]
    ) -> None:
        self.command = command
        self._root = root
        self._environment = environment
        self._configuration = configuration

    @property
    def pid(self) -> int:
        """Its first process, by its number outside."""
        holder = self.command.process.pid
        children = Path(f"/proc/{holder}/task/{holder}/children")
        return int(eventually_sync(lambda: children.read_text().split(), "the container's first process")[0])

    def status(self) -> dict[str, str]:
        """Return what the kernel says of its first process."""
        text = Path(f"/proc/{self.pid}/status").read_text()
        return dict(line.split(":\t", 1) for line in text.splitlines())

    def execute(self, *command: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run a command beside it, as `docker exec` and HEALTHCHECK do."""
        user = self._configuration["User"].split(":")
        return subprocess.run(
            [
                *(tool("nsenter"), f"--target={self.pid}", "--mount", "--pid", "--net", "--root"),
                *("setpriv", "--reuid", user[0], "--regid", user[1], "--clear-groups"),
                *("env", "--ignore-environment", *self._environment),
                *(f"{key}={value}" for key, value in variables.items()),
                *command,
            ],
            capture_output=True,
            text=True,
            timeout=60,
        )


@contextmanager
def images(folder: Path) -> Iterator[Images]:
    """Yield a place for images, with what the Dockerfile begins with."""
    if os.geteuid() != 0 or not (Path(sys.base_prefix) / "bin/python").exists():
        pytest.skip("building the image takes root, and a Python that is not the system's own")
    made = Images(folder)
    made.make_base()
    try:
        yield made
    finally:
        made.remove()
