"""What a trainer of Ray's does around a run of ours, which ``trainer.fit()`` alone knows the beginning and end of."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from ray_anystorage.cluster.broker import feeding
from ray_anystorage.train.hooks import DataParallelTrainer

Fit = Callable[[], Any]


def wrap_trainers(method: str, config_type: type[Any], around: Callable[[Any, Fit], Any]) -> None:
    """Put a function around a method of all trainers that have a ``config_type``; others go on as before.

    Installed once per process, however often it is called.

    Parameters
    ----------
    around
        Gets the run config and what the method would do.
    """
    stock: Callable[..., Any] = getattr(DataParallelTrainer, method)
    if getattr(stock, "wrapped_for", None) is config_type:
        return

    @functools.wraps(stock)
    def wrapped(trainer: Any, *args: Any, **kwargs: Any) -> Any:
        fit = functools.partial(stock, trainer, *args, **kwargs)
        return around(trainer.run_config, fit) if isinstance(trainer.run_config, config_type) else fit()

    wrapped.wrapped_for = config_type  # type: ignore[attr-defined]
    setattr(DataParallelTrainer, method, wrapped)


def feed_while_fitting(config_type: type[Any]) -> None:
    """Make trainers feed the agents while they run with a ``config_type`` that has a broker."""
    wrap_trainers("_initialize_and_run_controller", config_type, _fed)


def _fed(run_config: Any, fit: Fit) -> Any:
    with feeding((run_config.worker_runtime_env or {}).get("env_vars") or {}):
        return fit()
