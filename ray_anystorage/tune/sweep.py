"""What a driver that was killed left: checkpoints that the state does not name, which nothing will ever open."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Sequence
from typing import Any

from ray.tune import Callback

from ray_anystorage.checkpoint.manifest import FOLDER
from ray_anystorage.checkpoint.small_files import patiently
from ray_anystorage.errors import AnyStorageError
from ray_anystorage.tune.experiment_home import home_of
from ray_anystorage.tune.state_syncer import delete_quietly

logger = logging.getLogger("ray.tune.anystorage")

_OWN_FILE = re.compile(rf"(?P<name>(?P<trial>[^/]+)/checkpoint_\d{{6}})/{re.escape(FOLDER)}/")


class LeftoverSweep(Callback):  # type: ignore[misc]
    """Runs in the driver, once: when the trials of a restored experiment are there, and none of them has started."""

    def __init__(self) -> None:
        self._swept = False

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: who restores the experiment sweeps anew."""
        return {"_swept": False}

    def on_step_begin(self, iteration: int, trials: list[Any], **_: Any) -> None:
        """Sweep before the first step."""
        if not self._swept:
            self._swept = True
            sweep(trials)


def sweep(trials: Sequence[Any]) -> None:
    """Delete the checkpoints in these trials' folders that the trials do not know; a failure leaves them for later."""
    home = home_of(trials[0].storage.storage_filesystem) if trials else None
    if home is None:
        return
    filesystem = trials[0].storage.storage_filesystem
    folders = {trial.storage.trial_dir_name for trial in trials}
    known = {home.name_of(str(checkpoint.path)) for trial in trials for checkpoint in _checkpoints(trial)}
    try:
        keys = patiently(lambda: [key for key, _ in home.open(filesystem).list("")])
    except (AnyStorageError, OSError) as error:
        logger.warning("what an earlier driver left in %s was not looked for: %s", home.store.uri, error)
        return
    found = {match["name"] for key in keys if (match := _OWN_FILE.match(key)) and match["trial"] in folders}
    for name in sorted(found - known):
        logger.info("removing checkpoint %s, which the experiment's state does not name", name)
        delete_quietly(home, filesystem, name)


def _checkpoints(trial: Any) -> Iterator[Any]:
    manager = trial.run_metadata.checkpoint_manager
    for result in (*manager.best_checkpoint_results, manager.latest_checkpoint_result):
        if result is not None and result.checkpoint is not None:
            yield result.checkpoint
