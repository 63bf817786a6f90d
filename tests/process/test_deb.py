"""The Debian package: built by `make deb`, installed on a machine that has nothing of ours, upgraded, removed, purged."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from functools import partial
from pathlib import Path
from typing import Final

import pytest
import waiting
from checkouts import clone_into
from commands import KEY
from machines import EXCHANGE_PORT, Machine, bare_machine
from oracle import verified
from release import VERSION
from tools import tool

NAME: Final = "polygon-recorder"
SETTINGS: Final = "/etc/recorder/recorder.env"
CONFFILES: Final = {SETTINGS, "/etc/logrotate.d/recorder-log"}
eventually = partial(waiting.eventually_sync, every_secs=0.2)


def built(clone: Path) -> Path:
    """Return the package of a checkout, without native code, which takes long to compile and is in the wheel or not."""
    clone_into(clone)
    environment = {"PATH": "/usr/bin:/bin:/usr/sbin:/sbin", "RECORDER_NATIVE": "no", **pip_settings()}
    done = subprocess.run(
        [tool("make"), "deb"], cwd=clone, env=environment, capture_output=True, text=True, timeout=200
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    [package] = (clone / "dist").glob("*.deb")
    return package


def pip_settings() -> dict[str, str]:
    """Return this machine's way to its packages."""
    return {name: value for name, value in os.environ.items() if name.startswith("PIP_")}


def field(package: Path, name: str) -> str:
    """Return what a package says of itself."""
    asked = [tool("dpkg-deb"), "--field", str(package), name]
    return subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()


class Dpkg:
    """dpkg on a machine that knows of no package but those that ours depends on, and these from this machine."""

    def __init__(self, host: Machine, package: Path) -> None:
        self._host = host
        names = [re.split(r"[ (]", one, maxsplit=1)[0] for one in field(package, "Depends").split(", ")]
        known = subprocess.run(
            [tool("dpkg"), "--status", *names], capture_output=True, text=True, check=True
        ).stdout
        host.write("/var/lib/dpkg/status", known)
        for folder in ("updates", "triggers"):
            (host.root / "var/lib/dpkg" / folder).mkdir()
        host.write("/var/lib/dpkg/info/format", "1\n")
        shutil.copy(package, host.root / "root")
        self._package = f"/root/{package.name}"

    def install(self) -> str:
        """Install the package, or once more; return what is said."""
        return self._run("--install", self._package)

    def remove(self) -> str:
        """Remove it; return what is said."""
        return self._run("--remove", NAME)

    def purge(self) -> str:
        """Remove its configuration, too; return what is said."""
        return self._run("--purge", NAME)

    def _run(self, *arguments: str) -> str:
        path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        # No terminal: a question would fail. What is synced to disk is no matter here.
        return self._host.run("env", path, "dpkg", "--force-unsafe-io", *arguments)


@pytest.mark.timeout(300)
def test_it_installs_records_and_goes_without_the_archive(tmp_path: Path) -> None:
    """From the checkout to a service that records; an upgrade disturbs nothing; a purge leaves only what was recorded."""
    package = built(tmp_path / "clone")
    says_what_it_is(package)
    with bare_machine(tmp_path) as host:
        dpkg = Dpkg(host, package)
        host.boot()
        assert "Then: systemctl enable --now recorder" in dpkg.install()
        is_there(host)
        records(host)
        is_upgraded(host, dpkg)
        goes(host, dpkg)
        verified(host.root / "var/lib/recorder")


def says_what_it_is(package: Path) -> None:
    """Name, version and what it depends on; files that an operator changes are known as such; nobody else owns a file."""
    assert (field(package, "Package"), field(package, "Version")) == (NAME, VERSION)
    assert re.match(r"python3\.\d+, libc6 \(>= [\d.]+\), .*systemd \(>= 252\)$", field(package, "Depends"))
    shown = subprocess.run(
        [tool("dpkg-deb"), "--contents", str(package)], capture_output=True, text=True, check=True
    )
    lines = [line.split(maxsplit=5) for line in shown.stdout.splitlines()]
    assert {owner for _, owner, *_ in lines} == {"root/root"}
    assert not [line for mode, *_, line in lines if mode[0] != "l" and (mode[5] == "w" or mode[8] == "w")]
    files = {line.removeprefix(".") for mode, *_, line in lines if mode[0] == "-"}
    assert {name for name in files if name.startswith("/etc/")} == CONFFILES


def is_there(host: Machine) -> None:
    """The program, its manual page and completions work; nothing was started, since there is no key."""
    assert host.run("recorder", "--version") == f"recorder, version {VERSION}\n"
    assert host.manual("recorder") == "/usr/share/man/man1/recorder.1.gz"
    assert host.completed("/usr/share/bash-completion/completions/recorder") == ["verify"]
    assert host.show("recorder", "ActiveState") == "inactive"
    assert host.show("recorder", "UnitFileState") == "disabled"
    key = host.root / "etc/recorder/api-key"
    assert (key.stat().st_mode & 0o777, key.read_text()) == (0o600, "")
    python = "/opt/recorder/.venv/bin/python"
    assert host.run(python, "-c", "import confluent_kafka, nats, obstore, zmq; print('all')") == "all\n"


def records(host: Machine) -> None:
    """With a key and an exchange the service streams, and its archive grows."""
    host.start_exchange("--rate", "500", "--key", KEY)
    host.write("/etc/recorder/api-key", f"{KEY}\n", 0o600)
    settings = (host.root / SETTINGS[1:]).read_text()
    settings += f"POLYGON_WS_URL=ws://127.0.0.1:{EXCHANGE_PORT}\nNDJSON_MIN_FREE_BYTES=0\n"
    host.write(SETTINGS, settings)
    host.run("systemctl", "enable", "--now", "recorder")
    eventually(lambda: "stocks streaming" in host.show("recorder", "StatusText"), "a stream")
    trades = host.root / "var/lib/recorder/polygon.trades.ndjson"
    eventually(lambda: trades.exists() and trades.stat().st_size, "records")


def is_upgraded(host: Machine, dpkg: Dpkg) -> None:
    """The recorder that runs goes on, the settings are the operator's, and it is said what is left to do."""
    before = host.show("recorder", "MainPID"), (host.root / SETTINGS[1:]).read_text()
    assert "At a quiet hour: systemctl restart recorder" in dpkg.install()
    assert (host.show("recorder", "MainPID"), (host.root / SETTINGS[1:]).read_text()) == before
    assert host.run("recorder", "--version") == f"recorder, version {VERSION}\n"


def goes(host: Machine, dpkg: Dpkg) -> None:
    """A removal stops the recorder in order and keeps what was configured; a purge keeps only what was recorded."""
    dpkg.remove()
    assert "recorder.service: Deactivated successfully." in host.journal("recorder")
    assert not (host.root / "opt/recorder").exists()
    assert not list((host.root / "etc/systemd/system/multi-user.target.wants").glob("recorder*"))
    assert (host.root / "etc/recorder/api-key").read_text() == f"{KEY}\n"
    assert "/var/lib/recorder stays" in dpkg.purge()
    assert not (host.root / "etc/recorder").exists()
    assert not [path for path in host.usr.rglob("*recorder*") if path.is_file()]
    assert "recorder:" in (host.root / "etc/passwd").read_text()
