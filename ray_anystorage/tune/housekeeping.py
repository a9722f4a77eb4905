"""What the driver sees to: what one that was killed left is removed, and that an experiment ended is written down."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Sequence
from typing import Any

from ray.tune import Callback

from ray_anystorage.checkpoint.manifest import FOLDER
from ray_anystorage.checkpoint.ownership import Owner
from ray_anystorage.checkpoint.small_files import patiently
from ray_anystorage.errors import AnyStorageError
from ray_anystorage.tune.experiment_home import ExperimentHome, home_of
from ray_anystorage.tune.state_syncer import delete_quietly

logger = logging.getLogger("ray.tune.anystorage")

_OWN_FILE = re.compile(rf"(?P<name>(?P<trial>[^/]+)/checkpoint_\d{{6}})/{re.escape(FOLDER)}/")


class Housekeeping(Callback):  # type: ignore[misc]
    """Runs in the driver."""

    def __init__(self) -> None:
        self._swept = False

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: who restores the experiment sweeps anew."""
        return {"_swept": False}

    def on_step_begin(self, iteration: int, trials: list[Any], **_: Any) -> None:
        """Sweep once: when the trials of a restored experiment are there, and none of them has started."""
        if not self._swept:
            self._swept = True
            sweep(trials)

    def on_experiment_end(self, trials: list[Any], **_: Any) -> None:
        """Let go of the experiment, which others may then tidy up."""
        home = home_of(trials[0].storage.storage_filesystem) if trials else None
        if home is None:
            return
        try:
            Owner(home.open(trials[0].storage.storage_filesystem), home.owner, "").release()
        except (AnyStorageError, OSError) as error:
            logger.warning("that experiment %s ended could not be noted: %s", home.store.uri, error)


def sweep(trials: Sequence[Any]) -> None:
    """Delete the checkpoints in these trials' folders that the trials do not know; a failure leaves them for later.

    Nothing will ever open them: the state names others.
    """
    home = home_of(trials[0].storage.storage_filesystem) if trials else None
    if home is None:
        return
    filesystem = trials[0].storage.storage_filesystem
    folders = {trial.storage.trial_dir_name for trial in trials}
    known = known_by(home, trials)
    try:
        keys = patiently(lambda: [key for key, _ in home.open(filesystem).list("")])
    except (AnyStorageError, OSError) as error:
        logger.warning("what an earlier driver left in %s was not looked for: %s", home.store.uri, error)
        return
    found = {match["name"] for key in keys if (match := _OWN_FILE.match(key)) and match["trial"] in folders}
    for name in sorted(found - known):
        logger.info("removing checkpoint %s, which the experiment's state does not name", name)
        delete_quietly(home, filesystem, name)


def known_by(home: ExperimentHome, trials: Sequence[Any]) -> frozenset[str]:
    """Names of the checkpoints that trials keep."""
    return frozenset(home.name_of(str(checkpoint.path)) for trial in trials for checkpoint in _checkpoints(trial))


def _checkpoints(trial: Any) -> Iterator[Any]:
    manager = trial.run_metadata.checkpoint_manager
    for result in (*manager.best_checkpoint_results, manager.latest_checkpoint_result):
        if result is not None and result.checkpoint is not None:
            yield result.checkpoint
