"""What a real node of Ray exports to Prometheus while a run saves and restores."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness.dashboard import cluster_with_dashboard, dashboard_parts
from tests.harness.ray_cluster import RayCluster
from tests.unit.test_grafana import LABELS

__all__ = ["dashboard_parts"]
pytestmark = [pytest.mark.needs_ray, pytest.mark.soak]

SIZE = 3 << 20
DRIVER = f"""
import json, os, pathlib, sys, tempfile, time, urllib.request
import ray, ray.train
from ray.train import Checkpoint, ScalingConfig
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer
import ray_anystorage as anystorage

def train(config):
    checkpoint = ray.train.get_checkpoint()
    for step in range(2):
        with tempfile.TemporaryDirectory() as directory:
            pathlib.Path(directory, "file").write_bytes(os.urandom({SIZE}))
            anystorage.report({{"step": step}}, directory)
    with anystorage.Checkpoint(config["from"]).as_directory():
        pass
    until = time.monotonic() + 60
    while time.monotonic() < until:
        text = urllib.request.urlopen(config["url"], timeout=10).read().decode()
        lines = [line for line in text.splitlines() if "anystorage_saved_bytes_total{{" in line]
        saved = [float(line.rpartition(" ")[2]) for line in lines]
        if "anystorage_restored_bytes" in text and sum(saved) >= {3 * SIZE}:  # the first run's is counted, too
            return text
        time.sleep(0.5)
    return text

def first():
    with tempfile.TemporaryDirectory() as directory:
        pathlib.Path(directory, "file").write_bytes(os.urandom({SIZE}))
        anystorage.report({{"step": 0}}, directory)

ray.init(log_to_driver=False)
scaling = ScalingConfig(num_workers=1)
earlier = DataParallelTrainer(first, scaling_config=scaling, run_config=anystorage.run_config("first")).fit()
url = f"http://127.0.0.1:{{ray.nodes()[0]['MetricsExportPort']}}/metrics"
config = {{"url": url, "from": earlier.checkpoint.path}}
trainer = DataParallelTrainer(
    train, train_loop_config=config, scaling_config=scaling, run_config=anystorage.run_config("second")
)
print("RESULT", json.dumps(trainer.fit().return_value))
"""


@pytest.fixture
def cluster(dashboard_parts: Path) -> Iterator[RayCluster]:
    """A cluster of this test's own, whose node has what exports metrics."""
    with cluster_with_dashboard(dashboard_parts, RAY_metrics_report_interval_ms="1000") as cluster:
        yield cluster


def test_a_node_exports_what_a_run_moved(cluster: RayCluster, dashboard_parts: Path, tmp_path: Path) -> None:
    env = {"HOME": str(tmp_path), "PYTHONPATH": str(dashboard_parts)}
    for tier in ("cluster", "local"):
        (tmp_path / tier).mkdir()
        env[f"RAY_ANYSTORAGE_{tier.upper()}_STORAGE"] = str(tmp_path / tier)
    done = cluster.run_driver(DRIVER, env=env, timeout=170)
    assert done.returncode == 0, done.stderr[-4000:]
    text = json.loads(next(line[7:] for line in done.stdout.splitlines() if line.startswith("RESULT ")))
    found = re.findall(r"^(ray_anystorage_\w+)\{([^}]*)\} ([0-9.e+]+)$", text, re.MULTILINE)
    names = {name for name, _, _ in found}
    assert {
        "ray_anystorage_saved_bytes_total",
        "ray_anystorage_restored_bytes_total",
        "ray_anystorage_committed_checkpoints_total",
        "ray_anystorage_transferred_bytes_total",
        "ray_anystorage_transfer_seconds_total",
        "ray_anystorage_save_seconds_bucket",
        "ray_anystorage_save_seconds_count",
        "ray_anystorage_stall_seconds_bucket",
        "ray_anystorage_restore_seconds_bucket",
    } <= names, sorted(names)
    saved = [float(value) for name, labels, value in found if name == "ray_anystorage_saved_bytes_total"]
    assert sum(saved) == 3 * SIZE, "those of both runs"
    for _, labels, _ in found:
        said = dict(re.findall(r'(\w+)="([^"]*)"', labels))
        assert said["tier"] == "cluster"
        assert all(said[label] in values for label, values in LABELS.items() if label in said), said
