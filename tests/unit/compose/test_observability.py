"""Alerts, their tests and runbooks, dashboards: they ask for what there is."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import yaml

from orchestrator.metrics.figures import render_metrics
from scripts.dashboards import build_dashboards
from tests.support.compose import COMPOSE, alert_rules, figures, load, run, services, tool

# How long the sync has been as it is: the alert and `!status` say it.
_NOT_SHOWN = frozenset({"aiagentchat_sync_since_seconds"})
_METRIC = re.compile(r"\b(?:aiagentchat|process)_\w+")


def known_metrics() -> set[str]:
    text = render_metrics(figures()).decode()
    families = re.findall(r"^# TYPE (\S+) (\S+)$", text, re.MULTILINE)
    found = {name for name, _ in families}
    for name, kind in families:
        if kind == "histogram":
            found |= {f"{name}_{end}" for end in ("bucket", "sum", "count")}
    return found


def dashboards() -> dict[str, Any]:
    folder = COMPOSE / "grafana" / "dashboards"
    return {path.name: json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))}


def expressions(kind: str) -> list[str]:
    return [
        target["expr"]
        for board in dashboards().values()
        for panel in board["panels"]
        for target in panel["targets"]
        if target["datasource"]["type"] == kind
    ]


def test_every_metric_that_is_asked_for_is_one_that_there_is() -> None:
    known = known_metrics()
    asked = [rule["expr"] for rule in alert_rules()] + expressions("prometheus")
    unknown = {name for text in asked for name in _METRIC.findall(text)} - known
    assert unknown == set()


def test_every_alert_says_what_is_noticed_and_what_to_do() -> None:
    names = [rule["alert"] for rule in alert_rules()]
    assert len(names) == len(set(names)) >= 10
    for rule in alert_rules():
        assert rule["labels"]["severity"] in {"warning", "critical"}
        assert set(rule["annotations"]) == {"summary", "runbook"}
        assert len(rule["annotations"]["runbook"]) > 60, rule["alert"]


def test_every_alert_has_a_test_in_which_it_fires() -> None:
    tests = (COMPOSE / "alerts.test.yml").read_text()
    for rule in alert_rules():
        # DiskFilling and DiskFull share one.
        assert re.search(rf'alertname(="|: ){rule["alert"]}\b', tests), rule["alert"]


def test_the_alerts_pass_promtools_tests(tmp_path: Path) -> None:
    promtool = tool("promtool")
    done = run(promtool, "test", "rules", "alerts.test.yml")
    assert done.returncode == 0, done.stdout + done.stderr
    # … and these tests notice when an alert is blunt.
    for old, new in (("> 300", "> 3000000"), ("_sync_connected == 0", "_sync_connected == 7")):
        text = (COMPOSE / "alerts.yml").read_text()
        assert old in text
        (tmp_path / "alerts.yml").write_text(text.replace(old, new))
        shutil.copy(COMPOSE / "alerts.test.yml", tmp_path)
        assert run(promtool, "test", "rules", "alerts.test.yml", cwd=tmp_path).returncode != 0


def test_promtool_takes_the_configuration() -> None:
    done = run(tool("promtool"), "check", "config", "prometheus.yml")
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr + done.stdout


def test_amtool_takes_the_configuration() -> None:
    done = run(tool("amtool"), "check-config", "alertmanager.yml")
    assert done.returncode == 0, done.stderr


def test_targets_are_loopback_on_a_host_and_names_in_compose() -> None:
    for name, port in (("orchestrator", 9464), ("alertmanager", 9093)):
        assert load(f"targets/{name}.yml") == [{"targets": [f"127.0.0.1:{port}"]}]
        assert load(f"targets/compose/{name}.yml") == [{"targets": [f"{name}:{port}"]}]
    assert "./targets/compose:/etc/prometheus/targets:ro" in services()["prometheus"]["volumes"]


def test_the_dashboards_are_those_that_the_script_writes() -> None:
    folder = COMPOSE / "grafana" / "dashboards"
    assert {path.name: path.read_text() for path in folder.iterdir()} == build_dashboards()


def test_every_metric_of_ours_is_on_a_dashboard() -> None:
    shown = {name for text in expressions("prometheus") for name in _METRIC.findall(text)}
    for name in known_metrics():
        if name.startswith("aiagentchat_") and not name.endswith(("_sum", "_count", "_created")):
            forms = {name, f"{name}_bucket", name.removesuffix("_bucket")}
            assert forms & shown or name in _NOT_SHOWN, name


def test_panels_do_not_overlap_and_stay_in_the_grid() -> None:
    for name, board in dashboards().items():
        taken: set[tuple[int, int]] = set()
        for panel in board["panels"]:
            at = panel["gridPos"]
            cells = {
                (x, y)
                for x in range(at["x"], at["x"] + at["w"])
                for y in range(at["y"], at["y"] + at["h"])
            }
            assert not cells & taken, (name, panel["title"])
            assert max(x for x, _ in cells) < 24, (name, panel["title"])
            taken |= cells


def test_one_rooms_dashboard_asks_for_that_room_alone() -> None:
    board = dashboards()["room.json"]
    (variable,) = board["templating"]["list"]
    assert variable["name"] == "room"
    for panel in board["panels"]:
        for target in panel["targets"]:
            assert 'room="$room"' in target["expr"], panel["title"]


def test_dashboards_use_the_datasources_that_are_provisioned() -> None:
    sources = load("grafana/provisioning/datasources/datasources.yml")["datasources"]
    uids = {(source["type"], source["uid"]) for source in sources}
    hosts = {re.split(r"[/:]+", source["url"])[1] for source in sources}
    assert hosts <= set(services())
    for name, board in dashboards().items():
        ids = [panel["id"] for panel in board["panels"]]
        assert len(ids) == len(set(ids)), name
        for panel in board["panels"]:
            for one in (panel, *panel["targets"]):
                assert (one["datasource"]["type"], one["datasource"]["uid"]) in uids, name


def test_the_panels_expressions_are_promql(tmp_path: Path) -> None:
    promtool = tool("promtool")
    group = [{"record": f"x{n}", "expr": text} for n, text in enumerate(expressions("prometheus"))]
    path = tmp_path / "rules.yml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": group}]}))
    done = run(promtool, "check", "rules", str(path))
    assert done.returncode == 0, done.stdout + done.stderr
