"""Ray's own ways of reporting and reading checkpoints, in real runs of ours: uploads by others, names used again,
validation, metadata. And the rebuilding of Ray's snapshot."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.fs
import pytest
import ray
import ray.train
from ray import cloudpickle
from ray.train import (
    Checkpoint,
    CheckpointConfig,
    CheckpointUploadMode,
    FailureConfig,
    ScalingConfig,
)
from ray.train.backend import Backend, BackendConfig
from ray.train.v2._internal.execution.training_report import _TrainingReport
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer
from ray.train.v2.api.validation_config import ValidationConfig, ValidationTaskConfig

import ray_anystorage as anystorage
from ray_anystorage import errors
from ray_anystorage.checkpoint import node, save
from ray_anystorage.checkpoint.ownership import Owner
from ray_anystorage.checkpoint.read import commit_external, record_of
from ray_anystorage.checkpoint.tree import scan
from ray_anystorage.home.store import HomeStore
from ray_anystorage.testing.s3_server import S3Server
from ray_anystorage.train.controller import make_manager
from ray_anystorage.train.node import use_local_temporary_directory, verify_on_node
from ray_anystorage.train.storage_context import close_storage
from ray_anystorage.transfer.posix_store import PosixStore
from tests.harness.ray_cluster import RayCluster, leave_clean
from tests.harness.run_homes import SNAPSHOT, Home, settings_of

cloudpickle.register_pickle_by_value(sys.modules[__name__])
pytestmark = pytest.mark.needs_ray


@pytest.fixture
def site(driver: None, s3_server: S3Server, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A mount, a node's own disk, and a bucket with keys; what is over 100 kB is spilled."""
    leave_clean(monkeypatch)
    for tier in ("cluster", "local"):
        (tmp_path / tier).mkdir()
    settings = {
        **settings_of(tmp_path, s3_server, bucket),
        "RAY_ANYSTORAGE_LOCAL_STORAGE": str(tmp_path / "local"),
        "RAY_ANYSTORAGE_THRESHOLD": "100kB",
        "RAY_ANYSTORAGE_CREDENTIALS": "env",
    }
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setitem(node._state, os.getpid(), node.Node(str(tmp_path / "node"), "the driver"))
    return tmp_path


def fit(
    train: Callable[..., Any],
    name: str,
    *,
    workers: int = 1,
    loop: Mapping[str, Any] | None = None,
    validation: ValidationConfig | None = None,
    arguments: Mapping[str, Any] | None = None,
    **configs: Any,
) -> ray.train.Result:
    return DataParallelTrainer(
        train,
        train_loop_config=dict(loop or {}),
        scaling_config=ScalingConfig(num_workers=workers, resources_per_worker={"CPU": 0.01}),
        run_config=anystorage.run_config(name, **(arguments or {}), **configs),
        validation_config=validation,
    ).fit()


def files_of(checkpoint: Checkpoint) -> dict[str, bytes]:
    """Every file that a reader sees, less Ray's note and this package's folder."""
    with checkpoint.as_directory() as directory:
        paths = [path for path in Path(directory).rglob("*") if path.is_file()]
        named = {str(path.relative_to(directory)): path.read_bytes() for path in paths}
    return {name: content for name, content in named.items() if not name.startswith(".")}


def report(n: int, files: Mapping[str, bytes], **options: Any) -> None:
    with tempfile.TemporaryDirectory() as directory:
        for name, content in files.items():
            Path(directory, name).write_bytes(content)
        options.setdefault("delete_local_checkpoint_after_upload", False)
        mode = options.setdefault("checkpoint_upload_mode", CheckpointUploadMode.SYNC)
        ray.train.report({"n": n}, checkpoint=Checkpoint.from_directory(directory) if files else None, **options)
        if mode is CheckpointUploadMode.ASYNC:
            committed()  # before the directory goes


def committed() -> list[Any]:
    """The checkpoints that were reported, once the controller has all of them."""
    return ray.train.get_all_reported_checkpoints(consistency_mode=ray.train.CheckpointConsistencyMode.COMMITTED)


def copied_by_the_user(checkpoint: Checkpoint, name: str) -> Checkpoint:
    """What Ray's documentation shows as a ``checkpoint_upload_fn``."""
    storage = ray.train.get_context().get_storage()
    target = storage.build_checkpoint_path_from_name(name)
    storage.storage_filesystem.create_dir(target)
    pyarrow.fs.copy_files(checkpoint.path, target, destination_filesystem=storage.storage_filesystem)
    return Checkpoint(target, filesystem=storage.storage_filesystem)


def uploading_itself(config: dict[str, Any]) -> None:
    """Report what it stored itself, and fail; go on from that; then report one of the package's own once more."""
    storage = ray.train.get_context().get_storage()
    checkpoint = ray.train.get_checkpoint()
    if checkpoint is None:
        home, files = storage.experiment_fs_path, storage.storage_filesystem
        written = Path(tempfile.mkdtemp(), "data")
        written.write_bytes(b"first")
        files.create_dir(f"{home}/mine/one")
        pyarrow.fs.copy_files(str(written.parent), f"{home}/mine/one", destination_filesystem=files)
        if config["outside"]:
            Path(home, "mine", "one", "link").symlink_to(config["outside"])
        first = Checkpoint(f"{home}/mine/one/", filesystem=files)
        ray.train.report({"n": 1}, checkpoint=first, checkpoint_upload_mode=CheckpointUploadMode.NO_UPLOAD)
        report(2, {"data": b"second"}, checkpoint_upload_fn=copied_by_the_user)
        committed()
        assert files_of(ray.train.get_checkpoint()) == {"data": b"second"}
        raise RuntimeError("the first attempt ends here")
    assert files_of(checkpoint) == {"data": b"second"}
    assert not checkpoint.contents().verifiable
    report(3, {"data": b"third"})
    committed()
    own = ray.train.get_checkpoint()
    ray.train.report({"n": 4}, checkpoint=own, checkpoint_upload_mode=CheckpointUploadMode.NO_UPLOAD)
    report(5, {"data": b"fifth"}, checkpoint_upload_fn=copied_by_the_user, checkpoint_dir_name="fifth")


@pytest.mark.parametrize("place", [pytest.param("mount", marks=pytest.mark.soak), "bucket"])
def test_what_the_user_uploads_is_recorded_as_external_resumed_from_and_deleted_in_its_turn(
    site: Path,
    ray_cluster: RayCluster,
    s3_server: S3Server,
    bucket: str,
    monkeypatch: pytest.MonkeyPatch,
    place: str,
) -> None:
    name, outside = f"external-{place}", site / "outside"
    outside.mkdir()
    (outside / "precious").write_bytes(b"not of this run")
    result = fit(
        uploading_itself,
        name,
        loop={"outside": str(outside) if place == "mount" else None},
        arguments={"tier": "artifact"} if place == "bucket" else {},
        failure_config=FailureConfig(max_failures=1),
        checkpoint_config=CheckpointConfig(num_to_keep=2),
    )
    assert [metrics["n"] for _, metrics in result.best_checkpoints or ()] == [4, 5]
    (own, _), (external, _) = result.best_checkpoints or ()
    assert own.contents().verifiable, "one of the package's own was recorded as external"
    assert (files_of(own), files_of(external)) == ({"data": b"third"}, {"data": b"fifth"})
    assert external.contents().attempt is None
    assert "checkpoint fifth was stored by somebody else" in ray_cluster.log_text()
    assert (outside / "precious").read_bytes() == b"not of this run"
    if place == "mount":
        home = site / "cluster" / name
        assert not (home / "mine" / "one").exists()
        data = home / "fifth" / "data"
        data.write_bytes(b"FIFTH")
        assert files_of(anystorage.results(name).checkpoint) == {"data": b"FIFTH"}, "no digest can tell"
        data.write_bytes(b"cut")
        monkeypatch.setitem(node._state, os.getpid(), node.Node(str(site / "node"), "another session"))
        with pytest.raises(errors.CheckpointCorruptedError, match=r"data \(3 bytes, 5 were saved\)"):
            files_of(anystorage.results(name).checkpoint)
    else:
        assert not [key for key in s3_server.keys(bucket) if f"/{name}/mine/one/" in key]


def using_one_name(config: dict[str, Any]) -> None:
    """Report under one name again and again, not all ranks each time, and see what is there after each."""
    rank, one = ray.train.get_context().get_world_rank(), {"checkpoint_dir_name": "latest"}
    checkpoint = ray.train.get_checkpoint()
    if checkpoint is not None:
        assert files_of(checkpoint) == {"rank-0": b"third", "rank-1": b"third", "step-3": b"3"}
        report(4, {"rank-0": b"fourth", "step-4": b"4"}, **one)
        return
    report(1, {f"rank-{rank}": b"first", "step-1": b"1"}, **one)
    assert [files_of(reported.checkpoint) for reported in committed()] == [
        {"rank-0": b"first", "rank-1": b"first", "step-1": b"1"}
    ]
    report(2, {"rank-1": b"second"} if rank == 1 else {}, **one)
    assert [files_of(reported.checkpoint) for reported in committed()] == [{"rank-1": b"second"}]
    report(3, {f"rank-{rank}": b"third", "step-3": b"3"}, checkpoint_upload_mode=CheckpointUploadMode.ASYNC, **one)


def test_a_name_that_is_used_again_holds_one_report_and_never_a_mix(site: Path) -> None:
    result = fit(using_one_name, "again", workers=2)
    assert [metrics["n"] for _, metrics in result.best_checkpoints or ()] == [3]
    result = fit(using_one_name, "again")
    assert [metrics["n"] for _, metrics in result.best_checkpoints or ()] == [4]
    for checkpoint in (result.checkpoint, anystorage.results("again").checkpoint):
        assert files_of(checkpoint) == {"rank-0": b"fourth", "step-4": b"4"}
    plain = {path.name for path in (site / "cluster" / "again" / "latest").iterdir()}
    assert {"rank-1", "step-3"} <= plain, "nothing was left to be mixed in"


def in_folders(config: dict[str, Any]) -> None:
    """Report under names with a slash, some of them large, and read back what is kept."""
    start = 0
    if (checkpoint := ray.train.get_checkpoint()) is not None:
        start = int(files_of(checkpoint)["n"])
        assert start == config["resumes_from"]
    for n in range(start + 1, start + 4):
        report(n, {"n": b"%d" % n, "weights": bytes(200_000 if n % 2 else 10)}, checkpoint_dir_name=f"epochs/{n}")
    assert [int(files_of(reported.checkpoint)["n"]) for reported in committed()][-1] == start + 3


@pytest.mark.soak
def test_names_with_a_slash_are_kept_resumed_from_and_deleted_like_others(
    site: Path, s3_server: S3Server, bucket: str
) -> None:
    keeping = {"checkpoint_config": CheckpointConfig(num_to_keep=2)}
    fit(in_folders, "nested", **keeping)
    result = fit(in_folders, "nested", loop={"resumes_from": 3}, **keeping)
    assert result.checkpoint is not None
    assert int(files_of(result.checkpoint)["n"]) == 6
    assert int(files_of(anystorage.results("nested").checkpoint)["n"]) == 6
    assert sorted(path.name for path in (site / "cluster" / "nested" / "epochs").iterdir()) == ["5", "6"]
    spilled = {key.rpartition("/epochs/")[2] for key in s3_server.keys(bucket) if "/nested-" in key}
    assert spilled == {"5/n", "5/weights"}


def removing(config: dict[str, Any]) -> None:
    """Report, while somebody removes checkpoints by hand."""
    for n in range(1, 6):
        report(n, {"n": b"%d" % n, "weights": bytes(200_000)}, checkpoint_dir_name=f"epoch-{n}")
        committed()
        if n == 3:
            shutil.rmtree(Path(config["home"], "epoch-2"))


@pytest.mark.soak
def test_a_checkpoint_that_somebody_removed_does_not_end_the_run(site: Path, s3_server: S3Server, bucket: str) -> None:
    home = site / "cluster" / "removed"
    result = fit(removing, "removed", loop={"home": str(home)}, checkpoint_config=CheckpointConfig(num_to_keep=2))
    assert [metrics["n"] for _, metrics in result.best_checkpoints or ()] == [4, 5]
    assert sorted(path.name for path in home.glob("epoch-*")) == ["epoch-4", "epoch-5"]
    assert {key.split("/epoch-")[1][0] for key in s3_server.keys(bucket) if "/removed-" in key} == {"4", "5"}


def taken_over(config: dict[str, Any]) -> None:
    """Another controller, elsewhere, starts this run and saves under the name that this one is about to use."""
    home = Home("taken", PosixStore(config["home"]), None, Path(config["scratch"]))
    report(1, {"n": b"1"}, checkpoint_dir_name="epoch-1")
    committed()
    Owner(home.store, "another", "a process elsewhere").take()
    home.save("epoch-2", attempt="b2")
    report(2, {"n": b"2"}, checkpoint_dir_name="epoch-2")


@pytest.mark.soak
def test_a_worker_of_a_run_that_was_taken_over_writes_over_nothing(site: Path) -> None:
    home = site / "cluster" / "taken"
    with pytest.raises(Exception, match="another controller started the run"):
        fit(taken_over, "taken", loop={"home": str(home), "scratch": str(site / "scratch")})
    record = record_of(PosixStore(str(home)), "epoch-2")
    assert record is not None
    assert record.attempt == "b2"
    assert not (home / "epoch-2" / "n").exists()


def conflicting(config: dict[str, Any]) -> None:
    """Two ranks, one file name, two contents."""
    report(1, {"model": str(ray.train.get_context().get_world_rank()).encode()}, checkpoint_dir_name="epoch-1")


@pytest.mark.soak
def test_two_contents_under_one_name_fail_the_report(site: Path) -> None:
    with pytest.raises(ray.train.ControllerError, match=r"ranks 0 and 1 .*'model'"):
        fit(conflicting, "conflicting", workers=2)
    assert record_of(PosixStore(str(site / "cluster" / "conflicting")), "epoch-1") is None


def cut_off(config: dict[str, Any]) -> None:
    """Fail once; then save under the name in use as a worker of the first group would that has not heard of its end."""
    kept = Path(config["kept"])
    if not kept.exists():
        kept.write_bytes(cloudpickle.dumps(ray.train.get_context().get_storage()))
        raise RuntimeError("so that another worker group starts")
    report(1, {"n": b"of the second"}, checkpoint_dir_name="epoch-1")
    earlier = cloudpickle.loads(kept.read_bytes())
    with tempfile.TemporaryDirectory() as directory:
        Path(directory, "n").write_bytes(b"of the first")
        with pytest.raises(errors.CheckpointSaveError, match="replaced or ended"):
            earlier.persist_current_checkpoint(Checkpoint.from_directory(directory), "epoch-1")


@pytest.mark.soak
def test_a_worker_that_outlived_its_group_writes_over_nothing(site: Path) -> None:
    loop = {"kept": str(site / "kept")}
    result = fit(cut_off, "outlived", loop=loop, failure_config=FailureConfig(max_failures=1))
    assert files_of(result.checkpoint) == {"n": b"of the second"}


def reading_late(config: dict[str, Any]) -> None:
    """Resume, report until what was resumed from is no longer kept, and only then read it."""
    checkpoint = ray.train.get_checkpoint()
    if checkpoint is None:
        report(1, {"n": b"1"}, checkpoint_dir_name="epoch-1")
        committed()
        raise RuntimeError("begin another attempt")
    for n in (2, 3):
        report(n, {"n": b"%d" % n}, checkpoint_dir_name=f"epoch-{n}")
    assert [reported.metrics["n"] for reported in committed()] == [3]
    assert files_of(checkpoint) == {"n": b"1"}


@pytest.mark.soak
def test_what_the_attempt_resumed_from_is_there_until_it_ends(site: Path) -> None:
    keeping = {"checkpoint_config": CheckpointConfig(num_to_keep=1), "failure_config": FailureConfig(max_failures=1)}
    fit(reading_late, "late", **keeping)
    assert [path.name for path in (site / "cluster" / "late").glob("epoch-*")] == ["epoch-3"]


def hurrying(config: dict[str, Any]) -> None:
    """Report twice under one name before the controller looks."""
    report(1, {"data": b"first", "only-first": b""}, checkpoint_dir_name="latest")
    report(2, {"data": b"second"}, checkpoint_dir_name="latest")


@pytest.mark.soak
def test_a_report_that_was_written_over_before_it_counted_is_passed_over(
    site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "2")
    result = fit(hurrying, "hurrying")
    assert [metrics["n"] for _, metrics in result.best_checkpoints or ()] == [2]
    assert result.checkpoint is not None
    assert files_of(result.checkpoint) == {"data": b"second"}


class Replicas(Backend):
    """Workers that Ray replaces one by one, as those of torchft."""

    has_replica_groups = True


@dataclass
class ReplicaConfig(BackendConfig):
    """Asks for them."""

    @property
    def backend_cls(self) -> type[Backend]:
        return Replicas


def replaced(config: dict[str, Any]) -> None:
    """Report; then rank 1 dies, comes back, and both report once more."""
    rank, again = ray.train.get_context().get_world_rank(), Path(config["again"])
    if not again.exists():
        report(1, {f"rank-{rank}": b"first"})
        committed()
        if rank == 1:
            again.touch()
            os._exit(1)
    elif rank == 1:
        assert files_of(ray.train.get_checkpoint()) == {"rank-0": b"first", "rank-1": b"first"}
        Path(config["joined"]).touch()
    while not os.path.exists(config["joined"]):
        time.sleep(0.01)
    report(2, {f"rank-{rank}": b"second"})


@pytest.mark.soak
def test_a_rank_that_is_replaced_saves_with_the_others(site: Path) -> None:
    result = DataParallelTrainer(
        replaced,
        train_loop_config={name: str(site / name) for name in ("again", "joined")},
        backend_config=ReplicaConfig(),
        scaling_config=ScalingConfig(num_workers=2, resources_per_worker={"CPU": 0.01}),
        run_config=anystorage.run_config("replaced", failure_config=FailureConfig(max_failures=1)),
    ).fit()
    assert result.checkpoint is not None
    assert files_of(result.checkpoint) == {"rank-0": b"second", "rank-1": b"second"}


SMALL, LARGE = b"s" * 1000, b"l" * 200_000


def validate(checkpoint: Checkpoint, bonus: int = 0) -> dict[str, Any]:
    """Runs in a task of Ray's, outside of the worker group."""
    data = files_of(checkpoint)["data"]
    checkpoint.update_metadata({"validated": True})
    return {"score": len(data) + bonus, "verified": checkpoint.contents().verifiable}


def validated(config: dict[str, Any]) -> None:
    """Have an inline and a spilled checkpoint validated, look at all of them, and change their metadata."""
    checkpoint = ray.train.get_checkpoint()
    if checkpoint is not None:
        assert checkpoint.get_metadata() == {"step": 2, "validated": True, "seen": "by the worker"}
        with checkpoint.as_directory() as directory:
            assert directory.startswith(config["cache"]), "it was not restored from the node's cache"
            assert json.loads(Path(directory, ".metadata.json").read_text())["seen"] == "by the worker"
            assert Path(directory, "data").read_bytes() == LARGE
        checkpoint.set_metadata({"replaced": True})
        with checkpoint.as_directory() as directory:
            assert json.loads(Path(directory, ".metadata.json").read_text()) == {"replaced": True}
        return
    with tempfile.TemporaryDirectory() as directory:
        checkpoint = Checkpoint.from_directory(directory)
        Path(directory, "data").write_bytes(SMALL)
        checkpoint.set_metadata({"step": 1})
        ray.train.report({"n": 1}, checkpoint=checkpoint, validation=True)
        Path(directory, "data").write_bytes(LARGE)
        checkpoint.set_metadata({"step": 2})
        ray.train.report(
            {"n": 2},
            checkpoint=checkpoint,
            validation=ValidationTaskConfig(fn_kwargs={"bonus": 5}),
            checkpoint_upload_mode=CheckpointUploadMode.ASYNC,
            delete_local_checkpoint_after_upload=False,
        )
        reported = sorted(ray.train.get_all_reported_checkpoints(), key=lambda entry: entry.metrics["n"])
    assert [entry.status.name for entry in reported] == ["VALIDATED", "VALIDATED"]
    assert [files_of(entry.checkpoint)["data"] for entry in reported] == [SMALL, LARGE]
    for entry in reported:
        assert entry.checkpoint.contents().verifiable
        entry.checkpoint.update_metadata({"seen": "by the worker"})


def test_every_way_to_a_checkpoint_gives_a_working_one(site: Path) -> None:
    scored = CheckpointConfig(checkpoint_score_attribute="score", checkpoint_score_order="min")
    result = fit(
        validated,
        "validated",
        loop={"cache": str(site / "local")},
        validation=ValidationConfig(validate),
        checkpoint_config=scored,
    )
    metrics = {found["n"]: (found["score"], found["verified"]) for _, found in result.best_checkpoints or ()}
    assert metrics == {1: (len(SMALL), True), 2: (len(LARGE) + 5, True)}
    for again in (result, anystorage.results("validated")):
        assert again.checkpoint is not None
        assert files_of(again.checkpoint) == {"data": LARGE}
        assert files_of(again.get_best_checkpoint("score", "min")) == {"data": SMALL}
        assert files_of(again.get_best_checkpoint("score", "max"))["data"] == LARGE
        for checkpoint, found in again.best_checkpoints or ():
            assert isinstance(checkpoint, anystorage.Checkpoint)
            assert checkpoint.get_metadata() == {"step": found["n"], "validated": True, "seen": "by the worker"}
    locations = [checkpoint.contents().locations[0] for checkpoint, _ in result.best_checkpoints or ()]
    assert sorted(location is None for location in locations) == [False, True], "one inline, one spilled"
    resumed = fit(validated, "validated", loop={"cache": str(site / "local")}, checkpoint_config=scored)
    assert resumed.checkpoint is not None
    assert resumed.checkpoint.get_metadata() == {"replaced": True}


def test_a_rebuilt_snapshot_names_every_committed_checkpoint_in_the_order_of_the_reports(site: Path) -> None:
    root = site / "cluster" / "torn"
    home = Home("torn", PosixStore(str(root)), None, site / "scratch")
    stock = ("checkpoint_2026-01-01_00-00-01.000001", "checkpoint_2026-01-01_00-00-02.000001")
    for name in (*stock, "tensorboard", "epoch-9"):
        (root / name).mkdir(parents=True)
        (root / name / "data").write_bytes(b"data")
    home.save("checkpoint_2026-01-02_00-00-01.000001", report=3)
    home.save("last", report=5)
    home.save("checkpoint_2026-01-02_00-00-03.000001", report=4)
    home.save("checkpoint_2026-01-02_00-00-04.000001", report=6, committed=False)
    commit_external(home.store, "epoch-9", report=2)
    (root / SNAPSHOT).write_bytes(b'{"checkpoint_results": [')
    _ = anystorage.run_config("torn").storage_context
    state = json.loads((root / SNAPSHOT).read_text())
    ours = ["epoch-9", "checkpoint_2026-01-02_00-00-01.000001", "checkpoint_2026-01-02_00-00-03.000001", "last"]
    assert [result["checkpoint_dir_name"] for result in state["checkpoint_results"]] == [*stock, *ours]
    assert state["latest_checkpoint_result"]["checkpoint_dir_name"] == "last"
    assert state["current_report_index"] == 6
    record = record_of(home.store, "last")
    assert record is not None
    assert record.report == 5


def manager_of(name: str) -> Any:
    """The checkpoint manager of a run's controller, in this process."""
    return make_manager(CheckpointConfig(num_to_keep=1), anystorage.run_config(name).storage_context)


def register(manager: Any, what: object) -> None:
    """Report a checkpoint, or what lies at a path as with ``NO_UPLOAD``."""

    async def handle() -> None:
        local = pyarrow.fs.LocalFileSystem()
        checkpoint = what if isinstance(what, Checkpoint) else Checkpoint(str(what), filesystem=local)
        manager.after_report(_TrainingReport(checkpoint=checkpoint, metrics={}, validation=False), [{}])

    asyncio.run(handle())


@pytest.mark.parametrize("below", ["", "/", "/one/..", "/.anystorage"])
def test_the_run_home_is_no_checkpoint_whatever_its_spelling(site: Path, below: str) -> None:
    manager = manager_of("home")
    (site / "cluster" / "home" / "one").mkdir()
    with pytest.raises(errors.CheckpointSaveError, match="a folder of its own below the run home"):
        register(manager, f"{site}/cluster/home{below}")


def test_a_checkpoint_may_be_spelled_through_a_link_and_leaves_what_its_links_lead_to(site: Path) -> None:
    manager = manager_of("spelled")
    home, other = site / "cluster" / "spelled", site / "other"
    (site / "by-link").symlink_to(home)
    for name in ("one", "two"):
        (home / name).mkdir()
        (home / name / "data").write_bytes(b"data")
    other.mkdir()
    (other / "precious").write_bytes(b"not of this run")
    (home / "one" / "folder").symlink_to(other)
    (home / "one" / "file").symlink_to(other / "precious")
    register(manager, site / "by-link" / "one")
    assert manager.latest_checkpoint_result.checkpoint.path == str(home / "one")
    register(manager, site / "by-link" / "two")
    assert not (home / "one").exists(), "it was not deleted in its turn"
    assert (other / "precious").read_bytes() == b"not of this run"


def test_ranks_that_store_it_themselves_and_ranks_that_do_not_make_no_checkpoint(site: Path) -> None:
    manager = manager_of("both")
    (site / "cluster" / "both" / "one").mkdir()
    (site / "cluster" / "both" / "one" / "theirs").write_bytes(b"theirs")
    save.begin(manager.storage.home_store(), save.Part("one", manager.storage.attempt, 1, 2, report=1))
    with pytest.raises(errors.CheckpointSaveError, match="some ranks stored their part themselves"):
        register(manager, site / "cluster" / "both" / "one")


def test_a_node_that_does_not_see_the_home_says_so_and_blames_no_checkpoint(site: Path) -> None:
    root = site / "cluster" / "hidden"
    home = Home("hidden", PosixStore(str(root)), None, site / "scratch")
    home.save("one")
    home.snapshot("one")
    manager = manager_of("hidden")
    checkpoint = manager.latest_checkpoint_result.checkpoint
    verify_on_node(checkpoint, manager.storage)
    root.rename(site / "unmounted")
    with pytest.raises(errors.HomeNotVisibleError, match="does not see the run home"):
        verify_on_node(checkpoint, manager.storage)


@pytest.mark.parametrize("torn", [True, False], ids=["torn", "bad sector"])
def test_a_checkpoint_that_is_not_good_is_passed_over_also_where_that_is_not_noted(
    site: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, torn: bool
) -> None:
    """Of what cannot be read nothing is noted: it may be good later."""
    root = site / "cluster" / "sectors"
    home = Home("sectors", PosixStore(str(root)), None, site / "scratch")
    for name in ("one", "two"):
        home.save(name)
    home.snapshot("one", "two")
    manager, read_range, write_small = manager_of("sectors"), PosixStore.read_range, HomeStore.write_small
    record = root / "two" / ".anystorage" / "commit.json"

    def read_badly(store: PosixStore, key: str, offset: int, into: memoryview) -> None:
        if store.path(key) == str(record):
            raise OSError(errno.EIO, os.strerror(errno.EIO), key)
        read_range(store, key, offset, into)

    def write_badly(store: HomeStore, key: str, data: Any) -> str | None:
        if key.endswith("/damaged.json"):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), key)
        return write_small(store, key, data)

    if torn:
        record.write_bytes(record.read_bytes()[:-1])
        monkeypatch.setattr(HomeStore, "write_small", write_badly)
    else:
        monkeypatch.setattr(PosixStore, "read_range", read_badly)
    manager._choose([])
    assert Path(manager.latest_checkpoint_result.checkpoint.path).name == "one"
    assert ("that two is not good could not be noted" in caplog.text) is torn
    assert not (root / "two" / ".anystorage" / "damaged.json").exists()


def test_a_relaxed_report_holds_what_the_ranks_that_reported_saved(site: Path) -> None:
    manager, source = manager_of("relaxed"), site / "source"
    storage, root = manager.storage, site / "cluster" / "relaxed"
    source.mkdir()
    (source / "shard-1").write_bytes(b"of rank 1")
    save.save(storage.home_store(), scan(str(source)), save.Part("one", storage.attempt, 1, 3, report=1))
    reported = Checkpoint(str(root / "one"), filesystem=pyarrow.fs.LocalFileSystem())
    anystorage.Checkpoint.adopt(reported, storage.origin("one", storage.attempt))
    register(manager, reported)
    contents = manager.latest_checkpoint_result.checkpoint.contents()
    assert (contents.ranks, contents.world_size) == ((1,), 3)
    assert files_of(manager.latest_checkpoint_result.checkpoint) == {"shard-1": b"of rank 1"}


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to make a folder that belongs to somebody else")
def test_a_folder_of_somebody_else_on_the_node_s_disk_is_left_alone(
    site: Path, caplog: pytest.LogCaptureFixture
) -> None:
    recipe = anystorage.run_config("elsewhere").recipe  # type: ignore[attr-defined]
    folder = site / "local" / f"anystorage-{os.geteuid()}"
    folder.mkdir()
    os.chown(folder, 12345, 12345)
    assert use_local_temporary_directory(recipe) is None
    assert "is not used for temporary files" in caplog.text
    assert list(folder.iterdir()) == []


def test_what_a_killed_save_stored_stays_for_the_next_one_and_goes_with_the_run(site: Path) -> None:
    root = site / "cluster" / "killed"
    storage: Any = anystorage.run_config("killed").storage_context
    home = Home("killed", PosixStore(str(root)), storage.spill_store(), site / "scratch")
    home.save("one")
    home.snapshot("one")
    home.begin_only("small")
    home.save("large", spilled=True, committed=False)
    storage = anystorage.run_config("killed").storage_context
    left = {path.name for path in root.iterdir() if path.is_dir() and not path.name.startswith(".")}
    assert left == {"one", "large"}
    assert home.spill is not None
    assert [key for key, _ in home.spill.list("")] == ["large/rank-0.bin"]
    close_storage(storage)
    assert not (root / "large").exists()
    assert list(home.spill.list("")) == []


def test_one_of_ours_that_is_reported_again_stays_ours_unless_it_was_written_over(site: Path) -> None:
    root = site / "cluster" / "twice"
    home = Home("twice", PosixStore(str(root)), None, site / "scratch")
    manager = manager_of("twice")
    home.save("one")
    register(manager, root / "one")
    assert manager.latest_checkpoint_result.checkpoint.contents().verifiable
    (root / "one" / "rank-0.bin").write_bytes(b"theirs")
    register(manager, root / "one")
    checkpoint = manager.latest_checkpoint_result.checkpoint
    assert not checkpoint.contents().verifiable
    assert files_of(checkpoint) == {"rank-0.bin": b"theirs"}
    assert len(manager.best_checkpoint_results) == 1
