"""When an experiment's state is written: soon after a trial has saved, since a driver that dies forgets what is newer.

Ray writes it every ten seconds at most. A checkpoint that the state does not name is of no use to who restores.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from ray_anystorage.tune.experiment_home import home_of
from ray_anystorage.tune.hooks import ExperimentCheckpointManager

_SOON = 1.0  # seconds: many trials that save one after the other share one state
# Times as long as it took: writing takes a twentieth of the driver's time, as Ray has it, the way home a fifth.
_WRITING, _SENDING = 19, 4


class StateManager(ExperimentCheckpointManager):  # type: ignore[misc]
    """Ray's, in Tune's driver. A period that the user set (``TUNE_GLOBAL_CHECKPOINT_S``) is kept to."""

    _checkpoint_period: float
    _took = 0.0
    _has_news = False
    _awaited = 0  # the way home that carries the news

    def on_trial_checkpoint(self, trial: Any) -> None:
        """There is something that the state at home does not name."""
        super().on_trial_checkpoint(trial)
        if self.auto_checkpoint_enabled and home_of(self._storage.storage_filesystem) is not None:
            self._has_news = True

    def sync_up_experiment_state(self, save_fn: Callable[[], None], force: bool = False, wait: bool = False) -> None:
        """Write it where it is time to, which is soon where there is news and the way home is free."""
        ours = home_of(self._storage.storage_filesystem) is not None
        if ours and not self._storage.syncer.busy:
            self._hurry()

        def timed() -> None:
            started = time.monotonic()
            save_fn()
            self._took = time.monotonic() - started

        before = self._last_sync_time
        super().sync_up_experiment_state(timed, force=force, wait=wait)
        if ours and self._last_sync_time != before:
            self._has_news, self._awaited = False, self._storage.syncer.begun

    def _hurry(self) -> None:
        syncer = self._storage.syncer
        self._has_news = self._has_news or syncer.arrived < self._awaited  # it was lost on its way
        if self._has_news and self.auto_checkpoint_enabled:
            soon = max(_SOON, _WRITING * self._took, _SENDING * syncer.took)
            self._checkpoint_period = min(self._checkpoint_period, soon)
