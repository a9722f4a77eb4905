"""An experiment's files on their way home: what is sent, when what Tune dropped is deleted, how short its state is."""

from __future__ import annotations

import os
import pickle
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import ray.tune

from ray_anystorage.checkpoint.read import commit, read_contents
from ray_anystorage.checkpoint.save import Part, save
from ray_anystorage.checkpoint.tree import scan
from ray_anystorage.environment import BucketAddress
from ray_anystorage.errors import CheckpointMissingError, ObjectMissingError
from ray_anystorage.home.filesystem import HomeFileSystem, HomeRecipe
from ray_anystorage.transfer.open_store import BucketRecipe, MountRecipe
from ray_anystorage.transfer.pyarrow_fs import FileSystemRecipe, StoreFileSystem
from ray_anystorage.tune import install, state_syncer
from ray_anystorage.tune.checkpoint import StoredCheckpoint, TrialCheckpoint, adopt
from ray_anystorage.tune.experiment_home import ExperimentHome
from ray_anystorage.tune.state_syncer import StateSyncer

STATE = "experiment_state-2026-11-27_10-00-00.json"


class Ground:
    """An experiment's home on a mount, and the driver's folder whose files go there."""

    def __init__(self, root: Path) -> None:
        self.path, self.staging = root / "mount" / "search", root / "staging"
        recipe = HomeRecipe("cluster", str(root / "mount"), str(self.path), (), 20.0)
        self.filesystem: Any = HomeFileSystem(recipe)
        self.home = ExperimentHome(str(self.path), MountRecipe(str(self.path)), None)
        self.filesystem.carried = self.home
        self.syncer = StateSyncer(self.filesystem, 300, 600)
        self.scratch = root / "scratch"

    def write(self, path: str, content: str, *, age: float = 60) -> None:
        """A file of the driver's, last written so many seconds ago."""
        file = self.staging / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)
        written = file.stat().st_mtime - age
        os.utime(file, (written, written))

    def bring(self) -> None:
        """The way home, from its beginning to its end."""
        self.syncer.sync_up(str(self.staging), str(self.path))
        self.syncer.wait()

    def save(self, name: str) -> None:
        """A checkpoint that is committed."""
        source = self.scratch / name
        source.mkdir(parents=True)
        (source / "data").write_text(name)
        store = self.home.open(self.filesystem)
        save(store, scan(str(source)), Part(name, "a1", 0, 1))
        commit(store, name, "a1")

    def is_there(self, name: str) -> bool:
        try:
            read_contents(self.home.open(self.filesystem), name)
        except CheckpointMissingError:
            return False
        return True


@pytest.fixture
def ground(tmp_path: Path) -> Ground:
    return Ground(tmp_path)


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The keys of each upload, and of each file of the state, which are made."""
    seen: list[list[str]] = []
    upload, write = state_syncer.upload, state_syncer.write

    def seeing_state(store: Any, key: str, content: bytes) -> None:
        seen.append([key])
        write(store, key, content)

    monkeypatch.setattr(state_syncer, "write", seeing_state)

    def seeing(store: Any, files: Sequence[Any], **options: Any) -> Any:
        seen.append(sorted(file.key for file in files))
        return upload(store, files, **options)

    monkeypatch.setattr(state_syncer, "upload", seeing)
    return seen


def test_what_changed_is_sent_and_the_state_comes_last(ground: Ground, sent: list[list[str]]) -> None:
    for trial in range(20):
        ground.write(f"trial_{trial}/result.json", f"{trial}\n")
    ground.write(STATE, "{}")
    ground.bring()
    assert sent == [sorted(f"trial_{trial}/result.json" for trial in range(20)), [STATE]]
    sent.clear()
    ground.write("trial_7/result.json", "7\n8\n")
    ground.write(STATE, '{"later": true}')
    ground.bring()
    assert sent == [["trial_7/result.json"], [STATE]]
    assert (ground.path / "trial_7" / "result.json").read_text() == "7\n8\n"
    assert (ground.path / STATE).read_text() == '{"later": true}'
    sent.clear()
    ground.bring()
    assert sent == []


@pytest.mark.parametrize("coarse", [False, True])
def test_a_file_that_was_written_just_now_is_sent_again(
    ground: Ground, coarse: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two writes within a tick of the file system's clock, which may be of seconds, of equal size, look alike."""
    monkeypatch.setattr(state_syncer, "_COARSELY_SETTLED_AFTER" if coarse else "_SETTLED_AFTER", 60)
    ground.write(STATE, "one", age=0)
    if coarse:
        second = int(time.time()) - 1
        os.utime(ground.staging / STATE, (second, second))
    ground.bring()
    inode, written = (ground.staging / STATE).stat().st_ino, (ground.staging / STATE).stat().st_mtime_ns
    (ground.staging / STATE).write_text("two")
    os.utime(ground.staging / STATE, ns=(written, written))
    assert (ground.staging / STATE).stat().st_ino == inode
    ground.bring()
    assert (ground.path / STATE).read_text() == "two"


def test_patterns_keep_files_from_being_sent(ground: Ground, sent: list[list[str]]) -> None:
    ground.write("trial/big.bin", "big")
    ground.write("trial/result.json", "{}")
    ground.syncer.sync_up(str(ground.staging), str(ground.path), exclude=["*/big.bin"])
    ground.syncer.wait()
    assert sent == [["trial/result.json"]]


def test_a_folder_of_a_trial_goes_to_the_trial_s_folder(ground: Ground, sent: list[list[str]]) -> None:
    ground.write("plots/loss.png", "png")
    ground.syncer.sync_up(str(ground.staging), f"{ground.path}/trial_1")
    ground.syncer.wait()
    assert (ground.path / "trial_1" / "plots" / "loss.png").read_text() == "png"


def test_a_checkpoint_is_deleted_once_the_state_is_home_that_does_not_name_it(
    ground: Ground, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in (1, 2):
        ground.save(f"trial/checkpoint_{number}")
    ground.syncer.drop("trial/checkpoint_1")
    assert ground.is_there("trial/checkpoint_1"), "the state at home still names it"
    ground.write(STATE, "names 2")

    def refuse(*_: Any, **__: Any) -> None:
        raise ObjectMissingError("refused", tier="cluster", place="here", tried="write", remedy="none")

    with monkeypatch.context() as failing:
        failing.setattr(state_syncer, "write", refuse)
        with pytest.raises(ObjectMissingError):
            ground.bring()
    assert ground.is_there("trial/checkpoint_1"), "the state did not get home"
    ground.bring()
    assert not ground.is_there("trial/checkpoint_1")
    assert ground.is_there("trial/checkpoint_2")
    assert not (ground.path / "trial" / "checkpoint_1").exists()


def test_what_is_dropped_while_the_state_is_on_its_way_waits_for_the_next(
    ground: Ground, monkeypatch: pytest.MonkeyPatch
) -> None:
    ground.save("trial/checkpoint_1")
    ground.write(STATE, "names 1")
    write = state_syncer.write

    def dropping(*arguments: Any) -> None:
        ground.syncer.drop("trial/checkpoint_1")
        write(*arguments)

    with monkeypatch.context() as meanwhile:
        meanwhile.setattr(state_syncer, "write", dropping)
        ground.bring()
    assert ground.is_there("trial/checkpoint_1")
    ground.bring()
    assert not ground.is_there("trial/checkpoint_1")


def on_mount(ground: Ground) -> Any:
    return ground.filesystem


def in_bucket(ground: Ground) -> Any:
    address = BucketAddress("s3", "bucket", "runs", "us-east-1", "http://127.0.0.1:1")
    filesystem: Any = StoreFileSystem(FileSystemRecipe(address, copies_folders=True))
    filesystem.carried = ExperimentHome("bucket/runs/search", BucketRecipe(address, "ambient", "test"), None)
    return filesystem


@pytest.mark.parametrize("make", [on_mount, in_bucket])
def test_a_thousand_checkpoints_are_pickled_shortly_and_come_back_as_ours(
    ground: Ground, make: Callable[[Ground], Any]
) -> None:
    filesystem = make(ground)
    made = []
    for number in range(1000):  # each from another process, with a file system of its own
        own = pickle.loads(pickle.dumps(filesystem))
        checkpoint = ray.tune.Checkpoint(f"{filesystem.carried.path}/trial/checkpoint_{number:06}", own)
        adopt(checkpoint, f"{number:016x}")
        made.append(pickle.loads(pickle.dumps(checkpoint)))
    assert all(type(checkpoint) is TrialCheckpoint for checkpoint in made)
    assert [checkpoint.origin.attempt for checkpoint in made] == [f"{number:016x}" for number in range(1000)]
    assert made[7].origin.name == "trial/checkpoint_000007"
    assert len(pickle.dumps(made)) < 1000 * 200, "bytes of one checkpoint"


def test_a_path_becomes_one_of_ours_in_our_home_alone(ground: Ground, tmp_path: Path) -> None:
    ours = StoredCheckpoint(f"{ground.path}/trial/checkpoint_1", ground.filesystem)
    assert type(ours) is TrialCheckpoint
    assert isinstance(ours, ray.tune.Checkpoint)
    for other in (
        StoredCheckpoint(str(tmp_path / "elsewhere"), ground.filesystem),
        StoredCheckpoint(str(ground.path / "trial" / "checkpoint_1")),
        StoredCheckpoint.from_directory(str(tmp_path)),
    ):
        assert type(other) is ray.tune.Checkpoint


def test_what_is_not_ours_is_deleted_by_tune(tmp_path: Path) -> None:
    (tmp_path / "checkpoint").mkdir()
    checkpoint = ray.tune.Checkpoint.from_directory(str(tmp_path / "checkpoint"))
    install.delete(checkpoint.filesystem, checkpoint.path)
    assert not (tmp_path / "checkpoint").exists()


def test_a_state_that_is_written_anew_on_its_way_arrives_whole(ground: Ground, monkeypatch: pytest.MonkeyPatch) -> None:
    """The driver does so: it writes the next one in place while the one before is being sent."""
    ground.write(STATE, "the first state")
    ground.write("trial/result.json", "{}")
    upload = state_syncer.upload

    def growing(*arguments: Any, **options: Any) -> Any:
        (ground.staging / STATE).write_text("the second, which is longer than the first")
        return upload(*arguments, **options)

    with monkeypatch.context() as meanwhile:
        meanwhile.setattr(state_syncer, "upload", growing)
        ground.bring()
    assert (ground.path / STATE).read_text() == "the first state"
    ground.bring()
    assert (ground.path / STATE).read_text() == "the second, which is longer than the first"


def test_what_a_trial_keeps_of_another_s_is_not_deleted(ground: Ground) -> None:
    """A population exchanges checkpoints: whose it was drops it, and whose it is now goes on from it."""
    ground.save("trial/checkpoint_1")
    ground.syncer.kept = lambda: frozenset({"trial/checkpoint_1"})
    ground.syncer.drop("trial/checkpoint_1")
    ground.write(STATE, "another trial names 1")
    ground.bring()
    assert ground.is_there("trial/checkpoint_1")
    ground.syncer.kept = frozenset
    ground.bring()
    assert not ground.is_there("trial/checkpoint_1")


def test_a_way_home_that_a_later_one_overtook_does_nothing_more(ground: Ground) -> None:
    ground.write(STATE, "one")
    late, arguments = ground.syncer._sync_up_command(str(ground.staging), str(ground.path))
    ground.write(STATE, "two, later")
    ground.bring()
    late(**arguments)
    assert (ground.path / STATE).read_text() == "two, later"


def test_looking_at_an_experiment_s_file_system_sets_no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", "mine")
    address = BucketAddress("s3", "bucket", "runs", "us-east-1", "http://127.0.0.1:1")
    recipe = FileSystemRecipe(address, (("AWS_PROFILE", "theirs"),), copies_folders=True)
    filesystem: Any = StoreFileSystem(recipe)
    filesystem.carried = ExperimentHome("bucket/runs/search", BucketRecipe(address, "reference", "test"), None)
    again = pickle.loads(pickle.dumps(filesystem))
    assert again.carried == filesystem.carried
    assert os.environ["AWS_PROFILE"] == "mine"
