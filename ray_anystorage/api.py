"""The public functions about runs, kept thin: each checks its arguments and hands over."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ray_anystorage.cluster.nodes import alive_nodes
from ray_anystorage.credentials.grant import Credentials
from ray_anystorage.environment import Environment, Tier
from ray_anystorage.errors import ConfigClashError
from ray_anystorage.policy import Request, StoragePlan, decide
from ray_anystorage.policy.request import Audience, num_to_keep_of
from ray_anystorage.resolve import survey

if TYPE_CHECKING:
    import ray.train
    import ray.tune

    from ray_anystorage.tune.inside import Trial


def discover(
    name: str | None = None,
    *,
    local_storage: str | None = None,
    cluster_storage: str | None = None,
    user_storage: str | None = None,
    shared_storage: str | None = None,
    artifact_storage: str | None = None,
    credentials: Credentials | None = None,
    nodes: int | None = None,
) -> Environment:
    """Look at every tier from this node and say what it really is.

    Parameters
    ----------
    name
        A run's name; runs of that name are looked for in every tier.
    local_storage, cluster_storage, user_storage, shared_storage, artifact_storage
        Roots (absolute paths; a URI for ``artifact_storage``) that come before the environment's.
    credentials
        Mode for the bucket, or a callable, as in :func:`run_config`.
    nodes
        Nodes of the cluster; those of the connected Ray cluster where ``None``.

    Returns
    -------
    Environment
        Frozen. A place that does not answer within its time limit (5 s unless
        ``RAY_ANYSTORAGE_PROBE_TIMEOUT`` says otherwise) is reported as such; nothing is left behind.
    """
    roots: dict[Tier, str | None] = {
        "local": local_storage,
        "cluster": cluster_storage,
        "user": user_storage,
        "shared": shared_storage,
        "artifact": artifact_storage,
    }
    return survey(name, credentials=credentials, nodes=_nodes(nodes), roots=roots).environment


def plan(
    name: str | None = None,
    *,
    checkpoint_size: int | str | None = None,
    num_to_keep: int | None = None,
    audience: Audience = "cluster",
    tier: Tier | None = None,
    artifact_storage: str | None = None,
    environment: Environment | None = None,
) -> StoragePlan:
    """Say where a run would go, and why. A pure function where ``environment`` is given.

    Parameters
    ----------
    name
        The run's name, one path segment.
    checkpoint_size
        Bytes, or a string with a unit: ``"60GiB"``, ``"10 GB"``.
    num_to_keep
        As in Ray's ``CheckpointConfig``; ``None`` keeps all.
    audience
        Who should see the run: ``"cluster"``, ``"user"`` or ``"team"``.
    tier
        Force one of the five tiers.
    artifact_storage
        The bucket folder, where it is another than the environment's: ``"s3://company/folder"``.
    environment
        From :func:`discover`, which then is told of another bucket; discovered now where ``None``.

    Raises
    ------
    RequestError
        An argument cannot be meant (also a ``ValueError``).
    PlanError, StorageError
        No tier can serve.
    """
    request = Request.of(name, checkpoint_size, num_to_keep, audience, tier)
    if environment is None:
        environment = discover(name, artifact_storage=artifact_storage)
    elif artifact_storage is not None:
        raise ConfigClashError(
            f"artifact_storage={artifact_storage!r} clashes with environment=…, which was discovered before: say it to "
            "discover() instead"
        )
    return decide(environment, request)


def run_config(
    name: str | None = None,
    *,
    checkpoint_size: int | str | None = None,
    audience: Audience = "cluster",
    tier: Tier | None = None,
    artifact_storage: str | None = None,
    credentials: Credentials | None = None,
    preflight: bool = True,
    **ray_run_config_kwargs: Any,
) -> ray.train.RunConfig:
    """A ``ray.train.RunConfig`` for any Train V2 trainer, on the storage that the plan chose and checked.

    In a trial of an experiment of ours, the run has the experiment's storage, below the trial's folder. With Ray's
    ``TuneReportCallback`` its reports reach Tune, ``checkpoint_path`` as what :class:`ray_anystorage.Checkpoint` opens.

    Parameters
    ----------
    name, checkpoint_size, audience, tier
        As in :func:`plan`. A run of the same name is continued where it is.
    artifact_storage
        The bucket folder, where it is another than the environment's: ``"s3://company/folder"``. How the store wants to
        be talked to is said by ``RAY_ANYSTORAGE_*`` variables, which reach the workers from here.
    credentials
        ``"auto"`` (the default; the safest that works, never ``"env"``), ``"ambient"``, ``"reference"``, ``"broker"``
        or ``"env"``; ``None`` takes ``RAY_ANYSTORAGE_CREDENTIALS``, else ``"auto"``. Or a callable, which this process
        asks again and again and which returns ``access_key_id``, ``secret_access_key`` and, for keys that end,
        ``token`` and ``expires_at``; or the same as the AWS token service names them; or what a Google key file holds;
        or, for Azure, one of ``sas_token``, ``account_key`` and ``token``, with ``expires_at`` where it ends.
    **ray_run_config_kwargs
        Everything else that ``ray.train.RunConfig`` takes; callbacks and ``worker_runtime_env`` are merged.

    Raises
    ------
    RequestError, ConfigClashError
        An argument cannot be meant, or contradicts the plan (both also ``ValueError``).
    PlanError, CredentialsError, StorageError
        The run cannot have what it needs; raised here, before anything is started.
    """
    from ray_anystorage.train.run_config import build_run_config

    request = Request.of(name, checkpoint_size, num_to_keep_of(ray_run_config_kwargs), audience, tier)
    roots: dict[Tier, str | None] = {"artifact": artifact_storage}
    trial = _trial()
    if trial is not None:
        from ray_anystorage.tune.inside import build_inner_run_config

        return build_inner_run_config(
            trial, request, credentials=credentials, roots=roots, preflight=preflight, **ray_run_config_kwargs
        )
    return build_run_config(
        request,
        credentials=credentials,
        nodes=alive_nodes(),
        roots=roots,
        preflight=preflight,
        **ray_run_config_kwargs,
    )


def report(
    metrics: Mapping[str, Any],
    checkpoint_dir: str | os.PathLike[str] | None = None,
    *,
    keep: bool = False,
    **ray_report_kwargs: Any,
) -> None:
    """``ray.train.report`` without the wait: stages the directory, returns, and uploads behind the training.

    All ranks of a run call it as often, as they do Ray's. Saves end in the order of their reports; the training
    function's end waits for them. Where Ray announced that a node goes away, it waits for its own save.

    Parameters
    ----------
    metrics
        As in ``ray.train.report``.
    checkpoint_dir
        This rank's own directory with its part of a checkpoint; ``None`` reports metrics only.
    keep
        Whether the directory is left as it is. Otherwise it is taken over, and what it holds afterwards is not said;
        it may be rewritten or deleted at once either way.
    **ray_report_kwargs
        Everything else that ``ray.train.report`` takes, but for how a checkpoint is uploaded and deleted.

    Raises
    ------
    CheckpointSaveError
        An earlier save failed; names its checkpoint. The attempt ends with the same error.
    OutsideRunError
        Not in a training function whose trainer has :func:`run_config` (also a ``RuntimeError``).
    RequestError, ConfigClashError, UnknownArgumentError
        An argument cannot be meant, or two ranks of a node report the same directory.
    UnsavableFileError
        Something in the directory cannot be saved as it is.
    """
    from ray_anystorage.train.report import report as hand_over

    hand_over(metrics, checkpoint_dir, keep=keep, **ray_report_kwargs)


def _trial() -> Trial | None:
    """The trial that this process runs, which has everything of Tune imported."""
    if "ray.tune" not in sys.modules:
        return None
    from ray_anystorage.tune.inside import current_trial

    return current_trial()


def _nodes(nodes: int | None) -> int | None:
    return alive_nodes() if nodes is None else nodes
