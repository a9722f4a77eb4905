"""What the driver sees to: what one that was killed left is removed, and that an experiment ended is written down."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Sequence
from typing import Any

from ray.tune import Callback

from ray_anystorage.checkpoint.manifest import FOLDER
from ray_anystorage.checkpoint.small_files import patiently
from ray_anystorage.errors import AnyStorageError
from ray_anystorage.tune.experiment_home import ExperimentHome, carried_home, home_of
from ray_anystorage.tune.held import held_in
from ray_anystorage.tune.install import driven, install
from ray_anystorage.tune.resume import pass_over_damaged
from ray_anystorage.tune.state_syncer import delete_quietly
from ray_anystorage.tune.storage_context import AnyStorageTuneContext

logger = logging.getLogger("ray.tune.anystorage")

_OWN_FILE = re.compile(rf"(?P<name>(?P<trial>[^/]+)/checkpoint_\d{{6}})/{re.escape(FOLDER)}/")


class Housekeeping(Callback):  # type: ignore[misc]
    """Runs in the driver, also in one that Ray's client drives from elsewhere."""

    def __init__(self) -> None:
        self._begun = self._watches = False
        self._foreign: frozenset[str] = frozenset()  # checkpoints that lay there before, and no trial knew

    def __getstate__(self) -> dict[str, Any]:
        """Nothing: who restores the experiment begins anew."""
        return {"_begun": False, "_watches": False, "_foreign": frozenset()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Come to the process that drives the experiment, which may be another than the one that planned it."""
        self.__dict__.update(state)
        install()

    def on_step_begin(self, iteration: int, trials: list[Any], **_: Any) -> None:
        """See to what there is when the trials of a restored experiment are there and none of them has started.

        Raises
        ------
        RequestError
            It was restored without the file system that leads to its storage.
        """
        if not self._begun:
            self._begun = True
            _see_to(trials)
        home = _home_of(trials)
        if home is not None and not self._watches:  # a new experiment has no trial yet at its first step
            self._watches = True
            self._foreign = unknown(home, trials[0].storage.storage_filesystem, trials)
            _watch(home, trials)

    def on_experiment_end(self, trials: list[Any], **_: Any) -> None:
        """Delete what nobody will open any more, and let go of the experiment, which others may then tidy up.

        That is what was held for others, and what a trial saved that was stopped before Tune heard of it. Where the
        last state did not come home, the one that is there may name it: it is left to who restores the experiment.
        """
        home = _home_of(trials)
        if home is None:
            return
        filesystem, context = trials[0].storage.storage_filesystem, driven(home)
        try:
            held = home.held(filesystem)
            held.check()  # a driver that took the experiment over has checkpoints that this one does not know
            if context is not None and context.syncer.named_at_home == known_by(home, trials):
                _remove(home, filesystem, unknown(home, filesystem, trials) - self._foreign)
            held.release()
        except (AnyStorageError, OSError) as error:
            logger.warning("that experiment %s ended could not be noted: %s", home.store.uri, error)


def _see_to(trials: list[Any]) -> None:
    for trial in trials:
        if isinstance(trial.storage, AnyStorageTuneContext):
            carried_home(trial.storage.storage_filesystem)
    home = _home_of(trials)
    if home is not None:
        filesystem = trials[0].storage.storage_filesystem
        _remove(home, filesystem, unknown(home, filesystem, trials))
        pass_over_damaged(home, filesystem, trials)


def _watch(home: ExperimentHome, trials: list[Any]) -> None:
    """Have nothing deleted that a trial may go on from; ``trials`` is Tune's own list, and grows."""
    context = driven(home)
    if context is not None:
        context.syncer.kept = lambda: known_by(home, trials) | held_in(home)
        context.syncer.named = lambda: known_by(home, trials)


def unknown(home: ExperimentHome, filesystem: Any, trials: Sequence[Any]) -> frozenset[str]:
    """Names of the checkpoints in these trials' folders that the trials do not know; none where that cannot be told.

    Once their state is home, nothing will ever open them. A trial that starts anew has no folder of its own yet.
    """
    folders = {trial.relative_logdir for trial in trials if trial.relative_logdir}
    known = known_by(home, trials)
    try:
        keys = patiently(lambda: [key for key, _ in home.open(filesystem).list("")])
    except (AnyStorageError, OSError) as error:
        logger.warning("what is left over in %s was not looked for: %s", home.store.uri, error)
        return frozenset()
    found = {match["name"] for key in keys if (match := _OWN_FILE.match(key)) and match["trial"] in folders}
    return frozenset(found - known)


def _remove(home: ExperimentHome, filesystem: Any, names: frozenset[str]) -> None:
    if names:
        logger.info("removing %d checkpoints that the experiment's state does not name", len(names))
    for name in sorted(names):
        logger.debug("removing checkpoint %s, which the experiment's state does not name", name)
        delete_quietly(home, filesystem, name)


def known_by(home: ExperimentHome, trials: Sequence[Any]) -> frozenset[str]:
    """Names of the checkpoints that trials keep."""
    return frozenset(home.name_of(str(result.checkpoint.path)) for trial in trials for result in kept_by(trial))


def _home_of(trials: Sequence[Any]) -> ExperimentHome | None:
    return home_of(trials[0].storage.storage_filesystem) if trials else None


def kept_by(trial: Any) -> Iterator[Any]:
    """Tune's result of each checkpoint that a trial keeps; the latest may come twice."""
    manager = trial.run_metadata.checkpoint_manager
    for result in (*manager.best_checkpoint_results, manager.latest_checkpoint_result):
        if result is not None and result.checkpoint is not None:
            yield result
