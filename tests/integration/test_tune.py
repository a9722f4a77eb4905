"""A plain ``tune.Tuner`` on the plan's storage, on a mount and in a bucket."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ray_anystorage.testing.s3_server import S3Server
from tests.harness.ray_cluster import RayCluster
from tests.harness.s3 import artifact_env, keys_of

pytestmark = pytest.mark.needs_ray

DRIVER = """
import json, os, pathlib, sys, tempfile
import ray
from ray import tune
import ray_anystorage as anystorage

def trial(config):
    for n in range(1, 3):
        with tempfile.TemporaryDirectory() as directory:
            pathlib.Path(directory, "n.json").write_text(json.dumps(n * config["x"]))
            tune.report({"score": n * config["x"]}, checkpoint=tune.Checkpoint.from_directory(directory))

ray.init(log_to_driver=False)
tuner = tune.Tuner(
    tune.with_resources(trial, {"cpu": 1}), param_space={"x": tune.grid_search([1, 2])},
    run_config=anystorage.tune_run_config("tuned", verbose=0, **json.loads(sys.argv[1])),
)
best = tuner.fit().get_best_result("score", "max")
with best.checkpoint.as_directory() as directory:
    content = json.loads(pathlib.Path(directory, "n.json").read_text())
print("RESULT", json.dumps({"score": best.metrics["score"], "content": content, "path": best.path}))
"""


def run(cluster: RayCluster, env: dict[str, str], **arguments: object) -> tuple[dict[str, object], str]:
    process = cluster.run_driver(DRIVER, json.dumps(arguments), env=env)
    output = process.stdout + process.stderr
    assert process.returncode == 0, output[-6000:]
    line = next(line for line in process.stdout.splitlines() if line.startswith("RESULT "))
    return json.loads(line.removeprefix("RESULT ")), output


def test_on_a_mount(ray_cluster: RayCluster, tmp_path: Path) -> None:
    (tmp_path / "cluster").mkdir()
    result, _ = run(ray_cluster, {"RAY_ANYSTORAGE_CLUSTER_STORAGE": str(tmp_path / "cluster")})
    assert (result["score"], result["content"]) == (4, 4)
    assert str(result["path"]).startswith(str(tmp_path / "cluster" / "tuned"))
    assert (tmp_path / "cluster" / "tuned" / "tuner.pkl").stat().st_size > 0


def test_in_a_bucket_without_a_secret_in_tunes_own_state(
    ray_cluster: RayCluster, s3_server: S3Server, bucket: str
) -> None:
    env = {
        **artifact_env(s3_server, f"{bucket}/folder"),
        **keys_of(s3_server),
    }
    result, output = run(ray_cluster, env, checkpoint_size="12GB", credentials="env")
    assert (result["score"], result["content"]) == (4, 4)
    keys = s3_server.keys(bucket)
    assert "folder/tuned/tuner.pkl" in keys
    # Tune's own directory copy makes an empty marker for every level above, where a Train run of ours makes none.
    data = [key for key in keys if not key.endswith("/")]
    assert all(key.startswith("folder/tuned/") for key in data), "data lies outside the run home"
    assert len([key for key in keys if key.endswith("n.json")]) == 4
    client = s3_server.client()
    for key in keys:
        assert s3_server.secret_key.encode() not in client.get_object(Bucket=bucket, Key=key)["Body"].read(), key
    assert s3_server.secret_key not in output
