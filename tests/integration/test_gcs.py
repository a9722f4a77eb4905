"""A Train run on Google Cloud Storage, as far as a stand-in goes: state by pyarrow's client, data by obstore's."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import ray_anystorage as anystorage
from tests.harness.ray_cluster import RayCluster, leave_clean
from tests.harness.tiny_gcs import TinyGcs

pytestmark = [pytest.mark.needs_ray, pytest.mark.soak]

DRIVER = """
import json, os, pathlib, random, sys, tempfile
import ray, ray.train
from ray.train import Checkpoint, CheckpointConfig, ScalingConfig
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer
import ray_anystorage as anystorage

def content(rank, n):
    return random.Random(f"{rank} {n}").randbytes(300_000)

def train(until):
    rank, begun = ray.train.get_context().get_world_rank(), 0
    if (checkpoint := ray.train.get_checkpoint()) is not None:
        with checkpoint.as_directory() as directory:
            begun = json.loads(pathlib.Path(directory, "n").read_text())
            for other in range(2):
                assert pathlib.Path(directory, f"rank-{other}").read_bytes() == content(other, begun), "other bytes"
    for n in range(begun + 1, until + 1):
        with tempfile.TemporaryDirectory() as directory:
            pathlib.Path(directory, "n").write_text(json.dumps(n))
            pathlib.Path(directory, f"rank-{rank}").write_bytes(content(rank, n))
            ray.train.report({"n": n, "begun": begun}, checkpoint=Checkpoint.from_directory(directory))

ray.init(logging_level="WARNING", log_to_driver=False)
keep = CheckpointConfig(num_to_keep=1)
result = DataParallelTrainer(
    train, train_loop_config=int(sys.argv[1]), scaling_config=ScalingConfig(num_workers=2),
    run_config=anystorage.run_config("on-gcs", tier="artifact", checkpoint_config=keep),
).fit()
print("RESULT", json.dumps([result.metrics, result.path]))
"""


def test_a_run_lives_there_is_resumed_and_looked_at(
    ray_cluster: RayCluster, tiny_gcs: TinyGcs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = tmp_path / "key.json"
    key.write_text(
        json.dumps({"type": "authorized_user", "client_id": "c", "client_secret": "s", "refresh_token": "r"})
    )
    env = {
        "HOME": str(tmp_path),
        "RAY_ANYSTORAGE_ARTIFACT_STORAGE": "gs://bucket/team a",
        "RAY_ANYSTORAGE_ENDPOINT": tiny_gcs.endpoint,
        "GOOGLE_APPLICATION_CREDENTIALS": str(key),
    }
    for until, begun in ((2, 0), (3, 2)):
        done = ray_cluster.run_driver(DRIVER, str(until), env=env)
        assert done.returncode == 0, (done.stdout + done.stderr)[-5000:]
        (line,) = [line[7:] for line in done.stdout.splitlines() if line.startswith("RESULT ")]
        assert json.loads(line) == [{"n": until, "begun": begun}, "bucket/team a/on-gcs"]
    names = {path.removeprefix("bucket/team a/on-gcs/") for path in tiny_gcs.objects}
    assert all(path.startswith("bucket/team a/on-gcs/") for path in tiny_gcs.objects), "something lies outside"
    assert {"checkpoint_manager_snapshot.json", ".anystorage/controller.json"} <= names
    assert len({name.partition("/")[0] for name in names if name.startswith("checkpoint_") and "/" in name}) == 1
    leave_clean(monkeypatch)
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    result = anystorage.results("on-gcs")
    assert result.metrics["n"] == 3
    with result.checkpoint.as_directory() as directory:
        assert sorted(path.name for path in Path(directory).glob("rank-*")) == ["rank-0", "rank-1"]
