"""The right storage for Ray Train and Ray Tune runs, from one line.

>>> import ray_anystorage as anystorage
>>> run_config = anystorage.run_config("llama-ft", checkpoint_size="60GiB")  # doctest: +SKIP
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from ray_anystorage import errors, events
from ray_anystorage._version import __version__
from ray_anystorage.telemetry import logs, spans

if TYPE_CHECKING:
    from ray_anystorage import dcp
    from ray_anystorage.api import discover, plan, report, run_config
    from ray_anystorage.checkup import doctor
    from ray_anystorage.estimate import estimate_checkpoint_size
    from ray_anystorage.experiments import tune_experiment, tune_run_config
    from ray_anystorage.job import artifacts_dir, runtime_env
    from ray_anystorage.stored import best_checkpoint, promote, results
    from ray_anystorage.tier_filesystem import filesystem
    from ray_anystorage.train.checkpoint import Checkpoint

events.listen(logs.heard)
events.listen(spans.heard)

_HOME_OF = {
    "Checkpoint": "train.checkpoint",
    "artifacts_dir": "job",
    "best_checkpoint": "stored",
    "discover": "api",
    "doctor": "checkup",
    "filesystem": "tier_filesystem",
    "plan": "api",
    "promote": "stored",
    "report": "api",
    "results": "stored",
    "run_config": "api",
    "runtime_env": "job",
    "tune_experiment": "experiments",
    "tune_run_config": "experiments",
    "estimate_checkpoint_size": "estimate",
}

_MODULES = {"dcp"}

__all__ = [
    "Checkpoint",
    "__version__",
    "artifacts_dir",
    "best_checkpoint",
    "dcp",
    "discover",
    "doctor",
    "errors",
    "estimate_checkpoint_size",
    "filesystem",
    "plan",
    "promote",
    "report",
    "results",
    "run_config",
    "runtime_env",
    "tune_experiment",
    "tune_run_config",
]


def __getattr__(name: str) -> Any:
    """Import what a name needs when it is first asked for: ray and pyarrow stay out until then."""
    if name in _MODULES:
        return importlib.import_module(f"{__name__}.{name}")
    if name not in _HOME_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME_OF[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
