"""The public functions about a job rather than one run: what its processes need, and its folder for common files."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from ray_anystorage.cluster.nodes import alive_nodes
from ray_anystorage.credentials.grant import Credentials
from ray_anystorage.discovery.probe import bounded
from ray_anystorage.environment import Tier
from ray_anystorage.policy.request import check_name
from ray_anystorage.resolve import survey
from ray_anystorage.settings import read_settings


def runtime_env(
    runtime_env: Mapping[str, Any] | None = None,
    *,
    credentials: Credentials | None = None,
    artifact_storage: str | None = None,
) -> dict[str, Any]:
    """A ``runtime_env`` for ``ray.init`` or job submission: every process of the job reaches the bucket.

    Parameters
    ----------
    runtime_env
        The job's own; it is kept and merged.
    credentials
        As in :func:`run_config`. With ``"env"`` the result holds secret values: hand it to Ray, do not print it. With
        a broker this process, which must be the driver, serves the job until it ends.
    artifact_storage
        The bucket's URI, where the environment does not say it.

    Raises
    ------
    CredentialsError
        No credentials can be carried in this mode.
    ConfigClashError
        The job's own variables say something else.
    """
    from ray_anystorage.cluster.broker import feed_from_now_on
    from ray_anystorage.credentials.choose import merge_runtime_env
    from ray_anystorage.resolve import site_variables

    roots: dict[Tier, str | None] = {"artifact": artifact_storage}
    found = survey(credentials=credentials, nodes=alive_nodes(), roots=roots)
    if found.obstacle is not None:
        raise found.obstacle
    granted = found.grant.all_env_vars() if found.grant else {}
    secret_names = found.grant.secrets.names if found.grant else ()
    merged: dict[str, Any] = merge_runtime_env(runtime_env, {**dict(site_variables(roots)), **granted}, secret_names)
    feed_from_now_on(granted)
    return merged


def artifacts_dir(name: str | None = None) -> str:
    """The folder for TensorBoard logs and common files, on cluster storage; created on demand.

    In a training function it is the run's own; elsewhere that of the run ``name``, or the folder above them all.

    Raises
    ------
    InvalidNameError
        The name is not one path segment.
    NoStorageError
        There is no directory that all nodes can be expected to see.
    TimeoutError
        The mount does not answer.
    """
    if name is not None:
        check_name(name)
    root, own = _artifacts_root()
    directory = os.path.join(root, "artifacts", *(part for part in (name or own,) if part))
    bounded(lambda: os.makedirs(directory, exist_ok=True), read_settings().call_timeout, what=f"make {directory}")
    return directory


def _artifacts_root() -> tuple[str, str | None]:
    from ray_anystorage.train.inside import current_run

    run = current_run()
    if run is not None:
        return run
    from ray_anystorage.resolve import artifacts_root

    return artifacts_root(survey(nodes=alive_nodes()).environment, None), None
