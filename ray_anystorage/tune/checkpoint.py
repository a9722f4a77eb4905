"""Checkpoints of trials: verified when they are opened, wherever their data lies."""

from __future__ import annotations

import os
from typing import Any

import ray.tune

from ray_anystorage.checkpoint.node import Node
from ray_anystorage.checkpoint.opened import Opened
from ray_anystorage.train.checkpoint import Checkpoint
from ray_anystorage.tune.experiment_home import home_of
from ray_anystorage.tune.held import remember
from ray_anystorage.tune.hooks import in_worker
from ray_anystorage.tune.trial_node import enter_trial_node


class TrialCheckpoint(Checkpoint, ray.tune.Checkpoint):  # type: ignore[misc]
    """A :class:`ray_anystorage.Checkpoint` that is one of ``ray.tune`` as well."""

    def opened(self, node: Node | None = None) -> Opened:
        """The checkpoint as this process opens it; a trial's by its node's cache."""
        home = home_of(self.filesystem)
        if node is None and home is not None and home.recipe is not None and in_worker():
            node = enter_trial_node(home)
        return super().opened(node)

    def __reduce__(self) -> tuple[Any, ...]:
        """Short: Tune writes each checkpoint of all trials into its state again and again."""
        attempt = self.origin.attempt if self.origin is not None else None
        return _loaded, (self.path, self.filesystem, attempt)


class StoredCheckpoint(ray.tune.Checkpoint):  # type: ignore[misc]
    """Stands for ``ray.tune.Checkpoint`` where Tune makes one of a path: in an experiment of ours it is one of ours."""

    def __new__(cls, path: str | os.PathLike[str], filesystem: Any = None) -> Any:
        made = ray.tune.Checkpoint(path, filesystem)
        adopt(made)
        return made


def _loaded(path: str, filesystem: Any, attempt: str | None) -> Any:
    made = ray.tune.Checkpoint(path, filesystem)
    adopt(made, attempt)
    return made


def adopt(checkpoint: Any, attempt: str | None = None) -> None:
    """Make a checkpoint of Ray's one of ours, in place, where it lies in the home of an experiment of ours."""
    home = home_of(checkpoint.filesystem)
    if home is not None and str(checkpoint.path).startswith(f"{home.path}/"):
        TrialCheckpoint.adopt(checkpoint, home.origin(checkpoint.path, attempt))
        remember(checkpoint)
