"""The catalogue of metrics against what is exported, the dashboard, and the page that explains them."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from callboard_actors import metrics as actors
from callboard_http.metrics import Metrics
from callboard_runtime.observe import worker
from callboard_runtime.observe.metrics import CATALOGUE, REGISTRY, Bounded, Metric, render
from unit import docs_pages as docs

DASHBOARD: dict[str, Any] = json.loads((docs.ROOT / "deploy" / "grafana" / "callboard.json").read_text())
OURS = re.compile(r"\bcallboard_[a-z_]+")
SUFFIXES = {"counter": ("",), "gauge": ("",), "histogram": ("_bucket", "_sum", "_count")}
SERIES = {name + suffix for name, metric in CATALOGUE.items() for suffix in SUFFIXES[metric.kind]}


def queries() -> list[str]:
    return [target["expr"] for panel in DASHBOARD["panels"] for target in panel.get("targets", ())]


@pytest.mark.parametrize("query", queries())
def test_the_dashboard_asks_for_series_and_labels_that_exist(query: str) -> None:
    named = set(OURS.findall(query))
    assert named <= SERIES
    labels = {"instance", "job", "le"} | {label for name in named for label in _metric(name).labels}
    grouped = {label.strip() for group in re.findall(r"by \(([^)]*)\)", query) for label in group.split(",")}
    assert grouped - {""} <= labels


def _metric(series: str) -> Metric:
    return CATALOGUE.get(series) or CATALOGUE[re.sub(r"_(bucket|sum|count)$", "", series)]


def test_the_dashboard_shows_every_metric_in_panels_that_do_not_overlap() -> None:
    shown = {_metric(name).name for query in queries() for name in OURS.findall(query)}
    assert shown == set(CATALOGUE)
    places = [panel["gridPos"] for panel in DASHBOARD["panels"]]
    cells = [(x, y) for p in places for x in range(p["x"], p["x"] + p["w"]) for y in range(p["y"], p["y"] + p["h"])]
    assert len(cells) == len(set(cells))
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(ids) == len(set(ids))
    legends = [t["legendFormat"] for panel in DASHBOARD["panels"] for t in panel.get("targets", ())]
    labels = {label for metric in CATALOGUE.values() for label in metric.labels} | {"instance", "job"}
    assert {name for legend in legends for name in re.findall(r"{{(\w+)}}", legend)} <= labels


def test_what_is_exported_is_what_the_catalogue_says() -> None:
    exported = {family.name: family.type for family in text_string_to_metric_families(Metrics().render(3).decode())}
    for name, metric in CATALOGUE.items():
        assert exported[name.removesuffix("_total")] == metric.kind, name
    own = {family.name for family in REGISTRY.collect() if family.name.startswith("callboard_")}
    assert own <= {name.removesuffix("_total") for name in CATALOGUE}


def test_names_say_their_unit_and_labels_name_nobody() -> None:
    for name, metric in CATALOGUE.items():
        assert name.endswith("_total") == (metric.kind == "counter"), name
        assert metric.text.endswith("."), name
        assert not {"user", "session", "session_id", "run", "run_id", "thread", "tool_call_id"} & set(metric.labels)


def test_a_label_has_so_many_values_at_most() -> None:
    bounded = Bounded(2)
    assert [bounded(value) for value in ("a", "b", "c", "a", "d")] == ["a", "b", "other", "a", "other"]


def test_a_front_shows_its_counts() -> None:
    metrics = Metrics()
    metrics.events_sent = 7
    metrics.requests["/x", 200] += 2
    metrics.problems["/x", "GONE"] += 1
    text = metrics.render(5).decode()
    assert "callboard_http_events_sent_total 7.0" in text
    assert 'callboard_http_requests_total{route="/x",status="200"} 2.0' in text
    assert 'callboard_http_problems_total{code="GONE",route="/x"} 1.0' in text or (
        'callboard_http_problems_total{route="/x",code="GONE"} 1.0' in text
    )
    assert "callboard_http_open_streams 5.0" in text


def test_commands_and_tools_are_counted_by_outcome() -> None:
    actors.command_settled("TestCommand", "answered")
    actors.command_settled("TestCommand", "answered")
    worker.tool_called("a_test_tool", failed=True, seconds=0.2)
    text = render().decode()
    assert 'callboard_actors_commands_total{command="TestCommand",outcome="answered"} 2.0' in text
    assert 'callboard_tool_calls_total{outcome="failed",tool="a_test_tool"} 1.0' in text
