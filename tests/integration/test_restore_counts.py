"""What a restore fetches, counted by a proxy before the store, while all ranks of a node restore through Ray.

Data is the content of the user's files. Beside it each opening reads the checkpoint's own small files (its record and
manifests), which is not counted here.
"""

from __future__ import annotations

import fcntl
import os
import sys
import tempfile
import threading
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import ray
import ray.train
from ray import cloudpickle
from ray.train import FailureConfig, ScalingConfig
from ray.train.collective import barrier
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

import ray_anystorage as anystorage
from ray_anystorage.checkpoint import node
from ray_anystorage.checkpoint.read import commit
from ray_anystorage.checkpoint.save import Part
from ray_anystorage.checkpoint.saver import Saver
from ray_anystorage.recipe import StorageRecipe
from ray_anystorage.testing.s3_server import S3Server
from ray_anystorage.transfer.digest import CHUNK_BYTES
from tests.harness.counting_proxy import PHASE, CountingProxy, counting_proxy
from tests.harness.ray_cluster import leave_clean
from tests.harness.run_homes import Home
from tests.harness.s3 import artifact_env, keys_of
from tests.unit.test_locks import wait_for_waiter

cloudpickle.register_pickle_by_value(sys.modules[__name__])

SIZES = {"large": 2 * CHUNK_BYTES + 17, **{f"rank-{rank}": 300_000 + rank for rank in range(4)}, "common": 11}
STOCK = {"a/b": 70_000, "c": 5}


def files_of(ranks: int) -> dict[str, int]:
    """Path and bytes of what so many ranks save."""
    return {name: size for name, size in SIZES.items() if name not in [f"rank-{rank}" for rank in range(ranks, 4)]}


def content(name: str) -> bytes:
    size = {**SIZES, **STOCK}[name]
    return (name.encode() * (size // len(name) + 1))[:size]


@pytest.fixture
def proxy(s3_server: S3Server) -> Iterator[CountingProxy]:
    with counting_proxy(s3_server.endpoint) as running:
        yield running


@pytest.fixture
def site(
    driver: None,
    proxy: CountingProxy,
    s3_server: S3Server,
    bucket: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> pytest.MonkeyPatch:
    """A bucket behind the proxy, and a local disk; a test adds a mount."""
    leave_clean(monkeypatch)
    (tmp_path / "local").mkdir()
    for name, value in {
        "HOME": str(tmp_path),
        "RAY_ANYSTORAGE_LOCAL_STORAGE": str(tmp_path / "local"),
        **artifact_env(s3_server, f"{bucket}/artifacts", endpoint=proxy.endpoint),
        "RAY_ANYSTORAGE_CREDENTIALS": "env",
        "RAY_ANYSTORAGE_THRESHOLD": "100kB",
        **keys_of(s3_server),
    }.items():
        monkeypatch.setenv(name, value)
    return monkeypatch


class Phases:
    """Steps that all ranks take together, each under its name at the proxy."""

    def __init__(self, endpoint: str) -> None:
        self._endpoint = endpoint
        self.rank = ray.train.get_context().get_world_rank()

    def begin(self, name: str, *, cold: bool = True) -> None:
        """Wait for the others; ``cold`` with nothing in the node's cache."""
        barrier()
        if self.rank == 0:
            if cold:
                drop_all()
            urllib.request.urlopen(f"{self._endpoint}{PHASE}{name}").close()
        barrier()


def drop_all() -> None:
    """Remove every file from this node's cache; nobody reads one now."""
    for folder, _, names in os.walk(Path(node.current().folder, "cache")):
        for name in names:
            os.unlink(Path(folder, name))


def has(directory: str, names: Any) -> None:
    for name in names:
        assert Path(directory, name).read_bytes() == content(name), name


def write_part(directory: str, rank: int) -> None:
    for name in (f"rank-{rank}", "common", *(["large"] if rank == 0 else [])):
        Path(directory, name).write_bytes(content(name))


def saved_before(recipe: StorageRecipe, local: Path, ranks: int) -> None:
    """Leave a run as one whose ranks saved a checkpoint on this node and ended."""
    here, store = node.node_at(str(local), "a1", recipe.cache_share), recipe.home.open()
    saver = Saver(home=store, threshold=recipe.threshold, cache=here.cache, run=recipe.home.uri)
    for rank in range(ranks):
        with tempfile.TemporaryDirectory(dir=local) as directory:
            write_part(directory, rank)
            saver.save(directory, Part("checkpoint_1", "a1", rank, ranks))
    commit(store, "checkpoint_1", "a1")
    Home(recipe.name, store, None, local).snapshot("checkpoint_1")


def save(rank: int) -> None:
    with tempfile.TemporaryDirectory() as directory:
        write_part(directory, rank)
        ray.train.report({}, checkpoint=ray.train.Checkpoint.from_directory(directory))
    assert len(ray.train.get_all_reported_checkpoints()) == 1  # returns when it is committed


def train(config: dict[str, str]) -> None:
    phases = Phases(config["endpoint"])
    files = files_of(ray.train.get_context().get_world_size())
    checkpoint: Any = ray.train.get_checkpoint()
    if checkpoint is None:
        save(phases.rank)
        raise RuntimeError("begin another attempt")
    phases.begin("warm", cold=False)
    with checkpoint.as_directory() as directory:
        has(directory, files)
    phases.begin("cold")
    with checkpoint.as_directory() as directory:
        has(directory, files)
    phases.begin("copied")
    with tempfile.TemporaryDirectory() as mine:
        has(checkpoint.to_directory(mine), files)
    phases.begin("copied-again", cold=False)
    with tempfile.TemporaryDirectory() as mine:
        has(checkpoint.to_directory(mine), files)
    phases.begin("files")
    with checkpoint.as_directory(files=["rank-1", "comm*"]) as directory:
        has(directory, ["rank-1", "common"])
    phases.begin("range")
    if phases.rank == 0:
        with checkpoint.open("large") as file:
            file.seek(CHUNK_BYTES + 5)
            assert file.read(10) == content("large")[CHUNK_BYTES + 5 :][:10]
    without_a_cache(phases, checkpoint, files, config["stock"])
    phases.begin("end")


def without_a_cache(phases: Phases, checkpoint: Any, files: Any, stock: str) -> None:
    phases.begin("stock")
    with anystorage.Checkpoint(stock).as_directory() as directory:
        has(directory, STOCK)
        barrier()
    phases.begin("off")
    node.enter(replace(node.current(), cache_share=0.0))
    with checkpoint.as_directory() as directory:
        has(directory, files)
        barrier()
    barrier()
    left = [name for _, _, names in os.walk(Path(node.current().folder, "cache")) for name in names]
    assert not set(files) & set(left), left


@pytest.mark.timeout(360)
@pytest.mark.needs_ray
@pytest.mark.parametrize(("home", "ranks"), [("bucket", 4), pytest.param("mount", 2, marks=pytest.mark.soak)])
def test_the_ranks_of_a_node_fetch_a_checkpoint_once_and_no_more_than_they_ask_for(
    site: pytest.MonkeyPatch,
    proxy: CountingProxy,
    s3_server: S3Server,
    bucket: str,
    tmp_path: Path,
    home: str,
    ranks: int,
) -> None:
    if home == "mount":
        (tmp_path / "cluster").mkdir()
        site.setenv("RAY_ANYSTORAGE_CLUSTER_STORAGE", str(tmp_path / "cluster"))
    for name in STOCK:
        s3_server.client().put_object(Bucket=bucket, Key=f"stock/checkpoint_1/{name}", Body=content(name))
    config: Any = anystorage.run_config("counted", failure_config=FailureConfig(max_failures=1))
    if home == "bucket":
        saved_before(config.recipe, tmp_path / "local", ranks)
    loop_config = {"endpoint": proxy.endpoint, "stock": f"s3://{bucket}/stock/checkpoint_1"}
    scaling = ScalingConfig(num_workers=ranks)
    DataParallelTrainer(train, train_loop_config=loop_config, scaling_config=scaling, run_config=config).fit()
    assert [key for key in s3_server.keys(bucket) if key.endswith("/large")], "the data is in the bucket"
    assert proxy.data("warm") == {}
    assert proxy.data("cold") == files_of(ranks)
    assert proxy.data("copied") == files_of(ranks)
    assert proxy.data("copied-again") == {}
    assert proxy.data("files") == {"rank-1": SIZES["rank-1"], "common": SIZES["common"]}
    assert proxy.data("range") == {"large": CHUNK_BYTES}
    assert proxy.data("stock") == STOCK
    assert proxy.data("off") == files_of(ranks)


def test_who_waits_while_another_verifies_does_not_do_it_again(tmp_path: Path) -> None:
    here, done = node.Node(str(tmp_path), "session"), []
    inside, go_on = threading.Event(), threading.Event()

    def action() -> None:
        inside.set()
        go_on.wait()
        done.append(1)

    threads = [threading.Thread(target=here.once, args=("what", action)) for _ in range(2)]
    threads[0].start()
    inside.wait()
    threads[1].start()
    (mark,) = (path for path in (tmp_path / "verified").rglob("*") if path.is_file())
    wait_for_waiter(str(mark))
    go_on.set()
    for thread in threads:
        thread.join()
    assert done == [1]


def test_of_two_that_fetch_into_one_directory_the_second_fetches_where_the_first_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint, target = anystorage.Checkpoint(str(tmp_path / "checkpoint_1")), tmp_path / "to"
    monkeypatch.setitem(node._state, os.getpid(), node.Node(str(tmp_path / "node"), "session"))
    failed: list[Exception] = []

    def fetch() -> None:
        try:
            checkpoint.to_directory(target)
        except anystorage.errors.CheckpointMissingError as error:
            failed.append(error)

    with open(f"{target}.anystorage-lock", "wb") as held:  # by one that is fetching, and will fail
        fcntl.flock(held, fcntl.LOCK_EX)
        second = threading.Thread(target=fetch)
        second.start()
        wait_for_waiter(held.name)
    second.join()
    assert len(failed) == 1, "it looked itself"
    (tmp_path / "checkpoint_1").mkdir()
    (tmp_path / "checkpoint_1" / "file").write_bytes(b"x")
    fetch()
    assert (target / "file").read_bytes() == b"x"
    assert not os.path.exists(held.name)
