"""The public functions about runs that exist, kept thin: each finds it and hands over; none needs a Ray cluster."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ray_anystorage.credentials.grant import Credentials
from ray_anystorage.environment import Tier
from ray_anystorage.runs import find_run

if TYPE_CHECKING:
    import ray.train
    import ray.tune

    from ray_anystorage.catalog import Mode
    from ray_anystorage.promotion import Promoted
    from ray_anystorage.train.checkpoint import Checkpoint


def results(
    name: str, *, artifact_storage: str | None = None, credentials: Credentials | None = None
) -> ray.train.Result | ray.tune.ResultGrid:
    """The result of a Train run that exists, with :class:`ray_anystorage.Checkpoint` objects; needs no Ray cluster.

    Of a Tune experiment, Tune's ``ResultGrid``.

    Parameters
    ----------
    name
        The run's name, or the absolute path or URI of its home.
    artifact_storage
        As in :func:`run_config`.
    credentials
        Mode for the bucket. Where ``None``: ``RAY_ANYSTORAGE_CREDENTIALS``, else the safest that works in this process.

    Raises
    ------
    RunMissingError
        There is no such run, or it has saved nothing yet (also a ``ValueError`` and a ``FileNotFoundError``).
    SeveralHomesError
        Runs of the name exist in more than one tier.
    CheckpointMissingError, SnapshotDamagedError, CredentialsError, StorageError
        The run's state cannot be read, or names checkpoints that are gone.
    """
    from ray_anystorage.train.results import read_results
    from ray_anystorage.tune.results import is_experiment, read_grid

    run = find_run(name, credentials=credentials, artifact_storage=artifact_storage)
    return read_grid(run) if is_experiment(run) else read_results(run)


def best_checkpoint(
    name: str,
    metric: str | None = None,
    mode: Mode | None = None,
    *,
    artifact_storage: str | None = None,
    credentials: Credentials | None = None,
) -> Checkpoint:
    """The best checkpoint of a run or experiment that exists, verified when it is opened; needs no Ray cluster.

    Parameters
    ----------
    name
        As in :func:`results`.
    metric, mode
        What it was reported with, and whether the most (``"max"``) or the least (``"min"``) is best: both or neither.
        Without a metric: the latest good one, of a Train run.
    artifact_storage, credentials
        As in :func:`results`.

    Raises
    ------
    RunMissingError, SeveralHomesError, RequestError
        There is no such run, or none of its checkpoints has such a metric.
    CheckpointMissingError
        It keeps no good checkpoint.
    CredentialsError, StorageError
        It cannot be read.
    """
    from ray_anystorage.catalog import choose, describe
    from ray_anystorage.train.checkpoint import Checkpoint

    run = find_run(name, credentials=credentials, artifact_storage=artifact_storage)
    return Checkpoint.of_run(run, choose(describe(run), None, metric, mode).name)


def promote(
    run: str,
    *,
    to: Tier,
    checkpoint: str | None = None,
    name: str | None = None,
    metric: str | None = None,
    mode: Mode | None = None,
    artifact_storage: str | None = None,
    credentials: Credentials | None = None,
) -> Promoted:
    """Copy a checkpoint of a run into another tier, as a run of its own, and compare every byte of the copy.

    Parameters
    ----------
    run
        As ``name`` in :func:`results`.
    to
        The tier that gets the copy.
    checkpoint
        One that the run keeps. Where ``None``: as :func:`best_checkpoint` chooses it.
    name
        Of the run that holds the copy; ``"<run>-promoted"`` where ``None``.
    metric, mode, artifact_storage, credentials
        As in :func:`best_checkpoint`.

    Returns
    -------
    Promoted
        ``uri`` opens with :class:`Checkpoint`, ``run.name`` with :func:`results`.

    Raises
    ------
    RequestError, RunMissingError, SeveralHomesError, NameTakenError, TierUnavailableError
        It cannot be meant, or cannot be there.
    CheckpointMissingError, CheckpointCorruptedError, CheckpointIncompleteError
        The original is not good.
    CredentialsError, StorageError, OSError
        A place fails.
    """
    from ray_anystorage.catalog import choose, describe
    from ray_anystorage.promotion import promote_checkpoint, target_run

    found = find_run(run, credentials=credentials, artifact_storage=artifact_storage)
    kept = choose(describe(found), checkpoint, metric, mode)
    name = name or f"{found.name}-promoted"
    target, free = target_run(to, name, credentials=credentials, artifact_storage=artifact_storage)
    return promote_checkpoint(found, kept, target, free)
