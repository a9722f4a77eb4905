"""The private Ray Train names that this package builds on, all of them here, checked when they are first needed."""

from __future__ import annotations

import functools
import inspect
import json
import sys
import threading
from collections.abc import Sequence
from typing import Any

import ray
from ray.experimental import tqdm_ray
from ray.train import RunConfig

from ray_anystorage.errors import UnsupportedRayError

_OLDEST, _NEWEST = "2.54", "2.60"


def lacking(error: ImportError) -> UnsupportedRayError:
    """The error of a Ray that has not what is imported."""
    return UnsupportedRayError(
        f"Ray {ray.__version__} does not have {error.name or error}, which ray_anystorage builds on: install a Ray "
        f"from {_OLDEST} on (tested up to {_NEWEST})"
    )


def refuse_faults(faults: Sequence[str]) -> None:
    """Raise :class:`UnsupportedRayError` where anything is not as expected; names all of it."""
    if faults:
        raise UnsupportedRayError(
            f"ray_anystorage does not know Ray {ray.__version__}: {'; '.join(faults)}. It supports {_OLDEST} to "
            f"{_NEWEST}."
        )


try:
    from ray._private.state import actors
    from ray.train.v2._internal.constants import CHECKPOINT_MANAGER_SNAPSHOT_FILENAME, VALIDATE_STORAGE_MARKER_FILENAME
    from ray.train.v2._internal.execution.callback import ControllerCallback, WorkerCallback, WorkerGroupCallback
    from ray.train.v2._internal.execution.checkpoint.checkpoint_manager import (
        CheckpointManager,
        _CheckpointManagerState,
    )
    from ray.train.v2._internal.execution.checkpoint.validation_manager import ValidationManager
    from ray.train.v2._internal.execution.context import TrainContext, get_train_context
    from ray.train.v2._internal.execution.controller import controller as controller_module
    from ray.train.v2._internal.execution.storage import StorageContext
    from ray.train.v2.api.config import RunConfig as RunConfigV2
    from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer
except ImportError as error:
    raise lacking(error) from error


__all__ = [
    "CHECKPOINT_MANAGER_SNAPSHOT_FILENAME",
    "VALIDATE_STORAGE_MARKER_FILENAME",
    "CheckpointManager",
    "ControllerCallback",
    "DataParallelTrainer",
    "RunConfigV2",
    "StorageContext",
    "ValidationManager",
    "WorkerCallback",
    "WorkerGroupCallback",
    "_CheckpointManagerState",
    "actors",
    "check_hooks",
    "controller_module",
    "get_train_context",
    "lacking",
    "progress_bar",
    "refuse_faults",
    "report_number",
    "saves_behind",
]

_MANAGER = (
    "register_checkpoint",
    "before_init_train_context",
    "_write_state_to_storage",
    "_assert_checkpoints_exist",
    "_save_state_and_delete_old_checkpoints",
)

_ARGUMENTS = (
    (StorageContext, "__init__", "storage_path"),
    (StorageContext, "__init__", "experiment_dir_name"),
    (StorageContext, "__init__", "storage_filesystem"),
    (CheckpointManager, "register_checkpoint", "training_report"),
    (ValidationManager, "__init__", "validation_config"),
    (WorkerGroupCallback, "before_init_train_context", "workers"),
)


@functools.cache
def check_hooks() -> None:
    """Fail early where this Ray moved what the imports above cannot tell.

    Raises
    ------
    UnsupportedRayError
        Naming the Ray version and each thing that is not as expected.
    """
    faults = []
    if RunConfig is not RunConfigV2:
        faults.append("ray.train.RunConfig is not that of Train V2 (RAY_TRAIN_V2_ENABLED=0 is set, or Ray is older)")
    if not isinstance(inspect.getattr_static(RunConfigV2, "storage_context", None), functools.cached_property):
        faults.append("RunConfig.storage_context is not a cached property")
    for owner, method, argument in _ARGUMENTS:
        taken = getattr(owner, method, None)
        if taken is not None and argument not in inspect.signature(taken).parameters:
            faults.append(f"{owner.__name__}.{method} takes no {argument}")
    lacking = {"report_call_index", "current_report_index", "checkpoint_upload_threadpool"} - set(dir(TrainContext))
    if lacking:
        faults.append(f"TrainContext has no {', '.join(sorted(lacking))}")
    for owner, name in (
        (StorageContext, "persist_current_checkpoint"),
        (StorageContext, "_check_validation_file"),
        (DataParallelTrainer, "_initialize_and_run_local_controller"),
        (DataParallelTrainer, "_initialize_and_run_controller"),
        (WorkerCallback, "after_init_train_context"),
        (WorkerGroupCallback, "before_init_train_context"),
        (ControllerCallback, "after_controller_start"),
        (ControllerCallback, "after_controller_finish"),
        (controller_module, "CheckpointManager"),
        (tqdm_ray.tqdm, "_get_state"),
        (tqdm_ray.tqdm, "_dump_state"),
        *((CheckpointManager, name) for name in _MANAGER),
    ):
        if not callable(getattr(owner, name, None)):
            faults.append(f"{owner.__name__}.{name} is gone")
    refuse_faults(faults)


def report_number(context: Any) -> int:
    """Which of the run's reports, counted from 1 on all ranks alike, this thread saves a checkpoint for.

    Ray does not say. An asynchronous report is saved by the only thread of a pool, which has passed on every report
    before this one by then; the training thread may be further on.
    """
    if saves_behind(context):
        return int(context.current_report_index) + 1
    return int(context.report_call_index)


def saves_behind(context: Any) -> bool:
    """Whether this thread saves for an asynchronous report, so that the training goes on meanwhile."""
    return threading.current_thread() in context.checkpoint_upload_threadpool._threads


def progress_bar(**what: Any) -> Any:
    """A bar in the driver's terminal, from any process of its cluster; takes ``desc``, ``total`` and ``unit``."""
    in_worker = ray._private.worker.global_worker.mode == ray.WORKER_MODE
    return (_WorkersBar if in_worker else tqdm_ray.tqdm)(**what)


class _WorkersBar(tqdm_ray.tqdm):  # type: ignore[misc]
    """Ray's own prints its state, and a worker of Ray Train puts words before what is printed: no driver knows it."""

    def _dump_state(self, force_flush: bool = False) -> None:
        sys.stdout.write(json.dumps(self._get_state()) + "\n")
        sys.stdout.flush()
