"""What nodes are checked for, before a run and by the doctor: on two real ones, the second with mounts of its own."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray
import ray.train
import ray.train.collective
import ray.tune
from click.testing import CliRunner
from ray import cloudpickle
from ray.train import FailureConfig, ScalingConfig
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

import ray_anystorage as anystorage
from ray_anystorage import errors
from ray_anystorage.cli.main import main
from ray_anystorage.diagnosis.preflight import Findings
from ray_anystorage.testing.s3_server import S3Server
from ray_anystorage.train import callbacks, preflight
from ray_anystorage.train.node_check import Needs, check_node
from ray_anystorage.train.preflight import check_nodes
from tests.harness.mounts import read_only, tmpfs
from tests.harness.ray_cluster import clean_environment, free_port, leave_clean
from tests.harness.s3 import artifact_env, keys_of
from tests.harness.two_nodes import TwoNodes, two_nodes

cloudpickle.register_pickle_by_value(sys.modules[__name__])
pytestmark = pytest.mark.needs_ray


@pytest.fixture(scope="module")
def cluster() -> Iterator[TwoNodes]:
    with two_nodes() as cluster:
        ray.init(cluster.address, logging_level=logging.WARNING, log_to_driver=False)
        yield cluster
        ray.shutdown()


@pytest.fixture
def site(cluster: TwoNodes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    leave_clean(monkeypatch)
    for name in ("cluster", "local", "other"):
        (tmp_path / name).mkdir()
    monkeypatch.setenv("RAY_ANYSTORAGE_CLUSTER_STORAGE", str(tmp_path / "cluster"))
    monkeypatch.setenv("RAY_ANYSTORAGE_LOCAL_STORAGE", str(tmp_path / "local"))
    monkeypatch.setenv("RAY_ANYSTORAGE_PROBE_TIMEOUT", "3")
    return tmp_path


def fit(train: Callable[[], None], config: ray.train.RunConfig, workers: int = 2) -> ray.train.Result:
    scaling = ScalingConfig(
        num_workers=workers, placement_strategy="STRICT_SPREAD", resources_per_worker={"CPU": 1 / workers}
    )
    return DataParallelTrainer(train, scaling_config=scaling, run_config=config).fit()


def failure_of(train: Callable[[], None], config: ray.train.RunConfig) -> Exception:
    with pytest.raises(ray.train.TrainingFailedError) as raised:
        fit(train, config)
    assert isinstance(raised.value, ray.train.ControllerError), raised.value
    failure: Exception = raised.value.controller_failure
    return failure


def node_ids() -> dict[str, str]:
    """The ids of the first and the second node."""
    return {name: node["NodeID"] for node in ray.nodes() for name in ("first", "second") if name in node["Resources"]}


def test_a_mount_that_is_another_one_after_a_restart_is_found_before_user_code(cluster: TwoNodes, site: Path) -> None:
    mount, other, second = site / "cluster", site / "other", node_ids()["second"]

    def train() -> None:
        here = ray.get_runtime_context().get_node_id()
        with (site / "started").open("a") as file:
            file.write(f"{here}\n")
        ray.train.collective.barrier()
        if here == second:
            subprocess.run(["mount", "--bind", other, mount], check=True)
            raise RuntimeError("the node is on its own now")
        ray.train.collective.barrier()

    error = failure_of(train, anystorage.run_config("moves", failure_config=FailureConfig(max_failures=2)))
    cluster.unmount(mount)
    assert isinstance(error, errors.NodePreflightError)
    assert sorted((site / "started").read_text().split()) == sorted(node_ids().values()), "user code ran again"
    (failure,) = error.failures
    assert (failure.tier, failure.error, second[:8] in failure.node) == ("cluster", "HomeNotVisibleError", True)
    (fine,) = error.fine
    assert node_ids()["first"][:8] in fine
    for words in (
        "1 of 2 nodes",
        str(mount / "moves"),
        "does not see the run home",
        "what to do: mount the same storage",
    ):
        assert words in str(error)
    assert list(other.iterdir()) == []
    assert not (mount / "moves" / ".anystorage" / "preflight").exists()


def test_without_a_preflight_each_worker_looks_for_the_home_itself(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config: Any = anystorage.run_config("off", preflight=False)
    assert not [one for one in config.callbacks if isinstance(one, preflight.Preflight)]
    (setup,) = [one for one in config.callbacks if isinstance(one, callbacks.NodeSetup)]
    storage = config.storage_context
    monkeypatch.setattr(callbacks, "get_train_context", lambda: SimpleNamespace(get_storage=lambda: storage))
    (site / "cluster").rename(site / "unmounted")
    (site / "cluster").mkdir()
    with pytest.raises(errors.HomeNotVisibleError, match="does not see the run home"):
        setup.after_init_train_context()


# --- who is asked, and who does not answer --------------------------------------------------------


class Asked:
    """Stands for Ray's worker: an actor that runs what it is told to, or ends, or hangs."""

    def __init__(self, behaviour: str) -> None:
        self._behaviour, self._times = behaviour, 0

    def execute(self, function: Callable[..., Any], *arguments: Any) -> Any:
        self._times += 1
        if self._behaviour == "dies":
            os._exit(1)
        if self._behaviour == "hangs":
            time.sleep(600)
        return function(*arguments)

    def times(self) -> int:
        return self._times


def worker_on(node: str, behaviour: str = "works") -> Any:
    there = NodeAffinitySchedulingStrategy(node, soft=False)
    actor = ray.remote(num_cpus=0)(Asked).options(scheduling_strategy=there).remote(behaviour)
    metadata = SimpleNamespace(node_ip="127.0.0.1", hostname="here", node_id=node)
    return SimpleNamespace(actor=actor, metadata=metadata, distributed_context=SimpleNamespace(world_size=4))


def test_one_worker_of_each_node_is_asked(site: Path) -> None:
    storage: Any = anystorage.run_config("asks").storage_context
    workers = [worker_on(node_ids()[name]) for name in ("first", "second", "first", "first")]
    check_nodes(storage, workers)
    assert ray.get([worker.actor.times.remote() for worker in workers]) == [1, 1, 0, 0]
    assert not (site / "cluster" / "asks" / ".anystorage" / "preflight").exists()


def test_a_worker_that_dies_is_for_ray_and_a_node_that_hangs_is_named(
    site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage: Any = anystorage.run_config("asks").storage_context
    first, second = node_ids()["first"], node_ids()["second"]
    with pytest.raises(ray.exceptions.RayActorError):
        check_nodes(storage, [worker_on(first), worker_on(second, "dies")])
    works, hangs = worker_on(first), worker_on(second, "hangs")
    ray.get(hangs.actor.times.remote())  # it is up
    check_nodes(storage, [works])  # and this one has imported what it needs
    monkeypatch.setattr(preflight, "_ANSWER_WITHIN", 3.0)
    with pytest.raises(errors.NodePreflightError, match="did not answer within 3 s") as raised:
        check_nodes(storage, [works, hangs])
    assert [second[:8] in failure.node for failure in raised.value.failures] == [True]
    assert [first[:8] in node for node in raised.value.fine] == [True]
    ray.kill(hangs.actor)


# --- what one node finds --------------------------------------------------------------------------


def look(site: Path, **changes: Any) -> tuple[Findings, Any]:
    storage: Any = anystorage.run_config("looks").storage_context
    needs = Needs(storage.recipe, storage.spill, storage.owner_token, "token")
    return check_node(dataclasses.replace(needs, **changes)), storage


def test_a_node_that_can_do_everything_leaves_its_word_for_the_controller_alone(site: Path) -> None:
    found, _ = look(site)
    assert (found.home, found.local, found.spill) == (None, None, None)
    assert found.free is not None
    assert found.free > 0
    left = [path for path in (site / "cluster" / "looks" / ".anystorage" / "preflight").rglob("*") if path.is_file()]
    assert [path.name for path in left] == [ray.get_runtime_context().get_node_id()]


def test_a_node_on_which_another_controller_s_home_lies_there(site: Path) -> None:
    found, _ = look(site, owner="another")
    assert found.home is not None
    assert found.home.error_type is errors.HomeNotVisibleError
    assert not (site / "cluster" / "looks" / ".anystorage" / "preflight").exists(), "it wrote into another run's home"


def test_a_node_without_the_mount(site: Path) -> None:
    _, storage = look(site)
    (site / "cluster").rename(site / "unmounted")
    found = check_node(Needs(storage.recipe, None, storage.owner_token, "token"))
    assert found.home is not None
    assert found.home.error_type is errors.MountMissingError
    assert "RAY_ANYSTORAGE_CLUSTER_STORAGE" in found.home.remedy
    assert not (site / "cluster").exists()


def test_a_home_that_is_read_only(site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, storage = look(site)
    with read_only(site / "cluster", site / "mounted") as root:
        home = storage.recipe.home.__class__(str(root / "looks"))
        recipe = dataclasses.replace(storage.recipe, fs_path=str(root), home=home)
        found = check_node(Needs(recipe, None, storage.owner_token, "token"))
    assert found.home is not None
    assert found.home.error_type is errors.MountReadOnlyError
    assert f"remount,rw {root}" in found.home.remedy


def test_a_home_that_is_full(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with tmpfs(site / "small", size="8m") as root:
        monkeypatch.setenv("RAY_ANYSTORAGE_CLUSTER_STORAGE", str(root))
        _, storage = look(site)
        with contextlib.suppress(OSError), (root / "other").open("wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))
        found = check_node(Needs(storage.recipe, None, storage.owner_token, "token"))
        assert found.home is not None
        assert found.home.error_type is errors.MountFullError
        assert "0 B of 8.39 MB free" in found.home.reason
        assert (root / "looks" / ".anystorage" / "reserve").stat().st_size, "the reserve is for the run's state"


def test_a_local_disk_that_cannot_be_written(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (site / "source").mkdir()
    with read_only(site / "source", site / "mounted") as root:
        monkeypatch.setenv("RAY_ANYSTORAGE_LOCAL_STORAGE", str(site / "none"))
        monkeypatch.setattr(tempfile, "tempdir", str(root))
        found, _ = look(site)
    assert found.local is not None
    assert (found.local.tier, found.local.error_type) == ("local", errors.MountReadOnlyError)


# --- buckets --------------------------------------------------------------------------------------


@pytest.fixture
def with_bucket(site: Path, s3_server: S3Server, bucket: str, monkeypatch: pytest.MonkeyPatch) -> str:
    env = {**artifact_env(s3_server, f"{bucket}/team"), **keys_of(s3_server), "RAY_ANYSTORAGE_CREDENTIALS": "env"}
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    return bucket


def test_a_bucket_beside_the_home_is_written_and_left_clean(site: Path, with_bucket: str, s3_server: S3Server) -> None:
    found, storage = look(site)
    assert (found.home, found.spill) == (None, None)
    assert s3_server.keys(with_bucket) == []
    address = storage.spill.address
    for changed, kind, reason in (
        ({"endpoint": "http://127.0.0.1:9"}, errors.EndpointRefusedError, "refused"),
        ({"bucket": "not-there"}, errors.BucketMissingError, "NoSuchBucket"),
    ):
        spill = dataclasses.replace(storage.spill, address=dataclasses.replace(address, **changed))
        start = time.monotonic()
        found = check_node(Needs(storage.recipe, spill, storage.owner_token, "token"))
        assert time.monotonic() - start < 30, "half of the limit"
        assert found.home is None
        assert found.spill is not None
        assert found.spill.error_type is kind
        assert reason in found.spill.reason


def test_a_home_in_a_bucket(site: Path, with_bucket: str, s3_server: S3Server) -> None:
    storage: Any = anystorage.run_config("inside", tier="artifact").storage_context
    assert check_node(Needs(storage.recipe, None, storage.owner_token, "token")).home is None
    here = ray.get_runtime_context().get_node_id()
    assert f"team/inside/.anystorage/preflight/token/{here}" in s3_server.keys(with_bucket)
    elsewhere = dataclasses.replace(storage.recipe, home=storage.recipe.home.child("elsewhere"))
    found = check_node(Needs(elsewhere, None, storage.owner_token, "token"))
    assert found.home is not None
    assert found.home.error_type is errors.HomeNotVisibleError


# --- the doctor on every node ---------------------------------------------------------------------


def left_in(*directories: Path) -> list[Path]:
    return [path for directory in directories for path in directory.iterdir() if "probe" in path.name]


def test_the_doctor_asks_every_node_and_folds_those_that_are_equal(
    site: Path, with_bucket: str, s3_server: S3Server
) -> None:
    report = anystorage.doctor(cluster=True)
    assert (report.exit_code, report.problems) == (0, ())
    (group,) = report.groups
    assert {node.id for node in group.nodes} == set(node_ids().values())
    assert {tier.place.tier: tier.serves for tier in group.tiers if tier.place.state != "absent"} == {
        "local": True,
        "cluster": True,
        "artifact": True,
    }
    assert dict(group.versions)["ray"] == ray.__version__
    for one in report.answers:
        assert dict(one.seen)["cluster"] == set(node_ids().values())
        assert one.clock is not None
        assert abs(one.clock.offset) <= one.clock.error, "it is the same clock"
    assert s3_server.keys(with_bucket) == []
    assert left_in(site / "cluster", site / "local") == []
    assert s3_server.secret_key not in json.dumps(report.to_dict()) + repr(report)


def test_the_doctor_tells_a_mount_that_is_another_one(cluster: TwoNodes, site: Path) -> None:
    with cluster.covered(site / "cluster", site / "other"):
        done = CliRunner().invoke(main, ["doctor", "--cluster", "--json"])
    assert done.exit_code == 2, "no mount is one place for both"
    found = json.loads(done.stdout)
    (problem,) = found["problems"]
    assert (problem["tier"], problem["error"]) == ("cluster", "Differs")
    assert set(problem["nodes"]) == set(node_ids().values())
    assert left_in(site / "cluster", site / "other") == []


def test_the_doctor_names_a_node_without_this_package_and_one_that_hangs(cluster: TwoNodes, site: Path) -> None:
    package = Path(anystorage.__file__).parent
    with cluster.covered(package, site / "other"):
        report = anystorage.doctor(cluster=True)
    (problem,) = report.problems
    assert ([node.id for node in problem.nodes], problem.error) == ([node_ids()["second"]], "ModuleNotFoundError")
    assert anystorage.__version__ in problem.remedy
    assert len(report.groups) == 2
    with cluster.halted():
        done = CliRunner().invoke(main, ["doctor", "--cluster", "--timeout", "10"])
    assert done.exit_code == 2, "of two nodes one is no majority"
    text = " ".join(done.output.split())
    assert "did not answer within 10 s" in text
    assert node_ids()["second"][:8] in text


def test_the_doctor_says_so_where_there_is_no_cluster(tmp_path: Path) -> None:
    start = time.monotonic()
    done = subprocess.run(
        [Path(sys.executable).parent / "ray-anystorage", "doctor", "--cluster", "--json"],
        env=clean_environment({"HOME": str(tmp_path), "RAY_ADDRESS": f"127.0.0.1:{free_port()}"}),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    error = json.loads(done.stdout)["error"]
    assert error["type"] == "ClusterNotReachedError"
    assert "RAY_ADDRESS" in error["message"]
    assert time.monotonic() - start < 20


@pytest.mark.soak
def test_an_experiment_ends_where_a_trial_comes_to_a_node_with_another_mount(cluster: TwoNodes, site: Path) -> None:
    def trial(config: dict[str, Any]) -> None:
        ray.tune.report({"n": 1})

    needs = {"cpu": 1, "second": 0.01}
    with cluster.covered(site / "cluster", site / "other"):
        tuner = ray.tune.Tuner(
            ray.tune.with_resources(trial, needs), run_config=anystorage.tune_run_config("tuned", verbose=0)
        )
        with pytest.raises(errors.NodePreflightError) as raised:
            tuner.fit()
    (failure,) = raised.value.failures
    assert (failure.tier, failure.error) == ("cluster", "HomeNotVisibleError")
    assert node_ids()["second"][:8] in failure.node
    assert list((site / "other").iterdir()) == []
    trainable: Any = ray.tune.with_resources(trial, needs)
    (result,) = ray.tune.Tuner(trainable, run_config=anystorage.tune_run_config("tuned", verbose=0)).fit()
    assert result.metrics["n"] == 1, "it does not run when the mount is in order"
