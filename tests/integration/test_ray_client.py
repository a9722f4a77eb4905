"""Drivers that are no part of the cluster: they reach it by Ray Client (``ray://``)."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from ray_anystorage.testing.s3_server import S3Server
from tests.harness import tune_driver
from tests.harness.own_driver import run_driver
from tests.harness.ray_cluster import RayCluster, free_port, started_head
from tests.harness.run_homes import settings_of

# Beside a second cluster on two cores Ray's client server now and then does not start one for the driver.
pytestmark = [pytest.mark.needs_ray, pytest.mark.soak]

TRAINER = """
import json, os, pathlib, sys, tempfile
import ray, ray.train
from ray.train import Checkpoint, ScalingConfig
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer
import ray_anystorage as anystorage

def train(config):
    found, start = ray.train.get_checkpoint(), 0
    if found:
        with found.as_directory() as directory:
            start = int(pathlib.Path(directory, "n").read_text())
    with tempfile.TemporaryDirectory() as directory:
        pathlib.Path(directory, "n").write_text(str(start + 1))
        has_key = "AWS_SECRET_ACCESS_KEY" in os.environ
        ray.train.report({"from": start, "has_key": has_key}, checkpoint=Checkpoint.from_directory(directory))

ray.init(log_to_driver=False)
said = []
for _ in range(2):
    config = anystorage.run_config("trained", **json.loads(sys.argv[1]))
    result = DataParallelTrainer(train, scaling_config=ScalingConfig(num_workers=1), run_config=config).fit()
    with result.checkpoint.as_directory() as directory:
        held = int(pathlib.Path(directory, "n").read_text())
    said.append([result.metrics["from"], held, result.metrics["has_key"]])
print("RESULT", json.dumps(said))
"""
PLACES = {"mount": {}, "bucket": {"tier": "artifact"}}
KEYS = {"tier": "artifact", "credentials": "env"}


@pytest.fixture(scope="module")
def client_cluster() -> Iterator[RayCluster]:
    """A cluster that drivers reach by ``ray://`` alone."""
    directory = Path(tempfile.mkdtemp(prefix="anyray-", dir="/tmp"))
    port = free_port()
    with started_head(directory, "--include-dashboard=false", f"--ray-client-server-port={port}"):
        yield RayCluster(f"ray://127.0.0.1:{port}", directory)


@pytest.fixture
def env(tmp_path: Path, s3_server: S3Server, bucket: str) -> dict[str, str]:
    """What the driver's environment says of storage; the cluster's says nothing."""
    for name in ("cluster", "local"):
        (tmp_path / name).mkdir()
    return {**settings_of(tmp_path, s3_server, bucket), "RAY_ANYSTORAGE_LOCAL_STORAGE": str(tmp_path / "local")}


@pytest.mark.parametrize("place", PLACES)
def test_an_experiment_runs_and_goes_on(
    client_cluster: RayCluster, env: dict[str, str], tmp_path: Path, place: str
) -> None:
    told = {"name": "search", "xs": [1, 2], "steps": 2, "gates": str(tmp_path), "arguments": PLACES[place]}
    for step in (1, 2):
        (tmp_path / str(step)).touch()
    begun, again = (run_driver(client_cluster, Path(tune_driver.__file__), env, json.dumps(told))[0] for _ in range(2))
    for found in (begun, again):
        assert found["errors"] == []
        assert [(trial["held"], trial["metrics"]["has_key"]) for trial in found["trials"]] == [(2, False)] * 2
    assert {trial["path"] for trial in again["trials"]} == {trial["path"] for trial in begun["trials"]}


def test_an_experiment_whose_keys_would_not_get_there_is_refused(
    client_cluster: RayCluster, env: dict[str, str]
) -> None:
    told = {"name": "search", "xs": [1], "steps": 1, "arguments": KEYS}
    done = client_cluster.run_driver(Path(tune_driver.__file__), json.dumps(told), env=env)
    assert done.returncode == 1
    assert 'RequestError: credentials="env": the keys are in this process, and Ray Client' in done.stderr
    assert 'what to do: say credentials="auto"' in done.stderr


@pytest.mark.parametrize("arguments", [*PLACES.values(), KEYS], ids=[*PLACES, "keys"])
def test_a_run_trains_and_goes_on(client_cluster: RayCluster, env: dict[str, str], arguments: dict[str, str]) -> None:
    has_key = arguments is KEYS
    assert run_driver(client_cluster, TRAINER, env, json.dumps(arguments))[0] == [[0, 1, has_key], [1, 2, has_key]]
