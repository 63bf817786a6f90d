"""From a clone to a running, hardened service by docs/operations.md alone, on a machine that has nothing of ours."""

from __future__ import annotations

import re
import time
from functools import partial
from pathlib import Path

import pytest
import waiting
from checkouts import PROJECT, clone_into
from commands import KEY
from machines import EXCHANGE_PORT, Machine, bare_machine
from oracle import verified

SECTION = (
    (PROJECT / "docs" / "operations.md")
    .read_text()
    .partition("## Install as a service\n")[2]
    .partition("\n## ")[0]
)
SERVICE_SECS = 120
"""From the clone to a service that records; most of it is pip."""
eventually = partial(waiting.eventually_sync, every_secs=0.2)


def commands() -> tuple[list[str], list[str]]:
    """Return the commands of the section as root types them: those that fetch packages, and those after them."""
    blocks = re.findall(r"^```sh\n(.*?)^```$", SECTION.partition("\n### ")[0], re.DOTALL | re.MULTILINE)
    lines = [line.removeprefix("sudo ") for block in blocks for line in block.splitlines()]
    assert all(
        line.split()[0].rpartition("/")[2] in {"python3", "pip", "install", "systemd-sysusers", "systemctl"}
        for line in lines
    )
    fetching = [index for index, line in enumerate(lines) if "pip install" in line]
    return lines[: fetching[-1] + 1], lines[fetching[-1] + 1 :]


def serves_the_command_line(host: Machine) -> None:
    """After the commands of its section: the bare name, the manual page, and what the Tab key asks each shell for."""
    [block] = re.findall(
        r"^### At the command line\n.*?^```sh\n(.*?)^```$", SECTION, re.DOTALL | re.MULTILINE
    )
    host.run("sh", "-euc", block.replace("sudo ", ""))
    assert host.run("recorder", "--version").startswith("recorder, version ")
    assert host.manual("recorder") == "/usr/local/share/man/man1/recorder.1"
    assert host.completed("/usr/local/share/bash-completion/completions/recorder") == ["verify"]
    shares = host.usr / "local/share"
    assert "#compdef recorder" in (shares / "zsh/site-functions/_recorder").read_text()
    assert (
        "complete --no-files --command recorder"
        in (shares / "fish/vendor_completions.d/recorder.fish").read_text()
    )


@pytest.mark.timeout(240)
def test_the_service_is_installed_by_the_docs(tmp_path: Path) -> None:
    """Every command of the section, in order, with Debian's own Python; then it records, hardened, and stops in order."""
    fetching, rest = commands()
    with bare_machine(tmp_path) as host:
        begun = time.monotonic()
        clone_into(host.root / "root/recorder")
        host.fetch("/root/recorder", "\n".join(fetching))
        host.boot()
        host.start_exchange("--rate", "500", "--key", KEY)
        [start] = [index for index, line in enumerate(rest) if "enable --now" in line]
        host.run("sh", "-euc", "\n".join(["cd /root/recorder", *rest[:start]]))
        # What the docs tell to edit: the key, and here also where the exchange is.
        assert (host.root / "etc/recorder/api-key").stat().st_mode & 0o777 == 0o600
        host.write("/etc/recorder/api-key", f"{KEY}\n", 0o600)
        settings = (host.root / "etc/recorder/recorder.env").read_text()
        settings += f"POLYGON_WS_URL=ws://127.0.0.1:{EXCHANGE_PORT}\nNDJSON_MIN_FREE_BYTES=0\n"
        host.write("/etc/recorder/recorder.env", settings)
        words = host.run("sh", "-euc", "\n".join(rest[start:]))
        assert "Active: active (running)" in words
        eventually(lambda: "stocks streaming" in host.show("recorder", "StatusText"), "a stream")
        assert time.monotonic() - begun < SERVICE_SECS

        folder = host.root / "var/lib/recorder"
        eventually(lambda: any(path.stat().st_size for path in folder.glob("polygon.*s.ndjson")), "records")
        serves_the_command_line(host)
        owner = host.run("stat", "--format=%U:%G %a", "/var/lib/recorder/polygon.trades.ndjson").split()
        assert owner == ["recorder:recorder", "640"]
        assert host.run("systemctl", "is-enabled", "recorder").strip() == "enabled"
        judged = host.run("systemd-analyze", "security", "--no-pager", "recorder")
        rating = re.search(r"Overall exposure level for recorder.service: (\S+)", judged)
        claimed = re.search(r"`systemd-analyze security recorder` rates it (\S+) of 10", SECTION)
        assert rating is not None
        assert claimed is not None
        assert float(rating[1]) <= float(claimed[1])
        host.run("systemctl", "stop", "recorder")
        assert host.show("recorder", "ExecMainStatus") == "0"
        verified(folder)
