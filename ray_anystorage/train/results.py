"""The result of a Train run that ended, or is under way, for a driver; no Ray cluster is needed."""

from __future__ import annotations

import posixpath
from collections.abc import Iterable
from typing import Any

import pyarrow.fs
import ray.train

from ray_anystorage.checkpoint.small_files import patiently
from ray_anystorage.errors import CheckpointMissingError, ObjectMissingError, RunMissingError
from ray_anystorage.runs import Run
from ray_anystorage.train.checkpoint import Checkpoint
from ray_anystorage.train.hooks import CHECKPOINT_MANAGER_SNAPSHOT_FILENAME
from ray_anystorage.train.snapshot import named_checkpoints
from ray_anystorage.transfer.store import Store


def read_results(run: Run) -> ray.train.Result:
    """Ray's result of a run, with checkpoints of ours: those that lie elsewhere than their folder open too.

    Raises
    ------
    RunMissingError
        The run has no state of Ray Train: it has saved nothing yet.
    CheckpointMissingError
        Ray's state names checkpoints that are gone.
    SnapshotDamagedError
        Ray's state is torn.
    StorageError
        The run home cannot be read.
    """
    filesystem, path = run.build_filesystem(), run.fs_path
    _check(run.open_home(), filesystem, path)
    result = ray.train.Result.from_path(path, storage_filesystem=filesystem)
    for checkpoint in _checkpoints(result):
        Checkpoint.adopt(checkpoint, run.origin(posixpath.relpath(checkpoint.path, path)))
    return result


def _check(home: Store, filesystem: Any, path: str) -> None:
    """Say in our words what keeps Ray from reading its state."""
    try:
        patiently(lambda: home.size(CHECKPOINT_MANAGER_SNAPSHOT_FILENAME))
    except ObjectMissingError as error:
        raise RunMissingError(
            f"the run at {home.uri} has saved nothing yet: it has no {CHECKPOINT_MANAGER_SNAPSHOT_FILENAME}"
        ) from error
    names = sorted(named_checkpoints(home))
    infos = filesystem.get_file_info([f"{path}/{name}" for name in names]) if names else []
    gone = [name for name, info in zip(names, infos, strict=True) if info.type == pyarrow.fs.FileType.NotFound]
    if gone:
        raise CheckpointMissingError(
            f"Ray's state of the run at {home.uri} names checkpoints that are gone: {', '.join(gone)}. The next run of "
            "the name passes over them; until then open another one with ray_anystorage.Checkpoint."
        )


def _checkpoints(result: ray.train.Result) -> Iterable[ray.train.Checkpoint]:
    """Each checkpoint object once: Ray has the latest among the best as the same object."""
    every = [result.checkpoint, *(checkpoint for checkpoint, _ in result.best_checkpoints or ())]
    return {id(checkpoint): checkpoint for checkpoint in every if checkpoint is not None}.values()
