"""What a run on several hosts resumes from, where the hosts do not see the same."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.harness.hosts import CLUSTER, LOCAL, Lab

pytestmark = pytest.mark.needs_ray

DRIVER = """
import hashlib, json, os, pathlib, sys, tempfile
import ray.train
from ray.train import Checkpoint, ScalingConfig
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer
import ray_anystorage as anystorage

def train(config):
    rank, checkpoint, held = ray.train.get_context().get_world_rank(), ray.train.get_checkpoint(), {}
    if checkpoint:
        with checkpoint.as_directory() as directory:
            held = {name: pathlib.Path(directory, name).read_bytes().hex() for name in ("rank-0", "rank-1")}
    for name in config["save"]:
        with tempfile.TemporaryDirectory() as directory:
            pathlib.Path(directory, f"rank-{rank}").write_bytes(os.urandom(64))
            pathlib.Path(directory, f"seen-by-{rank}").write_text(json.dumps(held))
            saved = Checkpoint.from_directory(directory)
            ray.train.report({"rank": rank}, checkpoint=saved, checkpoint_dir_name=name)

scaling = ScalingConfig(num_workers=2, label_selector=[{"host": "1"}, {"host": "2"}])
trainer = DataParallelTrainer(
    train, train_loop_config={"save": sys.argv[1:]}, scaling_config=scaling, run_config=anystorage.run_config("run")
)
print("RESULT", json.dumps(trainer.fit().path))
"""
DAMAGE = """
cp -a "$1" "$2"
printf X | dd of="$2/rank-1" bs=1 seek=33 conv=notrunc status=none
"""
SITE = {"RAY_ANYSTORAGE_CLUSTER_STORAGE": CLUSTER}


def test_a_checkpoint_that_is_damaged_as_one_host_sees_it_is_passed_over_on_all(lab: Lab) -> None:
    first = lab.hosts[1].run_driver(DRIVER, "one", "two", env=SITE)
    home = Path(str(first.result()))
    saved = {n: (lab.cluster / home.name / "one" / f"rank-{n}").read_bytes().hex() for n in (0, 1)}
    host = lab.hosts[2]
    host.shell(DAMAGE, f"{home}/two", f"{LOCAL}/two")
    with host.covered(f"{home}/two", f"{LOCAL}/two"):
        second = lab.hosts[1].run_driver(DRIVER, "three", env=SITE)
    second.result()
    for rank in (0, 1):
        seen = json.loads((lab.cluster / home.name / "three" / f"seen-by-{rank}").read_text())
        assert seen == {f"rank-{n}": content for n, content in saved.items()}
    said = second.output()
    assert f"not resuming from two: checkpoint two is damaged: rank-1 (other content) (on node {host.address})" in said
    assert "resuming from one instead" in said
