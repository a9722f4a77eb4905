"""What the trials of a restored experiment go on from: each from its newest checkpoint that is good."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from ray_anystorage.checkpoint.restore import NOT_GOOD, verify_listed
from ray_anystorage.checkpoint.small_files import side_by_side
from ray_anystorage.errors import AnyStorageError
from ray_anystorage.tune.experiment_home import ExperimentHome

logger = logging.getLogger("ray.tune.anystorage")


def pass_over_damaged(home: ExperimentHome, filesystem: Any, trials: Sequence[Any]) -> None:
    """Have trials that are to go on do so from an older checkpoint where the newest is damaged, cut short or gone.

    Sizes are compared here, and every byte when a trial reads it. A trial with no good one keeps what it has, and fails
    with what is wrong.
    """
    side_by_side(lambda trial: _choose(home, filesystem, trial), [one for one in trials if not one.is_finished()])


def _choose(home: ExperimentHome, filesystem: Any, trial: Any) -> None:
    manager = trial.run_metadata.checkpoint_manager
    latest = manager.latest_checkpoint_result
    fault = _fault(home, filesystem, latest)
    if fault is None:
        return
    others = [result for result in manager.best_checkpoint_results if result is not latest]
    for other in sorted(others, key=lambda result: str(result.checkpoint.path), reverse=True):
        if _fault(home, filesystem, other) is None:
            logger.warning("trial %s goes on from %s: %s", trial, home.name_of(other.checkpoint.path), fault)
            manager._latest_checkpoint_result = other
            trial.invalidate_json_state()
            return


def _fault(home: ExperimentHome, filesystem: Any, result: Any) -> AnyStorageError | None:
    if result is None or result.checkpoint is None:
        return None
    opened = home.origin(str(result.checkpoint.path)).opened(home.open(filesystem))
    try:
        verify_listed(opened.sources, opened.contents())
    except NOT_GOOD as error:
        return error
    return None
