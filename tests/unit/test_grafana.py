"""The Grafana dashboard: of Grafana's own types, each query of metrics that there are, and their labels few."""

from __future__ import annotations

import importlib
import itertools
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest

from ray_anystorage.environment import Tier
from ray_anystorage.events import (
    Began,
    Committed,
    Ended,
    Outcome,
    Placed,
    Restored,
    Saved,
    Source,
    Staged,
    Store,
    Transferred,
    What,
)
from tests.harness.mounts import cannot

FOLDER = Path(__file__).parents[2] / "deploy" / "grafana"
BOOLS = ("true", "false")
LABELS: dict[str, tuple[str, ...]] = {
    "tier": get_args(Tier),
    "direction": ("sent", "fetched"),
    "store": get_args(Store),
    "detour": BOOLS,
    "how": ("moved", "copied", "waited"),
    "placed": get_args(Placed),
    "source": get_args(Source),
    "operation": get_args(What),
}


class Recorded:
    """Stands for a metric of Ray's: its name as Prometheus has it, its labels, and what was said under which."""

    def __init__(self, name: str, description: str, *rest: Any) -> None:
        assert description.endswith(".")
        self.histogram = len(rest) == 2
        self.name, self.labels = f"ray_{name}", tuple(rest[-1])
        self.said: list[dict[str, str]] = []

    def inc(self, amount: float, tags: dict[str, str]) -> None:
        assert amount > 0, "Ray's counters refuse it"
        self.observe(amount, tags)

    def observe(self, amount: float, tags: dict[str, str]) -> None:
        assert set(tags) == set(self.labels)
        self.said.append(tags)

    @property
    def exported(self) -> list[str]:
        endings = ("_bucket", "_count", "_sum") if self.histogram else ("_total",)
        return [self.name + ending for ending in endings]


@pytest.fixture
def metrics(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Those of a process, which go nowhere."""
    pytest.importorskip("ray")
    from ray_anystorage.train import metrics

    for kind in ("Counter", "Histogram"):
        monkeypatch.setattr(metrics, kind, Recorded)
    return metrics.Metrics.of("cluster")


def all_of(metrics: Any) -> list[Recorded]:
    return [value for name in metrics.__slots__ if isinstance(value := getattr(metrics, name), Recorded)]


def everything_that_can_happen() -> Iterator[Ended]:
    kinds: dict[str, tuple[Any, ...]] = {"direction": LABELS["direction"], "bool": (False, True), "int": (0, 7)}
    kinds |= {"store": LABELS["store"], "source": LABELS["source"], "placed": LABELS["placed"]}
    outcomes: list[Outcome | None] = [None]
    for outcome in (Transferred, Saved, Staged, Committed, Restored):
        hints = get_type_hints(outcome)
        values = [kinds.get(name) or kinds[hint.__name__] for name, hint in hints.items()]
        outcomes += [outcome(*chosen) for chosen in itertools.product(*values)]
    for what, outcome, error in itertools.product(LABELS["operation"], outcomes, (None, "RequestError", "OSError")):
        yield Ended(Began(1, None, what, "checkpoint-of-mine", 7), 1.5, error, outcome)


def test_no_label_has_unbounded_values(metrics: Any) -> None:
    for event in everything_that_can_happen():
        metrics.heard(event)
    for metric in all_of(metrics):
        assert metric.said, f"{metric.name} is never counted"
        for tags in metric.said:
            assert all(tags[label] in LABELS[label] for label in tags), tags
    assert all(len(values) < 10 for values in LABELS.values())


def test_names_are_those_of_prometheus_conventions(metrics: Any) -> None:
    for metric in all_of(metrics):
        assert re.fullmatch(r"ray_anystorage_[a-z]+(_[a-z]+)*", metric.name)
        if metric.histogram:
            assert metric.name.endswith("_seconds"), "base units, last in the name"
        else:
            assert not metric.name.endswith("_total"), "the exporter adds it"


def dashboard() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((FOLDER / "anystorage.json").read_text())
    return found


def queries() -> list[str]:
    return [target["expr"] for panel in dashboard()["panels"] for target in panel["targets"]]


def plain(query: str) -> str:
    """As Grafana sends it, for all tiers."""
    return query.replace("$__rate_interval", "1m").replace("$tier", ".*")


def test_the_dashboard_is_what_grafanas_own_types_make(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("grafana_foundation_sdk")
    from grafana_foundation_sdk.cog.encoder import JSONEncoder
    from grafana_foundation_sdk.cog.plugins import register_default_plugins
    from grafana_foundation_sdk.models.dashboard import Dashboard

    monkeypatch.syspath_prepend(FOLDER)
    maker = importlib.import_module("dashboard")
    assert (FOLDER / "anystorage.json").read_text() == maker.dashboard(), "run deploy/grafana/dashboard.py"
    register_default_plugins()
    read = json.loads(JSONEncoder().encode(Dashboard.from_json(dashboard())))
    for panel in read["panels"]:
        assert panel["fieldConfig"]["defaults"].pop("custom") == {}
    assert read == dashboard(), "there is a field that Grafana's types do not know"


def test_every_query_is_of_metrics_and_labels_that_there_are(metrics: Any) -> None:
    known = {name: set(metric.labels) | {"le"} for metric in all_of(metrics) for name in metric.exported}
    asked = set()
    for query in queries():
        names = re.findall(r"ray_anystorage_\w+", query)
        assert names
        labels = {label.strip() for by in re.findall(r"by \(([^)]*)\)", query) for label in by.split(",")}
        labels |= set(re.findall(r'(\w+)=~?"', query))
        for name in names:
            assert name in known, query
            assert labels <= known[name], query
        asked |= set(names)
    shown = {name for name, labels in known.items() if name in asked}
    left = [metric.name for metric in all_of(metrics) if not shown & set(metric.exported)]
    assert left == [], "a metric that nobody sees"


def test_prometheus_parses_every_query(tmp_path: Path) -> None:
    if not shutil.which("promtool"):
        cannot("there is no promtool (apt-get install prometheus)")
    rules = [{"record": f"rule_{number}", "expr": plain(query)} for number, query in enumerate(queries())]
    (tmp_path / "rules.json").write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}))
    command = ["promtool", "check", "rules", str(tmp_path / "rules.json")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(rules)} rules found" in done.stdout
