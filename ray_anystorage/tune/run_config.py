"""The RunConfig that puts a plain ``tune.Tuner`` where the plan says."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from ray.tune import RunConfig

from ray_anystorage.environment import Tier
from ray_anystorage.home.filesystem import HomeFileSystem
from ray_anystorage.home.prepare import prepare_home
from ray_anystorage.policy import Request
from ray_anystorage.recipe import check_ray_arguments, storage_recipe
from ray_anystorage.resolve import resolve
from ray_anystorage.settings import apply_to_process
from ray_anystorage.train.hooks import carry_to_trials

logger = logging.getLogger("ray.tune.anystorage")  # Ray shows what comes below "ray"


def build_tune_run_config(
    request: Request,
    *,
    credentials: str | None,
    nodes: int | None,
    roots: Mapping[Tier, str | None] | None = None,
    **ray_arguments: Any,
) -> RunConfig:
    """Resolve the request on this cluster and build the config; see ``ray_anystorage.tune_run_config``.

    The file system carries its recipe into ``tuner.pkl`` and to every trial, and sets the harmless variables where it
    is unpickled. With ``credentials="env"`` the keys are set in this process, from where Tune itself hands them on.
    """
    check_ray_arguments(ray_arguments, {field.name for field in fields(RunConfig)})
    resolved = resolve(request, credentials=credentials, nodes=nodes, roots=roots, spills=False)
    recipe = storage_recipe(resolved, copies_folders=True)
    if resolved.plan.secret_names:
        apply_to_process(resolved.worker_env_vars())
        carry_to_trials(resolved.plan.secret_names)
    filesystem = recipe.build_filesystem()
    if isinstance(filesystem, HomeFileSystem):
        prepare_home(filesystem)
    if resolved.plan.resumes:
        logger.warning(
            "an experiment %r is in %s already, and a Tuner starts a new one beside it: to continue it, use "
            "tune.Tuner.restore(path=%r, trainable=…)",
            resolved.name,
            recipe.uri,
            f"{recipe.uri}/{resolved.name}",
        )
    logger.info(recipe.log_line())
    return RunConfig(name=resolved.name, storage_path=recipe.fs_path, storage_filesystem=filesystem, **ray_arguments)
