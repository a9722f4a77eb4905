"""The private Ray Tune names that this package builds on, all of them here, checked when they are first needed."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Iterable
from typing import Any

import ray

from ray_anystorage.train.hooks import lacking, refuse_faults

try:
    from ray._private.state import actors
    from ray.train._internal import checkpoint_manager as checkpoint_manager_module
    from ray.train._internal.session import _FutureTrainingResult, get_session
    from ray.train._internal.storage import _VALIDATE_STORAGE_MARKER_FILENAME as VALIDATE_STORAGE_MARKER_FILENAME
    from ray.train._internal.storage import StorageContext
    from ray.train._internal.storage import _download_from_fs_path as download
    from ray.train._internal.syncer import _BackgroundSyncer
    from ray.tune.execution import class_cache
    from ray.tune.execution import tune_controller as tune_controller_module
    from ray.tune.execution.experiment_state import _ExperimentCheckpointManager
    from ray.tune.experiment import trial as trial_module
    from ray.tune.experiment.experiment import Experiment
except ImportError as error:
    raise lacking(error) from error

__all__ = [
    "OTHER_THAN_IT_BEGAN",
    "STATE_GLOB",
    "TUNER_STATE",
    "VALIDATE_STORAGE_MARKER_FILENAME",
    "BackgroundSyncer",
    "Experiment",
    "ExperimentCheckpointManager",
    "FutureTrainingResult",
    "StorageContext",
    "actors",
    "carried_to_trials",
    "check_hooks",
    "checkpoint_manager_module",
    "download",
    "get_session",
    "hand_on",
    "in_worker",
    "trial_module",
    "tune_controller_module",
]

BackgroundSyncer: Any = _BackgroundSyncer
ExperimentCheckpointManager: Any = _ExperimentCheckpointManager
FutureTrainingResult: Any = _FutureTrainingResult
OTHER_THAN_IT_BEGAN = "Invalid `"  # ... input to `Tuner.restore()`: what it says of a trainable or space that changed
TUNER_STATE, STATE_GLOB = "tuner.pkl", "experiment_state-*.json"  # of Tune's, in an experiment's home


@functools.cache
def check_hooks() -> None:
    """Fail early where this Ray moved what the imports above cannot tell.

    Raises
    ------
    UnsupportedRayError
        Naming the Ray version and each thing that is not as expected.
    """
    faults = []
    if not isinstance(getattr(class_cache, "ENV_VARS_TO_PROPAGATE", None), set):
        faults.append("ray.tune.execution.class_cache.ENV_VARS_TO_PROPAGATE is no set")
    for owner, name in (
        (Experiment, "_storage_context_cls"),
        (trial_module, "Checkpoint"),
        (tune_controller_module, "_FutureTrainingResult"),
        (tune_controller_module, "_ExperimentCheckpointManager"),
        (_ExperimentCheckpointManager, "on_trial_checkpoint"),
        (_ExperimentCheckpointManager, "sync_up_experiment_state"),
        (_ExperimentCheckpointManager, "_update_auto_checkpoint_time"),
        (checkpoint_manager_module, "_delete_fs_path"),
        (StorageContext, "persist_current_checkpoint"),
        (StorageContext, "_check_validation_file"),
        (StorageContext, "checkpoint_dir_name"),
        (_BackgroundSyncer, "_sync_up_command"),
        (_BackgroundSyncer, "_sync_down_command"),
        (trial_module.Trial, "set_storage"),
        (checkpoint_manager_module._CheckpointManager, "best_checkpoint_results"),
    ):
        if not hasattr(owner, name):
            faults.append(f"{getattr(owner, '__name__', owner)}.{name} is gone")
    for argument in ("storage_path", "storage_filesystem", "experiment_dir_name", "sync_config"):
        if argument not in inspect.signature(StorageContext.__init__).parameters:
            faults.append(f"Tune's StorageContext takes no {argument}")
    refuse_faults(faults)


def hand_on(names: Iterable[str] | None) -> None:
    """Have Tune hand on to the trials that it makes from now on these variables of this process, and no keys else.

    ``None`` leaves it to Tune's own list again, which has the keys of AWS. The list is one for the whole process.
    """
    carried = carried_to_trials()
    carried |= _RAYS
    if names is not None:
        carried -= {name for name in _RAYS if name.startswith("AWS_")}
        carried |= set(names)


def carried_to_trials() -> set[str]:
    """The names of the variables that Tune hands on; changing the set changes that."""
    check_hooks()
    names: set[str] = class_cache.ENV_VARS_TO_PROPAGATE
    return names


def in_worker() -> bool:
    """Whether this process is one of Ray's workers, and no driver."""
    return bool(ray.is_initialized() and ray._private.worker.global_worker.mode == ray._private.worker.WORKER_MODE)


_RAYS = frozenset(getattr(class_cache, "ENV_VARS_TO_PROPAGATE", ()))
