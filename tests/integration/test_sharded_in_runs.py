"""Sharded checkpoints that are part of a run's: read where they lie, by ranges, and damage noted for the run."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed (optional; .ci/run tries its CPU build)")

from torch.distributed import checkpoint as dcp  # noqa: E402
from torch.distributed.checkpoint.api import CheckpointException  # noqa: E402

import ray_anystorage as anystorage  # noqa: E402
from ray_anystorage import errors  # noqa: E402
from ray_anystorage.checkpoint.read import commit, commit_external  # noqa: E402
from ray_anystorage.checkpoint.record import damaged_key  # noqa: E402
from ray_anystorage.testing.s3_server import S3Server  # noqa: E402
from ray_anystorage.transfer.digest import CHUNK_BYTES  # noqa: E402
from tests.harness.ray_cluster import RayCluster  # noqa: E402
from tests.harness.run_homes import Home, Site, site  # noqa: E402
from tests.harness.s3 import artifact_env  # noqa: E402
from tests.harness.saved import NAME, PART, Place, flipped, home_in, opened  # noqa: E402

__all__ = ["site"]

LARGE = 6_000_000  # float32


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Torch says each time that there is but one rank."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        yield


def state(times: int) -> dict[str, Any]:
    return {"large": torch.arange(float(LARGE)) * times, "small": torch.arange(500.0) * times, "step": times}


def saved_in_run(site: Site, place: Place, source: Path, writer: Any) -> Home:
    """A run with one checkpoint, in whose folder ``model`` a writer of torch's or ours saved."""
    home, saver = home_in(site, place)
    dcp.save(state(3), storage_writer=writer)
    saver.save(str(source), PART)
    commit(home.store, NAME, "a1")
    return home


def load(into: dict[str, Any], checkpoint: Any) -> dict[str, Any]:
    dcp.load(into, storage_reader=anystorage.dcp.StorageReader(checkpoint, folder="model"))
    return into


@pytest.mark.parametrize(("place", "ours"), [("inline", True), ("bucket", True), ("inline", False), ("spilled", False)])
def test_a_part_is_read_where_it_lies_and_damage_noted(site: Site, place: Place, ours: bool, tmp_path: Path) -> None:
    folder = tmp_path / "source" / "model"
    writer = anystorage.dcp.StorageWriter(folder) if ours else dcp.FileSystemWriter(folder)
    home = saved_in_run(site, place, tmp_path / "source", writer)
    into = load(state(0), opened(home))
    assert into["step"] == 3
    assert all(torch.equal(into[key], state(3)[key]) for key in ("large", "small"))

    reader = anystorage.dcp.StorageReader(opened(home), folder="model")
    reader.read_metadata()
    (part,) = (name for name in os.listdir(folder) if name.endswith(".distcp"))
    where = reader._place.file(part)
    before = where.store.counters.bytes_fetched
    dcp.load({"small": torch.zeros(500)}, storage_reader=reader)
    # The metadata comes once more, and of torch's own files whole chunks, which alone can be verified.
    assert 0 < where.store.counters.bytes_fetched - before < (50_000 if ours else CHUNK_BYTES + 50_000)

    where.store.write_small(where.key, flipped((folder / part).read_bytes(), 8 * 10_000_000))
    with pytest.raises(CheckpointException) as caught:
        load(state(0), opened(home))
    found = caught.value.failures[0][0]
    assert isinstance(found, errors.CheckpointCorruptedError)
    assert part in str(found)
    assert home.store.size(damaged_key(NAME)) > 0, "nobody resumes from it any more"


def test_a_folder_without_a_sharded_checkpoint_is_named(site: Site, tmp_path: Path) -> None:
    writer = dcp.FileSystemWriter(tmp_path / "source" / "model")
    home = saved_in_run(site, "inline", tmp_path / "source", writer)
    with pytest.raises(errors.CheckpointMissingError, match=rf"no sharded checkpoint in .*{NAME}: no \.metadata"):
        anystorage.dcp.StorageReader(opened(home)).read_metadata()
    with pytest.raises(errors.CheckpointMissingError):
        anystorage.dcp.StorageReader(anystorage.Checkpoint(tmp_path / "nothing" / "here"))


def test_a_part_that_its_rank_did_not_report_is_named(site: Site, tmp_path: Path) -> None:
    folder = tmp_path / "source" / "model"
    home, saver = home_in(site, "inline")
    dcp.save(state(3), storage_writer=dcp.FileSystemWriter(folder))
    (folder / "__0_0.distcp").unlink()
    saver.save(str(tmp_path / "source"), PART)
    commit(home.store, NAME, "a1")
    with pytest.raises(CheckpointException) as caught:
        load(state(0), opened(home))
    found = caught.value.failures[0][0]
    assert isinstance(found, errors.CheckpointIncompleteError)
    assert "__0_0.distcp" in str(found)


WORKERS_SAVE = """
import sys
import ray.train, ray.train.torch, torch
from torch.distributed import checkpoint as dcp
import ray_anystorage as anystorage

def train():
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import Shard, distribute_tensor
    mesh = init_device_mesh("cpu", (2,))
    full = torch.arange(3_000_000.0)
    place = "artifact:sharded/one"
    dcp.async_save(
        {"full": distribute_tensor(full, mesh, [Shard(0)])}, storage_writer=anystorage.dcp.StorageWriter(place)
    ).result()
    into = {"full": distribute_tensor(torch.zeros(3_000_000), mesh, [Shard(0)])}
    dcp.load(into, storage_reader=anystorage.dcp.StorageReader(place))
    half = 1_500_000 * ray.train.get_context().get_world_rank()
    assert torch.equal(into["full"].to_local(), full[half : half + 1_500_000])

ray.train.torch.TorchTrainer(
    train,
    scaling_config=ray.train.ScalingConfig(num_workers=2),
    run_config=anystorage.run_config("direct", tier="artifact", credentials=sys.argv[1]),
).fit()
print("RESULT ok")
"""


@pytest.mark.soak
@pytest.mark.needs_ray
@pytest.mark.parametrize("mode", ["env", "broker"])
def test_workers_of_a_run_save_with_its_credentials(
    ray_cluster: RayCluster, s3_server: S3Server, bucket: str, tmp_path: Path, mode: str
) -> None:
    keys = {name: value for name, value in s3_server.env().items() if name.startswith("AWS_")}
    env = {
        **keys,
        "HOME": str(tmp_path),
        **artifact_env(s3_server, f"{bucket}/team"),
    }
    done = ray_cluster.run_driver(WORKERS_SAVE, mode, env=env)
    assert "RESULT ok" in done.stdout, done.stdout + done.stderr
    assert len([key for key in s3_server.keys(bucket) if key.startswith("team/sharded/one/")]) == 3


def test_what_stock_ray_stored_is_read_unverified(site: Site, tmp_path: Path) -> None:
    home, _ = home_in(site, "inline")
    dcp.save(state(3), checkpoint_id=f"{home.store.uri}/{NAME}/model")
    commit_external(home.store, NAME)
    assert torch.equal(load(state(0), opened(home))["small"], state(3)["small"])
