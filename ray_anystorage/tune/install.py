"""What is put in Tune's place, once in a process, and picks by experiment: others stay as Tune has them."""

from __future__ import annotations

import weakref
from typing import Any

from ray_anystorage.tune.checkpoint import StoredCheckpoint
from ray_anystorage.tune.experiment_home import ExperimentHome, home_of
from ray_anystorage.tune.held import HeldSave
from ray_anystorage.tune.hooks import (
    Experiment,
    StorageContext,
    check_hooks,
    checkpoint_manager_module,
    hand_on,
    trial_module,
    tune_controller_module,
)
from ray_anystorage.tune.state_manager import StateManager
from ray_anystorage.tune.state_syncer import delete_quietly
from ray_anystorage.tune.storage_context import AnyStorageTuneContext

_driven: weakref.WeakValueDictionary[str, AnyStorageTuneContext] = weakref.WeakValueDictionary()  # by URI
_rays_delete = getattr(checkpoint_manager_module, "_delete_fs_path", None)


def install() -> None:
    """Have Tune use our parts for experiments whose file system is ours.

    Raises
    ------
    UnsupportedRayError
        This Ray has moved what they are put in the place of.
    """
    check_hooks()
    Experiment._storage_context_cls = staticmethod(make_context)
    trial_module.Checkpoint = StoredCheckpoint
    tune_controller_module._FutureTrainingResult = HeldSave
    tune_controller_module._ExperimentCheckpointManager = StateManager
    checkpoint_manager_module._delete_fs_path = delete


def make_context(storage_path: Any, experiment_dir_name: str, **arguments: Any) -> Any:
    """The storage context of one experiment, for Tune's driver."""
    home = home_of(arguments.get("storage_filesystem"))
    hand_on(home.carries if home is not None else None)  # read when the first trial is made, soon after this
    if home is None:
        return StorageContext(storage_path, experiment_dir_name, **arguments)
    home.held(arguments["storage_filesystem"]).take()
    context = AnyStorageTuneContext(storage_path, experiment_dir_name, **arguments)
    _driven[home.store.uri] = context
    return context


def driven(home: ExperimentHome) -> AnyStorageTuneContext | None:
    """The context of an experiment that this process drives."""
    return _driven.get(home.store.uri)


def delete(fs: Any, fs_path: str) -> None:
    """Delete a checkpoint that Tune keeps no longer: in an experiment of ours, once its state at home says so too."""
    home = home_of(fs)
    if home is None:
        if _rays_delete is not None:  # check_hooks() saw to that
            _rays_delete(fs, fs_path)
        return
    name, context = home.name_of(fs_path), driven(home)
    if context is None:
        delete_quietly(home, fs, name)
    else:
        context.syncer.drop(name)
