"""What is said to a Tuner, looked at before a folder is made for it, and what a continued experiment does not take."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from dataclasses import fields
from typing import Any

from ray import tune

from ray_anystorage.credentials.redact import shown
from ray_anystorage.errors import RequestError

ANEW = 'say resume="never", which begins anew beside it, or another name'


def check_tuner_arguments(param_space: object, tune_config: object, others: Mapping[str, Any]) -> None:
    """Refuse what a Tuner could not take.

    Raises
    ------
    RequestError
        Names the argument.
    """
    if param_space is not None and not (hasattr(param_space, "keys") and hasattr(param_space, "__getitem__")):
        raise RequestError(f"param_space={shown(param_space)}: expected a mapping of names to values and ranges")
    if not isinstance(tune_config, tune.TuneConfig | None):
        raise RequestError(f"tune_config={shown(tune_config)}: expected a ray.tune.TuneConfig")
    known = inspect.signature(tune.Tuner.__init__).parameters.keys() - {"self", "trainable", "run_config"}
    for name in sorted(others.keys() - known):
        raise RequestError(f"{name}: it {_belongs(name)}")


def _belongs(name: str) -> str:
    if name in {field.name for field in fields(tune.TuneConfig)}:
        return "belongs in the tune_config"
    if name == "run_config" or name in {field.name for field in fields(tune.RunConfig)}:
        return "belongs to @anystorage.tune_experiment(…), which makes the RunConfig"
    return "is no argument of a Tuner"


def not_taken(restored: Any, said: tune.TuneConfig | None) -> Iterator[str]:
    """What was said of a restored Tuner's search that differs from what it began with, which Tune keeps to."""
    began = getattr(getattr(restored, "_local_tuner", None), "_tune_config", None)  # none with Ray Client
    if began is None or said is None:
        return
    for field in fields(said):
        new, old = getattr(said, field.name), getattr(began, field.name, None)
        plain = all(value is None or isinstance(value, str | int | float) for value in (new, old))
        if plain and new != old and new != field.default:
            yield f"{field.name}={old!r} and not {new!r}; {ANEW}"
