"""The RunConfig that puts a Ray Train run where the plan says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

from ray_anystorage.cluster.broker import ensure_agent
from ray_anystorage.credentials.choose import merge_runtime_env
from ray_anystorage.credentials.grant import Credentials
from ray_anystorage.credentials.redact import redact, sounds_secret
from ray_anystorage.environment import Tier
from ray_anystorage.errors import ConfigClashError
from ray_anystorage.policy import Request
from ray_anystorage.recipe import StorageRecipe, check_ray_arguments, storage_recipe
from ray_anystorage.resolve import resolve
from ray_anystorage.settings import apply_to_process
from ray_anystorage.train.callbacks import NodeSetup, RunEnd
from ray_anystorage.train.controller import install_manager
from ray_anystorage.train.fitting import feed_while_fitting
from ray_anystorage.train.hooks import CHECKPOINT_MANAGER_SNAPSHOT_FILENAME, RunConfigV2, check_hooks
from ray_anystorage.train.local_mode import refuse_local_mode
from ray_anystorage.train.preflight import Preflight
from ray_anystorage.train.storage_context import AnyStorageContext, open_storage
from ray_anystorage.train.validation import install_validation

MIRRORED = (CHECKPOINT_MANAGER_SNAPSHOT_FILENAME,)  # files of Ray's in a home on a mount that have a second copy


@dataclass(repr=False)
class AnyStorageRunConfig(RunConfigV2):  # type: ignore[misc]
    """A ``ray.train.RunConfig`` that carries the recipe of its storage instead of a live file system."""

    recipe: StorageRecipe | None = None
    carried: tuple[str, ...] = ()
    secret_names: tuple[str, ...] = ()

    def __repr__(self) -> str:
        """Ray's own, with the values of secret variables masked, also of those that only sound secret."""
        secret = [value for name, value in self._env_vars.items() if name in self.secret_names or sounds_secret(name)]
        return redact(super().__repr__(), secret)

    def __getstate__(self) -> dict[str, Any]:
        """Everything but a storage context that was opened here: the controller opens its own."""
        return {name: value for name, value in self.__dict__.items() if name != "storage_context"}

    @property
    def _env_vars(self) -> Mapping[str, str]:
        env_vars: Mapping[str, str] = (self.worker_runtime_env or {}).get("env_vars", {})
        return env_vars

    @cached_property
    def storage_context(self) -> AnyStorageContext:
        """Ray builds this once, in the controller; what that process needs is set there first."""
        recipe = self.recipe
        if recipe is None or (recipe.name, recipe.uri) != (self.name, self.storage_path):
            planned = "nothing" if recipe is None else f"name={recipe.name!r}, storage_path={recipe.uri!r}"
            raise ConfigClashError(
                f"this RunConfig was changed after it was planned: it says name={self.name!r}, "
                f"storage_path={self.storage_path!r}, and the plan was made for {planned}. Call "
                "anystorage.run_config() with the values that you want."
            )
        env_vars = {name: value for name, value in self._env_vars.items() if name in self.carried}
        apply_to_process(env_vars)
        ensure_agent(env_vars)
        install_manager()
        install_validation()
        context = open_storage(recipe)
        context.env_vars = env_vars
        return context


def build_run_config(
    request: Request,
    *,
    credentials: Credentials | None,
    nodes: int | None,
    roots: Mapping[Tier, str | None] | None = None,
    preflight: bool = True,
    **ray_arguments: Any,
) -> AnyStorageRunConfig:
    """Resolve the request on this cluster and build the config; see ``ray_anystorage.run_config``."""
    check_hooks()
    check_ray_arguments(ray_arguments, {field.name for field in fields(RunConfigV2)})
    runtime_env = ray_arguments.pop("worker_runtime_env", None)
    resolved = resolve(request, credentials=credentials, nodes=nodes, roots=roots, runtime_env=runtime_env)
    recipe = storage_recipe(resolved, mirrored=MIRRORED)
    carries = merge_runtime_env(runtime_env, resolved.worker_env_vars(), resolved.plan.secret_names)
    ray_arguments["worker_runtime_env"] = carries
    return assemble(
        recipe,
        carried=tuple(sorted(resolved.worker_env_vars())),
        secret_names=resolved.plan.secret_names,
        preflight=preflight,
        **ray_arguments,
    )


def assemble(
    recipe: StorageRecipe,
    *,
    carried: tuple[str, ...],
    secret_names: tuple[str, ...],
    preflight: bool,
    **ray_arguments: Any,
) -> AnyStorageRunConfig:
    """The config of a run on storage that is decided, with our callbacks around the user's.

    Parameters
    ----------
    carried, secret_names
        Of the variables of ``worker_runtime_env`` those that the run's processes get for their storage, and those of
        them that are secret.
    """
    refuse_local_mode(AnyStorageRunConfig)
    feed_while_fitting(AnyStorageRunConfig)
    return AnyStorageRunConfig(
        name=recipe.name,
        storage_path=recipe.uri,
        callbacks=[
            *([Preflight()] if preflight else []),  # before callbacks of the user's
            *(ray_arguments.pop("callbacks", None) or []),
            NodeSetup(recipe, look=not preflight),
            RunEnd(),
        ],
        recipe=recipe,
        carried=carried,
        secret_names=secret_names,
        **ray_arguments,
    )
