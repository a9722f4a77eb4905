"""``anystorage.report`` in real runs: order, bytes, failures, the final wait, preemption, space, and who may report."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
import ray.train
from ray import cloudpickle
from ray.train import PreemptionInfo, ScalingConfig
from ray.train.v2._internal.execution.callback import TrainContextCallback
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer
from ray.train.v2.api.exceptions import WorkerGroupError

import ray_anystorage as anystorage
from ray_anystorage import errors
from ray_anystorage.checkpoint import staging
from ray_anystorage.train.hooks import get_train_context
from tests.harness.mounts import tmpfs

cloudpickle.register_pickle_by_value(sys.modules[__name__])
pytestmark = pytest.mark.needs_ray


class Gate(TrainContextCallback):  # type: ignore[misc]
    """A slow store: no save of a worker starts before a condition holds."""

    def __init__(self, opens: Callable[[], bool]) -> None:
        self._opens = opens

    @contextlib.contextmanager
    def on_checkpoint_transfer(self) -> Iterator[None]:
        wait_until(self._opens)
        yield


def wait_until(condition: Callable[[], bool], timeout: float = 60.0) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError("the condition did not come to hold")
        time.sleep(0.005)


def report_waits() -> bool:
    """True while the training of this process waits for a save to end."""
    place = staging._current.get(os.getpid())
    return place is not None and bool(place._changed._waiters)  # type: ignore[attr-defined]


def fit(
    train: Callable[[dict[str, Any]], None],
    config: ray.train.RunConfig,
    *,
    workers: int = 1,
    **arguments: Any,
) -> ray.train.Result:
    return DataParallelTrainer(
        train,
        train_loop_config={key: str(value) if isinstance(value, Path) else value for key, value in arguments.items()},
        scaling_config=ScalingConfig(num_workers=workers, resources_per_worker={"CPU": 0.5}),
        run_config=config,
    ).fit()


def contents(checkpoint: ray.train.Checkpoint) -> dict[str, bytes]:
    with checkpoint.as_directory() as directory:
        files = [path for path in Path(directory).rglob("*") if path.is_file() and ".anystorage" not in path.parts]
        return {str(path.relative_to(directory)): path.read_bytes() for path in files if path.name[0] != "."}


def left_in_staging(root: Path) -> list[Path]:
    return list(root.rglob("staging/runs/*/*"))


def rewriting(config: dict[str, Any]) -> None:
    """Report one directory again and again, and spoil what is in it at once; nothing is saved before the end."""
    keep = config["keep"]
    directory = Path(tempfile.mkdtemp())
    for number in range(1, 5):
        (directory / "weights").write_bytes(bytes([number]) * 5000)
        anystorage.report({"number": number}, directory, keep=keep)
        assert [path.name for path in directory.iterdir()] == (["weights"] if keep else [])
        (directory / "weights").write_bytes(b"spoiled")
        anystorage.report({"number": -number})
    with contextlib.suppress(ValueError), tempfile.TemporaryDirectory() as other:
        Path(other, "mine").touch()
        try:
            anystorage.report({}, other, keep=keep, validation=True)
        finally:
            assert os.listdir(other) == ["mine"], "a directory that Ray did not take was not put back"
    Path(config["reported"]).touch()


@pytest.mark.parametrize("keep", [False, pytest.param(True, marks=pytest.mark.soak)])
def test_reports_return_at_once_and_saves_keep_their_order_and_their_bytes(site: Path, keep: bool) -> None:
    reported = site / "reported"
    config = anystorage.run_config("order", callbacks=[Gate(reported.exists)])
    result = fit(rewriting, config, keep=keep, reported=reported)
    assert result.best_checkpoints is not None
    saved = [(contents(checkpoint), metrics["number"]) for checkpoint, metrics in result.best_checkpoints]
    assert saved == [({"weights": bytes([number]) * 5000}, number) for number in range(1, 5)]
    assert left_in_staging(site) == []


def reporting_again(config: dict[str, Any]) -> None:
    """Save a checkpoint; in a run that goes on, report what it was given, and a part of that."""
    checkpoint = ray.train.get_checkpoint()
    if checkpoint is None:
        with tempfile.TemporaryDirectory() as directory:
            Path(directory, "part").mkdir()
            Path(directory, "part", "weights").write_bytes(b"x" * 5000)
            anystorage.report({}, directory)
        return
    with checkpoint.as_directory() as directory:
        for folder in (directory, f"{directory}/part"):
            anystorage.report({}, folder)
            assert Path(directory, "part", "weights").exists(), "the stored checkpoint was taken"


@pytest.mark.soak
@pytest.mark.parametrize("share", ["0.5", "0"], ids=["in the cache", "in the home"])
def test_a_restored_checkpoint_that_is_reported_stays_where_it_is(
    site: Path, monkeypatch: pytest.MonkeyPatch, share: str
) -> None:
    monkeypatch.setenv("RAY_ANYSTORAGE_CACHE_SHARE", share)
    for _ in range(2):
        result = fit(reporting_again, anystorage.run_config("again"))
    assert result.best_checkpoints is not None
    saved = [contents(checkpoint) for checkpoint, _ in result.best_checkpoints]
    assert saved == [{"part/weights": b"x" * 5000}] * 2 + [{"weights": b"x" * 5000}]


def failing(config: dict[str, Any]) -> None:
    """Report into a place that a file takes, then go on; another save waits behind the one that fails."""
    Path(ray.train.get_context().get_storage().experiment_fs_path, "taken").touch()
    try:
        for name in ("taken", "behind"):
            with tempfile.TemporaryDirectory() as directory:
                Path(directory, "weights").write_bytes(b"x" * 5000)
                anystorage.report({}, directory, checkpoint_dir_name=name)
        while True:
            anystorage.report({})
    except errors.CheckpointSaveError as error:
        Path(config["raised"]).write_text(str(error))
        raise


def test_a_failed_save_ends_the_attempt_with_its_name_and_later_reports_raise_it(site: Path) -> None:
    with pytest.raises(WorkerGroupError, match="checkpoint taken could not be saved") as raised:
        fit(failing, anystorage.run_config("failing"), raised=site / "raised")
    assert "CheckpointSaveError" in str(raised.value)
    assert (site / "raised").read_text().startswith("checkpoint taken could not be saved")
    snapshot = site / "cluster" / "failing" / "checkpoint_manager_snapshot.json"
    assert not snapshot.exists(), "a report behind the failed one counted"
    assert left_in_staging(site) == []


def sharing(config: dict[str, Any]) -> None:
    """All ranks report one directory."""
    anystorage.report({}, config["directory"], keep=config["keep"])


@pytest.mark.soak
def test_two_ranks_with_one_directory_are_refused_unless_they_keep_it(site: Path) -> None:
    directory = site / "one for all"
    directory.mkdir()
    (directory / "weights").write_bytes(b"1")
    with pytest.raises(WorkerGroupError, match="two ranks of this node report the same directory"):
        fit(sharing, anystorage.run_config("refused"), workers=2, directory=directory, keep=False)
    (directory / "weights").write_bytes(b"2")
    result = fit(sharing, anystorage.run_config("kept"), workers=2, directory=directory, keep=True)
    assert result.checkpoint is not None
    assert contents(result.checkpoint) == {"weights": b"2"}
    assert (directory / "weights").read_bytes() == b"2"


def preempted(config: dict[str, Any]) -> None:
    """Learn of a preemption, as from Ray's watcher, and save for it; the error loses all that is not yet saved."""
    info = PreemptionInfo(deadline_ms=None, preempted_node_to_ranks={"node": [0]})
    get_train_context().preemption_context.preemption_info = info
    with tempfile.TemporaryDirectory() as directory:
        Path(directory, "weights").write_bytes(b"just in time")
        anystorage.report({}, directory)
    Path(config["returned"]).touch()


def test_on_preemption_a_report_waits_for_its_save(site: Path) -> None:
    config = anystorage.run_config("preempted", callbacks=[Gate(report_waits)])
    result = fit(preempted, config, returned=site / "returned")
    assert (site / "returned").exists()
    assert result.checkpoint is not None
    assert contents(result.checkpoint) == {"weights": b"just in time"}


def filling(config: dict[str, Any]) -> None:
    """Report more than may wait, then one that cannot be copied at all."""
    for number in range(4):
        with tempfile.TemporaryDirectory() as directory:
            Path(directory, "weights").write_bytes(bytes([number]) * (8 << 20))
            anystorage.report({"number": number}, directory)
    anystorage.report({"number": 4}, config["large"])
    assert staging.of_process("filling", 1)._waiting == {}


def test_what_waits_is_bounded_and_what_does_not_fit_is_saved_where_it_lies(
    site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (site / "large").mkdir()
    (site / "large" / "weights").write_bytes(b"large" * (13 << 20))
    with tmpfs(site / "disk", size="48m") as disk:
        monkeypatch.setenv("RAY_ANYSTORAGE_LOCAL_STORAGE", str(disk))
        config = anystorage.run_config("filling", callbacks=[Gate(lambda: waited_or_over(disk))])
        result = fit(filling, config, large=site / "large")
    assert result.best_checkpoints is not None
    saved = [contents(checkpoint)["weights"] for checkpoint, _ in result.best_checkpoints]
    assert [(len(content), content[:1]) for content in saved] == [
        *((8 << 20, bytes([number])) for number in range(4)),
        (65 << 20, b"l"),
    ]


def waited_or_over(disk: Path) -> bool:
    """Opens once a report had to wait for room, and stays open."""
    if report_waits():
        (disk / "waited").touch()
    return (disk / "waited").exists()


def wrong(config: dict[str, Any]) -> None:
    """Say what cannot be meant, in a run of ours or of plain Ray."""
    if not config["ours"]:
        anystorage.report({})
        return
    with pytest.raises(errors.ConfigClashError, match="checkpoint_upload_mode"):
        anystorage.report({}, checkpoint_upload_mode="SYNC")
    with pytest.raises(errors.UnknownArgumentError, match="did you mean checkpoint_dir_name"):
        anystorage.report({}, checkpoint_dir_nam="x")
    with pytest.raises(errors.RequestError, match="not a directory"):
        anystorage.report({}, "/nowhere/at/all")


def test_what_cannot_be_meant_is_refused(site: Path) -> None:
    with pytest.raises(errors.OutsideRunError, match="outside of a training function"):
        anystorage.report({})
    fit(wrong, anystorage.run_config("wrong"), ours=True)
    plain = ray.train.RunConfig(name="plain", storage_path=str(site / "cluster"))
    with pytest.raises(WorkerGroupError, match=r"plain ray\.train\.RunConfig"):
        fit(wrong, plain, ours=False)
