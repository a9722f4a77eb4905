"""A Train run inside a trial: it has the experiment's storage, below the trial's own folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from types import SimpleNamespace
from typing import Any

from ray.tune.integration.ray_train import TuneReportCallback

from ray_anystorage.credentials.choose import choose, merge_runtime_env
from ray_anystorage.credentials.grant import Credentials, Grant, carried
from ray_anystorage.environment import Tier
from ray_anystorage.errors import ConfigClashError
from ray_anystorage.home.filesystem import HomeRecipe
from ray_anystorage.policy import Request
from ray_anystorage.recipe import StorageRecipe, check_ray_arguments
from ray_anystorage.resolve import site_variables
from ray_anystorage.settings import process_environment
from ray_anystorage.train.hooks import RunConfigV2, check_hooks
from ray_anystorage.train.run_config import MIRRORED, AnyStorageRunConfig, assemble
from ray_anystorage.transfer.open_store import BucketRecipe
from ray_anystorage.tune.experiment_home import ExperimentHome
from ray_anystorage.tune.hooks import get_session
from ray_anystorage.tune.storage_context import AnyStorageTuneContext

_NAME = "train"  # of a run that was given none: its folder in the trial's


@dataclass(frozen=True, slots=True)
class Trial:
    """The trial of an experiment of ours that this process runs: the experiment's home, and its folder there."""

    home: ExperimentHome
    folder: str


def current_trial() -> Trial | None:
    """The trial that this function trainable belongs to; ``None`` elsewhere, and in one of somebody else's storage."""
    storage = getattr(get_session(), "storage", None)
    return Trial(storage.home, storage.trial_dir_name) if isinstance(storage, AnyStorageTuneContext) else None


def build_inner_run_config(
    trial: Trial,
    request: Request,
    *,
    credentials: Credentials | None,
    roots: Mapping[Tier, str | None],
    preflight: bool = True,
    **ray_arguments: Any,
) -> AnyStorageRunConfig:
    """The config of a run whose home is in the trial's folder, where the trial's next start continues it.

    Raises
    ------
    ConfigClashError
        It was asked for other storage than the experiment's.
    """
    check_hooks()
    check_ray_arguments(ray_arguments, {field.name for field in fields(RunConfigV2)})
    planned = trial.home.planned
    _refuse_other_storage(planned, request, credentials, roots)
    recipe = _recipe_below(trial, request.name or _NAME, request.checkpoint_size)
    grant = _grant_of(recipe)
    if grant is not None:
        recipe = replace(recipe, credentials=f"{grant.mode}: {grant.reason}")
    env_vars = {**dict(site_variables({})), **(grant.all_env_vars() if grant else {})}
    secret_names = grant.secrets.names if grant else ()
    ray_arguments["worker_runtime_env"] = merge_runtime_env(
        ray_arguments.pop("worker_runtime_env", None), env_vars, secret_names
    )
    theirs = ray_arguments.pop("callbacks", None) or []
    callbacks = [ReportToTune(recipe) if type(one) is TuneReportCallback else one for one in theirs]
    return assemble(
        recipe,
        carried=tuple(sorted(env_vars)),
        secret_names=tuple(secret_names),
        preflight=preflight,
        callbacks=callbacks,
        **ray_arguments,
    )


class ReportToTune(TuneReportCallback):  # type: ignore[misc]
    """Hands the run's reports on to Tune, ``checkpoint_path`` as what :class:`ray_anystorage.Checkpoint` opens.

    Ray's own leaves out which store the path is in.
    """

    def __init__(self, recipe: StorageRecipe) -> None:
        super().__init__()
        self._path, self._uri = f"{recipe.fs_path}/{recipe.name}", recipe.home.uri

    def after_report(self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Any) -> None:
        """Runs in the run's controller."""
        located = None
        if checkpoint is not None:
            located = SimpleNamespace(path=f"{self._uri}{str(checkpoint.path).removeprefix(self._path)}")
        super().after_report(run_context, metrics, located)


def _recipe_below(trial: Trial, name: str, size: int | None) -> StorageRecipe:
    planned, home = trial.home.planned, trial.home
    filesystem = planned.filesystem
    store = home.store.child(trial.folder).child(name)
    if isinstance(filesystem, HomeRecipe):
        filesystem = replace(filesystem, home=f"{home.path}/{trial.folder}/{name}", mirrored=MIRRORED)
    else:
        filesystem = replace(filesystem, copies_folders=False)
    return replace(
        planned,
        name=name,
        uri=f"{home.store.uri}/{trial.folder}",
        fs_path=f"{home.path}/{trial.folder}",
        filesystem=filesystem,
        home=store,
        checkpoint_size=size if size is not None else planned.checkpoint_size,
        why=f"It is part of a trial of {planned.name!r}.",
    )


def _grant_of(recipe: StorageRecipe) -> Grant | None:
    """The grant of the experiment for the bucket that the run uses; what is this process's own is looked for here."""
    bucket = recipe.home if isinstance(recipe.home, BucketRecipe) else recipe.spill
    if bucket is None:
        return None
    if bucket.mode in ("env", "broker"):
        return choose(bucket.mode, bucket.address, process_environment())
    return carried(bucket.mode, bucket.source, bucket.env_vars)


def _refuse_other_storage(
    planned: StorageRecipe, request: Request, credentials: Credentials | None, roots: Mapping[Tier, str | None]
) -> None:
    said = {"artifact_storage": roots.get("artifact"), "credentials": credentials}
    if request.tier not in (None, planned.tier):
        said["tier"] = request.tier
    for name, value in said.items():
        if value is not None:
            shown = "a callable" if callable(value) else repr(value)
            raise ConfigClashError(
                f"{name}={shown}: a run inside a trial has the storage of its experiment {planned.name!r}, "
                f"{planned.tier} storage at {planned.home.uri}. Say it to the experiment, or leave it out."
            )
