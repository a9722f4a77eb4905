"""The public functions about Tune experiments, kept thin: each checks its arguments and hands over."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ray_anystorage.credentials.grant import Credentials
from ray_anystorage.environment import Tier
from ray_anystorage.errors import RequestError
from ray_anystorage.policy import Request
from ray_anystorage.policy.request import Audience, num_to_keep_of

if TYPE_CHECKING:
    import ray.tune

    from ray_anystorage.tune.experiment import TuneExperiment


def tune_run_config(
    name: str | None = None,
    *,
    checkpoint_size: int | str | None = None,
    audience: Audience = "cluster",
    tier: Tier | None = None,
    artifact_storage: str | None = None,
    credentials: Credentials | None = None,
    preflight: bool = True,
    **ray_run_config_kwargs: Any,
) -> ray.tune.RunConfig:
    """A ``ray.tune.RunConfig`` for a ``Tuner``, on the storage that the plan chose; as :func:`run_config`."""
    from ray_anystorage.tune.experiment import Placing

    request = Request.of(name, checkpoint_size, num_to_keep_of(ray_run_config_kwargs), audience, tier)
    roots: dict[Tier, str | None] = {"artifact": artifact_storage}
    return Placing(request, roots, credentials, preflight, ray_run_config_kwargs).run_config()


def tune_experiment(
    name: str | None = None,
    *,
    checkpoint_size: int | str | None = None,
    audience: Audience = "cluster",
    tier: Tier | None = None,
    artifact_storage: str | None = None,
    credentials: Credentials | None = None,
    preflight: bool = True,
    **ray_run_config_kwargs: Any,
) -> Callable[[Callable[..., Any]], TuneExperiment]:
    """Decorate a function or class trainable: it stays callable; it gains ``fit``, ``tuner``, ``restore``, ``results``.

    ::

        @anystorage.tune_experiment("search", checkpoint_size="2GiB")
        def train(config): ...

        train.fit({"lr": tune.loguniform(1e-5, 1e-2)}, tune.TuneConfig(num_samples=50))

    Run again after an interruption, ``fit`` continues, also from another machine or cluster with the same storage.

    Parameters
    ----------
    name
        Of the experiment; the trainable's own where ``None``.
    checkpoint_size, audience, tier, artifact_storage, credentials, preflight, **ray_run_config_kwargs
        As in :func:`tune_run_config`. Storage is looked at when the experiment is used, not here.

    Raises
    ------
    RequestError
        An argument cannot be meant.
    """
    from ray_anystorage.tune.experiment import Placing, TuneExperiment
    from ray_anystorage.tune.run_config import check_said

    if callable(name):
        raise RequestError('it is used with brackets: @anystorage.tune_experiment("name"), or @…tune_experiment()')
    check_said(credentials, ray_run_config_kwargs)
    request = Request.of(name, checkpoint_size, num_to_keep_of(ray_run_config_kwargs), audience, tier)
    placing = Placing(request, {"artifact": artifact_storage}, credentials, preflight, ray_run_config_kwargs)
    return lambda trainable: TuneExperiment(trainable, placing)
