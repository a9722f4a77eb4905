"""What a run's controller and workers do, on the real parts of Ray and of this package, in one process and no cluster.

Only Ray's calls between processes are left out: a worker's actor is a plain call.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import pickle
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, dataclass, fields, replace
from functools import partial
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

import botocore.session
import obstore.store
import pyarrow.fs
import ray
import ray.train
from ray.train.v2._internal.execution.context import DistributedContext, TrainContext, set_train_context
from ray.train.v2._internal.execution.training_report import _TrainingReport

import ray_anystorage as anystorage
from ray_anystorage.checkpoint import cache_index
from ray_anystorage.checkpoint.manifest import FOLDER, METADATA, POINTER
from ray_anystorage.checkpoint.retention import find_orphans
from ray_anystorage.errors import AnyStorageError, CheckpointCorruptedError
from ray_anystorage.home.atomic import TEMPORARY_SUFFIX
from ray_anystorage.recipe import StorageRecipe
from ray_anystorage.train import node
from ray_anystorage.train.controller import make_manager
from ray_anystorage.train.node import enter_node, hold_run
from ray_anystorage.train.snapshot import STATE_FILES, named_checkpoints
from ray_anystorage.train.storage_context import AnyStorageContext, close_storage, open_storage
from ray_anystorage.transfer import s3_store  # noqa: F401 - imported when first needed, and so by every child anew
from tests.harness.crash_lab import Tell

__all__ = ["botocore", "obstore", "pyarrow"]

NAME = "run"
Files = dict[str, bytes]

_WORKER: Any = SimpleNamespace(
    metadata=SimpleNamespace(node_id="here"),
    distributed_context=DistributedContext(0, 1, 0, 1, 0),
    actor=SimpleNamespace(execute=SimpleNamespace(remote=lambda function, *arguments: function(*arguments))),
)


def stand_alone() -> None:
    """Make this process, which no test runs in, do without a cluster: Ray's RPC to the actor of a worker is a call."""
    node.ray = SimpleNamespace(get=lambda answers: answers, exceptions=ray.exceptions)
    cache_index._SETTLED_AFTER = 0  # what a fast machine leaves out comes by all the same


def content(save: str, rank: int) -> Files:
    """What a rank saves, never the same in two saves; "large" in the name of the save makes one file so.

    All but a "bare" one have Ray's own note as well, which is the home's and goes nowhere else.
    """
    draw = Random(f"{save} {rank}")
    large = {"large.bin": draw.randbytes((8 << 20) + 1)} if "large" in save and rank == 0 else {}
    small = {f"rank-{rank}.bin": draw.randbytes(3000), f"deep/er/{rank}": draw.randbytes(10), f"empty-{rank}": b""}
    return small | large | ({} if "bare" in save else {METADATA: b"{}"})


def whole(save: str, ranks: int = 1) -> Files:
    """What a checkpoint of all ranks holds."""
    files = {path: data for rank in range(ranks) for path, data in content(save, rank).items()}
    return {path: data for path, data in files.items() if path != METADATA}


@dataclass(slots=True)
class Life:
    """A controller at work, from its start on."""

    storage: AnyStorageContext
    manager: Any
    resumed: Any

    @classmethod
    def begin(cls, recipe: StorageRecipe, keep: int) -> Life:
        """Start a controller and an attempt."""
        storage = open_storage(recipe)
        manager = make_manager(ray.train.CheckpointConfig(num_to_keep=keep), storage)
        return cls(storage, manager, manager.before_init_train_context([_WORKER])["checkpoint"][0])

    def save(self, name: str, files: Mapping[str, bytes], rank: int = 0, world: int = 1) -> ray.train.Checkpoint:
        """Save a rank's part of a checkpoint for the next report."""
        return save_part(self.storage, name, files, rank, world, report=self.manager._current_report_index + 1)

    def report(self, checkpoint: Any) -> None:
        """Take the reports of all ranks, as Ray's controller does when the last one is there."""

        async def register() -> None:
            self.manager.register_checkpoint(_TrainingReport(checkpoint, {}, False))

        asyncio.run(register())

    def end(self) -> None:
        """End the run."""
        close_storage(self.storage)


def save_part(
    storage: AnyStorageContext, name: str, files: Mapping[str, bytes], rank: int = 0, world: int = 1, report: int = 1
) -> ray.train.Checkpoint:
    """Save a rank's part of a checkpoint, as its worker does in ``ray.train.report`` for the run's ``report``-th."""
    storage = pickle.loads(pickle.dumps(storage))
    hold_run(enter_node(storage.recipe, storage.attempt), storage.recipe)
    needed = {field.name: None for field in fields(TrainContext) if _has_no_default(field)}
    ranks = DistributedContext(rank, world, rank, world, 0)
    context = TrainContext(**{**needed, "distributed_context": ranks, "storage_context": storage})
    context.current_report_index, context.report_call_index = report - 1, report
    set_train_context(context)
    with tempfile.TemporaryDirectory() as directory:
        for path, data in files.items():
            Path(directory, path).parent.mkdir(parents=True, exist_ok=True)
            Path(directory, path).write_bytes(data)
        Path(directory, "no files", "at all").mkdir(parents=True)
        return storage.persist_current_checkpoint(ray.train.Checkpoint.from_directory(directory), name)


def read_back(checkpoint: Any) -> Files:
    """What a restore of a checkpoint gives."""
    with checkpoint.as_directory() as directory:
        paths = [path for path in Path(directory).rglob("*") if path.is_file()]
        found = {str(path.relative_to(directory)): path.read_bytes() for path in paths}
    return {path: data for path, data in found.items() if path not in (METADATA, POINTER) and not _own(path)}


# --- pieces of work -------------------------------------------------------------------------------


def plan(tell: Tell, tier: str) -> StorageRecipe:
    """The recipe of a run on this site."""
    recipe = anystorage.run_config(NAME, tier=tier, credentials="env").recipe
    assert recipe is not None
    return recipe


def first_report(tell: Tell, recipe: StorageRecipe, name: str, ranks: int, keep: int) -> bytes:
    """A controller starts, and all ranks report a checkpoint; what its workers have of its storage."""
    life = Life.begin(recipe, keep)
    saved = [life.save(name, content(name, rank), rank, ranks) for rank in range(ranks)]
    life.report(saved[0])
    return pickle.dumps(life.storage)


def save_one(tell: Tell, storage: bytes, name: str, rank: int, ranks: int) -> None:
    """A worker saves its part for the second report; where that fails, it does so once more."""
    _twice(tell, lambda: save_part(pickle.loads(storage), name, content(name, rank), rank, ranks, report=2))


def live(tell: Tell, recipe: StorageRecipe, name: str, save: str, keep: int, ranks: int) -> None:
    """A controller starts, and a checkpoint is saved (under this name, with what this save holds) and reported."""
    with _telling(tell):
        life = Life.begin(recipe, keep)
        tell("began", life.resumed and os.path.basename(life.resumed.path))
        try:
            parts = [partial(life.save, name, content(save, rank), rank, ranks) for rank in range(ranks)]
            saved = [_twice(tell, part) for part in parts]
            tell("reporting", save)
            life.report(saved[0])
            tell("reported", save)
        finally:
            life.end()
        tell("ended")


def resume(tell: Tell, recipe: StorageRecipe, keep: int, after: str) -> None:
    """A new controller starts: what it resumes from, whether it can go on to report others, and what is left then."""
    _age_temporaries(recipe)
    try:
        life = Life.begin(recipe, keep)
    except CheckpointCorruptedError as error:
        tell("nothing to resume", str(error))
        return
    found = read_back(life.resumed) if life.resumed else {}
    tell("resumed", life.resumed and os.path.basename(life.resumed.path), found)
    for name in (f"{after}_{number}" for number in range(keep)):
        checkpoint = life.save(name, content(name, 0))
        life.report(checkpoint)
        assert read_back(checkpoint) == whole(name)
    life.end()
    home, spill = life.storage.home_store(), life.storage.spill_store()
    orphans = find_orphans(home, spill, named=named_checkpoints(home), state_files=STATE_FILES)
    tell("orphans", {(orphan.kind, orphan.name) for orphan in orphans})


def restore(tell: Tell, storage: bytes, name: str, share: float) -> None:
    """A worker of a node whose cache may take this share opens a checkpoint; where that fails, it does so once more."""
    context: AnyStorageContext = pickle.loads(storage)
    context.recipe = replace(context.recipe, cache_share=share)
    enter_node(context.recipe, context.attempt)
    checkpoint = ray.train.Checkpoint(context.build_checkpoint_path_from_name(name), context.storage_filesystem)
    anystorage.Checkpoint.adopt(checkpoint, context.origin(name, None))
    tell("read", _twice(tell, lambda: read_back(checkpoint)))


def make_room(tell: Tell, recipe: StorageRecipe) -> None:
    """Somebody else fills the cache of the node."""
    cache = enter_node(recipe, "another attempt").cache
    assert cache is not None
    with cache.room(cache.entry("another run", "its checkpoint", "its attempt"), 1):
        pass


@contextlib.contextmanager
def _telling(tell: Tell) -> Iterator[None]:
    try:
        yield
    except (AnyStorageError, OSError) as error:
        tell("gave up", type(error).__name__, str(error))


def _twice(tell: Tell, action: Callable[[], Any]) -> Any:
    try:
        return action()
    except (AnyStorageError, OSError) as error:
        tell("failed", type(error).__name__, str(error))
        return action()


def _age_temporaries(recipe: StorageRecipe) -> None:
    """Half-written files of Ray's state are swept when they are old: let them be."""
    old = time.time() - 3600
    for folder, _, names in os.walk(recipe.home.uri):
        for name in names:
            if name.endswith(TEMPORARY_SUFFIX):
                os.utime(os.path.join(folder, name), (old, old))


def _own(path: str) -> bool:
    return path.split("/")[0] == FOLDER


def _has_no_default(field: Any) -> bool:
    return field.default is MISSING and field.default_factory is MISSING
