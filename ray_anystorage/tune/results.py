"""The results of an experiment that ended, or is under way; no Ray cluster is needed."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable
from typing import Any

import pyarrow.fs
from ray import tune
from ray.tune import ExperimentAnalysis

from ray_anystorage.checkpoint.small_files import patiently
from ray_anystorage.errors import ObjectMissingError, RunMissingError
from ray_anystorage.runs import Run
from ray_anystorage.tune.experiment_home import ExperimentHome, carried_home
from ray_anystorage.tune.hooks import STATE_GLOB, TUNER_STATE
from ray_anystorage.tune.housekeeping import kept_by
from ray_anystorage.tune.install import install


def is_experiment(run: Run) -> bool:
    """Whether Ray Tune keeps the state of a run; raises ``StorageError`` where the home cannot be read."""
    home = run.open_home()
    try:
        patiently(lambda: home.size(TUNER_STATE))
    except ObjectMissingError:
        return False
    return True


def read_grid(run: Run) -> tune.ResultGrid:
    """Tune's results, with checkpoints of ours: verified, wherever their data lies.

    Raises
    ------
    RunMissingError
        It has no state of Ray Tune.
    StorageError
        The home cannot be read.
    """
    return tune.ResultGrid(_analysis(run, _filesystem(run)))


def named_by_trials(run: Run) -> frozenset[str]:
    """The checkpoints that the trials of an experiment keep, as its state at home has them.

    Raises
    ------
    RunMissingError, StorageError
        As :func:`read_grid`.
    """
    return frozenset(reported_metrics(run))


def reported_metrics(run: Run) -> dict[str, dict[str, Any]]:
    """What was reported with each checkpoint that the trials of an experiment keep, by its name; raises the same."""
    filesystem = _filesystem(run)
    home, found = carried_home(filesystem), dict[str, dict[str, Any]]()
    for trial in _analysis(run, filesystem).trials:
        for result in kept_by(trial):
            name = home.name_of(str(result.checkpoint.path))
            if name.startswith(f"{trial.relative_logdir}/") or name not in found:  # else another's, by an exchange
                found[name] = dict(result.metrics or {})
    return found


def own_files(filesystem: Any) -> set[str]:
    """Names of what lies in the home of the experiment that a file system carries, outside of its trials' folders."""
    path = carried_home(filesystem).path
    return {info.base_name for info in filesystem.get_file_info(pyarrow.fs.FileSelector(path, allow_not_found=True))}


def has_state(names: Iterable[str]) -> bool:
    """Whether a state of Tune's is among these files."""
    return bool(fnmatch.filter(names, STATE_GLOB))


def _filesystem(run: Run) -> Any:
    filesystem = run.build_filesystem()
    filesystem.carried = ExperimentHome(run.fs_path, run.home, run.spill or next(iter(run.former), None))
    return filesystem


def _analysis(run: Run, filesystem: Any) -> ExperimentAnalysis:
    install()
    if not has_state(own_files(filesystem)):
        raise RunMissingError(
            f"{run.uri} holds no state of a Tune experiment ({STATE_GLOB}): it has saved nothing yet, or Ray Train "
            "keeps it"
        )
    return ExperimentAnalysis(carried_home(filesystem).path, storage_filesystem=filesystem)
