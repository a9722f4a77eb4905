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
from ray_anystorage.tune.hooks import tune_controller_module
from ray_anystorage.tune.install import install
from ray_anystorage.tune.state_manager import StateManager

RAYS = 10.0  # seconds between two states, at least, as Ray has it


class Syncer:
    """A way home that is free, or still taken, and on which nothing is lost unless it is said."""

    def __init__(self) -> None:
        self.busy, self.loses, self.begun, self.arrived, self.took = False, False, 0, 0, 0.0

    def sync_up(self, *_: Any) -> bool:
        if not self.busy:
            self.begun += 1
            self.arrived = self.arrived if self.loses else self.begun
        return not self.busy

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


def step(manager: Any, seconds: float) -> None:
    """One step of Tune's driver, so many seconds after the last state."""
    manager._last_save_time = time.monotonic() - seconds
    manager.sync_up_experiment_state(lambda: None)


def test_a_state_follows_a_checkpoint_soon_and_then_there_is_time_again(filesystem: Any) -> None:
    manager, syncer = manager_of(filesystem)
    manager.sync_up_experiment_state(lambda: None)
    step(manager, 2)
    assert syncer.begun == 1, "without a checkpoint there is time"
    manager.on_trial_checkpoint(object())
    step(manager, 0.5)
    assert syncer.begun == 1, "others may save as well"
    step(manager, 2)
    assert syncer.begun == 2
    step(manager, 2)
    assert (syncer.begun, manager._checkpoint_period) == (2, RAYS)


def test_while_the_last_state_is_on_its_way_none_is_written_in_vain(filesystem: Any) -> None:
    manager, syncer = manager_of(filesystem)
    manager.sync_up_experiment_state(lambda: None)
    manager.on_trial_checkpoint(object())
    syncer.busy = True
    manager._last_save_time -= 2
    manager.sync_up_experiment_state(lambda: pytest.fail("it was written"))
    syncer.busy = False
    step(manager, 2)
    assert syncer.begun == 2


def test_a_state_that_was_lost_on_its_way_is_sent_again_soon(filesystem: Any) -> None:
    manager, syncer = manager_of(filesystem)
    manager.on_trial_checkpoint(object())
    syncer.loses = True
    manager.sync_up_experiment_state(lambda: None)
    step(manager, 2)
    syncer.loses = False
    step(manager, 2)
    assert syncer.begun == 3
    step(manager, 2)
    assert syncer.begun == 3


def test_a_state_that_takes_long_takes_a_bounded_part_of_the_time(filesystem: Any) -> None:
    manager, syncer = manager_of(filesystem)
    manager.sync_up_experiment_state(lambda: time.sleep(0.2))
    manager.on_trial_checkpoint(object())
    step(manager, 2)
    assert syncer.begun == 1
    step(manager, 9)
    assert syncer.begun == 2
    manager.on_trial_checkpoint(object())
    syncer.took = 2.0
    step(manager, 6)
    assert syncer.begun == 2
    step(manager, 9)
    assert syncer.begun == 3


@pytest.mark.parametrize("what", ["a period of the user's", "another's experiment"])
def test_else_it_is_left_to_ray(filesystem: Any, what: str) -> None:
    manager, syncer = manager_of(filesystem, 7.0) if "period" in what else manager_of(pyarrow.fs.LocalFileSystem())
    manager.sync_up_experiment_state(lambda: None)
    manager.on_trial_checkpoint(object())
    step(manager, 5)
    assert syncer.begun == 1


def test_tune_makes_it() -> None:
    install()
    assert tune_controller_module._ExperimentCheckpointManager is StateManager
