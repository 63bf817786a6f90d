"""The Grafana dashboard: it is laid out without overlap, and holds the rules of Grafana's linter.

The rules are those of grafana/dashboard-linter; its own words for them stand beside each test.
"""

from __future__ import annotations

import json
import re
from typing import Any, Final

import pytest
import yaml
from promql import known_metrics, metrics_of, selectors_of

from grafana.dashboard import FILE, dashboard
from recorder.ops.metrics_table import METRICS

GRAFANA: Final = FILE.parents[1]
DASHBOARD: Final = dashboard()
PANELS: Final[list[dict[str, Any]]] = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
VARIABLES: Final = {variable["name"]: variable for variable in DASHBOARD["templating"]["list"]}
UNITS: Final = frozenset({"none", "short", "percentunit", "bytes", "Bps", "s", "dtdurations", "cps", "reqps"})
"""Of Grafana's identifiers, those in use."""
every_panel = pytest.mark.parametrize("panel", PANELS, ids=[panel["title"] for panel in PANELS])


def test_the_rows_are_those_of_an_operator() -> None:
    """Six rows, in this order."""
    rows = [panel["title"] for panel in DASHBOARD["panels"] if panel["type"] == "row"]
    assert rows == ["Overview", "Feeds", "Archive", "Clients", "Bars", "Process"]


def test_panels_cover_the_grid_once() -> None:
    """No two lie over each other, none beyond the edge; ids and titles within a row are unique."""
    taken: set[tuple[int, int]] = set()
    row = ""
    titles: set[tuple[str, str]] = set()
    for panel in DASHBOARD["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not cells & taken, panel["title"]
        taken |= cells
        if panel["type"] == "row":
            row = panel["title"]
        else:
            assert (row, panel["title"]) not in titles
            titles.add((row, panel["title"]))
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])


def test_amended_bars_and_failed_parts_have_their_panels() -> None:
    """What clients were sent again, and what was restarted, by name."""
    shown = {
        panel["title"]: {name for one in panel["targets"] for name in metrics_of(one["expr"])}
        for panel in PANELS
    }
    assert shown["Amended bars"] == {"polygon_bars_amended_total", "polygon_bars_too_late_total"}
    assert shown["Parts"] == {"polygon_part_up"}
    assert shown["Parts restarted"] == {"polygon_part_restarts_total"}


@every_panel
def test_a_panel_is_complete(panel: dict[str, Any]) -> None:
    """panel-datasource, panel-title-description, panel-units, panel-no-targets: variable source, words, unit, queries."""
    assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
    assert panel["title"]
    assert panel["description"].endswith(".")
    assert panel["fieldConfig"]["defaults"]["unit"] in UNITS
    assert panel["targets"]
    assert [target["refId"] for target in panel["targets"]] == list("ABCDEFGHI"[: len(panel["targets"])])
    for target in panel["targets"]:
        assert target["datasource"] == panel["datasource"]
        assert target["expr"]
        # What is drawn over time asks for a range; a table for the present.
        assert (target["instant"], target["range"]) == (panel["type"] == "table", panel["type"] != "table")


@every_panel
def test_a_query_asks_for_the_chosen_recorders(panel: dict[str, Any]) -> None:
    """target-job, target-instance: every selector has both, and the cluster where there is one; no other variable."""
    labels = {one.name: one.labels for group in METRICS.values() for one in group}
    for target in panel["targets"]:
        selectors = selectors_of(target["expr"])
        assert {name for name, _ in selectors} == metrics_of(target["expr"]) <= known_metrics()
        for name, matchers in selectors:
            assert matchers.startswith('job=~"$job", instance=~"$instance"')
            of_feed = "feed" in labels.get(re.sub("_(bucket|sum|count)$", "", name), ())
            assert ('feed=~"$feed"' in matchers) == of_feed, name
        named = set(re.findall(r"\$\{?(\w+)", target["expr"]))
        assert named <= {*VARIABLES, "__rate_interval", "__range"}


@every_panel
def test_a_counter_is_never_shown_bare(panel: dict[str, Any]) -> None:
    """target-counter-agg, target-rate-interval: rate or increase of each, over $__rate_interval, or all that is shown."""
    for target in panel["targets"]:
        query = target["expr"]
        for name, _ in selectors_of(query):
            if name.endswith(("_total", "_bucket", "_sum", "_count")):
                [call] = re.findall(rf"(\w+)\({name}\{{[^}}]*\}}\[(\$\w+)\]", query) or [("", "")]
                assert call in {
                    ("rate", "$__rate_interval"),
                    ("increase", "$__rate_interval"),
                    ("increase", "$__range"),
                }, query


def test_variables_choose_source_job_instance_and_cluster() -> None:
    """template-datasource, -job, -instance, -label-promql, -on-time-change-reload: as the linter wants them."""
    assert list(VARIABLES) == ["datasource", "job", "instance", "feed"]
    source, *chosen = VARIABLES.values()
    assert (source["type"], source["query"], source["label"]) == ("datasource", "prometheus", "Data source")
    for variable in chosen:
        name = variable["name"]
        assert variable["type"] == "query"
        assert variable["datasource"]["uid"] == "${datasource}"
        assert variable["label"] == {"feed": "Cluster"}.get(name, name.capitalize())
        assert variable["refresh"] == 2
        assert variable["multi"]
        assert variable["includeAll"]
        assert variable["allValue"] == ".+"
        query = re.fullmatch(r"label_values\((.*), (\w+)\)", variable["query"])
        assert query is not None
        assert query[2] == name
        assert metrics_of(query[1]) <= known_metrics()


def test_the_dashboard_cannot_be_edited_by_accident() -> None:
    """uneditable-dashboard: what is provisioned is changed in the project."""
    assert DASHBOARD["editable"] is False


def test_what_is_provisioned_fits_together() -> None:
    """The data source is a Prometheus whose interval is the one that ours scrapes at; the provider reads files."""
    [source] = yaml.safe_load((GRAFANA / "provisioning/datasources/prometheus.yaml").read_text())[
        "datasources"
    ]
    scrape = yaml.safe_load((GRAFANA.parent / "prometheus/prometheus.yml").read_text())["global"]
    assert source["type"] == "prometheus"
    assert source["isDefault"]
    assert source["jsonData"]["timeInterval"] == scrape["scrape_interval"]
    [provider] = yaml.safe_load((GRAFANA / "provisioning/dashboards/recorder.yaml").read_text())["providers"]
    assert provider["type"] == "file"
    docs = (GRAFANA.parent / "docs/operations.md").read_text()
    assert f"{provider['options']['path']}/recorder.json" in docs
    assert json.loads(FILE.read_text())["uid"] == "recorder"
