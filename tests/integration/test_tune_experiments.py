"""Decorated Tune experiments on real storage: checkpoints, dropped ones, a driver that is killed, another cluster."""

from __future__ import annotations

import contextlib
import gc
import json
import os
import pickle
import random
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow.fs
import pytest
import ray.tune
from click.testing import CliRunner
from ray import cloudpickle

import ray_anystorage as anystorage
from ray_anystorage.checkpoint.read import commit
from ray_anystorage.checkpoint.save import Part, save
from ray_anystorage.checkpoint.tree import scan
from ray_anystorage.cli.main import main
from ray_anystorage.testing.s3_server import S3Server
from ray_anystorage.tune.checkpoint import adopt
from ray_anystorage.tune.experiment_home import carried_home
from ray_anystorage.tune.held import HeldSave
from ray_anystorage.tune.housekeeping import Housekeeping
from ray_anystorage.tune.install import make_context
from tests.harness import tune_driver
from tests.harness.ray_cluster import RayCluster, clean_environment, leave_clean
from tests.harness.run_homes import FOLDER, settings_of
from tests.harness.waiting import wait_until

pytestmark = pytest.mark.needs_ray

DRIVER = Path(tune_driver.__file__)


class Site:
    """Cluster storage and a bucket, whose keys the driver alone has."""

    def __init__(self, root: Path, server: S3Server, bucket: str) -> None:
        self.root, self.server, self.bucket = root, server, bucket
        self.mount = root / "cluster"
        for name in ("cluster", "local", "gates"):
            (root / name).mkdir()
        self.env = {**settings_of(root, server, bucket), "RAY_ANYSTORAGE_LOCAL_STORAGE": str(root / "local")}

    def enter(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Have this process be at the site."""
        leave_clean(monkeypatch)
        for name, value in self.env.items():
            monkeypatch.setenv(name, value)

    def told(self, **more: Any) -> str:
        return json.dumps({"name": "search", "xs": [1, 2, 3], "steps": 3, "gates": str(self.root / "gates"), **more})

    def open(self, *steps: int) -> None:
        for step in steps:
            (self.root / "gates" / str(step)).touch()

    def keys(self, below: str = "") -> list[str]:
        """What the bucket's folder holds."""
        prefix = f"{FOLDER}/{below}"
        return [key.removeprefix(prefix) for key in self.server.keys(self.bucket, prefix)]

    def files(self, below: str = "search") -> list[str]:
        """What the mount holds."""
        root = self.mount / below
        return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())

    def leave_behind(self, checkpoint: str, name: str) -> None:
        """Make checkpoints of another name like some of the trials', as a driver may leave that is killed."""
        client = self.server.client()
        for key in self.server.keys(self.bucket, f"{FOLDER}/search/"):
            if f"/{checkpoint}/" in key:
                source = {"Bucket": self.bucket, "Key": key}
                client.copy_object(Bucket=self.bucket, Key=key.replace(checkpoint, name), CopySource=source)

    def secret_is_in(self) -> list[str]:
        """Everything stored that holds the driver's secret."""
        secret, client = self.server.secret_key.encode(), self.server.client()
        stored = {
            key: client.get_object(Bucket=self.bucket, Key=key)["Body"].read()
            for key in self.server.keys(self.bucket, "")
        }
        paths = [path for path in self.mount.rglob("*") if path.is_file()]
        return [key for key, held in stored.items() if secret in held] + [
            str(path) for path in paths if secret in path.read_bytes()
        ]


@pytest.fixture
def site(tmp_path: Path, s3_server: S3Server, bucket: str) -> Site:
    return Site(tmp_path, s3_server, bucket)


def said_by(done: subprocess.CompletedProcess[str]) -> Any:
    """The result that a driver printed before it ended well."""
    assert done.returncode == 0, (done.stdout + done.stderr)[-6000:]
    (line,) = [line[7:] for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    return json.loads(line)


def result_of(done: subprocess.CompletedProcess[str]) -> list[dict[str, Any]]:
    found = said_by(done)
    assert found["errors"] == []
    return sorted(found["trials"], key=lambda trial: trial["x"])


def run(cluster: RayCluster, site: Site, **told: Any) -> list[dict[str, Any]]:
    return result_of(cluster.run_driver(DRIVER, site.told(**told), env=site.env, timeout=150))


@contextlib.contextmanager
def running(cluster: RayCluster, site: Site, **told: Any) -> Iterator[subprocess.Popen[str]]:
    with (site.root / "out").open("w") as out:
        process = subprocess.Popen(
            [sys.executable, str(DRIVER), site.told(**told)],
            env=clean_environment({"RAY_ADDRESS": cluster.address, **site.env}),
            cwd="/tmp",
            stdout=out,
            stderr=out,
            text=True,
        )
        try:
            yield process
        finally:
            process.kill()
            process.wait()


def checkpoints_in(paths: list[str]) -> Counter[str]:
    """How many checkpoints each trial has, by the trial's folder."""
    return Counter(folder.rpartition("/")[0] for folder in {_folder(path) for path in paths if "/checkpoint_" in path})


def _folder(path: str) -> str:
    trial, _, rest = path.partition("/checkpoint_")
    return f"{trial}/checkpoint_{rest.partition('/')[0]}"


def test_a_killed_driver_s_experiment_goes_on_in_the_bucket(ray_cluster: RayCluster, site: Site) -> None:
    """Keys come from a broker, which dies with the driver; the next driver has one of its own."""
    keep = {"checkpoints": {"num_to_keep": 1}, "arguments": {"tier": "artifact"}}
    site.open(1)
    with running(ray_cluster, site, **keep) as driver:

        def saved() -> bool:
            assert driver.poll() is None, (site.root / "out").read_text()[-5000:]
            return sum(key.endswith("checkpoint_000000/.anystorage/commit.json") for key in site.keys("search/")) == 3

        wait_until(saved, 120, "each trial has saved its first checkpoint")
        wait_until(
            lambda: any(key.startswith("experiment_state-") for key in site.keys("search/")), 60, "Tune saved its state"
        )
        site.open(2)
        driver.send_signal(signal.SIGKILL)
    site.leave_behind("checkpoint_000000", "checkpoint_000077")
    site.open(3)
    trials = run(ray_cluster, site, **keep)
    assert sorted(trial["x"] for trial in trials) == [1, 2, 3], "a trial is missing, or there twice"
    assert all(trial["metrics"]["n"] == trial["held"] == 3 for trial in trials)
    assert not any(trial["metrics"]["has_key"] for trial in trials), "the keys travelled"
    assert all(trial["path"].startswith(f"{site.bucket}/{FOLDER}/search/") for trial in trials)
    assert set(checkpoints_in(site.keys("search/")).values()) == {1}, "what Tune dropped is still there"
    assert site.secret_is_in() == []


def test_checkpoints_over_the_threshold_go_to_the_bucket_and_from_there(
    ray_cluster: RayCluster, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.env["RAY_ANYSTORAGE_THRESHOLD"] = "1kB"
    site.open(1, 2, 3)
    trials = run(ray_cluster, site, checkpoints={"num_to_keep": 1})
    assert [trial["held"] for trial in trials] == [3, 3, 3]
    spilled = [key for key in site.keys("spilled/") if key.endswith("/data")]
    assert len(spilled) == 3, f"each trial keeps one checkpoint: {spilled}"
    assert all("/checkpoint_000002/" in key for key in spilled)
    assert set(checkpoints_in(site.files()).values()) == {1}
    assert not [path for path in site.files() if path.endswith("/data")]
    assert site.secret_is_in() == []
    site.enter(monkeypatch)
    decorated: Any = tune_driver.experiment({"name": "search"})
    best = decorated.results().get_best_result("score", "max")
    assert isinstance(best.checkpoint, anystorage.Checkpoint)
    with best.checkpoint.as_directory() as directory:
        assert tune_driver.checked(directory, 3) == 3
    again: Any = anystorage.results("search")
    assert again.get_best_result("score", "max").path == best.path
    answer = CliRunner().invoke(main, ["verify", "search", "--json"])
    totals = json.loads(answer.stdout)["totals"]
    assert (answer.exit_code, totals["ok"], totals["bad"]) == (0, 3, 0), answer.output
    answer = CliRunner().invoke(main, ["prune", "search", "--dry-run", "--json"])
    assert (answer.exit_code, json.loads(answer.stdout)["found"]) == (0, []), answer.output
    answer = CliRunner().invoke(main, ["runs", "search", "--metric", "score", "--mode", "max", "--json"])
    (entry,) = json.loads(answer.stdout)["runs"]
    assert (answer.exit_code, entry["name"], entry["kind"], entry["kept"], entry["spilled"]) == (
        0,
        "search",
        "tune",
        3,
        3,
    )
    assert f"/{entry['best']['checkpoint']}" == best.checkpoint.path.removeprefix(str(site.mount / "search"))
    promoted = anystorage.promote("search", to="artifact", metric="score", mode="max")
    with anystorage.best_checkpoint("search-promoted").as_directory() as directory:
        assert tune_driver.checked(directory, 3) == 3
    assert promoted.checkpoint == "checkpoint_000002"
    shutil.rmtree(site.root / "local")  # with what this node kept of it
    (stored,) = (key for key in spilled if "x=2" in key)
    site.server.client().put_object(Bucket=site.bucket, Key=f"{FOLDER}/spilled/{stored}", Body=bytes(5000))
    (damaged,) = (result for result in decorated.results() if result.config["x"] == 2)
    with pytest.raises(anystorage.errors.CheckpointCorruptedError), damaged.checkpoint.as_directory():
        pass


@pytest.mark.soak
def test_a_class_saves_as_often_as_it_is_told_and_at_its_end(ray_cluster: RayCluster, site: Site) -> None:
    site.env["RAY_ANYSTORAGE_THRESHOLD"] = "1kB"
    every = {"checkpoint_frequency": 2, "checkpoint_at_end": True}
    trials = run(
        ray_cluster, site, **{"class": True, "steps": 5, "checkpoints": every, "arguments": {"tier": "cluster"}}
    )
    assert [trial["metrics"]["n"] for trial in trials] == [5, 5, 5]
    assert [trial["held"] for trial in trials] == [-1, 5, -1], "a dictionary has a file of its own"
    assert set(checkpoints_in(site.files()).values()) == {3}
    committed = [path for path in site.files() if path.endswith(".anystorage/commit.json")]
    assert len(committed) == 9


@pytest.mark.soak
@pytest.mark.timeout(600)
def test_another_cluster_goes_on_with_what_the_bucket_holds(ray_cluster: RayCluster, site: Site) -> None:
    """The second cluster is started by its driver, on a node disk of its own."""
    told = {"arguments": {"tier": "artifact"}, "checkpoints": {"num_to_keep": 2}}
    site.open(1)
    with running(ray_cluster, site, **told) as driver:
        wait_until(
            lambda: (
                sum(key.endswith("commit.json") for key in site.keys("search/")) == 3
                and any(key.startswith("experiment_state-") for key in site.keys("search/"))
            ),
            120,
            "each trial has saved a checkpoint, and Tune its state",
        )
        driver.send_signal(signal.SIGKILL)
    site.open(2, 3)
    (site.root / "elsewhere").mkdir()
    env = clean_environment({**site.env, "RAY_ANYSTORAGE_LOCAL_STORAGE": str(site.root / "elsewhere")})
    done = subprocess.run(
        [sys.executable, str(DRIVER), site.told(**told)],
        env=env,
        cwd="/tmp",
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    trials = result_of(done)
    assert sorted((trial["x"], trial["held"]) for trial in trials) == [(1, 3), (2, 3), (3, 3)]
    assert site.secret_is_in() == []


SEVERAL = """
import json, os, pathlib, sys, tempfile, threading
import ray
from ray import tune
import ray_anystorage as anystorage

def trial(config):
    for n in range(1, 4):
        with tempfile.TemporaryDirectory() as directory:
            pathlib.Path(directory, "n").write_text(f"{config['which']} {n}")
            tune.report({"n": n}, checkpoint=tune.Checkpoint.from_directory(directory))

def fit(which, config):
    config.checkpoint_config = tune.CheckpointConfig(num_to_keep=1)
    config.verbose = 0
    result = tune.Tuner(trial, param_space={"which": which}, run_config=config).fit()[0]
    with result.checkpoint.as_directory() as directory:
        held = pathlib.Path(directory, "n").read_text()
    found[which] = {"type": type(result.checkpoint).__name__, "path": result.path, "held": held}

ray.init(log_to_driver=False)
found = {}
configs = {
    "mount": anystorage.tune_run_config("mount", tier="cluster"),
    "bucket": anystorage.tune_run_config("bucket", tier="artifact"),
    "stock": tune.RunConfig(name="stock", storage_path=sys.argv[1]),
}
threads = [threading.Thread(target=fit, args=item) for item in configs.items()]
if sys.argv[2] == "threads":
    [thread.start() for thread in threads]
    [thread.join() for thread in threads]
else:
    [fit(*item) for item in configs.items()]
print("RESULT", json.dumps(found))
"""


@pytest.mark.soak
@pytest.mark.parametrize("how", ["in turn", "threads"])
def test_experiments_of_several_plans_in_one_process_keep_apart(ray_cluster: RayCluster, site: Site, how: str) -> None:
    done = ray_cluster.run_driver(SEVERAL, str(site.root / "stock"), how, env=site.env, timeout=150)
    found = said_by(done)
    assert {which: one["held"] for which, one in found.items()} == {which: f"{which} 3" for which in found}
    assert {which: one["type"] for which, one in found.items()} == {
        "mount": "TrialCheckpoint",
        "bucket": "TrialCheckpoint",
        "stock": "Checkpoint",
    }
    assert found["mount"]["path"].startswith(str(site.mount / "mount"))
    assert found["bucket"]["path"].startswith(f"{site.bucket}/{FOLDER}/bucket/")
    (stock,) = (site.root / "stock" / "stock").glob("trial_*")
    assert [path.name for path in stock.glob("checkpoint_*")] == ["checkpoint_000002"]
    assert not list(stock.rglob(".anystorage"))
    for one in (checkpoints_in(site.files("mount")), checkpoints_in(site.keys("bucket/"))):
        assert set(one.values()) == {1}


def test_a_decorated_trainable_is_called_as_before_and_says_what_it_cannot_do(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.enter(monkeypatch)

    @anystorage.tune_experiment(tier="cluster")
    def doubles(config: int) -> int:
        """Two times."""
        return 2 * config

    experiment: Any = doubles
    assert (experiment(21), experiment.name, experiment.__doc__) == (42, "doubles", "Two times.")
    with pytest.raises(anystorage.errors.ExperimentMissingError, match="no experiment 'doubles' to continue"):
        experiment.fit({}, resume="must")
    with pytest.raises(anystorage.errors.ExperimentMissingError, match="fit\\(\\) begins one"):
        experiment.restore()
    with pytest.raises(anystorage.errors.RequestError, match="resume='always': expected one of 'auto'"):
        experiment.fit({}, resume="always")
    with pytest.raises(anystorage.errors.RunMissingError):
        experiment.results()
    with pytest.raises(anystorage.errors.InvalidSizeError):
        anystorage.tune_experiment("sized", checkpoint_size="much")
    assert os.listdir(site.mount / "doubles") == [".anystorage"]
    wrong = (
        (({}, {"num_samples": 2}), {}, "tune_config=<dict>: expected a ray.tune.TuneConfig"),
        ((ray.tune.TuneConfig(),), {}, "param_space=<TuneConfig>: expected a mapping"),
        (({},), {"num_samples": 2}, "num_samples: it belongs in the tune_config"),
        (({},), {"run_config": ray.tune.RunConfig()}, "run_config: it belongs to @anystorage.tune_experiment"),
        (({},), {"failure_config": 3}, "failure_config: it belongs to @anystorage.tune_experiment"),
        (({},), {"samples": 3}, "samples: it is no argument of a Tuner"),
    )
    for said, named, expected in wrong:
        with pytest.raises(anystorage.errors.RequestError, match=expected):
            experiment.fit(*said, **named)
    for argument in ({"credentials": "envv"}, {"checkpoint_sizes": 3}, {"storage_path": "/x"}):
        with pytest.raises(anystorage.errors.RequestError, match=next(iter(argument))):
            anystorage.tune_experiment("wrong", **argument)
    with pytest.raises(anystorage.errors.RequestError, match="it is used with brackets"):
        anystorage.tune_experiment(print)  # type: ignore[arg-type]
    assert "TuneExperiment 'doubles'" in repr(experiment)


INNER = """
import json, os, pathlib, sys, tempfile
import ray, ray.train
from ray import tune
from ray.train import ScalingConfig
from ray.tune.integration.ray_train import TuneReportCallback
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer
import ray_anystorage as anystorage

def train(config):
    for n in range(1, 3):
        with tempfile.TemporaryDirectory() as directory:
            pathlib.Path(directory, "n").write_text(f"{config['x']} {n}")
            ray.train.report({"n": n}, checkpoint=ray.train.Checkpoint.from_directory(directory))

@anystorage.tune_experiment("outer", tier=sys.argv[1], verbose=0)
def trial(config):
    try:
        anystorage.run_config(tier="user")
    except anystorage.errors.ConfigClashError as error:
        assert "has the storage of its experiment 'outer'" in str(error)
    run_config = anystorage.run_config("inner", callbacks=[TuneReportCallback()])
    DataParallelTrainer(
        train, train_loop_config=config, scaling_config=ScalingConfig(num_workers=1, resources_per_worker={"CPU": 0.5}),
        run_config=run_config,
    ).fit()

ray.init(log_to_driver=False)
results = trial.fit({"x": tune.grid_search([1, 2])})
assert not results.errors, results.errors
found = {}
for result in results:
    path = result.metrics["checkpoint_path"]
    with anystorage.Checkpoint(path).as_directory() as directory:
        found[result.config["x"]] = [path, pathlib.Path(directory, "n").read_text(), result.metrics["n"]]
print("RESULT", json.dumps(found))
"""


@pytest.mark.soak
@pytest.mark.parametrize("tier", ["artifact", "cluster"])
def test_a_run_inside_a_trial_lies_in_the_trial_s_folder(ray_cluster: RayCluster, site: Site, tier: str) -> None:
    done = ray_cluster.run_driver(INNER, tier, env=site.env, timeout=170)
    found = said_by(done)
    home = f"s3://{site.bucket}/{FOLDER}/outer/" if tier == "artifact" else f"{site.mount}/outer/"
    for x, (path, held, n) in found.items():
        assert (held, n) == (f"{x} 2", 2)
        trial, run, checkpoint = path.removeprefix(home).split("/")
        assert (f"x={x}" in trial, run, checkpoint.startswith("checkpoint_")) == (True, "inner", True)
    assert site.secret_is_in() == []


PBT = """
import json, os, pathlib, random, sys, tempfile, time
import ray
from ray import tune
from ray.tune.schedulers import PopulationBasedTraining
import ray_anystorage as anystorage
from ray_anystorage.train import telemetry

kept = tune.CheckpointConfig(num_to_keep=int(sys.argv[1]))

@anystorage.tune_experiment("population", checkpoint_config=kept, verbose=0)
def trial(config):
    who, step, taken = tune.get_context().get_trial_id(), 0, 0
    if (checkpoint := tune.get_checkpoint()) is not None:
        with checkpoint.as_directory() as directory:
            state = json.loads(pathlib.Path(directory, "state").read_text())
            data = pathlib.Path(directory, "data").read_bytes()
        assert data == random.Random(f"{state['who']} {state['step']}").randbytes(3000), "other bytes"
        assert os.getpid() in telemetry._metrics, "what it restores is not counted"
        step, taken = state["step"], state["taken"] + (state["who"] != who)
    while step < 12:
        step += 1
        time.sleep(0.3)  # it trains
        with tempfile.TemporaryDirectory() as directory:
            pathlib.Path(directory, "state").write_text(json.dumps({"who": who, "step": step, "taken": taken}))
            pathlib.Path(directory, "data").write_bytes(random.Random(f"{who} {step}").randbytes(3000))
            tune.report({"score": step * config["lr"], "step": step, "taken": taken},
                        checkpoint=tune.Checkpoint.from_directory(directory))

ray.init(log_to_driver=False)
scheduler = PopulationBasedTraining(
    time_attr="training_iteration", perturbation_interval=2, quantile_fraction=0.5,
    hyperparam_mutations={"lr": tune.uniform(0.1, 10)},
)
results = trial.fit(
    {"lr": tune.grid_search([0.1, 0.2, 5.0, 9.0])},
    tune.TuneConfig(metric="score", mode="max", scheduler=scheduler),
)
assert not results.errors, results.errors
held = []
for result in results:
    with result.checkpoint.as_directory() as directory:
        state = json.loads(pathlib.Path(directory, "state").read_text())
        data = pathlib.Path(directory, "data").read_bytes()
        assert data == random.Random(f"{state['who']} {state['step']}").randbytes(3000), "other bytes"
        held.append(state["step"])
print("RESULT", json.dumps({"held": held, "taken": [result.metrics["taken"] for result in results]}))
"""


@pytest.mark.soak
@pytest.mark.timeout(600)
@pytest.mark.parametrize(("threshold", "keep"), [("1GB", 2), ("1kB", 1)])
def test_a_population_exchanges_checkpoints_that_those_who_saved_them_drop(
    ray_cluster: RayCluster, site: Site, threshold: str, keep: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray itself deletes them before the others have started from there, and warns of so few that are kept."""
    site.env["RAY_ANYSTORAGE_THRESHOLD"] = threshold
    done = ray_cluster.run_driver(PBT, str(keep), env=site.env, timeout=400)
    found = said_by(done)
    assert found["held"] == [12, 12, 12, 12]
    assert any(found["taken"]), "no trial went on from another's checkpoint: the test shows nothing"
    site.enter(monkeypatch)
    answer = CliRunner().invoke(main, ["prune", "population", "--dry-run", "--json"])
    assert (answer.exit_code, json.loads(answer.stdout)["found"]) == (0, []), answer.output
    # Beside its own, a trial keeps the one of another's that it went on from last until it has saved.
    assert sum(checkpoints_in(site.files("population")).values()) <= 4 * (keep + 1)


@pytest.mark.soak
@pytest.mark.timeout(1800)
def test_a_driver_that_is_killed_anywhere_loses_and_repeats_nothing(ray_cluster: RayCluster, site: Site) -> None:
    """Twenty times, each after another delay; what a trial came to is there once, and every checkpoint is right."""
    site.env["RAY_ANYSTORAGE_THRESHOLD"] = "1kB"
    steps, each = 60, 3
    told = {"steps": steps, "checkpoints": {"num_to_keep": 1}}
    chance = random.Random(5)
    for first in range(1, steps, each):  # a few steps more for each driver, so that it is not over before the last
        site.open(*range(first, first + each))
        with running(ray_cluster, site, **told) as driver:
            with contextlib.suppress(subprocess.TimeoutExpired):
                driver.wait(chance.uniform(1, 14))
            assert first + each > steps or driver.poll() is None, (site.root / "out").read_text()[-5000:]
            driver.send_signal(signal.SIGKILL)
    trials = run(ray_cluster, site, **told)
    assert [(trial["x"], trial["held"]) for trial in trials] == [(1, steps), (2, steps), (3, steps)]
    assert all(trial["metrics"]["n"] == steps for trial in trials)
    assert set(checkpoints_in(site.files()).values()) == {1}
    assert len([key for key in site.keys("spilled/") if key.endswith("/data")]) == 3


@pytest.mark.soak
def test_a_trial_whose_newest_checkpoint_is_damaged_goes_on_from_the_one_before(
    ray_cluster: RayCluster, site: Site
) -> None:
    site.open(1, 2)
    told = {"xs": [1, 2], "arguments": {"tier": "cluster"}}
    with running(ray_cluster, site, **told) as driver:
        states = site.mount / "search"

        def stored() -> bool:
            assert driver.poll() is None, (site.root / "out").read_text()[-5000:]
            saved = sum(path.endswith("checkpoint_000001/.anystorage/commit.json") for path in site.files())
            state = max(states.glob("experiment_state-*.json"), default=None)
            return saved == 2 and state is not None and state.read_text().count("checkpoint_000001") >= 2

        wait_until(stored, 120, "each trial has saved twice, and Tune its state")
        driver.send_signal(signal.SIGKILL)
    (damaged,) = states.glob("*x=2*/checkpoint_000001/data")
    damaged.write_bytes(damaged.read_bytes()[:-1])
    site.open(3)
    trials = run(ray_cluster, site, **told)
    assert [(trial["held"], trial["metrics"]["begun"]) for trial in trials] == [(3, 2), (3, 1)]


def test_an_experiment_that_is_restored_without_its_storage_says_so(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.enter(monkeypatch)
    config = anystorage.tune_run_config("plain", tier="cluster")
    storage = pickle.loads(
        pickle.dumps(make_context(config.storage_path, "plain", storage_filesystem=config.storage_filesystem))
    )
    housekeeping = Housekeeping()
    trial = SimpleNamespace(storage=storage)
    storage.storage_filesystem = pyarrow.fs.LocalFileSystem()
    with pytest.raises(anystorage.errors.RequestError, match=r"restore it with @anystorage\.tune_experiment"):
        housekeeping.on_step_begin(0, [trial])


def test_what_trials_keep_and_schedulers_hold_is_known_from_the_first_trial_on(
    driver: None, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new experiment has no trial yet at its first step."""
    site.enter(monkeypatch)
    config = anystorage.tune_run_config("held", tier="cluster")
    storage = make_context(config.storage_path, "held", storage_filesystem=config.storage_filesystem)

    def checkpoint(name: str) -> Any:
        made = ray.tune.Checkpoint(f"{config.storage_path}/held/trial/{name}", config.storage_filesystem)
        adopt(made)
        return made

    housekeeping, trials = Housekeeping(), list[Any]()
    housekeeping.on_step_begin(0, trials)
    latest = SimpleNamespace(checkpoint=checkpoint("kept"))
    manager = SimpleNamespace(best_checkpoint_results=[], latest_checkpoint_result=latest)
    run_metadata = SimpleNamespace(checkpoint_manager=manager)
    trials.append(SimpleNamespace(storage=storage, relative_logdir="trial", run_metadata=run_metadata))
    housekeeping.on_step_begin(1, trials)
    assert storage.syncer.kept() == {"trial/kept"}
    held = checkpoint("held")
    save = HeldSave(ray.put(SimpleNamespace(checkpoint=checkpoint("saved"))))
    nothing = HeldSave(ray.put(None))
    assert storage.syncer.kept() == {"trial/kept", "trial/held", "trial/saved"}
    del held, save, nothing
    gc.collect()
    assert storage.syncer.kept() == {"trial/kept"}


def test_at_its_end_an_experiment_deletes_what_its_state_at_home_does_not_name(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not what lay there before, and nothing where the last state did not come home: that one may name it."""
    site.enter(monkeypatch)
    config = anystorage.tune_run_config("ends", tier="cluster")
    storage = make_context(config.storage_path, "ends", storage_filesystem=config.storage_filesystem)
    store = carried_home(config.storage_filesystem).open(config.storage_filesystem)

    def saved(number: int) -> str:
        source, name = site.root / str(number), f"trial/checkpoint_{number:06d}"
        source.mkdir()
        (source / "data").write_text(name)
        save(store, scan(str(source)), Part(name, "a1", 0, 1))
        commit(store, name, "a1")
        return f"{config.storage_path}/ends/{name}"

    def left() -> set[str]:
        return {path.name[-1] for path in (site.mount / "ends" / "trial").iterdir()}

    saved(0)
    latest = SimpleNamespace(checkpoint=SimpleNamespace(path=saved(1)))
    manager = SimpleNamespace(best_checkpoint_results=[], latest_checkpoint_result=latest)
    run_metadata = SimpleNamespace(checkpoint_manager=manager)
    trials = [SimpleNamespace(storage=storage, relative_logdir="trial", run_metadata=run_metadata)]
    housekeeping = Housekeeping()
    housekeeping.on_step_begin(0, [])
    housekeeping.on_step_begin(1, trials)
    saved(2)
    housekeeping.on_experiment_end(trials)
    assert left() == {"0", "1", "2"}
    storage.syncer.named_at_home = frozenset({"trial/checkpoint_000001"})
    housekeeping.on_experiment_end(trials)
    assert left() == {"0", "1"}


def test_a_decorated_class_can_be_derived_from_and_travels_without_its_credentials() -> None:
    experiment: Any = tune_driver.experiment({"name": "search", "class": True})
    experiment._placing.ray_arguments["secret"] = "planted-secret"

    class Derived(experiment):  # type: ignore[misc]
        """One that is tuned by itself."""

    assert issubclass(Derived, tune_driver.Class)
    pickled = cloudpickle.dumps(experiment)
    assert b"planted-secret" not in pickled
    assert pickle.loads(pickled) is tune_driver.Class
