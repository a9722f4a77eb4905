"""The checkpoints that a scheduler holds, to give them to other trials: Tune itself may have dropped them meanwhile.

Population based training has a trial save, remembers what comes of it, and lets another one go on from there some
reports later. Ray deletes what the first dropped in between, and the second then fails.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from typing import Any

import ray

from ray_anystorage.tune.experiment_home import ExperimentHome
from ray_anystorage.tune.hooks import FutureTrainingResult

_saves: weakref.WeakSet[HeldSave] = weakref.WeakSet()
_checkpoints: weakref.WeakValueDictionary[int, Any] = weakref.WeakValueDictionary()  # by id(): they do not hash


class HeldSave(FutureTrainingResult):  # type: ignore[misc]
    """Tune's word for what comes of a save, which is known here as long as somebody holds it."""

    def __init__(self, future: Any) -> None:
        super().__init__(future)
        self._path: str | None = None
        _saves.add(self)

    def path(self) -> str | None:
        """Of the checkpoint; ``None`` where it is not known yet, or there is none."""
        if self._path is None and ray.wait([self.future], timeout=0)[0]:
            try:
                result = ray.get(self.future)
            except ray.exceptions.RayError:  # Tune sees to it
                return None
            checkpoint = getattr(result, "checkpoint", None)
            self._path = str(checkpoint.path) if checkpoint is not None else None
        return self._path


def remember(checkpoint: Any) -> None:
    """Know of a checkpoint for as long as something in this process refers to it."""
    _checkpoints[id(checkpoint)] = checkpoint


def held_in(home: ExperimentHome) -> frozenset[str]:
    """Names of the checkpoints of an experiment that something in this process refers to."""
    return frozenset(home.name_of(path) for path in _paths() if path.startswith(f"{home.path}/"))


def _paths() -> Iterator[str]:
    yield from (path for save in list(_saves) if (path := save.path()) is not None)
    yield from (str(checkpoint.path) for checkpoint in list(_checkpoints.values()))
