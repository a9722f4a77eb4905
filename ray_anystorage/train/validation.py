"""Ray's validation tasks, which are no train workers: those of our runs get the variables that storage needs."""

from __future__ import annotations

import copy
from typing import Any

from ray_anystorage.credentials.choose import merge_runtime_env
from ray_anystorage.train.controller import AnyStorageCheckpointManager
from ray_anystorage.train.hooks import ValidationManager, controller_module


def install_validation() -> None:
    """Have this process's controller make its validation manager for a run of ours by way of this module."""
    controller_module.ValidationManager = make_validation_manager


def make_validation_manager(checkpoint_manager: Any, validation_config: Any) -> Any:
    """The validation manager of one run, for Ray's controller.

    Raises
    ------
    ConfigClashError
        The user's ``ray_remote_kwargs`` set one of the variables to another value.
    """
    if isinstance(checkpoint_manager, AnyStorageCheckpointManager):
        env_vars = checkpoint_manager.storage.env_vars
        arguments = validation_config.ray_remote_kwargs
        validation_config = copy.copy(validation_config)
        validation_config.ray_remote_kwargs = {
            **arguments,
            "runtime_env": merge_runtime_env(arguments.get("runtime_env"), env_vars, secret_names=env_vars),
        }
    return ValidationManager(checkpoint_manager=checkpoint_manager, validation_config=validation_config)
