"""Feeding the agents of a broker for as long as a run of its goes on, which ``trainer.fit()`` alone knows."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from ray_anystorage.cluster.broker import feeding
from ray_anystorage.train.hooks import DataParallelTrainer

_METHOD = "_initialize_and_run_controller"


def feed_while_fitting(config_type: type[Any]) -> None:
    """Make trainers feed the agents while they run with a ``config_type`` that has a broker; others go on as before.

    Installed once per process, however often it is called.
    """
    stock: Callable[..., Any] = getattr(DataParallelTrainer, _METHOD)
    if getattr(stock, "feeds_for", None) is config_type:
        return

    @functools.wraps(stock)
    def fed(trainer: Any, *args: Any, **kwargs: Any) -> Any:
        if not isinstance(trainer.run_config, config_type):
            return stock(trainer, *args, **kwargs)
        with feeding((trainer.run_config.worker_runtime_env or {}).get("env_vars") or {}):
            return stock(trainer, *args, **kwargs)

    fed.feeds_for = config_type  # type: ignore[attr-defined]
    setattr(DataParallelTrainer, _METHOD, fed)
