"""Refusing ``ScalingConfig(num_workers=0)``, which never builds a storage context and would lose the plan unseen."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from ray_anystorage.errors import LocalModeError
from ray_anystorage.train.hooks import DataParallelTrainer

_METHOD = "_initialize_and_run_local_controller"


def refuse_local_mode(config_type: type[Any]) -> None:
    """Make trainers refuse local mode when their run config is a ``config_type``; others go on as before.

    Installed once per process, however often it is called.
    """
    stock: Callable[..., Any] = getattr(DataParallelTrainer, _METHOD)
    if getattr(stock, "refuses_for", None) is config_type:
        return

    @functools.wraps(stock)
    def guarded(trainer: Any, *args: Any, **kwargs: Any) -> Any:
        if isinstance(trainer.run_config, config_type):
            raise LocalModeError(
                "ScalingConfig(num_workers=0) runs the training function in this process, where Ray keeps no run state "
                f"and saves no checkpoint: the plan for run {trainer.run_config.name!r} could not be applied. Use "
                "num_workers=1, or a plain ray.train.RunConfig for a dry run."
            )
        return stock(trainer, *args, **kwargs)

    guarded.refuses_for = config_type  # type: ignore[attr-defined]
    setattr(DataParallelTrainer, _METHOD, guarded)
