"""The RunConfig that puts a plain ``tune.Tuner`` where the plan says."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from ray.tune import RunConfig
from ray.util.client import ray as client

from ray_anystorage.cluster.broker import feed_from_now_on
from ray_anystorage.credentials.agent_address import address_in
from ray_anystorage.credentials.choose import check_mode
from ray_anystorage.credentials.grant import Credentials
from ray_anystorage.environment import Tier
from ray_anystorage.errors import RequestError
from ray_anystorage.policy import Request
from ray_anystorage.recipe import check_ray_arguments, storage_recipe
from ray_anystorage.resolve import resolve
from ray_anystorage.settings import apply_to_process
from ray_anystorage.tune.experiment_home import open_experiment
from ray_anystorage.tune.housekeeping import Housekeeping
from ray_anystorage.tune.install import install
from ray_anystorage.tune.preflight import TrialPreflight

logger = logging.getLogger("ray.tune.anystorage")  # Ray shows what comes below "ray"


_BESIDE = (
    "An experiment of this name is there already. A new Tuner begins another beside it, which results() then knows "
    "alone; @anystorage.tune_experiment and Tuner.restore() continue what there is."
)


def build_tune_run_config(
    request: Request,
    *,
    credentials: Credentials | None,
    nodes: int | None,
    roots: Mapping[Tier, str | None] | None = None,
    preflight: bool = True,
    announces: bool = True,
    **ray_arguments: Any,
) -> RunConfig:
    """Resolve the request on this cluster and build the config; see ``ray_anystorage.tune_run_config``.

    ``announces`` has the line say where there is an experiment of the name already, which a Tuner does not continue.
    The file system carries its recipe into ``tuner.pkl`` and to every trial, and sets the harmless variables where it
    is unpickled. With ``credentials="env"`` the keys are set in this process, from where Tune itself hands them on.
    """
    check_said(credentials, ray_arguments)
    install()
    resolved = resolve(request, credentials=credentials, nodes=nodes, roots=roots)
    recipe = storage_recipe(resolved, copies_folders=True)
    if resolved.plan.secret_names:
        _refuse_keys_in_a_client()
        apply_to_process(resolved.worker_env_vars())
    served = _serve_trials(resolved.worker_env_vars())
    filesystem = open_experiment(recipe, [*resolved.plan.secret_names, *served])
    if announces and resolved.plan.resumes:
        logger.warning(recipe.log_line(_BESIDE))
    else:
        logger.info(recipe.log_line())
    own = [Housekeeping(), *([TrialPreflight()] if preflight else [])]
    callbacks = [*own, *(ray_arguments.pop("callbacks", None) or [])]
    return RunConfig(
        name=resolved.name,
        storage_path=recipe.fs_path,
        storage_filesystem=filesystem,
        callbacks=callbacks,
        **ray_arguments,
    )


def check_said(credentials: Credentials | None, ray_arguments: Mapping[str, Any]) -> None:
    """Refuse what can be told at once to be no mode, or no argument of Ray's; raises ``RequestError``."""
    if credentials is not None:
        check_mode(credentials)
    check_ray_arguments(ray_arguments, {field.name for field in fields(RunConfig)})


def _refuse_keys_in_a_client() -> None:
    """Tune reads them where it drives the experiment, and with Ray Client that is a process on the head node."""
    if client.is_connected():
        raise RequestError(
            'credentials="env": the keys are in this process, and Ray Client has Tune run in another, on the head '
            'node, which does not have them\n  what to do: say credentials="auto", which serves them there, or submit '
            "this as a job"
        )


def _serve_trials(env_vars: Mapping[str, str]) -> tuple[str, ...]:
    """Where a broker gives the credentials: feed its agents from now on, and lead trials and their own runs there.

    Returns the names of the variables that lead there.
    """
    feed_from_now_on(env_vars)
    if address_in(env_vars) is None:
        return ()
    apply_to_process(env_vars)
    return tuple(env_vars)
