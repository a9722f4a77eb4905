"""``results()``: Ray's result of a run that exists, in a driver that has no Ray cluster."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import ray

import ray_anystorage as anystorage
from ray_anystorage import errors
from tests.harness.ray_cluster import RayCluster
from tests.harness.run_homes import SNAPSHOT, Home, Site, settings_of, site

__all__ = ["site"]

DRIVER = """
import json, os, pathlib, sys, tempfile
import ray.train
from ray.train import Checkpoint, CheckpointConfig, ScalingConfig
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer
import ray_anystorage as anystorage

def train():
    for n, size in enumerate((1_000, 2_000_000, 3_000), start=1):
        with tempfile.TemporaryDirectory() as directory:
            pathlib.Path(directory, "n.json").write_text(json.dumps(n))
            pathlib.Path(directory, "model.bin").write_bytes(os.urandom(size))
            ray.train.report({"n": n, "loss": abs(n - 2)}, checkpoint=Checkpoint.from_directory(directory))

DataParallelTrainer(
    train,
    scaling_config=ScalingConfig(num_workers=1),
    run_config=anystorage.run_config("real", checkpoint_config=CheckpointConfig(
        num_to_keep=2, checkpoint_score_attribute="loss", checkpoint_score_order="min")),
).fit()
"""


def files_of(checkpoint: Any) -> dict[str, bytes]:
    with checkpoint.as_directory() as directory:
        return {
            str(path.relative_to(directory)): path.read_bytes()
            for path in Path(directory).rglob("*")
            if path.is_file() and ".anystorage" not in path.parts and path.name != "DATA_IS_ELSEWHERE.txt"
        }


def check(result: ray.train.Result, home: Home, *names: str) -> None:
    assert not ray.is_initialized()
    assert [metrics["n"] for _, metrics in result.best_checkpoints or ()] == [*range(1, len(names) + 1)]
    for name, (checkpoint, _) in zip(names, result.best_checkpoints or (), strict=True):
        assert isinstance(checkpoint, anystorage.Checkpoint)
        assert checkpoint.path.endswith(f"/{home.name}/{name}")
        assert files_of(checkpoint) == home.saved[name]
    assert result.checkpoint is (result.best_checkpoints or ())[-1][0], "Ray's identity of the latest is lost"
    assert result.metrics == {"n": len(names)}
    best = result.get_best_checkpoint("n", "min")
    assert best is (result.best_checkpoints or ())[0][0]


def test_checkpoints_open_inline_and_spilled(site: Site) -> None:
    home = site.on_mount()
    home.save("checkpoint_1", ranks=2)
    home.save("checkpoint_2", spilled=True)
    home.snapshot("checkpoint_1", "checkpoint_2")
    check(anystorage.results("run"), home, "checkpoint_1", "checkpoint_2")


def test_checkpoints_open_from_a_home_in_the_bucket(site: Site) -> None:
    home = site.in_bucket()
    home.save("checkpoint_1", ranks=2)
    home.save("checkpoint_2")
    home.snapshot("checkpoint_1", "checkpoint_2")
    check(anystorage.results(home.store.uri), home, "checkpoint_1", "checkpoint_2")


def test_nothing_is_written_into_the_run(site: Site) -> None:
    home = site.on_mount()
    home.save("checkpoint_1")
    home.snapshot("checkpoint_1")
    before = site.everything()
    files_of(anystorage.results(home.store.uri).checkpoint)
    assert site.everything() == before


def test_a_damaged_checkpoint_raises_when_it_is_opened(site: Site) -> None:
    home = site.on_mount()
    home.save("checkpoint_1")
    home.snapshot("checkpoint_1")
    path = site.cluster / "run" / "checkpoint_1" / "rank-0.bin"
    path.write_bytes(os.urandom(path.stat().st_size))
    result = anystorage.results(home.store.uri)
    with pytest.raises(errors.CheckpointCorruptedError, match=r"rank-0\.bin"), result.checkpoint.as_directory():
        pass


def test_size_alone_is_compared_where_that_is_asked_for(site: Site) -> None:
    """It finds what is gone or cut short, and no flipped bit."""
    home = site.on_mount()
    for name in ("flipped", "cut"):
        home.save(name)
    home.snapshot("flipped", "cut")
    flipped, cut = (site.cluster / "run" / name / "rank-0.bin" for name in ("flipped", "cut"))
    flipped.write_bytes(bytes([flipped.read_bytes()[0] ^ 1]) + flipped.read_bytes()[1:])
    cut.write_bytes(cut.read_bytes()[:-1])
    (one, _), (two, _) = anystorage.results(home.store.uri).best_checkpoints or ()
    with one.as_directory(verify="size") as directory:
        assert Path(directory, "rank-0.bin").read_bytes() != home.saved["flipped"]["rank-0.bin"]
    with pytest.raises(errors.CheckpointCorruptedError), two.as_directory(verify="size"):
        pass
    with pytest.raises(errors.RequestError, match="verify='none'"), one.as_directory(verify="none"):
        pass


@pytest.mark.parametrize("place", ["mount", "bucket"])
def test_stock_ray_and_this_package_read_what_the_other_stored(
    site: Site, place: str, caplog: pytest.LogCaptureFixture
) -> None:
    home = site.on_mount() if place == "mount" else site.in_bucket()
    home.save("checkpoint_1", ranks=2)
    home.snapshot("checkpoint_1")
    opened = anystorage.Checkpoint(f"{home.store.uri}/checkpoint_1")
    stock = ray.train.Checkpoint(opened.path, filesystem=opened.filesystem)
    with stock.as_directory() as directory:
        for name, content in home.saved["checkpoint_1"].items():
            assert Path(directory, name).read_bytes() == content
    for name, content in home.saved["checkpoint_1"].items():
        home.store.write_small(f"theirs/{name}", content)
    assert "can be verified" not in caplog.text
    theirs = anystorage.Checkpoint(f"{home.store.uri}/theirs")
    assert files_of(theirs) == home.saved["checkpoint_1"]
    assert not theirs.contents().verifiable
    assert "was not stored by ray_anystorage: only that its files are there can be verified" in caplog.text


def test_what_stands_in_the_way_is_said(site: Site) -> None:
    with pytest.raises(errors.RunMissingError, match="there is no run 'none'"):
        anystorage.results("none")
    home = site.on_mount()
    home.save("checkpoint_1")
    with pytest.raises(errors.RunMissingError, match="has saved nothing yet"):
        anystorage.results(home.store.uri)
    home.snapshot("checkpoint_gone", "checkpoint_1")
    with pytest.raises(errors.CheckpointMissingError, match="are gone: checkpoint_gone"):
        anystorage.results(home.store.uri)
    home.store.write_small(SNAPSHOT, b"{")
    with pytest.raises(errors.SnapshotDamagedError):
        anystorage.results(home.store.uri)


@pytest.mark.soak
@pytest.mark.needs_ray
def test_the_results_of_a_real_run(ray_cluster: RayCluster, site: Site) -> None:
    settings = settings_of(site.root, site.server, site.bucket)
    env = {**settings, "RAY_ANYSTORAGE_CREDENTIALS": "env", "RAY_ANYSTORAGE_THRESHOLD": "1MB"}
    done = ray_cluster.run_driver(DRIVER, env=env)
    assert done.returncode == 0, (done.stdout + done.stderr)[-6000:]
    result = anystorage.results("real")
    assert not ray.is_initialized()
    found = {
        metrics["n"]: json.loads(files_of(checkpoint)["n.json"])
        for checkpoint, metrics in result.best_checkpoints or ()
    }
    assert 2 in found
    assert all(number == stored for number, stored in found.items())
    spilled = next(checkpoint for checkpoint, metrics in result.best_checkpoints or () if metrics["n"] == 2)
    assert (spilled.contents().locations[0] or "").startswith(f"s3://{site.bucket}/")
    assert json.loads(files_of(result.checkpoint)["n.json"]) == 3
