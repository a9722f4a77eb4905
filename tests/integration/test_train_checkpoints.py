"""Checkpoints of real Train runs: inline and spilled, two ranks, retention, damage, and what a driver can open."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ray_anystorage.testing.s3_server import S3Server
from tests.harness.ray_cluster import RayCluster
from tests.harness.s3 import artifact_env, keys_of

pytestmark = pytest.mark.needs_ray

DRIVER = """
import json, os, pathlib, sys, tempfile
import ray.train
from ray.train import CheckpointConfig, ScalingConfig
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer
import ray_anystorage as anystorage

def content(n, rank, size):
    return bytes([n, rank]) * (size // 2)

def train(config):
    rank = ray.train.get_context().get_world_rank()
    checkpoint, start = ray.train.get_checkpoint(), 0
    if checkpoint:
        with checkpoint.as_directory() as directory:
            start = json.loads(pathlib.Path(directory, "n.json").read_text())
            for other in range(2):
                size = config["sizes"][start - 1]
                assert pathlib.Path(directory, f"rank-{other}").read_bytes() == content(start, other, size)
        with checkpoint.as_directory(files="n.json"), checkpoint.open(f"rank-{rank}") as file:
            file.seek(10)
            assert file.read(2) == content(start, rank, 12)[10:]
        checkpoint.update_metadata({"seen_by": rank})
        assert "seen_by" in checkpoint.get_metadata()
    for n in range(start + 1, len(config["sizes"]) + 1):
        with tempfile.TemporaryDirectory() as directory:
            pathlib.Path(directory, f"rank-{rank}").write_bytes(content(n, rank, config["sizes"][n - 1]))
            pathlib.Path(directory, "n.json").write_text(json.dumps(n))
            ray.train.report({"n": n, "from": start}, checkpoint=ray.train.Checkpoint.from_directory(directory))

options = json.loads(sys.argv[1])
config = anystorage.run_config(options["name"], checkpoint_config=CheckpointConfig(num_to_keep=options.get("keep")))
result = DataParallelTrainer(
    train, train_loop_config={"sizes": options["sizes"]}, scaling_config=ScalingConfig(num_workers=2), run_config=config
).fit()
found = {}
for checkpoint, metrics in result.best_checkpoints:
    with checkpoint.as_directory() as directory:
        found[metrics["n"]] = sorted(str(p.relative_to(directory)) for p in pathlib.Path(directory).rglob("rank-*"))
print("RESULT", json.dumps({"from": result.metrics["from"], "n": result.metrics["n"], "found": found}))
"""

SMALL, LARGE = 1000, 400_000


@pytest.fixture
def site(s3_server: S3Server, bucket: str, tmp_path: Path) -> dict[str, str]:
    """A mount, a bucket with keys, and a threshold that small files stay under and large ones pass."""
    (tmp_path / "cluster").mkdir()
    return {
        "RAY_ANYSTORAGE_CLUSTER_STORAGE": str(tmp_path / "cluster"),
        "RAY_ANYSTORAGE_LOCAL_STORAGE": str(tmp_path / "none"),
        **artifact_env(s3_server, f"{bucket}/artifacts"),
        "RAY_ANYSTORAGE_CREDENTIALS": "env",
        "RAY_ANYSTORAGE_THRESHOLD": "100kB",
        **keys_of(s3_server),
        "HOME": str(tmp_path),
    }


def fit(cluster: RayCluster, site: dict[str, str], **options: Any) -> tuple[dict[str, Any], str]:
    process = cluster.run_driver(DRIVER, json.dumps(options), env=site, timeout=180)
    output = process.stdout + process.stderr
    assert process.returncode == 0, output[-6000:]
    line = next(line for line in process.stdout.splitlines() if line.startswith("RESULT "))
    return json.loads(line.removeprefix("RESULT ")), output


def test_each_checkpoint_goes_where_its_real_size_belongs_and_comes_back_from_there(
    ray_cluster: RayCluster, s3_server: S3Server, bucket: str, site: dict[str, str], tmp_path: Path
) -> None:
    result, _ = fit(ray_cluster, site, name="mixed", sizes=[SMALL, LARGE])
    assert result == {"from": 0, "n": 2, "found": {"1": ["rank-0", "rank-1"], "2": ["rank-0", "rank-1"]}}
    home = tmp_path / "cluster" / "mixed"
    small, large = sorted(home.glob("checkpoint_[0-9]*"))
    assert {path.name for path in small.iterdir()} == {".anystorage", "n.json", "rank-0", "rank-1"}
    assert {path.name for path in large.iterdir()} == {".anystorage", "DATA_IS_ELSEWHERE.txt"}
    spilled = [key for key in s3_server.keys(bucket) if key.startswith("artifacts/spilled/mixed-")]
    assert {key.rpartition("/")[2] for key in spilled} == {"n.json", "rank-0", "rank-1"}

    resumed, _ = fit(ray_cluster, site, name="mixed", sizes=[SMALL, LARGE, SMALL], keep=1)
    assert resumed == {"from": 2, "n": 3, "found": {"3": ["rank-0", "rank-1"]}}
    assert [path.name for path in home.glob("checkpoint_[0-9]*")] != [small.name]
    assert len(list(home.glob("checkpoint_[0-9]*"))) == 1, "what the run resumed from went at its end"
    assert not [key for key in s3_server.keys(bucket) if key.startswith("artifacts/spilled/")], "data was left behind"
    written = [path.read_bytes() for path in home.rglob("*") if path.is_file()]
    assert not [content for content in written if s3_server.secret_key.encode() in content]
