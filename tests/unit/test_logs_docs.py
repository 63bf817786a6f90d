"""docs/logs.md: what it tells to run does what it says, on lines as the recorder writes them."""

from __future__ import annotations

import gzip
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest
import yaml
from tools import tool
from waiting import eventually_sync

ROOT: Final = Path(__file__).parents[2]
PAGE: Final = (ROOT / "docs" / "logs.md").read_text(encoding="utf-8")

_WRITER: Final = """
import sys
from recorder import log

log.configure({"": "info"}, "json")
upstream, clients, config = map(log.get_logger, ("polygon_upstream", "polygon_clients", "polygon_config"))

def speak():
    config.info("started", version="1")
    upstream.warning("gap", cluster="stocks", secs=4.5, from_ms=1772462000000, to_ms=1772462004500, reason="read_timeout")
    upstream.warning("gap", cluster="crypto", secs=0.25, from_ms=1772462100000, to_ms=1772462100250, reason="disconnected")
    clients.info("client_left", token="team", address="10.0.0.7", secs=61.2, events=1200, bytes=99000, reason="closed 1000")
    log.get_logger("polygon_archive").error("archive_records_dropped", count=7, reason="No space left on device")
    log.say("a line that is no JSON")
    config.critical("fatal", message="the exchange refused the key", exit_status=78, advice="change it")
    log.drain(60)

speak()
for _ in sys.stdin:
    speak()
"""
"""Speaks once at its start and once for each line that it is sent."""

_COMMANDS: Final = re.findall(r"^# (.+)\n(jq .+)$", PAGE, re.MULTILINE)
_ANSWERS: Final = {
    "What needs a person": r'\{.*"event":"archive_records_dropped".*\}\n\{.*"event":"fatal".*\}\n',
    "Everything from WARNING on, for people": r"(\S+Z [a-z_]+: .+\n){4}",
    "How often what happened": r"2 gap\n(1 [a-z_]+\n){4}",
    "Gaps: cluster, since when, seconds, reason": r"stocks\t2026-03-02T14:33:20Z\t4\.5\tread_timeout\ncrypto\t.+\n",
    "Clients: who, from where, how long, what they got, why they left": (
        r"team\t10\.0\.0\.7\t61\.2\t1200\t99000\tclosed 1000\n"
    ),
    "Why it ended last time": r"78: the exchange refused the key\n",
}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A log as a process leaves it."""
    path = tmp_path_factory.mktemp("log") / "recorder.log"
    with path.open("ab") as stream:
        subprocess.run([sys.executable, "-c", _WRITER], stdin=subprocess.DEVNULL, stderr=stream, check=True)
    return path


def test_every_command_has_its_answer_here() -> None:
    """No command of the page goes without a test."""
    assert [question for question, _ in _COMMANDS] == list(_ANSWERS)


@pytest.mark.parametrize(("question", "command"), _COMMANDS)
def test_jq_answers(written: Path, question: str, command: str) -> None:
    """The real jq gives the answer, and passes over what is no JSON."""
    tool("jq")
    shell = [tool("bash"), "-c", command]
    done = subprocess.run(shell, cwd=written.parent, capture_output=True, text=True, check=True)
    assert re.fullmatch(_ANSWERS[question], done.stdout), done.stdout
    assert done.stderr == ""


def test_logrotate_empties_the_log_under_its_writer(tmp_path: Path) -> None:
    """The real logrotate, by the file in logrotate/: what was there is in the copy, what follows begins the file."""
    path, configuration = tmp_path / "recorder.log", tmp_path / "logrotate.conf"
    text = (ROOT / "logrotate" / "recorder-log").read_text(encoding="utf-8")
    configuration.write_text(text.replace("/var/log/recorder/recorder.log", str(path)))
    configuration.chmod(0o600)
    command = [tool("logrotate"), "--force", "--state", str(tmp_path / "state"), str(configuration)]
    with (
        path.open("ab") as stream,
        subprocess.Popen([sys.executable, "-c", _WRITER], stdin=subprocess.PIPE, stderr=stream) as writer,
    ):
        assert writer.stdin is not None
        writer.stdin.write(b"again\n")
        writer.stdin.flush()
        eventually_sync(lambda: path.read_bytes().count(b'"fatal"') == 2, "the lines")
        rotated = subprocess.run(command, capture_output=True, text=True, check=False)
        assert (rotated.returncode, rotated.stderr) == (0, "")
        writer.communicate(b"again\n")
    [copy] = tmp_path.glob("recorder.log-*.gz")
    assert gzip.decompress(copy.read_bytes()).count(b'"started"') == 2
    lines = path.read_text(encoding="utf-8").splitlines()
    assert json.loads(lines[0])["event"] == "started"
    assert len(lines) == 7


def test_collectors_ask_for_fields_that_lines_have(written: Path) -> None:
    """What Alloy, Loki and Vector are told to take out of a line is in every line; Vector's settings are YAML."""
    line = json.loads(written.read_text(encoding="utf-8").splitlines()[0])
    fences = dict(re.findall(r"^```(alloy|logql|yaml)\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE))
    [expressions] = re.findall(r"expressions = \{(.*)\}", fences["alloy"])
    [labels] = re.findall(r"values = \{(.*)\}", fences["alloy"])
    vector = yaml.safe_load(fences["yaml"])
    templates = " ".join(vector["sinks"]["loki"]["labels"].values())
    asked = {*re.findall(r"(\w+) =", expressions), *re.findall(r"(\w+) =", labels)}
    asked |= {*re.findall(r"\{\{ (\w+) \}\}", templates), *re.findall(r"(\w+)=~?\"", fences["logql"])} - {
        "job"
    }
    assert asked == {"timestamp", "level", "event", "target"}
    assert asked <= set(line)
    assert [
        vector[part][name]["inputs"] for part, name in (("transforms", "recorder"), ("sinks", "loki"))
    ] == [
        ["journal"],
        ["recorder"],
    ]
