"""Runs whose stored checkpoints or cached files were damaged: they go on from the newest that is good, and say so."""

from __future__ import annotations

import hashlib
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import ray
import ray.train
from ray import cloudpickle
from ray.train import FailureConfig, ScalingConfig
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer
from ray.train.v2.api.exceptions import ControllerError

import ray_anystorage as anystorage
from ray_anystorage.checkpoint import node
from ray_anystorage.checkpoint.record import RECORD
from ray_anystorage.errors import CheckpointCorruptedError
from tests.harness.ray_cluster import RayCluster
from tests.harness.run_homes import Home, Site, site
from tests.harness.saved import flipped, of_a_later_version

__all__ = ["site"]

cloudpickle.register_pickle_by_value(sys.modules[__name__])
pytestmark = pytest.mark.needs_ray
DATA = "rank-0.bin"


def train(config: dict[str, str]) -> None:
    checkpoint: Any = ray.train.get_checkpoint()
    with checkpoint.as_directory() as directory:
        held = hashlib.sha256(Path(directory, DATA).read_bytes()).hexdigest()
    with tempfile.TemporaryDirectory() as directory:
        Path(directory, "next").write_bytes(b"next")
        saved = ray.train.Checkpoint.from_directory(directory)
        ray.train.report({"resumed": config.get(held, "wrong bytes")}, checkpoint=saved)


def begun_before(home: Home, count: int) -> list[str]:
    """Leave a run as one that saved so many checkpoints and ended; their names."""
    names = [f"checkpoint_{number}" for number in range(1, count + 1)]
    for name in names:
        home.save(name)
    home.snapshot(*names)
    return names


def resumed(site: Site, home: Home) -> str:
    """Go on with a run; which of its checkpoints the worker was given, by the content."""
    (site.root / "local").mkdir(exist_ok=True)
    site.environment.setenv("RAY_ANYSTORAGE_LOCAL_STORAGE", str(site.root / "local"))
    site.environment.setenv("RAY_ANYSTORAGE_CREDENTIALS", "env")
    config: Any = anystorage.run_config("run", failure_config=FailureConfig(max_failures=1))
    known = {hashlib.sha256(files[DATA]).hexdigest(): name for name, files in home.saved.items()}
    scaling = ScalingConfig(num_workers=1)
    trainer = DataParallelTrainer(train, train_loop_config=known, scaling_config=scaling, run_config=config)
    return str((trainer.fit().metrics or {})["resumed"])


def spoil(path: Path, change: Callable[[bytes], bytes]) -> None:
    path.write_bytes(change(path.read_bytes()))


def test_a_run_on_a_mount_resumes_from_the_newest_that_is_good(
    driver: None, site: Site, ray_cluster: RayCluster
) -> None:
    home = site.on_mount()
    _, two, three, four, five = (site.cluster / "run" / name for name in begun_before(home, 5))
    (manifest,) = (five / ".anystorage").glob("manifest-*")
    good = manifest.read_bytes()
    manifest.write_bytes(of_a_later_version(good))
    before = site.everything()
    with pytest.raises(ControllerError, match=f"checkpoint {five.name}: .* has format 2, .* upgrade it"):
        resumed(site, home)
    after = site.everything()
    assert {key: after.get(key) for key in before if "/checkpoint_" in key} == {
        key: before[key] for key in before if "/checkpoint_" in key
    }

    manifest.write_bytes(good[:-40])
    spoil(four / ".anystorage" / RECORD, lambda content: flipped(content, 77))
    spoil(three / DATA, lambda content: flipped(content, 77))
    assert resumed(site, home) == two.name
    log = ray_cluster.log_text()
    assert f"not resuming from {five.name}: checkpoint {five.name} is damaged: {manifest.name} is torn" in log
    assert f"not resuming from {four.name}: checkpoint {four.name} is damaged: {RECORD} is torn" in log
    assert f"not resuming from {three.name}: checkpoint {three.name} is damaged: {DATA} (other content)" in log
    assert f"resuming from {two.name} instead" in log
    with pytest.raises(CheckpointCorruptedError, match=rf"was found damaged: .* {DATA} \(other content\)"):
        anystorage.Checkpoint(str(three)).contents()


@pytest.mark.soak
def test_a_run_in_a_bucket_passes_over_damage_that_is_found_while_it_is_read(
    driver: None, site: Site, ray_cluster: RayCluster
) -> None:
    home = site.in_bucket()
    names = one, two, three = begun_before(home, 3)
    node.enter(node.node_at(str(site.root / "local"), "before", 0.5))
    cached = []
    for name in names:
        with anystorage.Checkpoint(f"{home.store.uri}/{name}").as_directory() as directory:
            cached.append(Path(directory, DATA))
    for path in cached:
        spoil(path, lambda content: flipped(content, 99))
    home.store.write_small(f"{two}/{DATA}", home.saved[two][DATA][:-1])
    home.store.write_small(f"{three}/{DATA}", flipped(home.saved[three][DATA], 77))
    assert resumed(site, home) == one
    log = ray_cluster.log_text()
    assert f"checkpoint {three} is damaged and will not be resumed from" in log
    assert f"not resuming from {three}: checkpoint {three} was found damaged" in log
    assert f"not resuming from {two}: checkpoint {two} is damaged: gone or of another size: {DATA}" in log
    assert f"resuming from {one} instead" in log
    for path in (cached[0], cached[2]):
        assert f"dropped {path} from the node's cache: its content is not what was saved" in log
