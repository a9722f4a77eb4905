"""Ray Train runs whose home is on a mount: they land there, resume, survive a full disk and a torn snapshot."""

from __future__ import annotations

import dataclasses
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from random import Random
from typing import Any

import pytest
import ray
import ray.train
from ray import cloudpickle
from ray.train import Checkpoint, CheckpointConfig, FailureConfig, ScalingConfig, UserCallback
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

import ray_anystorage as anystorage
from ray_anystorage import errors
from ray_anystorage.checkpoint.save import Part
from ray_anystorage.checkpoint.saver import Saver
from ray_anystorage.train import hooks
from tests.harness.mounts import tmpfs
from tests.harness.ray_cluster import clean_environment

SNAPSHOT = "checkpoint_manager_snapshot.json"
cloudpickle.register_pickle_by_value(sys.modules[__name__])
pytestmark = pytest.mark.needs_ray


def count(config: dict[str, Any]) -> None:
    """Count up from the last checkpoint, saving every number; tell where temporary files go."""
    start = 0
    checkpoint = ray.train.get_checkpoint()
    if checkpoint:
        with checkpoint.as_directory() as directory:
            start = json.loads(Path(directory, "number.json").read_text())["number"]
    for number in range(start + 1, config["until"] + 1):
        with tempfile.TemporaryDirectory() as directory:
            if ray.train.get_context().get_world_rank() == 0:
                Path(directory, "number.json").write_text(json.dumps({"number": number}))
                Path(directory, "weights").write_bytes(os.urandom(config.get("bytes", 1000)))
            ray.train.report(
                {"number": number, "started_from": start, "directory": directory},
                checkpoint=Checkpoint.from_directory(directory) if os.listdir(directory) else None,
            )


def fit(run_config: ray.train.RunConfig, *, workers: int = 1, **config: Any) -> ray.train.Result:
    return DataParallelTrainer(
        count,
        train_loop_config={"until": 2, **config},
        scaling_config=ScalingConfig(num_workers=workers, resources_per_worker={"CPU": 0.5}),
        run_config=run_config,
    ).fit()


@pytest.fixture(scope="module")
def finished_run(driver: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The home of a run that saved three checkpoints; tests copy it, since what it holds is relative to it."""
    root = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_ANYSTORAGE_CLUSTER_STORAGE", str(root))
        fit(anystorage.run_config("finished"), until=3)
    return root / "finished"


def number_in(checkpoint: Checkpoint) -> int:
    with checkpoint.as_directory() as directory:
        return int(json.loads(Path(directory, "number.json").read_text())["number"])


def test_a_run_lands_on_the_mount_with_its_temporary_files_on_local(site: Path) -> None:
    result = fit(anystorage.run_config("lands", checkpoint_size="1MB"), workers=2, until=3)
    home = site / "cluster" / "lands"
    assert result.path == str(home)
    assert (home / SNAPSHOT).is_file()
    assert result.checkpoint is not None
    assert Path(result.checkpoint.path).parent == home
    assert number_in(result.checkpoint) == 3
    assert result.metrics is not None
    assert result.metrics["directory"].startswith(str(site / "local")), "tempfile did not go to local storage"
    assert len(list(home.glob("checkpoint_[0-9]*"))) == 3


def test_the_same_name_continues_whatever_the_size_and_the_tiers_are_now(
    site: Path, finished_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(finished_run, site / "cluster" / "again")
    (site / "shared").mkdir()
    monkeypatch.setenv("RAY_ANYSTORAGE_SHARED_STORAGE", str(site / "shared"))
    result = fit(anystorage.run_config("again", checkpoint_size="60GiB", audience="team"), until=4)
    assert result.metrics is not None
    assert (result.metrics["started_from"], result.metrics["number"]) == (3, 4)
    assert result.path == str(site / "cluster" / "again")


def test_two_homes_of_one_name_are_an_error_that_shows_both(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for tier in ("cluster", "shared"):
        (site / tier / "twice").mkdir(parents=True)
        (site / tier / "twice" / SNAPSHOT).write_text("{}")
    monkeypatch.setenv("RAY_ANYSTORAGE_SHARED_STORAGE", str(site / "shared"))
    with pytest.raises(errors.SeveralHomesError) as raised:
        anystorage.run_config("twice")
    assert str(site / "cluster" / "twice") in str(raised.value)
    assert str(site / "shared" / "twice") in str(raised.value)


class Seen(UserCallback):
    """A user's own callback."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def after_report(self, run_context: Any, metrics: Any, checkpoint: Any) -> None:
        self.path.write_text(f"{metrics[0]['number']}")


def test_the_users_own_configuration_is_kept_and_merged(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ANYSTORAGE_CREDENTIALS", "auto")
    config = anystorage.run_config(
        "merged",
        callbacks=[Seen(site / "seen")],
        failure_config=FailureConfig(max_failures=3),
        checkpoint_config=CheckpointConfig(num_to_keep=1),
        worker_runtime_env={"env_vars": {"MINE": "kept", "TMPDIR": str(site), "WANDB_API_KEY": "planted-by-the-user"}},
    )
    assert "planted-by-the-user" not in repr(config)
    assert config.failure_config.max_failures == 3
    assert config.worker_runtime_env["env_vars"]["MINE"] == "kept"
    result = fit(config, until=3)
    assert (site / "seen").read_text() == "3"
    assert len(list((site / "cluster" / "merged").glob("checkpoint_[0-9]*"))) == 1
    assert result.metrics is not None
    assert Path(result.metrics["directory"]).parent == site, "the user's TMPDIR was overruled"


@pytest.mark.parametrize("field", ["storage_path", "storage_filesystem"])
def test_a_clash_names_both_values(site: Path, field: str) -> None:
    with pytest.raises(errors.ConfigClashError, match=f"{field}='/elsewhere'"):
        anystorage.run_config("clash", **{field: "/elsewhere"})


def test_an_argument_that_nobody_knows_names_the_nearest(site: Path) -> None:
    with pytest.raises(TypeError, match=r"checkpointsize='1GB'.*did you mean checkpoint_size") as raised:
        anystorage.run_config("typo", checkpointsize="1GB")
    assert isinstance(raised.value, errors.RequestError)
    with pytest.raises(errors.UnknownArgumentError, match="worker_runtime_env"):
        anystorage.tune_run_config("typo", worker_runtime_env={})


def test_a_clash_of_variables_names_both_values(site: Path) -> None:
    name = "RAY_ANYSTORAGE_CLUSTER_STORAGE"
    with pytest.raises(errors.ConfigClashError) as raised:
        anystorage.run_config("clash", worker_runtime_env={"env_vars": {name: "/elsewhere"}})
    for words in (name, "/elsewhere", str(site / "cluster")):
        assert words in str(raised.value)


def test_local_mode_is_refused_clearly_and_only_for_our_runs(site: Path) -> None:
    trainer = DataParallelTrainer(
        lambda: None, scaling_config=ScalingConfig(num_workers=0), run_config=anystorage.run_config("nobody")
    )
    with pytest.raises(errors.LocalModeError, match="num_workers=1"):
        trainer.fit()
    called = []
    DataParallelTrainer(lambda: called.append(7), scaling_config=ScalingConfig(num_workers=0)).fit()
    assert called == [7]


def logs() -> None:
    """Write where the run's logs belong, and tell."""
    directory = anystorage.artifacts_dir()
    Path(directory, "events").write_text(directory)


@pytest.mark.soak
def test_artifacts_lie_on_cluster_storage_under_the_runs_name(site: Path) -> None:
    DataParallelTrainer(
        logs, scaling_config=ScalingConfig(num_workers=1), run_config=anystorage.run_config("logs")
    ).fit()
    expected = site / "cluster" / "artifacts" / "logs"
    assert (expected / "events").read_text() == str(expected) == anystorage.artifacts_dir("logs")
    assert anystorage.artifacts_dir() == str(expected.parent)
    with pytest.raises(errors.InvalidNameError, match="outside"):
        anystorage.artifacts_dir("../outside")


def test_a_home_that_fills_up_ends_clearly_and_the_name_runs_again_with_space(
    site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with tmpfs(site / "small", size="8m") as root:
        monkeypatch.setenv("RAY_ANYSTORAGE_CLUSTER_STORAGE", str(root))
        (root / "other").write_bytes(bytes(4 << 20))
        with pytest.raises(ray.train.TrainingFailedError) as raised:
            fit(anystorage.run_config("fills"), until=9, bytes=900_000)
        for words in ("no space left", str(root), "num_to_keep"):
            assert words in str(raised.value)
        home = root / "fills"
        state = json.loads((home / SNAPSHOT).read_text())
        saved = [result["checkpoint_dir_name"] for result in state["checkpoint_results"]]
        assert 0 < len(saved) < 9
        assert sorted(path.name for path in home.glob("checkpoint_[0-9]*")) == sorted(saved), "half a checkpoint stayed"
        (root / "other").unlink()
        result = fit(anystorage.run_config("fills"), until=len(saved) + 1, bytes=900_000)
        assert result.metrics is not None
        assert result.metrics["started_from"] == len(saved)


def test_a_save_that_fills_the_disk_takes_back_its_own_files_alone(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with tmpfs(site / "small", size="8m") as root:
        monkeypatch.setenv("RAY_ANYSTORAGE_CLUSTER_STORAGE", str(root))
        context = anystorage.run_config("same").storage_context
        saver = Saver(home=context.home_store(), threshold=1 << 30)
        for number, size in enumerate((1000, 20 << 20)):
            source = site / f"source{number}"
            source.mkdir()
            (source / "kept").write_bytes(b"k")
            (source / f"new{number}").write_bytes(bytes(size))
            part = Part("latest", "a1", 0, 1)
            if size < 1 << 20:
                saver.save(str(source), part)
                continue
            with pytest.raises(errors.MountFullError):
                saver.save(str(source), part)
        names = {path.name for path in (root / "same" / "latest").iterdir() if path.is_file()}
        assert names == {"kept", "new0"}


@pytest.mark.parametrize(
    ("torn", "mirrored", "resumes_from"),
    [
        (b"", True, 3),
        pytest.param(b'{"ray_version": "2.60.0", "checkpoint_res', False, 3, marks=pytest.mark.soak),
    ],
)
def test_a_torn_snapshot_is_repaired_and_the_run_resumes(
    site: Path, finished_run: Path, torn: bytes, mirrored: bool, resumes_from: int
) -> None:
    home = site / "cluster" / "torn"
    shutil.copytree(finished_run, home)
    (home / SNAPSHOT).write_bytes(torn)
    if not mirrored:
        (home / ".anystorage" / SNAPSHOT).unlink()
    result = fit(anystorage.run_config("torn"), until=4)
    assert result.metrics is not None
    assert result.metrics["started_from"] == resumes_from
    assert json.loads((home / SNAPSHOT).read_text())["latest_checkpoint_result"]["metrics"]["number"] == 4


def test_a_second_copy_that_names_a_deleted_checkpoint_is_taken_without_it(site: Path, finished_run: Path) -> None:
    home = site / "cluster" / "older"
    shutil.copytree(finished_run, home)
    names = sorted(path.name for path in home.glob("checkpoint_[0-9]*"))
    shutil.rmtree(home / names[-1])
    (home / SNAPSHOT).write_bytes(b"")
    _ = anystorage.run_config("older").storage_context
    state = json.loads((home / SNAPSHOT).read_text())
    assert [result["checkpoint_dir_name"] for result in state["checkpoint_results"]] == names[:-1]
    assert state["latest_checkpoint_result"]["checkpoint_dir_name"] == names[-2]


def test_only_checkpoints_go_into_a_rebuilt_snapshot_and_an_empty_home_starts_anew(site: Path) -> None:
    home = site / "cluster" / "stock"
    for name in ("checkpoint_2026-01-01_00-00-01.000001", "checkpoint_2026-01-01_00-00-02.000001", "tensorboard"):
        (home / name).mkdir(parents=True)
        (home / name / "data").touch()
    os.utime(home / "checkpoint_2026-01-01_00-00-01.000001")
    (home / SNAPSHOT).write_bytes(b"")
    _ = anystorage.run_config("stock").storage_context
    state = json.loads((home / SNAPSHOT).read_text())
    assert [r["checkpoint_dir_name"] for r in state["checkpoint_results"]] == ["checkpoint_2026-01-01_00-00-01.000001"]
    (site / "cluster" / "empty").mkdir()
    (site / "cluster" / "empty" / SNAPSHOT).write_bytes(b"")
    _ = anystorage.run_config("empty").storage_context
    assert json.loads((site / "cluster" / "empty" / SNAPSHOT).read_text())["checkpoint_results"] == []


def test_a_snapshot_beyond_repair_is_an_error_that_says_what_to_do(site: Path) -> None:
    home = site / "cluster" / "lost"
    (home / "checkpoint_1").mkdir(parents=True)
    (home / "checkpoint_1" / "weights").write_bytes(b"half of th")
    (home / SNAPSHOT).write_bytes(b"")
    with pytest.raises(errors.SnapshotDamagedError, match="anew, remove") as raised:
        _ = anystorage.run_config("lost").storage_context
    assert "checkpoint_1" in str(raised.value)


MANAGER = """
import asyncio, os, pathlib, sys
import ray_anystorage as anystorage
from ray.train import CheckpointConfig, Checkpoint
from ray.train.v2._internal.execution.checkpoint.checkpoint_manager import CheckpointManager
from ray.train.v2._internal.execution.training_report import _TrainingReport
import ray_anystorage.train.run_config

async def manage():
    context = anystorage.run_config("killed").storage_context
    manager = CheckpointManager(CheckpointConfig(num_to_keep=2), context)
    latest = manager.latest_checkpoint_result
    number = latest.metrics["number"] if latest else 0
    print(os.getpid(), number, flush=True)
    while True:
        number += 1
        path = pathlib.Path(context.build_checkpoint_path_from_name(f"checkpoint_{number:06d}"))
        path.mkdir(exist_ok=True)
        (path / "data").write_text(str(number))
        checkpoint = Checkpoint(path=str(path), filesystem=context.storage_filesystem)
        report = _TrainingReport(checkpoint=checkpoint, metrics={"number": number}, validation=False)
        manager.register_checkpoint(report)
        print(os.getpid(), number, flush=True)

for _ in range(int(sys.argv[1])):
    child = os.fork()
    if child == 0:
        asyncio.run(manage())
    os.waitpid(child, 0)
"""


def test_fifty_kills_around_snapshot_writes_never_cost_more_than_the_last_report(tmp_path: Path) -> None:
    """Ray's own CheckpointManager on our storage, killed at 50 random moments: it resumes, nothing reported is lost."""
    kills, random = 50, Random(7)
    (tmp_path / "cluster").mkdir()
    env = clean_environment({"RAY_ANYSTORAGE_CLUSTER_STORAGE": str(tmp_path / "cluster")})
    command = [sys.executable, "-c", MANAGER, str(kills)]
    last = killed = 0
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as managers:
        assert managers.stdout is not None
        for kill in range(kills):
            process, resumed = map(int, managers.stdout.readline().split())
            while process == killed:  # what it still said before it died
                last = resumed
                process, resumed = map(int, managers.stdout.readline().split())
            assert resumed in (last, last + 1), f"kill {kill}: {last} reports were made, it resumed from {resumed}"
            for _ in range(random.randrange(1, 4)):
                process, last = map(int, managers.stdout.readline().split())
            time.sleep(random.uniform(0, 0.006))  # where in the next write the kill falls is left to chance
            os.kill(process, signal.SIGKILL)
            killed = process
        assert managers.wait(10) == 0
    home = tmp_path / "cluster" / "killed"
    named = {
        result["checkpoint_dir_name"] for result in json.loads((home / SNAPSHOT).read_text())["checkpoint_results"]
    }
    assert named <= {path.name for path in home.glob("checkpoint_[0-9]*")}


def test_a_node_that_does_not_see_the_home_is_an_error_that_names_it(site: Path) -> None:
    """The context as a worker gets it, on a node where the mount is another one."""
    context = cloudpickle.dumps(anystorage.run_config("unseen").storage_context)
    (site / "cluster").rename(site / "elsewhere")
    (site / "cluster").mkdir()
    with pytest.raises(errors.HomeNotVisibleError) as raised:
        pickle.loads(context).check_visible()
    for words in ("does not see the run home", str(site / "cluster" / "unseen"), ray.util.get_node_ip_address()):
        assert words in str(raised.value)


@pytest.mark.parametrize("change", [{"name": "other"}, {"storage_path": "/elsewhere"}])
def test_a_config_that_was_changed_after_planning_is_refused(site: Path, change: dict[str, str]) -> None:
    config = dataclasses.replace(anystorage.run_config("planned"), **change)
    with pytest.raises(errors.ConfigClashError, match="planned") as raised:
        _ = config.storage_context
    assert repr(next(iter(change.values()))) in str(raised.value)


def test_a_ray_without_a_hook_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(hooks.StorageContext, "persist_current_checkpoint")
    with pytest.raises(errors.UnsupportedRayError, match=r"persist_current_checkpoint is gone") as raised:
        hooks.check_hooks.__wrapped__()
    assert ray.__version__ in str(raised.value)
