"""Makes grafana/dashboards/recorder.json, which `make docs` writes.

Every panel has the same datasource, matchers, legends and grid, which no hand keeps equal in thousands of lines of JSON.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

from grafana.model import Panel
from grafana.rows import ROWS

FILE: Final = Path(__file__).parent / "dashboards" / "recorder.json"
DATASOURCE: Final = {"type": "prometheus", "uid": "${datasource}"}
COLUMNS: Final = 24


def _variable(name: str, label: str, where: str) -> dict[str, Any]:
    """Return a variable whose values are those of a label."""
    query = f"label_values(polygon_build_info{where}, {name})"
    return {
        "type": "query",
        "name": name,
        "label": label,
        "datasource": DATASOURCE,
        "query": query,
        "refresh": 2,
        "sort": 1,
        "multi": True,
        "includeAll": True,
        "allValue": ".+",
        "current": {"selected": True, "text": ["All"], "value": ["$__all"]},
        "options": [],
        "hide": 0,
    }


def _mappings(states: dict[int, tuple[str, str]]) -> dict[str, Any]:
    if not states:
        return {}
    options = {
        str(value): {"index": value, "text": text, "color": color} for value, (text, color) in states.items()
    }
    return {"mappings": [{"type": "value", "options": options}]}


def _thresholds(panel: Panel) -> dict[str, Any]:
    steps: list[dict[str, Any]] = [
        {"color": "green" if panel.bad_from is not None else "text", "value": None}
    ]
    if panel.bad_from is not None:
        steps.append({"color": "red", "value": panel.bad_from})
    return {"mode": "absolute", "steps": steps}


def _custom(panel: Panel) -> dict[str, Any]:
    """Return what this type of panel has beyond what all panels have."""
    if panel.type == "timeseries":
        stacking = {"group": "A", "mode": "normal" if panel.stacked else "none"}
        return {
            "drawStyle": "line",
            "lineWidth": 1,
            "fillOpacity": 30 if panel.stacked else 10,
            "showPoints": "auto",
            "spanNulls": False,
            "stacking": stacking,
        }
    return {"fillOpacity": 70, "lineWidth": 0} if panel.type == "state-timeline" else {}


def _options(panel: Panel) -> dict[str, Any]:
    legend = {"displayMode": "list", "placement": "bottom", "showLegend": True}
    if panel.type == "stat":
        return {
            "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
            "colorMode": "background" if panel.states or panel.bad_from is not None else "value",
            "graphMode": "none" if panel.states else "area",
            "justifyMode": "auto",
            "textMode": "auto",
            "orientation": "auto",
        }
    if panel.type == "table":
        return {"showHeader": True, "cellHeight": "sm"}
    if panel.type == "state-timeline":
        return {"legend": legend, "mergeValues": True, "showValue": "auto", "rowHeight": 0.9}
    return {"legend": legend, "tooltip": {"mode": "multi", "sort": "desc"}}


def _target(number: int, legend: str, query: str, *, table: bool) -> dict[str, Any]:
    return {
        "refId": chr(ord("A") + number),
        "datasource": DATASOURCE,
        "editorMode": "code",
        "expr": query,
        "legendFormat": legend or "__auto",
        # A table shows the present; all else is drawn over time.
        "instant": table,
        "range": not table,
        "format": "table" if table else "time_series",
    }


def _panel(panel: Panel) -> dict[str, Any]:
    table = panel.type == "table"
    made: dict[str, Any] = {
        "type": panel.type,
        "title": panel.title,
        "description": panel.description,
        "datasource": DATASOURCE,
        "fieldConfig": {
            "defaults": {
                "unit": panel.unit,
                "color": {"mode": "thresholds" if panel.type == "stat" else "palette-classic"},
                "thresholds": _thresholds(panel),
                "custom": _custom(panel),
                **_mappings(panel.states),
                **({"min": 0} if panel.type == "timeseries" else {}),
            },
            "overrides": [],
        },
        "options": _options(panel),
        "targets": [
            _target(number, legend, query, table=table)
            for number, (legend, query) in enumerate(panel.queries.items())
        ],
    }
    if table:
        excluded = {"excludeByName": {"Time": True, "Value": True}}
        made["transformations"] = [{"id": "organize", "options": excluded}]
    return made


def _panels() -> list[dict[str, Any]]:
    """Lay the rows out: panels from left to right, the next line where no room is left."""
    made: list[dict[str, Any]] = []
    y = 0
    for title, panels in ROWS.items():
        made.append(
            {
                "type": "row",
                "title": title,
                "collapsed": False,
                "panels": [],
                "gridPos": _place(0, y, COLUMNS, 1),
            }
        )
        y += 1
        x = height = 0
        for panel in panels:
            if x + panel.width > COLUMNS:
                x, y, height = 0, y + height, 0
            made.append({**_panel(panel), "gridPos": _place(x, y, panel.width, panel.height)})
            x += panel.width
            height = max(height, panel.height)
        y += height
    return [{"id": number, **panel} for number, panel in enumerate(made, start=1)]


def _place(x: int, y: int, width: int, height: int) -> dict[str, int]:
    return {"x": x, "y": y, "w": width, "h": height}


def dashboard() -> dict[str, Any]:
    """Return the dashboard as Grafana reads it (classic JSON model)."""
    return {
        "uid": "recorder",
        "title": "Recorder",
        "description": "Recorders of Polygon.io market data: feeds, archive, clients, bars, process.",
        "tags": ["recorder", "market data"],
        "schemaVersion": 39,
        "version": 1,
        "editable": False,
        "graphTooltip": 1,
        "refresh": "30s",
        "time": {"from": "now-3h", "to": "now"},
        "timezone": "",
        "timepicker": {},
        "fiscalYearStartMonth": 0,
        "links": [],
        "annotations": {"list": []},
        "templating": {
            "list": [
                {
                    "type": "datasource",
                    "name": "datasource",
                    "label": "Data source",
                    "query": "prometheus",
                    "regex": "",
                    "refresh": 1,
                    "multi": False,
                    "includeAll": False,
                    "current": {},
                    "options": [],
                    "hide": 0,
                },
                _variable("job", "Job", ""),
                _variable("instance", "Instance", '{job=~"$job"}'),
                _variable("feed", "Cluster", '{job=~"$job", instance=~"$instance"}'),
            ]
        },
        "panels": _panels(),
    }


def render() -> str:
    """Return the file's text."""
    return json.dumps(dashboard(), indent=2, ensure_ascii=False) + "\n"
