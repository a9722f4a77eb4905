"""Refusing ``ScalingConfig(num_workers=0)``, which never builds a storage context and would lose the plan unseen."""

from __future__ import annotations

from typing import Any, NoReturn

from ray_anystorage.errors import LocalModeError
from ray_anystorage.train.fitting import Fit, wrap_trainers


def refuse_local_mode(config_type: type[Any]) -> None:
    """Make trainers refuse local mode when their run config is a ``config_type``."""
    wrap_trainers("_initialize_and_run_local_controller", config_type, _refuse)


def _refuse(run_config: Any, _: Fit) -> NoReturn:
    raise LocalModeError(
        "ScalingConfig(num_workers=0) runs the training function in this process, where Ray keeps no run state and "
        f"saves no checkpoint: the plan for run {run_config.name!r} could not be applied. Use num_workers=1, or a "
        "plain ray.train.RunConfig for a dry run."
    )
