"""The alert rules: each is right in itself, tested in both directions, made of metrics that exist, and explained."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from promql import known_metrics, metrics_of
from tools import tool

from recorder.settings import OPTIONS

ROOT = Path(__file__).parents[2]
PROMETHEUS = ROOT / "prometheus"
RULES: list[dict[str, Any]] = [
    rule
    for group in yaml.safe_load((PROMETHEUS / "recorder.rules.yml").read_text())["groups"]
    for rule in group["rules"]
]
TESTS = yaml.safe_load((PROMETHEUS / "recorder.rules.test.yml").read_text())["tests"]
SHIPPED_IN = {"prometheus.yml": PROMETHEUS, "prometheus.yaml": ROOT / "grafana/provisioning/datasources"}
DOCS = (ROOT / "docs" / "operations.md").read_text()
RUNBOOKS = DOCS.partition("\n## Alerts\n")[2].partition("\n## ")[0]
RUNBOOK_BASE = '{{ or $externalLabels.recorder_runbooks "docs/operations.md" }}'
"""What every `runbook_url` begins with."""
every_alert = pytest.mark.parametrize("rule", RULES, ids=[rule["alert"] for rule in RULES])


def promtool(*arguments: str, cwd: Path = PROMETHEUS) -> subprocess.CompletedProcess[str]:
    """Run promtool."""
    return subprocess.run([tool("promtool"), *arguments], cwd=cwd, capture_output=True, text=True, timeout=60)


def test_prometheus_accepts_rules_and_configuration() -> None:
    """`promtool check` has nothing to say, lint included. The file with the token is on the operator's machine only."""
    checks = (("rules", "--lint-fatal", "recorder.rules.yml"), ("config", "--syntax-only", "prometheus.yml"))
    for arguments in checks:
        result = promtool("check", *arguments)
        assert result.returncode == 0, result.stdout + result.stderr


def test_alerts_fire_when_they_should_and_not_otherwise() -> None:
    """`promtool test rules` passes, annotations word by word."""
    result = promtool("test", "rules", "recorder.rules.test.yml")
    assert result.returncode == 0, result.stdout


def test_runbooks_are_where_the_operator_publishes_them(tmp_path: Path) -> None:
    """With the external label that prometheus.yml offers, every alert links there, instead of into the repository."""
    shipped = (PROMETHEUS / "prometheus.yml").read_text()
    configuration = re.sub(r"^  #(?! \S)", "  ", shipped, flags=re.MULTILINE)
    (tmp_path / "prometheus.yml").write_text(configuration)
    (tmp_path / "recorder.rules.yml").write_text((PROMETHEUS / "recorder.rules.yml").read_text())
    checked = promtool("check", "config", "--syntax-only", "prometheus.yml", cwd=tmp_path)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    address = yaml.safe_load(configuration)["global"]["external_labels"]["recorder_runbooks"]
    assert address.startswith("https://")
    tests = (PROMETHEUS / "recorder.rules.test.yml").read_text().replace("docs/operations.md#", f"{address}#")
    external = f"    external_labels: {{recorder_runbooks: '{address}'}}\n    input_series:"
    (tmp_path / "recorder.rules.test.yml").write_text(tests.replace("    input_series:", external))
    result = promtool("test", "rules", "recorder.rules.test.yml", cwd=tmp_path)
    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize(
    ("said", "slip"), [("> 0.25", "> 2.5"), ("for: 5m", "for: 50m"), ("stocks", "shares")]
)
def test_a_slip_would_be_found(tmp_path: Path, said: str, slip: str) -> None:
    """Another threshold, another time or another label in rules or tests fails, so that the test above can."""
    for name in ("recorder.rules.yml", "recorder.rules.test.yml"):
        text = (PROMETHEUS / name).read_text()
        (tmp_path / name).write_text(text.replace(said, slip, 1))
    assert promtool("test", "rules", "recorder.rules.test.yml", cwd=tmp_path).returncode == 1


@every_alert
def test_an_alert_is_tested_in_both_directions(rule: dict[str, Any]) -> None:
    """There is a moment at which it fires, and one at which it does not, beside a series that never makes it fire."""
    [test] = [test for test in TESTS if test["name"].startswith(f"{rule['alert']}: ")]
    cases = [case["exp_alerts"] for case in test["alert_rule_test"]]
    assert {case["alertname"] for case in test["alert_rule_test"]} == {rule["alert"]}
    assert [] in cases
    fired = [alert for case in cases for alert in case]
    assert fired
    assert len(test["input_series"]) > 1


@every_alert
def test_an_alert_names_metrics_that_exist(rule: dict[str, Any]) -> None:
    """Each is in the catalog, or one of every process."""
    named = metrics_of(rule["expr"])
    assert named
    assert named <= known_metrics()


@every_alert
def test_an_alert_has_words_and_a_runbook(rule: dict[str, Any]) -> None:
    """It says how bad it is and where; its runbook says what to look at, what to do, and when it is harmless."""
    name = rule["alert"]
    assert rule["labels"]["severity"] in ("critical", "warning")
    notes = rule["annotations"]
    assert sorted(notes) == ["description", "runbook_url", "summary"]
    assert "absent(" in rule["expr"] or "{{ $labels.instance }}" in notes["summary"]
    assert notes["runbook_url"] == f"{RUNBOOK_BASE}#alert-{name.lower()}"
    [runbook] = re.findall(rf"^### Alert {name}\n(.*?)(?=^### |\Z)", RUNBOOKS, re.DOTALL | re.MULTILINE)
    assert runbook.strip().startswith(f"*{rule['labels']['severity'].capitalize()}.* ")
    assert re.findall(r"^- \*\*(.+?)\*\*: ", runbook, re.MULTILINE) == ["Look at", "Do", "Harmless"]


def test_every_runbook_has_an_alert() -> None:
    """None is left over."""
    assert re.findall(r"^### Alert (\w+)$", RUNBOOKS, re.MULTILINE) == [rule["alert"] for rule in RULES]


def test_runbooks_and_rules_name_what_exists() -> None:
    """Every metric that a runbook speaks of is one."""
    named = set(re.findall(r"`((?:polygon|process|python)_\w+)`", RUNBOOKS))
    histograms = {name.removesuffix("_count") for name in known_metrics() if name.endswith("_count")}
    assert named <= known_metrics() | histograms


def test_the_scraped_job_is_the_one_that_the_rules_know() -> None:
    """`job="recorder"` in the rules is the name in prometheus.yml, whose rules are ours."""
    configuration = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text())
    assert configuration["rule_files"] == ["recorder.rules.yml"]
    [job] = configuration["scrape_configs"]
    named = {job for rule in RULES for job in re.findall(r'job="(\w+)"', rule["expr"])}
    assert named == {job["job_name"]}


def test_the_docs_point_prometheus_and_grafana_at_this_machine(tmp_path: Path) -> None:
    """The `sed` commands of docs/operations.md make it the defaults' address, which asks for no token."""
    for folder, name in ((folder, name) for name, folder in SHIPPED_IN.items()):
        (tmp_path / name).write_text((folder / name).read_text())
    found = re.findall(r"^sudo sed -i '(.+)' (\S+)$", DOCS, re.MULTILINE)
    for script, file in found:
        before = (tmp_path / Path(file).name).read_text()
        subprocess.run(["sed", "-i", script, tmp_path / Path(file).name], check=True)
        assert (tmp_path / Path(file).name).read_text() != before, script
    [job] = yaml.safe_load((tmp_path / "prometheus.yml").read_text())["scrape_configs"]
    assert job == {
        "job_name": "recorder",
        "static_configs": [{"targets": [OPTIONS["METRICS_ADDR"].default]}],
    }
    [source] = yaml.safe_load((tmp_path / "prometheus.yaml").read_text())["datasources"]
    assert source["url"] == "http://127.0.0.1:9090"
