"""Two real controllers of one run: a second start is refused while the first is known to be alive, else one wins."""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import ray
import ray.train
from ray import cloudpickle
from ray.train import Checkpoint, CheckpointConfig, ScalingConfig, UserCallback
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

import ray_anystorage as anystorage
from ray_anystorage import errors
from ray_anystorage.checkpoint.ownership import Owner, owner_of
from ray_anystorage.checkpoint.save import Part, begin
from ray_anystorage.train.storage_context import close_storage
from ray_anystorage.transfer.posix_store import PosixStore
from tests.harness.ray_cluster import RayCluster

cloudpickle.register_pickle_by_value(sys.modules[__name__])
pytestmark = pytest.mark.needs_ray


class Tell(UserCallback):
    """Writes down which process the controller is, and the number of each report that counted."""

    def __init__(self, journal: Path) -> None:
        self.journal = journal

    def after_report(self, run_context: Any, metrics: Any, checkpoint: Any) -> None:
        with self.journal.open("a") as file:
            file.write(f"{os.getpid()} {metrics[0]['n']}\n")


def count(config: dict[str, Any]) -> None:
    """Count up from the last checkpoint, saving every number, until a file appears and enough were saved."""
    checkpoint, start = ray.train.get_checkpoint(), 0
    if checkpoint:
        with checkpoint.as_directory() as directory:
            start = json.loads(Path(directory, "n.json").read_text())
    n = start
    while not (os.path.exists(config["enough"]) and n >= start + config["least"]):
        n += 1
        with tempfile.TemporaryDirectory() as directory:
            Path(directory, "n.json").write_text(json.dumps(n))
            ray.train.report({"n": n, "from": start}, checkpoint=Checkpoint.from_directory(directory))


def fit(site: Path, name: str, *, least: int = 0, journal: str = "journal") -> ray.train.Result:
    return DataParallelTrainer(
        count,
        train_loop_config={"enough": str(site / "enough"), "least": least},
        scaling_config=ScalingConfig(num_workers=1, resources_per_worker={"CPU": 0.01}),
        run_config=anystorage.run_config(
            name, callbacks=[Tell(site / journal)], checkpoint_config=CheckpointConfig(num_to_keep=3)
        ),
    ).fit()


def reports(site: Path, journal: str = "journal") -> list[list[int]]:
    """Controller and number of each report that counted."""
    path = site / journal
    return [[int(word) for word in line.split()] for line in path.read_text().splitlines()] if path.exists() else []


def wait_until(condition: Callable[[], object], timeout: float = 60.0) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError("the condition did not come to hold")
        time.sleep(0.01)


@pytest.fixture
def threads(site: Path) -> Iterator[ThreadPoolExecutor]:
    """Threads that fit; whatever still trains is let go at the end."""
    with ThreadPoolExecutor() as pool:
        yield pool
        (site / "enough").touch()


def assert_whole(name: str, last: int) -> None:
    """Every checkpoint that the run names opens, verified, and holds its own number; the latest is ``last``."""
    result = anystorage.results(name)
    for checkpoint, metrics in result.best_checkpoints or ():
        with checkpoint.as_directory() as directory:
            assert json.loads(Path(directory, "n.json").read_text()) == metrics["n"]
        assert checkpoint.contents().verifiable
    assert result.metrics is not None
    assert result.metrics["n"] == last


def test_a_second_start_is_refused_while_the_first_is_alive_and_takes_over_once_that_is_killed(
    site: Path, threads: ThreadPoolExecutor
) -> None:
    first: Future[ray.train.Result] = threads.submit(fit, site, "held")
    wait_until(lambda: reports(site) or first.done())
    controller = reports(site)[0][0]
    second = threads.submit(fit, site, "held", journal="second")
    with pytest.raises(ray.exceptions.RayActorError, match="RunInUseError") as raised:
        second.result(60)
    for words in (f"process {controller} on", "another name", str(site / "cluster" / "held")):
        assert words in str(raised.value)
    seen = len(reports(site))
    wait_until(lambda: len(reports(site)) > seen or first.done())
    assert not first.done(), "the refused start did harm to the run"

    os.kill(controller, signal.SIGKILL)
    with pytest.raises(ray.exceptions.RayActorError):
        first.result(60)
    (site / "enough").touch()
    last = reports(site)[-1][1]
    result = fit(site, "held", least=2, journal="second")
    assert result.metrics is not None
    assert result.metrics["from"] >= last
    assert_whole("held", reports(site, "second")[-1][1])


@pytest.mark.soak
def test_of_two_controllers_that_start_at_once_one_wins(site: Path, threads: ThreadPoolExecutor) -> None:
    together = threading.Barrier(2)

    def start(journal: str) -> ray.train.Result:
        together.wait()
        return fit(site, "race", least=3, journal=journal)

    runs = [threads.submit(start, journal) for journal in ("one", "two")]
    wait_until(lambda: any(run.done() for run in runs))
    (site / "enough").touch()
    failed = [error for run in runs if (error := run.exception(60)) is not None]
    assert len(failed) == 1, failed
    assert "another controller" in str(failed[0])
    won = next(journal for run, journal in zip(runs, ("one", "two"), strict=True) if run.exception() is None)
    assert_whole("race", reports(site, won)[-1][1])


ELSEWHERE = """
import sys
import ray
from pathlib import Path
import tests.integration.test_two_controllers as here

ray.init(num_cpus=1, include_dashboard=False, object_store_memory=100 << 20, _temp_dir=sys.argv[2])
here.fit(Path(sys.argv[1]), "moved", least=int(sys.argv[3]), journal="second")
"""


@pytest.mark.soak
def test_a_start_on_another_cluster_takes_the_run_over(
    site: Path, threads: ThreadPoolExecutor, ray_cluster: RayCluster
) -> None:
    """Nothing there tells whether the first is alive: it may be cut off for good, and must not stand in the way."""
    first: Future[ray.train.Result] = threads.submit(fit, site, "moved", least=10**6)
    wait_until(lambda: reports(site) or first.done())
    (site / "enough").touch()
    settings = {name: value for name, value in os.environ.items() if name.startswith("RAY_ANYSTORAGE_")}
    with tempfile.TemporaryDirectory(prefix="anyray-", dir="/tmp") as directory:
        env = {**settings, "RAY_ADDRESS": "", "PYTHONPATH": str(Path(__file__).parents[2])}
        other = ray_cluster.run_driver(ELSEWHERE, str(site), directory, "3", env=env, timeout=150)
    assert other.returncode == 0, (other.stdout + other.stderr)[-4000:]
    error = first.exception(60)
    assert isinstance(error, ray.train.ControllerError)
    assert (
        f"another controller started the run at {site}/cluster/moved (process {reports(site, 'second')[0][0]} on"
        in str(error)
    )
    assert_whole("moved", reports(site, "second")[-1][1])


def test_a_controller_that_was_taken_over_tidies_up_nothing(site: Path) -> None:
    first = anystorage.run_config("tidy").storage_context
    second = anystorage.run_config("tidy").storage_context
    begin(second.home_store(), Part("checkpoint_1", second.attempt, 0, 1))
    close_storage(first)
    assert (site / "cluster" / "tidy" / "checkpoint_1").exists(), "what the other one is saving was swept away"
    assert owner_of(second.home_store()) == (second.owner.token, second.owner.who, False, "", "")
    close_storage(second)
    assert not (site / "cluster" / "tidy" / "checkpoint_1").exists()


def test_a_look_at_the_owner_costs_one_request_and_a_torn_word_stops_nobody(tmp_path: Path) -> None:
    store = PosixStore(str(tmp_path))
    first, second = Owner(store, "t1", "ü" * 1000, "node/actor"), Owner(store, "t2", "the second")
    first.take()
    before = store.counters.requests
    first.check()
    assert store.counters.requests - before == 1
    with pytest.raises(errors.RunInUseError, match="which is alive"):
        second.take(lambda process: process == "node/actor")
    (tmp_path / ".anystorage" / "controller.json").write_text('{"token": ')
    second.take(lambda process: True)
    with pytest.raises(errors.RunTakenOverError, match="the second"):
        first.check()
    with pytest.raises(errors.RunTakenOverError, match="the second"):
        first.begin("a1")
    first.release()
    second.check()


def test_workers_of_an_attempt_that_was_replaced_or_ended_are_told_so(tmp_path: Path) -> None:
    store = PosixStore(str(tmp_path))
    controller, rank = Owner(store, "t1", "ü" * 1000, "p" * 200), Owner(store, "t1", "rank 3")
    controller.take()
    for attempt in ("a1", "a2"):
        controller.begin(attempt)
        rank.check(attempt)
        controller.check()
    with pytest.raises(errors.AttemptEndedError, match="rank 3 is of a worker group"):
        rank.check("a1")
    controller.release()
    with pytest.raises(errors.AttemptEndedError):
        rank.check("a2")
