"""A real Prometheus scrapes real recorders under load: every query of the dashboard has data, every rule can be judged."""

from __future__ import annotations

import json
import math
import re
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from commands import KEY, Running, clean_environment, free_port, live_settings, running, simulating
from listening import listening
from nats_servers import nats_variables, serving
from nats_tiers import tier_settings
from tools import tool
from waiting import eventually_sync

from grafana.dashboard import dashboard

PROMETHEUS: Final = Path(__file__).resolve().parents[2] / "prometheus"
DASHBOARD: Final = dashboard()
SHOWN_SECS: Final = 60
"""The time range of the dashboard."""
RATE_INTERVAL: Final = "4s"
"""What Grafana makes of `$__rate_interval` where it is scraped each second: four times as much."""
LABEL: Final = re.compile(r"\{\{(\w+)\}\}")


class Prometheus:
    """A Prometheus that runs, and what it answers."""

    def __init__(self, address: str) -> None:
        self.address = address

    def ask(self, path: str, **parameters: str) -> Any:
        """Ask its API; return the data of its answer."""
        url = f"http://{self.address}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        with urllib.request.urlopen(url, timeout=20) as answer:
            return json.load(answer)["data"]

    def series(self, query: str, *, instant: bool) -> list[dict[str, Any]]:
        """Run a query as a panel does; return the series that have a value to show."""
        if instant:
            found = self.ask("query", query=query)["result"]
        else:
            now = time.time()
            found = self.ask("query_range", query=query, start=str(now - SHOWN_SECS), end=str(now), step="1")[
                "result"
            ]
        return [
            one
            for one in found
            if any(math.isfinite(float(value)) for _, value in one.get("values", [one.get("value")]))
        ]


@contextmanager
def prometheus(folder: Path, *targets: str) -> Iterator[Prometheus]:
    """Run a Prometheus by our own configuration and rules, but each second and with these targets, without tokens."""
    text = re.sub(
        r" +authorization:\n.*credentials_file:.*\n", "", (PROMETHEUS / "prometheus.yml").read_text()
    )
    text = text.replace("[recorder:9898]", json.dumps(targets)).replace("15s", "1s")
    (folder / "prometheus.yml").write_text(text)
    (folder / "recorder.rules.yml").write_bytes((PROMETHEUS / "recorder.rules.yml").read_bytes())
    address = f"127.0.0.1:{free_port()}"
    with (folder / "prometheus.log").open("w") as log:
        process = subprocess.Popen(
            [
                tool("prometheus"),
                f"--config.file={folder / 'prometheus.yml'}",
                f"--storage.tsdb.path={folder / 'tsdb'}",
                f"--web.listen-address={address}",
            ],
            stdout=log,
            stderr=log,
            env=clean_environment(),
        )
        try:
            yield Prometheus(address)
        finally:
            process.terminate()
            process.wait(30)


@contextmanager
def recorders(folder: Path) -> Iterator[tuple[Running, ...]]:
    """Run one that does all there is to do, one that serves behind it, each with its clients, and one behind its streams."""
    faults = ("--fault", "close:code=1001,after=6s,times=0", "--fault", "bad-element:after=2000,times=0")
    bucket = folder / "bucket"
    bucket.mkdir()
    market = ("--cluster", "stocks", "--cluster", "crypto", "--symbols", "20", "--rate", "500")
    with (
        simulating(*market, *faults, cwd=folder) as port,
        serving(folder / "nats") as nats,
        ExitStack() as stack,
    ):
        settings = live_settings(
            port,
            folder / "archive",
            POLYGON_CLUSTER="stocks,crypto",
            SUBSCRIPTION_CRYPTO="XT.*,XQ.*",
            **nats_variables(nats, SINK="ndjson,zmq,nats", NATS_MAX_BYTES="64MiB"),
            ZMQ_ENDPOINT=f"tcp://127.0.0.1:{free_port()}",
            ZMQ_BIND="true",
            NDJSON_SPLIT_PER_TYPE="true",
            NDJSON_MAX_BYTES="100000",
            NDJSON_COMPRESSION="zstd",
            NDJSON_RETAIN_BYTES="1000000",
            ARCHIVE_UPLOAD_URL=f"file://{bucket}",
            NDJSON_MIN_FREE_BYTES="1MiB",
            SERVE_WORKERS="2",
        )
        first = stack.enter_context(running("run", cwd=folder, **settings))
        first.wait_for("subscribed", 2)
        behind = live_settings(
            0,
            folder,
            ROLES="filtered,ops",
            FIREHOSE_URL=f"ws://{first.address_of('firehose')}",
            MS_AGGREGATOR_URL=f"ws://{first.address_of('bars')}",
            SINK="none",
        )
        for name in (
            "POLYGON_WS_URL",
            "SUBSCRIPTION",
            "NDJSON_DEST",
            "NDJSON_MIN_FREE_BYTES",
            "FIREHOSE_PORT",
            "AGGREGATOR_PORT",
        ):
            del behind[name]
        second = stack.enter_context(running("run", cwd=folder, **behind))
        second.wait_for("subscribed")
        for recorder, server, topics in (
            (first, "firehose", "*"),
            (first, "filtered", "T.*"),
            (first, "bars", "100Ms.*"),
            (second, "filtered", "T.*,100Ms.*"),
        ):
            stack.enter_context(listening(f"ws://{recorder.address_of(server)}", topics, KEY))
        clusters = {"POLYGON_CLUSTER": "stocks,crypto", "ROLES": "ops", "SINK": "none"}
        third = stack.enter_context(running("run", cwd=folder, **tier_settings(nats, folder, **clusters)))
        third.wait_for("started")
        yield first, second, third


def chosen(prometheus: Prometheus, *, everything: bool) -> dict[str, str]:
    """Return what Grafana puts in place of each variable: for All, or where every value is picked by itself."""
    values: dict[str, str] = {"__rate_interval": RATE_INTERVAL, "__range": f"{SHOWN_SECS}s"}
    for variable in DASHBOARD["templating"]["list"]:
        if variable["type"] != "query":
            continue
        found = re.fullmatch(r"label_values\((.*), (\w+)\)", variable["query"])
        assert found is not None
        selector, label = found.groups()
        known = prometheus.ask(f"label/{label}/values", **{"match[]": substituted(selector, values)})
        picked = [re.sub(r"([.*+?^$()|{}\[\]])", r"\\\\\1", value) for value in known]
        values[variable["name"]] = variable["allValue"] if everything else f"({'|'.join(picked)})"
    return values


def substituted(query: str, values: Mapping[str, str]) -> str:
    """Return a query as Grafana sends it."""
    return re.sub(r"\$(\w+)", lambda found: values[found[1]], query)


def test_every_panel_has_data_and_every_rule_can_be_judged(tmp_path: Path) -> None:
    """Each query of each panel gives a finite value, whose series differ in the legend; no rule fails."""
    with (
        recorders(tmp_path) as running_now,
        prometheus(tmp_path, *(one.address for one in running_now)) as there,
    ):

        def scraped() -> bool:
            with suppress(urllib.error.URLError, ConnectionError):
                return len(there.series("up == 1", instant=True)) == len(running_now)
            return False

        eventually_sync(scraped, "all recorders scraped", every_secs=0.2)
        picked = chosen(there, everything=False)
        assert picked["job"] == "(recorder)"
        assert picked["feed"] == "(crypto|stocks)"
        open_queries = {
            (panel["title"], target["expr"], everything): target
            for everything in (False, True)
            for panel in DASHBOARD["panels"]
            for target in panel.get("targets", ())
        }
        count = len(open_queries)

        def all_have_data() -> bool:
            for key, target in list(open_queries.items()):
                values = chosen_all if key[2] else picked
                series = there.series(substituted(key[1], values), instant=target["instant"])
                if series:
                    del open_queries[key]
                    assert_legends_differ(key[0], target, series)
            return not open_queries

        chosen_all = chosen(there, everything=True)
        try:
            eventually_sync(all_have_data, "data in every panel", deadline_secs=60, every_secs=1)
        except AssertionError:
            raise AssertionError(
                f"{len(open_queries)} of {count} queries have no data: {list(open_queries)}"
            ) from None
        rules = [rule for group in there.ask("rules")["groups"] for rule in group["rules"]]
        assert {rule["health"] for rule in rules} == {"ok"}, [
            rule for rule in rules if rule["health"] != "ok"
        ]
        firing = {rule["name"] for rule in rules if rule["state"] == "firing"}
        assert not firing


def assert_legends_differ(title: str, target: Mapping[str, Any], series: list[dict[str, Any]]) -> None:
    """Every label of the legend is one of the series, and no two series have the same legend."""
    if target["instant"]:
        return
    legend = target["legendFormat"]
    if legend == "__auto":
        assert [one["metric"] for one in series] == [{}], title
        return
    texts = [LABEL.sub(lambda label, one=one: one["metric"][label[1]], legend) for one in series]  # type: ignore[misc]
    assert len(set(texts)) == len(texts), f"{title}: {texts}"
