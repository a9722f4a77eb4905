"""The private Ray Train names that this package builds on, all of them here, checked when they are first needed."""

from __future__ import annotations

import functools
import inspect

import ray
from ray.train import RunConfig

from ray_anystorage.errors import UnsupportedRayError

try:
    from ray.train.v2._internal.constants import CHECKPOINT_MANAGER_SNAPSHOT_FILENAME, VALIDATE_STORAGE_MARKER_FILENAME
    from ray.train.v2._internal.execution.callback import ControllerCallback, WorkerCallback
    from ray.train.v2._internal.execution.checkpoint.checkpoint_manager import (
        CheckpointManager,
        _CheckpointManagerState,
    )
    from ray.train.v2._internal.execution.context import get_train_context
    from ray.train.v2._internal.execution.controller import controller as controller_module
    from ray.train.v2._internal.execution.storage import StorageContext
    from ray.train.v2.api.config import RunConfig as RunConfigV2
    from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer
except ImportError as error:
    raise UnsupportedRayError(
        f"Ray {ray.__version__} does not have {error.name or error}, which ray_anystorage builds on: install a Ray "
        "from 2.51 on (tested up to 2.60)"
    ) from error

__all__ = [
    "CHECKPOINT_MANAGER_SNAPSHOT_FILENAME",
    "VALIDATE_STORAGE_MARKER_FILENAME",
    "CheckpointManager",
    "ControllerCallback",
    "DataParallelTrainer",
    "RunConfigV2",
    "StorageContext",
    "WorkerCallback",
    "_CheckpointManagerState",
    "check_hooks",
    "controller_module",
    "get_train_context",
]

_MANAGER = (
    "register_checkpoint",
    "before_init_train_context",
    "_write_state_to_storage",
    "_assert_checkpoints_exist",
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
    expected = {"storage_path", "experiment_dir_name", "storage_filesystem"}
    if not expected <= set(inspect.signature(StorageContext.__init__).parameters):
        faults.append("StorageContext takes other arguments")
    for owner, name in (
        (StorageContext, "persist_current_checkpoint"),
        (StorageContext, "_check_validation_file"),
        (DataParallelTrainer, "_initialize_and_run_local_controller"),
        (WorkerCallback, "after_init_train_context"),
        (ControllerCallback, "after_controller_start"),
        (ControllerCallback, "before_controller_shutdown"),
        (controller_module, "CheckpointManager"),
        *((CheckpointManager, name) for name in _MANAGER),
    ):
        if not callable(getattr(owner, name, None)):
            faults.append(f"{owner.__name__}.{name} is gone")
    if faults:
        raise UnsupportedRayError(
            f"ray_anystorage does not know Ray {ray.__version__}: {'; '.join(faults)}. It supports 2.51 to 2.60."
        )
