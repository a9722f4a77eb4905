"""Every query of the Grafana dashboard, answered by a real Prometheus that scrapes a node of Ray during a run."""

from __future__ import annotations

import contextlib
import json
import math
import re
import shutil
import subprocess
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.harness.dashboard import dashboard_parts
from tests.harness.mounts import cannot
from tests.harness.ray_cluster import RayCluster, free_port, started_head
from tests.unit.test_grafana import plain, queries

__all__ = ["dashboard_parts"]
pytestmark = [pytest.mark.needs_ray, pytest.mark.soak]

ONLY_FAULTS = ("ray_anystorage_retries_total", "ray_anystorage_throttles_total")  # none here; test_events counts some
DRIVER = """
import os, pathlib, shutil, sys, tempfile, time
import ray, ray.train
from ray.train import CheckpointConfig, ScalingConfig
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer
import ray_anystorage as anystorage
from ray_anystorage import errors

def train(config):
    until = time.monotonic() + 120
    while not os.path.exists(config["enough"]) and time.monotonic() < until:
        with tempfile.TemporaryDirectory() as directory:
            pathlib.Path(directory, "file").write_bytes(os.urandom(3 << 20))
            anystorage.report({}, directory)
        for checkpoint in (ray.train.get_checkpoint(), anystorage.Checkpoint(config["from"])):
            if checkpoint is not None:
                with checkpoint.as_directory():  # from the cache, and in place
                    pass
        broken = anystorage.Checkpoint(config["broken"])
        try:
            with broken.as_directory():
                raise AssertionError("it was damaged")
        except errors.CheckpointCorruptedError:
            pass
        time.sleep(0.3)

def first(config):
    with tempfile.TemporaryDirectory() as directory:
        pathlib.Path(directory, "file").write_bytes(os.urandom(3 << 20))
        anystorage.report({}, directory)

ray.init(log_to_driver=False)
scaling = ScalingConfig(num_workers=1)

def fit(train, name, **config):
    run_config = anystorage.run_config(name, checkpoint_config=CheckpointConfig(num_to_keep=3))
    trainer = DataParallelTrainer(train, train_loop_config=config, scaling_config=scaling, run_config=run_config)
    return trainer.fit().checkpoint

earlier, broken = fit(first, "first"), fit(first, "broken")
pathlib.Path(broken.path, "file").write_bytes(bytes(3 << 20))
for cache in pathlib.Path(os.environ["RAY_ANYSTORAGE_LOCAL_STORAGE"]).glob("anystorage-*/cache"):
    shutil.rmtree(cache)
fit(train, "second", enough=sys.argv[1], broken=broken.path, **{"from": earlier.path})
"""


@pytest.fixture
def node(dashboard_parts: Path) -> Iterator[tuple[RayCluster, int]]:
    """A cluster of this test's own, and the port that its node exports metrics on."""
    directory, port = Path(tempfile.mkdtemp(prefix="anyprom-", dir="/tmp")), free_port()
    env = {"PYTHONPATH": str(dashboard_parts), "RAY_metrics_report_interval_ms": "1000"}
    options = ("--include-dashboard=true", "--dashboard-port=0", f"--metrics-export-port={port}")
    with started_head(directory, *options, env=env) as address:
        yield RayCluster(address, directory), port


@contextlib.contextmanager
def prometheus(directory: Path, port: int) -> Iterator[str]:
    """The address of one that scrapes a port every second."""
    target = {"targets": [f"127.0.0.1:{port}"]}
    scrape = {"job_name": "ray", "scrape_interval": "1s", "static_configs": [target]}
    (directory / "prometheus.json").write_text(json.dumps({"scrape_configs": [scrape]}))  # JSON is YAML
    own = f"127.0.0.1:{free_port()}"
    command = ["prometheus", f"--config.file={directory}/prometheus.json", f"--web.listen-address={own}",
               f"--storage.tsdb.path={directory}/tsdb", "--log.level=warn"]  # fmt: skip
    with (directory / "prometheus.log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, cwd=directory)
    try:
        yield f"http://{own}"
    finally:
        process.terminate()
        process.wait(30)


def series(address: str, query: str) -> list[float]:
    """The values that a query gives now, but for those that are no number."""
    url = f"{address}/api/v1/query?{urllib.parse.urlencode({'query': plain(query)})}"
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            result = json.load(answer)["data"]["result"]
    except ConnectionError:  # it is not up yet
        return []
    except urllib.error.URLError as error:
        if isinstance(error.reason, ConnectionError):
            return []
        raise
    values = [float(one["value"][1]) for one in result]
    return [value for value in values if not math.isnan(value)]


def test_every_query_is_answered(node: tuple[RayCluster, int], dashboard_parts: Path, tmp_path: Path) -> None:
    if not shutil.which("prometheus"):
        cannot("there is no prometheus (apt-get install prometheus)")
    cluster, port = node
    env = {"HOME": str(tmp_path), "PYTHONPATH": str(dashboard_parts)}
    for tier in ("cluster", "local"):
        (tmp_path / tier).mkdir()
        env[f"RAY_ANYSTORAGE_{tier.upper()}_STORAGE"] = str(tmp_path / tier)
    enough = tmp_path / "enough"
    asked = [query for query in queries() if not re.search("|".join(ONLY_FAULTS), query)]
    assert len(asked) == len(queries()) - len(ONLY_FAULTS)
    with prometheus(tmp_path, port) as address, ThreadPoolExecutor(1) as beside:
        run = beside.submit(cluster.run_driver, DRIVER, str(enough), env=env, timeout=170)
        empty = asked
        try:
            while empty and not run.done():
                time.sleep(0.5)
                empty = [query for query in empty if not series(address, query)]
        finally:
            enough.touch()
        done = run.result()
        throughput = series(address, asked[0])
    assert done.returncode == 0, done.stderr[-4000:]
    assert empty == [], (tmp_path / "prometheus.log").read_text()[-2000:]
    assert max(throughput) > 0
