"""When an experiment's state is written: soon after a trial has saved, and no oftener than before otherwise."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow.fs
import pytest

from ray_anystorage.home.filesystem import HomeFileSystem, HomeRecipe
from ray_anystorage.origin import MountRecipe
from ray_anystorage.tune.experiment_home import ExperimentHome
from ray_anystorage.tune.state_manager import StateManager

RAYS = 10.0  # seconds between two states, at least, as Ray has it


class Syncer:
    """A way home that is free, or still taken."""

    def __init__(self) -> None:
        self.free, self.ways = True, 0

    def sync_up(self, *_: Any) -> bool:
        self.ways += self.free
        return self.free

    def wait(self) -> None:
        """What was begun has ended."""


def manager_of(filesystem: Any, period: Any = "auto") -> tuple[Any, Syncer]:
    syncer = Syncer()
    storage = SimpleNamespace(
        storage_filesystem=filesystem,
        experiment_driver_staging_path="/staging",
        experiment_fs_path="/home",
        syncer=syncer,
    )
    return StateManager(storage=storage, checkpoint_period=period), syncer


@pytest.fixture
def filesystem(tmp_path: Path) -> Any:
    filesystem: Any = HomeFileSystem(HomeRecipe("cluster", str(tmp_path), str(tmp_path / "search"), (), 20.0))
    filesystem.carried = ExperimentHome(str(tmp_path / "search"), MountRecipe(str(tmp_path / "search")), None)
    return filesystem


def test_a_state_follows_a_checkpoint_soon_and_then_there_is_time_again(filesystem: Any) -> None:
    manager, syncer = manager_of(filesystem)
    manager.sync_up_experiment_state(lambda: None)
    assert manager._checkpoint_period == RAYS
    manager.on_trial_checkpoint(object())
    assert manager._checkpoint_period == 1.0
    manager._last_save_time -= 2.0
    manager.sync_up_experiment_state(lambda: None)
    assert (syncer.ways, manager._checkpoint_period) == (2, RAYS)


def test_where_the_last_state_is_still_on_its_way_the_next_follows_soon_as_well(filesystem: Any) -> None:
    manager, syncer = manager_of(filesystem)
    manager.sync_up_experiment_state(lambda: None)
    manager.on_trial_checkpoint(object())
    syncer.free = False
    manager._last_save_time -= 2.0
    manager.sync_up_experiment_state(lambda: None)
    assert (syncer.ways, manager._checkpoint_period) == (1, 1.0)
    syncer.free = True
    manager._last_save_time -= 2.0
    manager.sync_up_experiment_state(lambda: None)
    assert (syncer.ways, manager._checkpoint_period) == (2, RAYS)


def test_a_state_that_takes_long_to_write_takes_a_twentieth_of_the_time(filesystem: Any) -> None:
    manager, _ = manager_of(filesystem)
    manager.sync_up_experiment_state(lambda: time.sleep(0.2))
    manager.on_trial_checkpoint(object())
    assert 19 * 0.2 <= manager._checkpoint_period <= RAYS


@pytest.mark.parametrize("what", ["a period of the user's", "another's experiment"])
def test_else_it_is_left_to_ray(filesystem: Any, what: str) -> None:
    manager, _ = manager_of(filesystem, 7.0) if "period" in what else manager_of(pyarrow.fs.LocalFileSystem())
    before = manager._checkpoint_period
    manager.on_trial_checkpoint(object())
    assert manager._checkpoint_period == before
