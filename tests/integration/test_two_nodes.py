"""Two Ray nodes on this machine: what the site says is shared is used, one node's own disk is not."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.harness.ray_cluster import clean_environment

pytestmark = pytest.mark.needs_ray

DRIVER = """
import json, os, pathlib, sys, tempfile
import ray, ray.train
from ray.cluster_utils import Cluster
from ray.train import Checkpoint, ScalingConfig
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer
import ray_anystorage as anystorage
from ray_anystorage import errors

def train():
    rank = ray.train.get_context().get_world_rank()
    with tempfile.TemporaryDirectory() as directory:
        pathlib.Path(directory, f"rank-{rank}").write_text(ray.get_runtime_context().get_node_id())
        ray.train.report({"rank": rank}, checkpoint=Checkpoint.from_directory(directory))

def fit(config):
    scaling = ScalingConfig(num_workers=2, placement_strategy="STRICT_SPREAD")
    return DataParallelTrainer(train, scaling_config=scaling, run_config=config).fit()

unknown = anystorage.run_config("unknown")          # planned before there is a cluster, on this node's own disk
shared = pathlib.Path(sys.argv[1])
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
cluster.add_node(num_cpus=1)
ray.init(cluster.address, log_to_driver=False)
try:
    cluster.wait_for_nodes()
    try:
        anystorage.run_config("local")
    except errors.NoStorageError as error:
        print("PLANNED", "2 nodes" in str(error))
    try:
        fit(unknown)
    except Exception as error:
        print("CHECKED", "the cluster has 2 nodes" in str(error))
    os.environ["RAY_ANYSTORAGE_CLUSTER_STORAGE"] = str(shared)
    result = fit(anystorage.run_config("both"))
    names = sorted(path.name for path in pathlib.Path(result.checkpoint.path).iterdir() if path.is_file())
    nodes = {pathlib.Path(result.checkpoint.path, name).read_text() for name in names}
    print("SHARED", names, len(nodes))
finally:
    ray.shutdown()
    cluster.shutdown()
"""


@pytest.mark.soak
def test_two_nodes(tmp_path: Path) -> None:
    (tmp_path / "shared").mkdir()
    env = clean_environment({"HOME": str(tmp_path), "RAY_TMPDIR": "/tmp"})
    command = [sys.executable, "-c", DRIVER, str(tmp_path / "shared")]
    process = subprocess.run(command, env=env, cwd=tmp_path, capture_output=True, text=True, timeout=150, check=False)
    assert process.returncode == 0, process.stdout + process.stderr[-4000:]
    said = process.stdout.splitlines()
    assert "PLANNED True" in said
    assert "CHECKED True" in said, process.stderr[-4000:]
    assert "SHARED ['rank-0', 'rank-1'] 2" in said
