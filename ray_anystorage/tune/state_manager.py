"""When an experiment's state is written: soon after a trial has saved, since a driver that dies forgets what is newer.

Ray writes it every ten seconds at most. A checkpoint that the state does not name is of no use to who restores.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ray_anystorage.tune.experiment_home import home_of
from ray_anystorage.tune.hooks import ExperimentCheckpointManager

_SOON = 1.0  # seconds: many trials that save one after the other share one state
_SHARE = 19  # times as long as writing it took, so that it takes a twentieth of the time: Ray's own rule


class StateManager(ExperimentCheckpointManager):  # type: ignore[misc]
    """Ray's, in Tune's driver. A period that the user set (``TUNE_GLOBAL_CHECKPOINT_S``) is kept to."""

    _checkpoint_period: float
    _took = 0.0
    _has_news = False

    def on_trial_checkpoint(self, trial: Any) -> None:
        """Write the state soon."""
        super().on_trial_checkpoint(trial)
        if self.auto_checkpoint_enabled and home_of(self._storage.storage_filesystem) is not None:
            self._has_news = True
            self._hurry()

    def sync_up_experiment_state(self, save_fn: Callable[[], None], force: bool = False, wait: bool = False) -> None:
        """Write it where it is time to; where the one before is still on its way, again soon."""
        before = self._last_sync_time
        super().sync_up_experiment_state(save_fn, force=force, wait=wait)
        if self._last_sync_time != before:
            self._has_news = False
        if self._has_news:
            self._hurry()

    def _update_auto_checkpoint_time(self, time_taken: float) -> None:
        self._took = time_taken
        super()._update_auto_checkpoint_time(time_taken)

    def _hurry(self) -> None:
        self._checkpoint_period = min(self._checkpoint_period, max(_SOON, _SHARE * self._took))
